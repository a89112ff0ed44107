//go:build cuda

package model_test

import (
	"context"
	"io/fs"
	"slices"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/kernels/cuda/driver"
	"chulengo/model"
	"chulengo/safetensors"
)

// Every kind of checkpoint on a GPU: it holds the values that the CPU holds, bit for bit, and its logits are as near to the CPU's as
// those of the same numbers in bfloat16 are: at most twice as far, of a prompt, and of tokens one by one. How far roundings carry is the
// model's business, and these models are random. The CPU's choices of experts are replayed, since one that falls the other way would be
// most of the difference.
func TestQuantisedCheckpointsOnGPU(t *testing.T) {
	if n, err := driver.Devices(); err != nil || len(n) == 0 {
		t.Skipf("needs a GPU: %d found, %v", len(n), err)
	}
	dev, err := cuda.New(cuda.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			w := newWritten(t, k.config)
			w.fill(k.choose)
			ref, _ := loadNoted(t, w.dir(t))
			m := loadOn(t, dev, w.dir(t))
			at := places(m)
			for name, p := range places(ref.Model) {
				want, err := p.weight.Get(p.part, p.expert)
				if err != nil {
					t.Fatal(err)
				}
				got, err := at[name].weight.Get(p.part, p.expert)
				if err != nil {
					t.Fatal(err)
				}
				if i := firstDifference(numbers(t, got), numbers(t, want)); i >= 0 {
					t.Fatalf("%s: [%d, %d] differs: got %v, want %v", name, i/got.K, i%got.K, numbers(t, got)[i], numbers(t, want)[i])
				}
			}

			var choices [][]kernels.Tap
			want := answers(newStepper(t, ref), kernels.Capture, &choices)
			got := answers(newStepperOn(t, m, dev, kernels.BF16), kernels.Set, &choices)
			plain := answers(newStepperOn(t, loadOn(t, dev, w.plain(t)), dev, kernels.BF16), kernels.Set, &choices)
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

func loadOn(t *testing.T, dev kernels.Device, dir fs.FS) *model.Model {
	t.Helper()
	cfg, err := model.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := safetensors.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ckpt.Close()
	m, err := model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// answers gives the logits of a prompt, and those of eight tokens after it, one a step. The choices of experts of every step are captured or set.
func answers(s *stepper, op kernels.Op, choices *[][]kernels.Tap) (logits [2][]float32) {
	var q sequence
	tokens := make([]int32, 40)
	for i := range tokens {
		tokens[i] = int32(i * 7 % wVocab)
	}
	for i, n := 0, 32; len(tokens) > 0; i, n = i+1, 1 {
		if op == kernels.Capture {
			var taps []kernels.Tap
			for _, h := range model.Hooks(s.m.Config) {
				if h.At.Hook == kernels.HookExpertIndex {
					taps = append(taps, capture(h, n))
				}
			}
			*choices = append(*choices, taps)
		}
		taps := slices.Clone((*choices)[i])
		for j := range taps {
			taps[j].Op = op
		}
		phase := min(i, 1)
		logits[phase] = append(logits[phase], s.step([]piece{{&q, tokens[:n]}}, taps...)...)
		tokens = tokens[n:]
	}
	return logits
}
