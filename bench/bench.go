// Package bench measures what this machine makes of a checkpoint and of the device's hot stages, and says how near that
// comes to what the machine could do.
//
// # Words
//
// Prefill n is the reading of a prompt of n tokens, from the first step to the first generated token. Decode at depth d
// is the time of one token after a prompt of d. Both go through the engine, one request at a time, as a user's would. A
// stage benchmark runs one stage of the device on weights too large for the caches: with one row it streams them, and
// its measure is their bytes against the read bandwidth of the memory; with many rows it multiplies, and its measure is
// the operations against the peak of fused multiply-adds. Bandwidth and peak are measured in the same run.
//
// Every number is the median of several repetitions after one that is not counted; all of them are kept in the report.
// Nothing is timed before the results are known to be right.
package bench

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"chulengo/model"
)

// Options of a run. Zero values mean the defaults.
type Options struct {
	Checkpoint fs.FS             // default: the demo checkpoint
	Name       string            // of Checkpoint, for the report
	Threads    int               // default: one for each core
	Prefill    []int             // prompt lengths; default 64, 512, 2048
	Depths     []int             // prompt lengths after which decoding is timed; default 16, 512, 2048
	Decode     int               // tokens of one repetition of decoding; default 64
	Repeat     int               // repetitions; default 7, of which benchstat needs 6
	StageBytes int64             // weights of a stage that streams; default 512 MiB, more than any cache
	Commit     string            // of the program, for the report; default: what the build recorded
	Load       model.LoadOptions // a recipe quantises the checkpoint
	NoModel    bool              // leave the checkpoint out
	NoStages   bool              // leave the stages out

	Progress func(what string) // is told what comes next; nil: nobody asks
}

// Defaults of Options.
const (
	defaultDecode     = 64
	defaultRepeat     = 7
	defaultStageBytes = 512 << 20
)

func (o *Options) fill() error {
	for _, f := range []struct {
		name  string
		value *int
		def   int
	}{{"Threads", &o.Threads, threads()}, {"Decode", &o.Decode, defaultDecode}, {"Repeat", &o.Repeat, defaultRepeat}} {
		if *f.value < 0 {
			return fmt.Errorf("bench: options: %s: want at least 1, or 0 for the default, got %d", f.name, *f.value)
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	if o.Decode < 2 {
		return fmt.Errorf("bench: options: Decode: want at least 2 tokens, got %d", o.Decode)
	}
	if o.Prefill == nil {
		o.Prefill = []int{64, 512, 2048}
	}
	if o.Depths == nil {
		o.Depths = []int{16, 512, 2048}
	}
	for _, n := range slices.Concat(o.Prefill, o.Depths) {
		if n < 1 {
			return fmt.Errorf("bench: options: lengths: want at least 1 token, got %d", n)
		}
	}
	if o.StageBytes == 0 {
		o.StageBytes = defaultStageBytes
	}
	if o.StageBytes < 1<<20 {
		return fmt.Errorf("bench: options: StageBytes: want at least 1 MiB, got %d", o.StageBytes)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return nil
}

// Report is the outcome of a run.
type Report struct {
	Environment Environment `json:"environment"`
	Checkpoint  string      `json:"checkpoint,omitempty"`
	Peaks       *Peaks      `json:"peaks,omitempty"` // without stages nil
	Results     []Result    `json:"results"`
	Skipped     []string    `json:"skipped,omitempty"` // what the device has no room for, and why
}

// Result is one benchmark.
type Result struct {
	Name    string  `json:"name"`              // as in Go's format, without "Benchmark"
	Samples []int64 `json:"samples_ns"`        // nanoseconds of one operation, in the order in which they were measured
	Median  int64   `json:"median_ns"`         // of Samples
	Tokens  int     `json:"tokens,omitempty"`  // of one operation
	Bytes   int64   `json:"bytes,omitempty"`   // of weights that one operation streams
	Flops   int64   `json:"flops,omitempty"`   // of one operation, a multiply-add counting two
	Rate    float64 `json:"rate"`              // per second: tokens, else 10⁹ bytes, else 10⁹ operations
	Unit    string  `json:"unit"`              // of Rate: "tok/s", "GB/s" or "GFLOP/s"
	Percent float64 `json:"percent,omitempty"` // of the peak that bounds it

	Launches int `json:"launches,omitempty"` // of a family of kernels, in one operation

	// OverLayer is what a decoding step takes beyond its bytes at the peak's rate, in µs a layer.
	OverLayer float64 `json:"over_us_per_layer,omitempty"`
}

// newResult derives what follows from the samples.
func newResult(r Result, samples []time.Duration) Result {
	for _, s := range samples {
		r.Samples = append(r.Samples, s.Nanoseconds())
	}
	r.Median = median(r.Samples)
	seconds := float64(r.Median) / 1e9
	switch {
	case r.Tokens > 0:
		r.Rate, r.Unit = float64(r.Tokens)/seconds, "tok/s"
	case r.Bytes > 0:
		r.Rate, r.Unit = float64(r.Bytes)/seconds/1e9, "GB/s"
	default:
		r.Rate, r.Unit = float64(r.Flops)/seconds/1e9, "GFLOP/s"
	}
	return r
}

// compare sets the rate against the peak that bounds it.
func (r *Result) compare(p *Peaks) {
	switch r.Unit {
	case "GB/s":
		r.Percent = 100 * r.Rate / p.ReadGBs
	case "GFLOP/s":
		r.Percent = 100 * r.Rate / p.GFlops
	}
}

// median of at least one value; of an even number the mean of the middle two.
func median(values []int64) int64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Run measures. It returns within one operation when ctx ends, with its error.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	r := &Report{Environment: environment(&o)}
	if !o.NoStages {
		if err := r.stages(ctx, &o); err != nil {
			return nil, err
		}
	}
	if !o.NoModel {
		if err := r.model(ctx, &o); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// repeat times op after one run that is not counted.
func repeat(ctx context.Context, n int, op func() (time.Duration, error)) ([]time.Duration, error) {
	var out []time.Duration
	for i := range n + 1 {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		d, err := op()
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, d)
		}
	}
	return out, nil
}
