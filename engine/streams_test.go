package engine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"chulengo/demo"
	"chulengo/engine"
)

// BenchmarkStreams decodes with the demo checkpoint on the CPU, so many answers at a time: what batching gives. One op is
// 256 tokens of every answer.
func BenchmarkStreams(b *testing.B) {
	m, dev := llama(b, demo.FS())
	for _, streams := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint(streams), func(b *testing.B) {
			e, err := engine.New(m, nil, dev, engine.Options{NoPrefixCache: true})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			const tokens = 256
			for b.Loop() {
				var all sync.WaitGroup
				for i := range streams {
					all.Go(func() {
						prompt := []int32{6125, 6128, 70, int32(100 + i)}
						if _, err := e.Generate(context.Background(), engine.Request{Prompt: prompt, MaxTokens: tokens, IgnoreEOS: true,
							Sampling: engine.Sampling{Temperature: 0.8, Seed: uint64(i)}}, func(engine.Event) error { return nil }); err != nil {
							b.Error(err)
						}
					})
				}
				all.Wait()
			}
			stats := e.Stats()
			b.ReportMetric(stats.StepTime.Seconds()/b.Elapsed().Seconds(), "steps/time")
			b.ReportMetric(float64(streams*tokens*b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
