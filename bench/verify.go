package bench

import (
	"fmt"
	"math"

	"chulengo/kernels"
	"chulengo/model"
)

// verifySequences is one more than the largest batch that is measured by default.
const verifySequences = 33

// VerifySteps holds a device against the CPU device, value by value of the forward pass: both have the same random weights,
// the rows go the oracle's way at every router, prompts are read and 33, 8 and 1 of them go on. It gives the largest relative
// error (root of the mean square) among all values, and an error if one is above what rounding explains: 12 roundings to
// bfloat16 (2⁻⁸/√3 each) for each layer that its rows have passed, added up. Where both round activations to F8_E4M3, they
// do so in four places of a layer, of values that differ by those roundings: as if they were rounded anew (√2·2⁻³/√12).
func VerifySteps(dev, oracle kernels.Device, m, reference *model.Model, pageTokens int, activations kernels.Format) (float64, error) {
	layer := 12.0 / 256 / math.Sqrt(3)
	if activations == kernels.F8E4M3 {
		layer += 4 * math.Sqrt2 / 8 / math.Sqrt(12)
	}
	var on [2]*steps
	for i, side := range []StepOptions{{Model: reference, Device: oracle, PageTokens: pageTokens}, {Model: m, Device: dev, PageTokens: pageTokens}} {
		s, err := newSteps(&side, verifySequences, 128, 512)
		if err != nil {
			return 0, err
		}
		defer s.kv.Close()
		on[i] = s
	}
	var seqs [2][verifySequences]*sequence
	for i := range seqs {
		for j := range seqs[i] {
			seqs[i][j] = &sequence{}
		}
	}
	prompts := make([]int, verifySequences)
	for i := range prompts {
		prompts[i] = 1 + i%5
	}
	prompts[0], prompts[1] = 100, 70
	worst := 0.0
	for round, sequences := range []int{verifySequences, verifySequences, 8, 1} {
		ids := make([][]int32, sequences)
		for i := range ids {
			n := 1
			if round == 0 {
				n = prompts[i]
			}
			ids[i] = on[0].ids(n)
		}
		var values [2][]kernels.Tap
		for i, s := range on {
			b := &kernels.Batch{}
			if round > 0 {
				b.Decode = sequences
			}
			for j, q := range seqs[i][:sequences] {
				s.add(b, q, ids[j])
			}
			values[i] = captures(m.Config, b)
			b.Taps = values[i]
			if i == 1 { // the oracle's way
				b.Taps = nil
				for j, t := range values[1] {
					if t.At.Hook == kernels.HookExpertIndex {
						t.Buf, t.Op = values[0][j].Buf, kernels.Set
					}
					b.Taps = append(b.Taps, t)
				}
			}
			if _, err := s.run(b); err != nil {
				return 0, err
			}
		}
		for j, t := range values[0] {
			if t.At.Hook == kernels.HookExpertIndex {
				continue
			}
			layers := t.At.Layer + 1
			if t.At.Hook == kernels.HookFinalNorm || t.At.Hook == kernels.HookLogits {
				layers = m.Config.Layers
			}
			allowed, got := float64(layers)*layer, distance(t.Buf, values[1][j].Buf)
			if !(got <= allowed) {
				return got, fmt.Errorf("bench: verify: %s of %d sequences: want at most %.4f off the CPU's values, got %.4f, nothing is timed",
					hookName(m.Config, t.At), sequences, allowed, got)
			}
			worst = max(worst, got)
		}
	}
	return worst, nil
}

// captures looks at every value of a step.
func captures(c *model.Config, b *kernels.Batch) (taps []kernels.Tap) {
	all, wanted := make([]int32, len(b.Token)), make([]int32, len(b.Want))
	for i := range all {
		all[i] = int32(i)
	}
	for i, w := range b.Want {
		wanted[i] = w.Row
	}
	for _, h := range model.Hooks(c) {
		rows := all
		if h.At.Hook == kernels.HookFinalNorm || h.At.Hook == kernels.HookLogits {
			rows = wanted
		}
		taps = append(taps, kernels.Tap{At: h.At, Rows: rows, Buf: make([]float32, len(rows)*h.Width())})
	}
	return taps
}

// distance is that of got from want, relative to want.
func distance(want, got []float32) float64 {
	var diff, norm float64
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		diff += d * d
		norm += float64(w) * float64(w)
	}
	if diff == 0 {
		return 0
	}
	return math.Sqrt(diff / norm)
}

func hookName(c *model.Config, at kernels.Point) string {
	for _, h := range model.Hooks(c) {
		if h.At == at {
			return h.Name
		}
	}
	return fmt.Sprint(at)
}
