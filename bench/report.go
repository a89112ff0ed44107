package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	e := r.Environment
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s, %d threads, %s, %s %s/%s, commit %s, %s\n", e.CPU, e.Threads, e.Device, e.Go, e.OS, e.Arch, e.Commit, e.Date.Format(time.DateTime))
	if r.Peaks != nil {
		fmt.Fprintf(t, "peaks: read %.1f GB/s, multiply-add %.0f GFLOP/s\n", r.Peaks.ReadGBs, r.Peaks.GFlops)
	}
	if r.Checkpoint != "" {
		fmt.Fprintf(t, "%s\n", r.Checkpoint)
	}
	fmt.Fprintf(t, "\nbenchmark\ttime\trate\t\tof peak\tspread\n")
	for _, x := range r.Results {
		percent := ""
		if x.Percent > 0 {
			percent = fmt.Sprintf("%.0f %%", x.Percent)
		}
		fmt.Fprintf(t, "%s\t%v\t%.1f\t%s\t%s\t±%.0f %%\n", x.Name, time.Duration(x.Median).Round(time.Microsecond), x.Rate, x.Unit, percent, x.spread())
	}
	return t.Flush()
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
			fmt.Fprintf(&b, "Benchmark%s-%d \t1\t%d ns/op", x.Name, e.Threads, ns)
			seconds := float64(ns) / 1e9
			switch {
			case x.Tokens > 0:
				fmt.Fprintf(&b, "\t%.2f tok/s", float64(x.Tokens)/seconds)
			case x.Bytes > 0:
				fmt.Fprintf(&b, "\t%.2f MB/s", float64(x.Bytes)/seconds/1e6)
			default:
				fmt.Fprintf(&b, "\t%.2f GFLOP/s", float64(x.Flops)/seconds/1e9)
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
