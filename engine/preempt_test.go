package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"chulengo/kernels"
)

// TestGiveWay runs more answers than there are pages for. With a device whose memory fails, requests fail one by one,
// and what they held is free.
func TestGiveWay(t *testing.T) {
	for _, broken := range []string{"", "copy", "save", "load"} {
		f := newFake(48, 64, 16)
		f.failKV, f.delay = broken, 200*time.Microsecond // all are there before the first has ended
		e := start(t, f, nil, Options{PageTokens: 4, pages: [kernels.Groups]int{16, 16}, StepTokens: 16})
		var wg sync.WaitGroup
		var mu sync.Mutex
		failed := 0
		for i := range 8 {
			wg.Go(func() {
				r := Request{Prompt: slices.Repeat([]int32{int32(i)}, 6), MaxTokens: 40, IgnoreEOS: true, Choices: 1 + i%2, Sampling: Sampling{Seed: uint64(i)}}
				results, err := e.GenerateChoices(context.Background(), r, nil)
				var step *StepError
				if err != nil && (broken == "" || !errors.As(err, &step)) {
					t.Errorf("%s: %v", broken, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
					return
				}
				for c, res := range results {
					one := r
					one.Sampling.Seed += uint64(c)
					if want := plainAnswer(f, one, 40); !slices.Equal(res.IDs, want) {
						t.Errorf("%s: request %d choice %d: got %v, want %v", broken, i, c, res.IDs, want)
					}
				}
			})
		}
		wg.Wait()
		if s := e.Stats(); broken != "copy" && s.Preempted == 0 || (failed > 0) != (broken != "") {
			t.Errorf("%s: %d failed, gave way %d times", broken, failed, s.Preempted)
		}
		if res := generate(t, e, Request{Prompt: []int32{1}, MaxTokens: 50, IgnoreEOS: true}); res.Generated != 50 {
			t.Errorf("%s: afterwards %+v", broken, res)
		}
		if err := e.Close(); err != nil { // the gauges are up to date then
			t.Fatal(err)
		}
		for g, p := range e.Stats().Pages {
			if p.Used != 0 || p.Reserved != 0 {
				t.Errorf("%s: group %d: %+v", broken, g, p)
			}
		}
	}
}
