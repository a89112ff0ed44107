//go:build cuda

package model_test

import (
	"errors"
	"slices"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/kernels/cuda/driver"
	"chulengo/model"
)

// Every kind of checkpoint on a GPU: it holds the values that the CPU holds, bit for bit, and its logits are as near to the CPU's as
// those of the same numbers in bfloat16 are: at most twice as far, of a prompt, and of tokens one by one. How far roundings carry is the
// model's business, and these models are random. The CPU's choices of experts are replayed, since one that falls the other way would be
// most of the difference.
func TestQuantisedCheckpointsOnGPU(t *testing.T) {
	dev, err := cuda.New(cuda.Options{})
	if no := (*driver.UnavailableError)(nil); errors.As(err, &no) && (no.Problem == driver.NoDriver || no.Problem == driver.NoDevice) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			w := newWritten(t, k.config)
			w.fill(k.choose)
			ref, _ := loadNoted(t, w.dir(t))
			m := loadOn(t, w.dir(t), dev, model.LoadOptions{})
			at := places(m)
			for name, p := range places(ref.Model) {
				got, want := at[name].matrix(t), p.matrix(t)
				if i := firstDifference(numbers(t, got), numbers(t, want)); i >= 0 {
					t.Fatalf("%s: [%d, %d] differs: got %v, want %v", name, i/got.K, i%got.K, numbers(t, got)[i], numbers(t, want)[i])
				}
			}

			plainly := loadOn(t, w.plain(t), dev, model.LoadOptions{})
			want, choices := answers(newStepper(t, ref), nil)
			got, _ := answers(newStepperOn(t, m, dev, kernels.BF16), choices)
			plain, _ := answers(newStepperOn(t, plainly, dev, kernels.BF16), choices)
			for i, phase := range []string{"a prompt", "tokens one by one"} {
				e, bound := relativeError(got[i], want[i]), 2*relativeError(plain[i], want[i])
				if !(e <= bound) {
					t.Errorf("logits of %s: relative error %.4f, want at most %.4f", phase, e, bound)
				} else {
					t.Logf("logits of %s: %.4f of %.4f", phase, e, bound)
				}
			}
		})
	}
}

// answers gives the logits of a prompt, and those of eight tokens after it, one a step. Of every step it makes these choices of experts; with nil
// it gives those that the model makes.
func answers(s *stepper, choices [][]kernels.Tap) (logits [2][]float32, chosen [][]kernels.Tap) {
	tokens := make([]int32, 40)
	for i := range tokens {
		tokens[i] = int32(i * 7 % wVocab)
	}
	var q sequence
	for i, step := range append([][]int32{tokens[:32]}, slices.Collect(slices.Chunk(tokens[32:], 1))...) {
		var taps []kernels.Tap
		if choices == nil {
			for _, h := range model.Hooks(s.m.Config) {
				if h.At.Hook == kernels.HookExpertIndex {
					taps = append(taps, capture(h, len(step)))
				}
			}
			chosen = append(chosen, taps)
		} else {
			for _, tap := range choices[i] {
				tap.Op = kernels.Set
				taps = append(taps, tap)
			}
		}
		phase := min(i, 1)
		logits[phase] = append(logits[phase], s.step([]piece{{&q, step}}, taps...)...)
	}
	return logits, chosen
}
