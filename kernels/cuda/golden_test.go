//go:build cuda

package cuda_test

import (
	"fmt"
	"io/fs"
	"math"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/model"
	"chulengo/safetensors"
)

// wholeBound is the relative error of a whole pass: a row passes 12 roundings to bfloat16 in a layer (norm, q, k, v, weights, z;
// norm, expert's input, activations; and what hangs on them), which are independent, so that their squares add up.
func wholeBound(c *model.Config) float64 { return math.Sqrt(12*float64(c.Layers)) * rounding }

// margin is what the difference of two of these values may be off by: four standard deviations.
func margin(c *model.Config, values []float32) float64 {
	squares := 0.0
	for _, v := range values {
		squares += float64(v) * float64(v)
	}
	return 4 * math.Sqrt2 * wholeBound(c) * math.Sqrt(squares/float64(len(values)))
}

// expected reads a tensor of expected.safetensors as numbers.
func expected(t *testing.T, dir fs.FS, name string) []float32 {
	t.Helper()
	data, err := fs.ReadFile(dir, "expected.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Parse("expected.safetensors", data)
	if err != nil {
		t.Fatal(err)
	}
	x, err := f.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	if x.DType == safetensors.I32 {
		out := make([]float32, x.Len())
		for i := range out {
			out[i] = float32(int32(uint32(x.Data[4*i]) | uint32(x.Data[4*i+1])<<8 | uint32(x.Data[4*i+2])<<16 | uint32(x.Data[4*i+3])<<24))
		}
		return out
	}
	values, err := x.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// best is the index of the largest of a row's values, and its distance to the next.
func best(row []float32) (at int, gap float32) {
	second := float32(math.Inf(-1))
	for i, v := range row {
		switch {
		case i == 0:
		case v > row[at]:
			second, at = row[at], i
		case v > second:
			second = v
		}
	}
	return at, row[at] - second
}

// The reference implementation's results end to end. Its choices of experts are replayed, or one choice that falls the
// other way would be most of the difference; the router's own choices are compared apart, wherever the reference's margin
// exceeds what the roundings so far may have moved.
func TestReferenceOutputs(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			p := newPair(t, g.dir, cuda.Options{})
			c := p.gpu.Config
			var prompt []int32
			for _, id := range expected(t, g.dir, "text.input_ids") {
				prompt = append(prompt, int32(id))
			}
			n := len(prompt)
			var taps []kernels.Tap
			moe, choices, unclear := 0, 0, 0
			type router struct {
				tap  int
				want []float32
			}
			var routers []router
			for _, h := range model.Hooks(c) {
				switch h.At.Hook {
				case kernels.HookRouterLogits:
					routers = append(routers, router{len(taps), expected(t, g.dir, fmt.Sprint("text.router_logits.", moe))})
					moe++
					taps = append(taps, capture(h, n))
				case kernels.HookExpertIndex:
					set := capture(h, n)
					set.Op = kernels.Set
					want := routers[len(routers)-1].want
					for row := range n {
						at, _ := best(want[row*c.Experts:][:c.Experts])
						set.Buf[row] = float32(at)
					}
					taps = append(taps, set)
				}
			}
			logits := kernels.Tap{At: kernels.Point{Hook: kernels.HookLogits}, Rows: taps[0].Rows, Buf: make([]float32, n*c.Vocab)}
			p.gpu.run(t, []piece{{&sequence{}, prompt}}, true, append(taps, logits))
			if e := relativeError(logits.Buf, expected(t, g.dir, "text.logits")); !(e <= wholeBound(c)) {
				t.Errorf("logits: want a relative error of at most %.4f, got %.4f", wholeBound(c), e)
			} else {
				t.Logf("logits: %.4f of %.4f", e, wholeBound(c))
			}
			for _, r := range routers {
				allowed := margin(c, r.want)
				for row := range n {
					want, gap := best(r.want[row*c.Experts:][:c.Experts])
					got, _ := best(taps[r.tap].Buf[row*c.Experts:][:c.Experts])
					choices++
					if float64(gap) <= allowed {
						unclear++
					} else if got != want {
						t.Errorf("router %d row %d: want expert %d (margin %.3f), got %d", r.tap, row, want, gap, got)
					}
				}
			}
			if unclear == choices {
				t.Errorf("all of %d choices are within what rounding may move", choices)
			}
			t.Logf("%d expert choices, %d of them too close to call", choices, unclear)
		})
	}
}

// Greedy continuation on the recorded ids: the best token is the recorded one wherever the CPU's margin exceeds what the
// roundings may move. The CPU's choices of experts are replayed.
func TestGreedyContinuation(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			p := newPair(t, g.dir, cuda.Options{})
			c := p.gpu.Config
			var tokens []int32
			for _, id := range expected(t, g.dir, "generate.tokens") {
				tokens = append(tokens, int32(id))
			}
			n := int(expected(t, g.dir, "generate.prompt_len")[0])
			if testing.Short() {
				tokens = tokens[:min(len(tokens), n+8)]
			}
			q, clear := &sequence{}, 0
			for at, count := 0, n; at < len(tokens); at, count = at+count, 1 {
				one := []piece{{q, tokens[at : at+count]}}
				var onCPU, onGPU []kernels.Tap
				for _, h := range model.Hooks(c) {
					switch h.At.Hook {
					case kernels.HookExpertIndex:
						tap := capture(h, count)
						onCPU = append(onCPU, tap)
						tap.Op = kernels.Set
						onGPU = append(onGPU, tap) // the same buffer
					case kernels.HookLogits:
						onCPU, onGPU = append(onCPU, capture(h, count)), append(onGPU, capture(h, count))
					}
				}
				p.cpu.run(t, one, false, onCPU)
				p.gpu.run(t, one, true, onGPU)
				want := onCPU[len(onCPU)-1].Buf[(count-1)*c.Vocab:]
				id, gap := best(want)
				if float64(gap) <= margin(c, want) {
					continue
				}
				clear++
				if got, _ := best(onGPU[len(onGPU)-1].Buf[(count-1)*c.Vocab:]); got != id {
					t.Errorf("after %d tokens: want %d (margin %.3f), got %d", at+count, id, gap, got)
				}
			}
			t.Logf("%d of %d tokens are clear", clear, len(tokens)-n+1)
		})
	}
}
