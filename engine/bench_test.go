package engine

import (
	"context"
	"sync"
	"testing"
	"time"

	"chulengo/kernels"
)

// idle is a device and a model whose steps take no time.
type idle struct {
	fake
	outs []kernels.Out
}

func (d *idle) Step(b *kernels.Batch, _ func()) <-chan kernels.Result {
	out := make(chan kernels.Result, 1)
	d.outs = d.outs[:0]
	for range b.Want {
		d.outs = append(d.outs, kernels.Out{Token: 7})
	}
	out <- kernels.Result{Outs: d.outs}
	return out
}

type nullKV struct{}

func (nullKV) Copy(int, kernels.Page, kernels.Page) error { return nil }
func (nullKV) Save(int, kernels.Page, []byte) error       { return nil }
func (nullKV) Load(int, kernels.Page, []byte) error       { return nil }
func (nullKV) Close() error                               { return nil }

func (d *idle) NewKV(kernels.KVSpec) (kernels.KV, error) { return nullKV{}, nil }

// BenchmarkStep is the engine's part of a step of 64 sequences that decode with contexts of some 4,000 tokens, the
// callers' goroutines and callbacks included. One op is one step.
func BenchmarkStep(b *testing.B) {
	d := &idle{fake: *newFake(202048, 1<<20, 8192)}
	e, err := New(d, nil, d, Options{KVBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	var wg, ready sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	ready.Add(64)
	for i := range 64 {
		wg.Go(func() {
			n := 0
			e.Generate(ctx, Request{Prompt: make([]int32, 4000+i), IgnoreEOS: true, Sampling: Sampling{Temperature: 1, PresencePenalty: 0.1}}, func(Event) error {
				if n++; n == 1 {
					ready.Done()
				}
				return nil
			})
		})
	}
	ready.Wait()
	b.ResetTimer()
	b.ReportAllocs()
	for from := e.Stats().Steps; e.Stats().Steps < from+int64(b.N); {
		time.Sleep(100 * time.Microsecond)
	}
	b.StopTimer()
	cancel()
	wg.Wait()
}
