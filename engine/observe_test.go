package engine

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestShortPromptPasses: a short prompt behind a long one has its first token long before the long one has.
func TestShortPromptPasses(t *testing.T) {
	f := newFake(20, 4096, 64)
	e := start(t, f, nil, Options{StepTokens: 32})
	var wg sync.WaitGroup
	begun := make(chan struct{})
	var long time.Time
	wg.Go(func() {
		var once sync.Once
		_, err := e.Generate(context.Background(), Request{Prompt: make([]int32, 2000), MaxTokens: 1, Progress: func(p Progress) {
			if p.Read > 0 {
				once.Do(func() { close(begun) })
			}
		}}, nil)
		if err != nil {
			t.Error(err)
		}
		long = time.Now()
	})
	<-begun
	before := e.Stats().Steps
	if _, err := e.Generate(context.Background(), Request{Prompt: slices.Repeat([]int32{3}, 64), MaxTokens: 1}, nil); err != nil {
		t.Fatal(err)
	}
	short, steps := time.Now(), e.Stats().Steps-before
	wg.Wait()
	if !short.Before(long) || steps > 20 { // 4 steps of 16 rows, and what ran until it came in
		t.Errorf("the short prompt took %d steps and was first: %v", steps, short.Before(long))
	}
}

// TestProgress: from the queue to the end of the prompt, never backwards.
func TestProgress(t *testing.T) {
	f := newFake(20, 1024, 64)
	f.delay = 100 * time.Microsecond
	var rows, steps int
	observed := make(chan Observation, 10)
	e := start(t, f, nil, Options{
		MaxSequences: 1, StepTokens: 8, PageTokens: 4,
		Observe:     func(o Observation) { observed <- o },
		ObserveStep: func(n int, _ time.Duration) { rows += n; steps++ },
	})
	prompt := make([]int32, 200)
	var wg sync.WaitGroup
	wg.Go(func() { generate(t, e, Request{Prompt: prompt, MaxTokens: 100, IgnoreEOS: true}) })
	for e.Stats().Running == 0 {
		time.Sleep(time.Millisecond)
	}
	var seen []Progress
	res, err := e.GenerateChoices(context.Background(), Request{
		Prompt: append(prompt[:150:150], make([]int32, 60)...), MaxTokens: 3, IgnoreEOS: true, Choices: 2, Progress: func(p Progress) { seen = append(seen, p) },
	}, nil)
	wg.Wait()
	if err != nil || len(seen) < 3 || seen[0].Queue != 1 || seen[len(seen)-1] != (Progress{Prompt: 210, Cached: 200, Read: 210}) {
		t.Fatalf("%+v, %v", seen, err)
	}
	for i := 1; i < len(seen); i++ {
		if seen[i].Read < seen[i-1].Read || seen[i].Queue > seen[i-1].Queue || seen[i].Prompt != 210 {
			t.Errorf("%+v after %+v", seen[i], seen[i-1])
		}
	}
	<-observed // the first request
	o := <-observed
	if o.Choices != 2 || o.Generated != 6 || o.Prompt != 210 || o.Cached != 200 || res[0].Cached != 200 || o.MaxTokens != 3 || o.Finish != FinishLength ||
		o.Queue <= 0 || o.FirstToken < o.Queue || o.EndToEnd < o.FirstToken {
		t.Errorf("%+v", o)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if s := e.Stats(); int64(rows) != s.StepRows || int64(steps) != s.Steps {
		t.Errorf("%d rows in %d steps observed, counted %+v", rows, steps, s)
	}
}

func TestBytes(t *testing.T) {
	f := newFake(4, 64, 8)
	f.script = []int32{0, 1, 3}
	e := start(t, f, speller{bytesTokenizer{"a", "\xe4", "", ""}}, Options{})
	var got []string
	_, err := e.Generate(context.Background(), Request{Prompt: []int32{1}}, func(v Event) error {
		got = append(got, string(v.Bytes))
		return nil
	})
	if err != nil || !slices.Equal(got, []string{"a", "\xe4", ""}) {
		t.Errorf("%q, %v", got, err)
	}
}

type speller struct{ bytesTokenizer }

func (s speller) Bytes(id int32) []byte { return []byte(s.bytesTokenizer[id]) }

// TestPlaceOfOneThatLeft: where nobody may wait, requests one after the other are all accepted, also while the last step of
// one whose caller went away still runs.
func TestPlaceOfOneThatLeft(t *testing.T) {
	f := newFake(20, 1024, 64)
	e := start(t, f, nil, Options{MaxSequences: 1, MaxQueue: -1})
	for range 200 {
		generate(t, e, Request{Prompt: []int32{1}, MaxTokens: 2, IgnoreEOS: true})
	}
	slow := newFake(20, 1024, 64)
	slow.delay = 20 * time.Millisecond
	e = start(t, slow, nil, Options{MaxSequences: 2, MaxQueue: -1})
	for range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		_, err := e.GenerateChoices(ctx, Request{Prompt: []int32{1}, MaxTokens: 1000, IgnoreEOS: true, Choices: 2}, func(Event) error {
			cancel()
			return nil
		})
		if err != context.Canceled {
			t.Fatal(err)
		}
		generate(t, e, Request{Prompt: []int32{1}, MaxTokens: 1})
	}
	// But not more than there are places for.
	var wg sync.WaitGroup
	var refused atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	for range 6 {
		wg.Go(func() {
			_, err := e.Generate(ctx, Request{Prompt: []int32{1}, MaxTokens: 1000, IgnoreEOS: true}, nil)
			if err == ErrBusy {
				if refused.Add(1) == 4 {
					cancel()
				}
			} else if err != context.Canceled {
				t.Errorf("want the end of the context, got %v", err)
			}
		})
	}
	wg.Wait()
	cancel()
	if n := refused.Load(); n != 4 {
		t.Errorf("%d of 6 were refused, want all but 2", n)
	}
}
