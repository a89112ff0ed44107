//go:build cuda

package cuda_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
)

// e4m3Codings are those whose prefill may multiply codes with codes: scales for outputs, for blocks, for all, and for groups of outputs and of
// more inputs than a stage has.
var e4m3Codings = []kernels.Coding{
	{Format: kernels.F8E4M3, Rows: 1, Scale: kernels.BF16},
	{Format: kernels.F8E4M3, Rows: 128, Cols: 128, Scale: kernels.F32},
	{Format: kernels.F8E4M3, Scale: kernels.F32},
	{Format: kernels.F8E4M3, Rows: 3, Cols: 256, Scale: kernels.BF16},
}

// e4m3Bounds are those of prefill. Both devices multiply the same codes where a tap has set the rows.
//
// e is how far a product may be off. The software GPU has the numbers' own sums. Tensor cores of 9.0, as far as is known, align the 32 products
// of an instruction and the sum before it to the largest, and cut what lies 13 bits below it, towards 0. A cut is off by a third of
// its square in the mean square: of 128 columns, which are then added in float32, by √(4·33/3)·2⁻¹³ of a number that is at most twice the
// largest summand. That is taken for the norm of the sum, which it exceeds where one product or the sum itself outweighs the others, so
// that errors of sums are at most √44·2⁻¹² of it.
//
// A feed-forward's second product reads silu(gate)·up, which no tap sets: it is off by three products' errors at most, and by chance so much
// that a value is rounded to the next bfloat16 (2⁻⁷ of it): of values that are off by e, 2⁸·e are. A 16th of those get the next
// code, which is 2⁻³ away: √(2⁴·e)·2⁻³ in the mean square. If it is a row's largest value, the row has another scale, which moves
// all of its codes, as if they were rounded anew: by √2·2⁻³/√12 of the values, which is the most in any case, in 2⁸·e of the rows.
func e4m3Bounds(software bool) map[kernels.Hook]float64 {
	e := 1e-5
	if !software {
		e += math.Sqrt(44) / (1 << 12)
	}
	b := maps.Clone(bounds)
	for _, h := range []kernels.Hook{kernels.HookQ, kernels.HookK, kernels.HookV, kernels.HookAttnOut} {
		b[h] = e
	}
	anew := math.Sqrt2 / 8 / math.Sqrt(12)
	second := e + min(anew, math.Sqrt(16*3*e)/8+math.Sqrt(256*3*e)*anew)
	for _, h := range []kernels.Hook{kernels.HookRoutedOut, kernels.HookSharedOut, kernels.HookFFNOut} {
		b[h] = second
	}
	return b
}

// Prefill with activations in codes, stage for stage, against a CPU device that rounds them likewise; decode is as without.
func TestCodedActivations(t *testing.T) {
	for i, coding := range e4m3Codings {
		if testing.Short() && i > 1 {
			continue // takes long on a software GPU
		}
		t.Run(coding.String(), func(t *testing.T) {
			p := dummyPair(t, fastConfig(), cuda.Options{NoGraphs: true, Activations: kernels.F8E4M3})
			needWhole(t, p)
			recode(t, p.cpu.Model, p.cpu.dev, coding, false)
			recode(t, p.gpu.Model, p.gpu.dev, coding, false)
			r := rand.New(rand.NewPCG(31, 32))
			long, short := &sequence{}, &sequence{}
			prompt := randomTokens(r, 183, 1000)
			seen := parityWithin(t, p, []piece{{long, prompt}, {short, prompt[:3]}}, e4m3Bounds(strings.Contains(p.gpu.dev.Name(), "emulated")))
			seen += parityWithin(t, p, []piece{{long, prompt[:1]}, {short, prompt[1:2]}}, bounds)
			t.Logf("%d values", seen)
			ran := p.gpu.dev.(*cuda.Device).Ran()
			for _, name := range []string{"gemm_e4m3_store_90", "gemm_e4m3_swiglu_90", "gemm_e4m3_routed_90"} {
				if ran[name] == 0 {
					t.Errorf("%s did not run", name)
				}
			}
			if ran["gemm_coded_store_90"] != 0 {
				t.Error("weights were widened")
			}
		})
	}
}

// One layer with few experts, for rows of every width that there is an instruction for, cut and whole.
func TestCodedActivationsWidths(t *testing.T) {
	config := fastConfig()
	config["num_hidden_layers"], config["no_rope_layers"], config["interleave_moe_layer_step"], config["num_local_experts"] = 1, []int{1}, 1, 2
	p := dummyPair(t, config, cuda.Options{NoGraphs: true, Activations: kernels.F8E4M3})
	needWhole(t, p)
	recode(t, p.cpu.Model, p.cpu.dev, e4m3Codings[0], false)
	recode(t, p.gpu.Model, p.gpu.dev, e4m3Codings[0], false)
	r := rand.New(rand.NewPCG(35, 36))
	rows := []int{5, 30, 55, 90, 120, 150, 190, 400}
	if testing.Short() {
		rows = []int{90, 190} // takes long on a software GPU
	}
	for _, n := range rows {
		parityWithin(t, p, []piece{{&sequence{}, randomTokens(r, n, 1000)}}, e4m3Bounds(strings.Contains(p.gpu.dev.Name(), "emulated")))
	}
}

// needWhole skips what needs whole rows on one GPU.
func needWhole(t *testing.T, p *pair) {
	t.Helper()
	if _, one := p.gpu.dev.(*cuda.Device); !one {
		t.Skip("ranks quantise their parts of a row: the CPU has no such parts")
	}
}

// With activations in codes, too, a prompt's rows have the same bits alone and in company, in one piece and in two, and with taps, for
// which experts' rows are gathered and quantised by two kernels instead of one.
func TestCodedActivationsSameBits(t *testing.T) {
	p := dummyPair(t, fastConfig(), cuda.Options{Activations: kernels.F8E4M3})
	recode(t, p.gpu.Model, p.gpu.dev, e4m3Codings[1], false)
	r := rand.New(rand.NewPCG(33, 34))
	var together []piece
	var texts [][]int32
	prompts := []int{37, 2, 161, 20}
	if testing.Short() {
		prompts = prompts[:2] // takes long on a software GPU
	}
	for _, n := range prompts {
		texts = append(texts, randomTokens(r, n, 1000))
		together = append(together, piece{&sequence{}, texts[len(texts)-1]})
	}
	company := p.gpu.run(t, together, true, nil)
	for i, text := range texts {
		alone := p.gpu.run(t, []piece{{&sequence{}, text}}, true, nil)
		_, tapped := p.gpu.logits(t, []piece{{&sequence{}, text}})
		for row := range text {
			if !sameOut(alone[row], company[row]) {
				t.Fatalf("prompt %d row %d: alone %+v, in company %+v", i, row, alone[row], company[row])
			}
			if !sameOut(alone[row], tapped[row]) {
				t.Fatalf("prompt %d row %d: with a tap %+v, without %+v", i, row, tapped[row], alone[row])
			}
		}
		company = company[len(text):]
		cut := &sequence{}
		p.gpu.run(t, []piece{{cut, text[:len(text)/2]}}, true, nil)
		if len(text) < 4 {
			continue // a piece of one row decodes
		}
		for row, out := range p.gpu.run(t, []piece{{cut, text[len(text)/2:]}}, true, nil) {
			if !sameOut(alone[len(text)/2+row], out) {
				t.Fatalf("prompt %d row %d: in two pieces %+v, at once %+v", i, len(text)/2+row, out, alone[len(text)/2+row])
			}
		}
	}
}

// Two ranks, each with codes of its part of a row, have the same residuals, and a prompt the same bits alone and in company.
func TestCodedActivationsOnRanks(t *testing.T) {
	g := newGroup(t, cuda.Options{Activations: kernels.F8E4M3, Patience: time.Minute}) // software GPUs take turns
	recode(t, g.Model, g.side.dev, e4m3Codings[1], false)
	r := rand.New(rand.NewPCG(37, 38))
	texts := [][]int32{randomTokens(r, 40, 1000), randomTokens(r, 9, 1000)}
	company := g.run(t, []piece{{&sequence{}, texts[0]}, {&sequence{}, texts[1]}}, nil)
	for i, text := range texts {
		for row, alone := range g.run(t, []piece{{&sequence{}, text}}, nil) {
			if !sameOut(alone, company[row]) {
				t.Fatalf("prompt %d row %d: alone %+v, in company %+v", i, row, alone, company[row])
			}
		}
		company = company[len(text):]
	}
}

// A row of which a value is no number makes no numbers of its own, as without codes, and its neighbours are as ever.
func TestCodedActivationsNotFinite(t *testing.T) {
	p := dummyPair(t, fastConfig(), cuda.Options{NoGraphs: true, Activations: kernels.F8E4M3})
	needWhole(t, p)
	for _, s := range []*side{p.cpu, p.gpu} {
		recode(t, s.Model, s.dev, e4m3Codings[0], false)
		h := hookAt(t, s, 0, kernels.HookAttnNorm)
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
			set, q := capture(h, 3), capture(hookAt(t, s, 0, kernels.HookQ), 3)
			set.Op, set.Rows = kernels.Set, set.Rows[:1]
			set.Buf = make([]float32, h.Width())
			set.Buf[77] = bad
			b := s.batch([]piece{{&sequence{}, []int32{1, 2, 3}}})
			b.Taps = []kernels.Tap{set, q}
			if r := <-s.dev.Step(b, func() { s.Forward(s.dev) }); r.Err == nil && s == p.gpu {
				t.Errorf("%v: the step has answers", bad)
			}
			width := len(q.Buf) / 3
			for i, v := range q.Buf {
				if finite := !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0); finite != (i >= width) {
					t.Fatalf("%s: %v: query %d of row %d is %v", s.dev.Name(), bad, i%width, i/width, v)
				}
			}
		}
	}
}

// What cannot be is said.
func TestCodedActivationsRefused(t *testing.T) {
	if _, err := cuda.New(cuda.Options{Portable: true, Activations: kernels.F8E4M3}); !errors.Is(err, cuda.ErrActivations) {
		t.Errorf("portable kernels: %v", err)
	}
	if _, err := cuda.New(cuda.Options{Activations: kernels.Int4}); err == nil || !strings.Contains(err.Error(), "want BF16 or F8_E4M3, got INT4") {
		t.Errorf("INT4: %v", err)
	}
	dev := openGPU(t, cuda.Options{Activations: kernels.F8E4M3})
	for cols, fits := range map[int]bool{64: false, 192: false, 256: true, 0: true} {
		spec := kernels.WeightSpec{Names: []string{"odd"}, Parts: []int{8}, K: 512, Experts: 1, Coding: kernels.Coding{Format: kernels.F8E4M3, Rows: 1, Cols: cols, Scale: kernels.BF16}}
		if _, err := dev.NewWeight(spec); (err == nil) != fits || err != nil && !strings.Contains(err.Error(), fmt.Sprintf("odd: activations in F8_E4M3: want scales for a multiple of 128 inputs or all of them, got %d", cols)) {
			t.Errorf("groups of %d: %v", cols, err)
		}
	}
}
