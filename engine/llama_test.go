package engine_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"testing"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
)

// llama loads a checkpoint on the CPU.
func llama(t testing.TB, dir fs.FS) (engine.Model, kernels.Device) {
	t.Helper()
	dev := cpu.New(cpu.Options{})
	return llamaOn(t, dir, dev), dev
}

// llamaOn loads the model on a device, which it closes.
func llamaOn(t testing.TB, dir fs.FS, dev kernels.Device) engine.Model {
	t.Helper()
	t.Cleanup(func() { dev.Close() })
	cfg, err := model.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	gen, err := model.LoadGeneration(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := safetensors.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ckpt.Close() })
	return engine.ForModel(m, gen)
}

// TestAloneIsBatched runs a set of requests one by one in whole prompts, then all at once in small odd pieces and odd
// pages: tokens, log-probabilities and captured values are the same, bit for bit.
func TestAloneIsBatched(t *testing.T) {
	for _, c := range []struct {
		name string
		dir  fs.FS
	}{
		{"micro-scout", os.DirFS("../model/testdata/micro-scout")},
		{"micro-maverick", os.DirFS("../model/testdata/micro-maverick")},
		{"demo", demo.FS()},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, dev := llama(t, c.dir)
			spec := m.Spec()
			var requests []engine.Request
			for i := range 5 {
				r := engine.Request{MaxTokens: 20 + i, IgnoreEOS: true, LogProbs: true, Top: 3}
				for p := range 1 + 37*i {
					r.Prompt = append(r.Prompt, int32((p*p*7+i*31+p)%spec.Vocab))
				}
				if i%2 == 1 {
					r.Sampling = engine.Sampling{Temperature: 0.9, TopP: 0.95, TopK: 40, Seed: uint64(i), RepetitionPenalty: 1.1, FrequencyPenalty: 0.2}
				}
				requests = append(requests, r)
			}
			alone := answers(t, m, dev, engine.Options{MaxSequences: 1}, requests, true)
			together := answers(t, m, dev, engine.Options{MaxSequences: 5, StepTokens: 13, PageTokens: 7}, requests, true)
			plain := answers(t, m, dev, engine.Options{MaxSequences: 5}, requests, false)
			for i := range requests {
				if !slices.Equal(alone[i].ids, together[i].ids) || !slices.Equal(alone[i].logProbs, together[i].logProbs) {
					t.Errorf("request %d: alone %v %v, batched %v %v", i, alone[i].ids, alone[i].logProbs, together[i].ids, together[i].logProbs)
				}
				if !slices.Equal(alone[i].residuals, together[i].residuals) || !slices.Equal(alone[i].logits, together[i].logits) {
					t.Errorf("request %d: captured values differ", i)
				}
				if !slices.Equal(alone[i].ids, plain[i].ids) || !slices.Equal(alone[i].logProbs, plain[i].logProbs) {
					t.Errorf("request %d: taps changed the answer", i)
				}
			}
		})
	}
}

// TestSharedPages: choices from one prefill, hits of the prefix cache that begin anywhere, and sequences that gave way
// give the tokens and log-probabilities of requests that ran alone without any of it, bit for bit.
func TestSharedPages(t *testing.T) {
	for _, name := range []string{"micro-scout", "micro-maverick"} {
		t.Run(name, func(t *testing.T) {
			m, dev := llama(t, os.DirFS("../model/testdata/"+name))
			vocab := m.Spec().Vocab
			text := make([]int32, 90)
			for i := range text {
				text[i] = int32((i*i*7 + i) % vocab)
			}
			var requests []engine.Request
			for _, n := range []int{90, 31, 32, 33, 64, 65, 90, 47, 9, 10} {
				requests = append(requests, engine.Request{
					Prompt: text[:n], MaxTokens: 40, IgnoreEOS: true, LogProbs: true, Sampling: engine.Sampling{Temperature: 0.9, Seed: uint64(n)},
				})
			}
			run := func(o engine.Options) (out []*engine.Result, s engine.Stats) {
				e, err := engine.New(m, nil, dev, o)
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				out = make([]*engine.Result, len(requests))
				var wg sync.WaitGroup
				for i, r := range requests {
					one := func() {
						var err error
						if out[i], err = e.Generate(context.Background(), r, nil); err != nil {
							t.Error(err)
						}
					}
					if o.MaxSequences == 1 {
						one()
					} else {
						wg.Go(one)
					}
				}
				wg.Wait()
				return out, e.Stats()
			}
			kv := m.Spec().KV
			kv.PageTokens = 8
			tight := int64(24 * (kv.PageBytes(0) + kv.PageBytes(1)))
			want, _ := run(engine.Options{MaxSequences: 1, NoPrefixCache: true})
			for what, o := range map[string]engine.Options{
				"cache": {MaxSequences: 1, PageTokens: 8, ExpertStats: true},
				"tight": {MaxSequences: 8, PageTokens: 8, KVBytes: tight, StepTokens: 40, NoPrefixCache: true},
			} {
				got, s := run(o)
				for i := range got {
					if !slices.Equal(got[i].IDs, want[i].IDs) || !slices.Equal(got[i].LogProbs, want[i].LogProbs) {
						t.Errorf("%s: request %d with %d of %d tokens cached: got %v, want %v", what, i, got[i].Cached, got[i].Prompt, got[i].IDs, want[i].IDs)
					}
				}
				t.Logf("%s: %d prompt tokens cached, %d times a sequence gave way", what, s.PrefixHits, s.Preempted)
				if what == "cache" {
					if s.PrefixHits == 0 {
						t.Error("nothing was cached")
					}
					for l, experts := range s.ExpertTokens {
						var sum uint64
						for _, n := range experts {
							sum += n
						}
						if experts != nil && sum != uint64(s.StepRows) {
							t.Errorf("layer %d: experts had %d tokens, steps %d rows", l, sum, s.StepRows)
						}
					}
				} else if s.Preempted == 0 {
					t.Error("no sequence gave way")
				}
			}

			e, err := engine.New(m, nil, dev, engine.Options{MaxSequences: 3, PageTokens: 8, StepTokens: 20})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			r := requests[3]
			r.Choices = 5 // two find no place at first
			choices, err := e.GenerateChoices(context.Background(), r, nil)
			if err != nil {
				t.Fatal(err)
			}
			for c, got := range choices {
				one := requests[3]
				one.NoCache = true
				one.Sampling.Seed += uint64(c)
				alone, err := e.Generate(context.Background(), one, nil)
				if err != nil || !slices.Equal(got.IDs, alone.IDs) || !slices.Equal(got.LogProbs, alone.LogProbs) {
					t.Errorf("choice %d: got %v, alone %v, %v", c, got.IDs, alone.IDs, err)
				}
			}
		})
	}
}

type answer struct {
	ids               []int32
	logProbs          []float32
	residuals, logits []float32 // captured
}

// answers runs the requests, as many at a time as the options allow, with or without taps.
func answers(t *testing.T, m engine.Model, dev kernels.Device, o engine.Options, requests []engine.Request, taps bool) []answer {
	t.Helper()
	e, err := engine.New(m, nil, dev, o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	out := make([]answer, len(requests))
	var wg sync.WaitGroup
	for i, r := range requests {
		if taps {
			next := 0
			for _, at := range []kernels.Point{{Layer: 1, Hook: kernels.HookResidPost}, {Hook: kernels.HookLogits}} {
				r.Taps = append(r.Taps, engine.Tap{At: at, Row: func(pos int, v []float32) {
					if at.Layer == 1 {
						if pos != next {
							t.Errorf("request %d: row of position %d, want %d", i, pos, next)
						}
						next++
						out[i].residuals = append(out[i].residuals, v...)
					} else {
						out[i].logits = append(out[i].logits, v...)
					}
				}})
			}
		}
		run := func() {
			res, err := e.Generate(context.Background(), r, nil)
			if err != nil || res.Generated != r.MaxTokens {
				t.Error(fmt.Errorf("request %d: %+v, %w", i, res, err))
				return
			}
			out[i].ids, out[i].logProbs = res.IDs, res.LogProbs
		}
		if o.MaxSequences == 1 {
			run()
		} else {
			wg.Go(run)
		}
	}
	wg.Wait()
	return out
}

// The demo checkpoint's answer, ended by its own stop id.
func TestParis(t *testing.T) {
	m, dev := llama(t, demo.FS())
	e, err := engine.New(m, nil, dev, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	res, err := e.Generate(context.Background(), engine.Request{
		Prompt: []int32{6125, 6130, 280, 256, 6131, 270, 324, 292, 301, 375, 318, 3995, 30, 6133, 6130, 396, 279, 283, 6131, 270},
	}, nil)
	want := []int32{371, 375, 318, 3995, 292, 5413, 289, 13, 6133} // The capital of France is Paris.
	if err != nil || !slices.Equal(res.IDs, want) || res.Finish != engine.FinishStop {
		t.Errorf("got %+v, %v; want %v", res, err, want)
	}
}
