package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Table writes the report for people, in English or in what say makes of a text in English and in Chinese (nil: English).
func (r *Report) Table(w io.Writer, say func(en, zh string) string) error {
	if say == nil {
		say = func(en, _ string) string { return en }
	}
	e := r.Environment
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, say("%s, %d threads, %s, %s %s/%s, commit %s, %s\n", "%s，%d 线程，%s，%s %s/%s，提交 %s，%s\n"),
		e.CPU, e.Threads, e.Device, e.Go, e.OS, e.Arch, e.Commit, e.Date.Format(time.DateTime))
	if p := r.Peaks; p != nil {
		source := say("measured in this run", "本次运行实测")
		if p.Known {
			source = say("known of this GPU: a read of 8 GiB, torch.matmul in bfloat16", "该型号 GPU 的已知值：读取 8 GiB，bfloat16 的 torch.matmul")
		}
		fmt.Fprintf(t, say("peaks: read %.1f GB/s, multiply-add %.0f GFLOP/s (%s)\n", "峰值：读 %.1f GB/s，乘加 %.0f GFLOP/s（%s）\n"), p.ReadGBs, p.GFlops, source)
	}
	if r.Checkpoint != "" {
		fmt.Fprintf(t, "%s\n", r.Checkpoint)
	}
	over := slices.ContainsFunc(r.Results, func(x Result) bool { return x.OverLayer != 0 })
	fmt.Fprint(t, say("\nbenchmark\ttime\trate\t\tof peak\tspread", "\n测试\t时间\t速率\t\t占峰值\t波动"))
	if over {
		fmt.Fprint(t, say("\tbeyond the bound, a layer", "\t每层超出下限"))
	}
	fmt.Fprintln(t)
	for _, x := range r.Results {
		percent, spread := "", ""
		if x.Percent > 0 {
			percent = fmt.Sprintf("%.1f %%", x.Percent)
		}
		if len(x.Samples) > 1 {
			spread = fmt.Sprintf("±%.0f %%", x.spread())
		}
		fmt.Fprintf(t, "%s\t%v\t%.1f\t%s\t%s\t%s", x.Name, duration(x.Median), x.Rate, x.Unit, percent, spread)
		if x.OverLayer != 0 {
			fmt.Fprintf(t, "\t%.1f µs", x.OverLayer)
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, what := range r.Skipped {
		if _, err := fmt.Fprintf(w, say("skipped: %s\n", "跳过：%s\n"), what); err != nil {
			return err
		}
	}
	return nil
}

// duration keeps what is worth reading: microseconds, below 10 ms a tenth of one.
func duration(ns int64) time.Duration {
	unit := time.Microsecond
	if ns < int64(10*time.Millisecond) {
		unit = 100 * time.Nanosecond
	}
	return time.Duration(ns).Round(unit)
}

// spread is half the distance between the fastest and the slowest repetition, in percent of the median.
func (x *Result) spread() float64 {
	low, high := x.Samples[0], x.Samples[0]
	for _, s := range x.Samples {
		low, high = min(low, s), max(high, s)
	}
	return 50 * float64(high-low) / float64(x.Median)
}

// JSON writes the report with all samples.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// GoBench writes Go's benchmark format, one line for every sample, as benchstat reads it.
func (r *Report) GoBench(w io.Writer) error {
	e := r.Environment
	var b strings.Builder
	for _, line := range [][2]string{
		{"goos", e.OS}, {"goarch", e.Arch}, {"pkg", "chulengo/bench"}, {"cpu", e.CPU},
		{"checkpoint", r.Checkpoint},
	} {
		if line[1] != "" {
			fmt.Fprintf(&b, "%s: %s\n", line[0], line[1])
		}
	}
	// Not keys: benchstat puts files whose keys differ into tables of their own, and here commits are to be compared.
	fmt.Fprintf(&b, "# commit %s, %s, %s, %s\n", e.Commit, e.Go, e.Device, e.Date.Format(time.RFC3339))
	for _, x := range r.Results {
		for _, ns := range x.Samples {
			fmt.Fprintf(&b, "Benchmark%s%s-%d \t1\t%d ns/op", strings.ToUpper(x.Name[:1]), x.Name[1:], e.Threads, ns)
			seconds := float64(ns) / 1e9
			switch {
			case x.Tokens > 0:
				fmt.Fprintf(&b, "\t%.2f tok/s", float64(x.Tokens)/seconds)
			case x.Bytes > 0:
				fmt.Fprintf(&b, "\t%.2f MB/s", float64(x.Bytes)/seconds/1e6)
			default:
				fmt.Fprintf(&b, "\t%.2f GFLOP/s", float64(x.Flops)/seconds/1e9)
			}
			if x.Percent > 0 {
				fmt.Fprintf(&b, "\t%.2f %%peak", x.Percent*float64(x.Median)/float64(ns))
			}
			b.WriteByte('\n')
		}
	}
	if r.Peaks != nil {
		for _, p := range []struct {
			name, unit string
			value      float64
		}{{"PeakRead", "MB/s", r.Peaks.ReadGBs * 1e3}, {"PeakMultiplyAdd", "GFLOP/s", r.Peaks.GFlops}} {
			fmt.Fprintf(&b, "Benchmark%s-%d \t1\t%.2f %s\n", p.name, e.Threads, p.value, p.unit)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
