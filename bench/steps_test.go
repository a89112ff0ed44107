package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
)

func scout(t *testing.T, layers int) *model.Config {
	t.Helper()
	data, err := ShapeConfig("scout", nil, layers, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := model.ParseConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Sixteen layers of Scout with embedding and head are 12.14 GB a token at batch 1, of which 0.8 MB are of the router and
// 65.5 KB a layer and token of keys and values (KERNELS.md, sections 1.2 and 1.5).
func TestDecodeBytes(t *testing.T) {
	c := scout(t, 16)
	weights := total(DecodeBytes(c, nil, 16, Widths{}))
	if gb := weights / 1e9; math.Abs(gb-12.14) > 0.02 {
		t.Errorf("weights of a step at batch 1: want 12.14 GB, got %.3f", gb)
	}
	for _, x := range []struct {
		pos  int
		want float64 // keys of all layers: 12 chunked, 4 global
	}{{511, 16 * 512}, {8191, 16 * 8192}, {8192, 12 + 4*8193}, {131071, 12*8192 + 4*131072}} {
		got := DecodeBytes(c, []int{x.pos}, 16, Widths{})["attend"] / 4096
		if got != x.want {
			t.Errorf("keys read at position %d: want %.0f, got %.0f", x.pos, x.want, got)
		}
	}
	if one, two := DecodeBytes(c, []int{0}, 16, Widths{})["experts"], DecodeBytes(c, []int{0, 0}, 32, Widths{})["experts"]; two-one != 16*6*5120*8192 {
		t.Errorf("sixteen more experts: want %d bytes more, got %.0f", 16*6*5120*8192, two-one)
	}
}

// Quantised, all of Scout: a step's bytes at 4.65 TB/s, and the size of all weights but the 1.74 GB of the vision tower.
func TestQuantisedBytes(t *testing.T) {
	c := scout(t, 48)
	for _, x := range []struct {
		recipe model.Recipe
		ms, gb float64
	}{{"", 6.94, 217.3}, {model.RecipeINT4, 3.08, 64.9}, {model.RecipeINT4Mixed, 2.21, 60.8}, {model.RecipeFP8, 3.47, 110.6}} {
		weights, err := model.ValueBytes(nil, c, x.recipe)
		if err != nil {
			t.Fatal(err)
		}
		ms := total(DecodeBytes(c, nil, 48, Widths{Weights: weights})) / 4.65e12 * 1e3
		size, err := model.DeviceBytes(nil, c, x.recipe, 1)
		if err != nil {
			t.Fatal(err)
		}
		if gb := float64(size)/1e9 + 1.74; math.Abs(ms/x.ms-1) > 0.005 || math.Abs(gb/x.gb-1) > 0.005 {
			t.Errorf("%q: %.3f ms and %.2f GB, want %.2f and %.1f", x.recipe, ms, gb, x.ms, x.gb)
		}
	}
}

// The 48 layers of Scout: 30.21 GFLOP a token in products, 20,480 a causal pair and layer (KERNELS.md, section 1.6).
func TestPrefillFlops(t *testing.T) {
	c := scout(t, 0)
	f := PrefillFlops(c, 2048)
	attend := f["attend"]
	if want := 48 * 20480.0 * 2048 * 2049 / 2; attend != want {
		t.Errorf("attention of 2,048 tokens: want %.0f, got %.0f", want, attend)
	}
	if per := (total(f) - attend - f["logits"]) / 2048 / 1e9; math.Abs(per-30.21) > 0.02 {
		t.Errorf("products: want 30.21 GFLOP a token, got %.3f", per)
	}
	if long := PrefillFlops(c, 16384)["attend"]; long != 20480*(12*16384.0*16385/2+36*2*8192.0*8193/2) {
		t.Errorf("attention of two chunks: got %.0f", long)
	}
}

func TestShapeConfigErrors(t *testing.T) {
	for _, x := range []struct {
		name   string
		file   string
		layers int
	}{{"behemoth", "", 0}, {"", "[]", 0}, {"scout", "", -1}} {
		var file []byte
		if x.file != "" {
			file = []byte(x.file)
		}
		if _, err := ShapeConfig(x.name, file, x.layers, 0); err == nil {
			t.Errorf("%+v: want an error", x)
		}
	}
}

// Families share out the same bytes and operations, and prefill's shared expert is apart.
func TestFamilyWork(t *testing.T) {
	for _, name := range []string{"scout", "maverick"} {
		data, err := ShapeConfig(name, nil, 8, 0)
		if err != nil {
			t.Fatal(err)
		}
		c, err := model.ParseConfig(data)
		if err != nil {
			t.Fatal(err)
		}
		positions := []int{511, 8192}
		bytes, flops := DecodeBytes(c, positions, 12, Widths{}), PrefillFlops(c, 2048)
		var decode, compute float64
		small := activations(c, 2, 8, 2)
		for _, f := range Families {
			if w := decodeWork(c, positions, 12, Widths{})[f]; small[f] == (work{}) {
				decode += w.bytes
			} else if w.flops != 0 || w.bytes == 0 {
				t.Errorf("%s: %s of decode: want bytes alone, got %+v", name, f, w)
			}
			compute += prefillWork(c, 2048, Widths{})[f].flops
		}
		if want := total(bytes) - bytes["embed"]; math.Abs(decode-want) > 1 {
			t.Errorf("%s: decode's families: want %.0f bytes, got %.0f", name, want, decode)
		}
		if math.Abs(compute-total(flops)) > 1 {
			t.Errorf("%s: prefill's families: want %.0f operations, got %.0f", name, total(flops), compute)
		}
		p := prefillWork(c, 2048, Widths{})
		if c.Experts > 1 && (p["shared"].flops != p["experts"].flops || p["experts"].bytes != float64(c.Experts)*p["shared"].bytes) {
			t.Errorf("%s: want as many operations for the shared expert as for the routed and 1/%d of the bytes, got %+v, %+v", name, c.Experts, p["shared"], p["experts"])
		}
	}
}

func TestFamilyResults(t *testing.T) {
	r := &Report{Peaks: &Peaks{ReadGBs: 1000, GFlops: 100_000}}
	ms := time.Millisecond
	r.familyResults("step", []KernelTime{
		{"", "upload_words", 2, ms}, {"attn_in", "rms_norm", 4, 2 * ms}, {"attn_in", "stream_partial_8", 2, 4 * ms}, {"attn_in", "rope_append", 2, ms},
		{"route", "norm_rows", 2, 2 * ms}, {"experts", "gemm_routed_90", 2, 20 * ms}, {"logits", "sample_rows", 2, 2 * ms},
	}, 2, map[string]work{"norm": {bytes: 1e6}, "qkv": {bytes: 1e9, flops: 1e9}, "experts": {bytes: 1e9, flops: 5e11}, "sampling": {bytes: 5e5}})
	var got []string
	for _, x := range r.Results {
		got = append(got, fmt.Sprintf("%s %d %.0f %s %.0f", x.Name, x.Launches, x.Rate, x.Unit, x.Percent))
	}
	// The experts' operations take 5 ms of 10, their bytes 1.
	want := []string{"step/family=norm 3 0 GB/s 0", "step/family=qkv 1 500 GB/s 50", "step/family=experts 1 50000 GFLOP/s 50", "step/family=sampling 1 0 GB/s 0"}
	if !slices.Equal(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
}

// The whole run on the CPU device, on a small shape; a device agrees with itself.
func TestRunSteps(t *testing.T) {
	m, dev := tiny(t)
	worst, err := VerifySteps(dev, dev, m, m, 16, kernels.BF16)
	if err != nil || worst != 0 {
		t.Errorf("a device beside itself: want no difference, got %g, %v", worst, err)
	}
	if worst, err := VerifySteps(wrong{dev}, dev, m, m, 16, kernels.BF16); err == nil || !strings.Contains(err.Error(), "attn.hook_z") {
		t.Errorf("a device whose attention is wrong: want an error that names it, got %g, %v", worst, err)
	}
	r, err := RunSteps(context.Background(), StepOptions{Model: m, Device: dev, Name: "tiny", DeviceName: "NVIDIA H200 (not really)",
		Batches: []int{1, 3}, Depths: []int{100}, Prompts: []int{90}, Steps: 4, Repeat: 2, PageTokens: 16})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"prefill/tokens=90", "decode/batch=1/context=100", "decode/batch=3/context=100"}
	if len(r.Results) != len(names) {
		t.Fatalf("want %v, got %+v", names, r.Results)
	}
	for i, x := range r.Results {
		if i == 0 && x.OverLayer != 0 || i > 0 && x.OverLayer == 0 {
			t.Errorf("%s: what a step takes beyond its bytes belongs to decoding, got %g", x.Name, x.OverLayer)
		}
		if x.Name != names[i] || x.Median <= 0 || x.Rate <= 0 || x.Percent <= 0 || x.Unit != "tok/s" {
			t.Errorf("want a result %s with a rate and a share of the peak, got %+v", names[i], x)
		}
	}
	var table, goBench bytes.Buffer
	if err := errors.Join(r.Table(&table, func(_, zh string) string { return zh }), r.GoBench(&goBench)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"每层超出下限", "已知值", "decode/batch=3/context=100"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("table: want %q in\n%s", want, &table)
		}
	}
	if line := regexp.MustCompile(`(?m)^BenchmarkDecode/batch=1/context=100-\d+ \t1\t\d+ ns/op\t[\d.]+ tok/s\t[\d.]+ %peak$`); len(line.FindAllString(goBench.String(), -1)) != 2 {
		t.Errorf("want two samples in Go's format, got\n%s", &goBench)
	}

	// No room: that case is left out, with its reason; and chunks that were left are used again.
	r, err = RunSteps(context.Background(), StepOptions{Model: m, Device: narrow{dev}, Batches: []int{1, 2000}, Depths: []int{70}, Prompts: []int{150}, Steps: 70, Repeat: 1, PageTokens: 16})
	if err != nil || len(r.Results) != 2 || len(r.Skipped) != 1 || !strings.HasPrefix(r.Skipped[0], "decode/batch=2000/context=70: ") {
		t.Errorf("want one case skipped, got %+v, %v", r, err)
	}
}

// wrong is a device whose attention gives thrice what it should.
type wrong struct{ kernels.Device }

func (d wrong) Step(b *kernels.Batch, forward func()) <-chan kernels.Result {
	c := *b
	c.Taps = append([]kernels.Tap{{At: kernels.Point{Layer: 1, Hook: kernels.HookZ}, Rows: []int32{0}, Op: kernels.Scale, By: 3}}, b.Taps...)
	return d.Device.Step(&c, forward)
}

// narrow has room for the workspace and one more MiB or so.
type narrow struct{ kernels.Device }

func (narrow) Memory() (free, total int64, err error) { return workspace + 4<<20, 1 << 40, nil }

// The tower of Scout has the operations that KERNELS.md counts; a small one is verified, and measured alone.
func TestVisionSteps(t *testing.T) {
	data, err := ShapeConfig("vision", nil, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := model.ParseConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.VisionFlops(17) / 17e9; math.Abs(got-1016) > 0.5 {
		t.Errorf("a tile: want 1016 GFLOP, got %.1f", got)
	}
	for _, x := range [][2]string{{"1408", "16"}, {"5632", "64"}, {"4096", "24"}, {"5120", "40"}, {"336", "28"}, {`"num_hidden_layers":34`, `"num_hidden_layers":2`},
		{`"num_attention_heads":16`, `"num_attention_heads":2`}} {
		data = bytes.ReplaceAll(data, []byte(x[0]), []byte(x[1]))
	}
	if cfg, err = model.ParseConfig(data); err != nil {
		t.Fatal(err)
	}
	dev := cpu.New(cpu.Options{Threads: 2})
	defer dev.Close()
	var models [2]*model.Model
	for i := range models {
		if models[i], err = model.LoadDummy(context.Background(), cfg, dev, uint64(i), model.LoadOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if off, err := VerifyVision(dev, dev, models[0], models[0]); err != nil || off != 0 {
		t.Errorf("a device beside itself: want no difference, got %g, %v", off, err)
	}
	if _, err := VerifyVision(dev, dev, models[0], models[1]); err == nil {
		t.Error("other weights: want an error")
	}
	r, err := RunSteps(context.Background(), StepOptions{Model: models[0], Device: dev, DeviceName: "NVIDIA H200 (not really)", Tiles: []int{1, 3}, Repeat: 2, Encodings: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Results) != 2 || r.Results[1].Name != "vision/tiles=3" || r.Results[1].Unit != "GFLOP/s" || r.Results[1].Percent <= 0 {
		t.Errorf("want two results in GFLOP/s, got %+v", r.Results)
	}
}
