package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"chulengo/demo"
)

// small measures something in well under a second.
var small = Options{Prefill: []int{8, 40}, Depths: []int{4}, Decode: 4, Repeat: 3, StageBytes: 4 << 20, Commit: "abc"}

func TestRun(t *testing.T) {
	o := small
	var steps []string
	o.Progress = func(what string) { steps = append(steps, what) }
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	units := map[string]string{
		"Stream/layout=out-in": "GB/s", "Stream/layout=in-out": "GB/s", "Multiply/layout=out-in": "GFLOP/s", "Multiply/layout=in-out": "GFLOP/s",
		"Prefill/tokens=8": "tok/s", "Prefill/tokens=40": "tok/s", "Decode/depth=4": "tok/s",
	}
	for _, x := range r.Results {
		if x.Unit != units[x.Name] || len(x.Samples) != 3 || x.Median <= 0 || x.Rate <= 0 {
			t.Errorf("%+v", x)
		}
		if stage := x.Unit != "tok/s"; stage != (x.Percent > 0) {
			t.Errorf("%s: %v %% of a peak", x.Name, x.Percent)
		}
		delete(units, x.Name)
	}
	if len(units) > 0 || r.Peaks == nil || r.Peaks.ReadGBs <= 0 || r.Peaks.GFlops <= 0 || len(steps) < 6 {
		t.Errorf("missing %v; peaks %+v; %d steps", units, r.Peaks, len(steps))
	}

	var table, gobench, js bytes.Buffer
	for _, err := range []error{r.Table(&table, nil), r.GoBench(&gobench), r.JSON(&js)} {
		if err != nil {
			t.Error(err)
		}
	}
	for _, want := range []string{"Prefill/tokens=40", "commit abc", "of peak", "GB/s"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, &table)
		}
	}
	line := regexp.MustCompile(`^(Benchmark[A-Z]\S*-\d+ \t1(\t[\d.]+ [%\w/]+)+|[a-z]+: .*|# commit abc, go.*)$`)
	for _, l := range strings.Split(strings.TrimSpace(gobench.String()), "\n") {
		if !line.MatchString(l) {
			t.Errorf("not Go's benchmark format: %q", l)
		}
	}
	if n := strings.Count(gobench.String(), "BenchmarkPrefill/tokens=8-"); n != 3 {
		t.Errorf("%d lines of one benchmark, want one for each of 3 samples", n)
	}
	var back Report
	if err := json.Unmarshal(js.Bytes(), &back); err != nil || len(back.Results) != len(r.Results) || back.Environment.Commit != "abc" || back.Checkpoint != "chulengo-demo" {
		t.Errorf("%v, %+v", err, back)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Threads: -1}, {Decode: 1}, {Repeat: -2}, {Prefill: []int{0}}, {Depths: []int{-4}}, {StageBytes: 3}} {
		if _, err := Run(context.Background(), o); err == nil {
			t.Errorf("%+v: want an error", o)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	cancel(enough)
	o := small
	o.NoStages = true
	if _, err := Run(ctx, o); !errors.Is(err, enough) && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestIsDemo(t *testing.T) {
	if !isDemo(demo.FS()) || isDemo(os.DirFS("../model/testdata/micro-scout")) {
		t.Error("the demo checkpoint is not told from others")
	}
}

func TestResult(t *testing.T) {
	ms := func(n ...int) (out []time.Duration) {
		for _, v := range n {
			out = append(out, time.Duration(v)*time.Millisecond)
		}
		return out
	}
	for _, c := range []struct {
		r       Result
		samples []time.Duration
		peak    float64
		want    string
	}{
		{Result{Tokens: 10}, ms(300, 100, 200), 0, "200000000 50 tok/s 0"},
		{Result{Bytes: 2e9}, ms(100, 300), 20, "200000000 10 GB/s 50"},
		{Result{Flops: 1e9}, ms(500), 8, "500000000 2 GFLOP/s 25"},
	} {
		r := newResult(c.r, c.samples)
		r.compare(&Peaks{ReadGBs: c.peak, GFlops: c.peak})
		if got := fmt.Sprintf("%d %v %s %v", r.Median, r.Rate, r.Unit, r.Percent); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	if r := newResult(Result{Tokens: 1}, ms(90, 100, 130)); r.spread() != 20 {
		t.Errorf("spread %v %%, want 20", r.spread())
	}
}
