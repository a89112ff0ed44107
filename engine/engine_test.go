package engine

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/kernels"
)

func TestParameters(t *testing.T) {
	f := newFake(20, 64, 8)
	e := start(t, f, nil, Options{})
	prompt := []int32{1, 2}
	nan := float32(math.NaN())
	row := func(int, []float32) {}
	for _, c := range []struct {
		field string
		r     Request
	}{
		{"prompt", Request{}},
		{"prompt", Request{Prompt: []int32{1, 20}}},
		{"prompt", Request{Prompt: []int32{-1}}},
		{"temperature", Request{Prompt: prompt, Sampling: Sampling{Temperature: -1}}},
		{"temperature", Request{Prompt: prompt, Sampling: Sampling{Temperature: nan}}},
		{"temperature", Request{Prompt: prompt, Sampling: Sampling{Temperature: float32(math.Inf(1))}}},
		{"top_k", Request{Prompt: prompt, Sampling: Sampling{TopK: -1}}},
		{"top_p", Request{Prompt: prompt, Sampling: Sampling{TopP: 1.01}}},
		{"top_p", Request{Prompt: prompt, Sampling: Sampling{TopP: -0.1}}},
		{"top_p", Request{Prompt: prompt, Sampling: Sampling{TopP: nan}}},
		{"min_p", Request{Prompt: prompt, Sampling: Sampling{MinP: 1.5}}},
		{"min_p", Request{Prompt: prompt, Sampling: Sampling{MinP: -1}}},
		{"repetition_penalty", Request{Prompt: prompt, Sampling: Sampling{RepetitionPenalty: -2}}},
		{"presence_penalty", Request{Prompt: prompt, Sampling: Sampling{PresencePenalty: nan}}},
		{"frequency_penalty", Request{Prompt: prompt, Sampling: Sampling{FrequencyPenalty: float32(math.Inf(-1))}}},
		{"logit_bias", Request{Prompt: prompt, Sampling: Sampling{LogitBias: map[int32]float32{20: 1}}}},
		{"logit_bias", Request{Prompt: prompt, Sampling: Sampling{LogitBias: map[int32]float32{2: nan}}}},
		{"max_tokens", Request{Prompt: prompt, MaxTokens: -1}},
		{"stop_ids", Request{Prompt: prompt, StopIDs: []int32{99}}},
		{"stop", Request{Prompt: prompt, Stop: []string{"a"}}}, // no tokenizer
		{"stop", Request{Prompt: prompt, Stop: []string{""}}},
		{"top_logprobs", Request{Prompt: prompt, Top: -1}},
		{"top_logprobs", Request{Prompt: prompt, Top: 21}},
		{"taps[0]", Request{Prompt: prompt, Taps: []Tap{{At: kernels.Point{Hook: kernels.HookZ}, Row: row}}}},
		{"taps[0]", Request{Prompt: prompt, Taps: []Tap{{At: kernels.Point{Hook: kernels.HookEmbed}}}}},
	} {
		res, err := e.Generate(context.Background(), c.r, nil)
		var bad *ParamError
		if !errors.As(err, &bad) || bad.Field != c.field || bad.Want == "" || bad.Got == "" || res != nil {
			t.Errorf("%s: got %v, %v for %+v", c.field, res, err, c.r)
		}
	}
	for _, c := range []struct{ prompt, max int }{{64, 0}, {64, 1}, {60, 5}, {1, math.MaxInt}, {100, 0}} {
		_, err := e.Generate(context.Background(), Request{Prompt: make([]int32, c.prompt), MaxTokens: c.max}, nil)
		var long *ContextError
		if !errors.As(err, &long) || long.Context != 64 || long.Prompt != c.prompt {
			t.Errorf("prompt %d, at most %d: %v", c.prompt, c.max, err)
		}
	}
	if s := e.Stats(); s.Requests != 0 || s.Steps != 0 {
		t.Errorf("bad requests reached the engine: %+v", s)
	}
	res, err := e.Generate(context.Background(), Request{Prompt: make([]int32, 60), IgnoreEOS: true}, nil)
	if err != nil || res.Generated != 4 || res.Finish != FinishLength {
		t.Errorf("as many as the context holds: %+v, %v; want 4", res, err)
	}
}

func TestSizes(t *testing.T) {
	for _, o := range []Options{{MaxSequences: -1}, {StepTokens: -1}, {PageTokens: -4}, {Context: 65}, {KVBytes: -1}, {KVBytes: 1}} {
		f := newFake(20, 64, 8)
		if _, err := New(f, nil, f, o); err == nil {
			t.Errorf("%+v: want an error", o)
		}
	}
	f := newFake(20, 64, 8)
	e := start(t, f, nil, Options{KVBytes: 2 << 10, PageTokens: 4, MaxSequences: 2, StepTokens: 6})
	if c := e.Context(); c != 32 { // a sequence's share is 16, and there are two
		t.Fatalf("context %d with little memory, want 32", c)
	}
	res, err := e.Generate(context.Background(), Request{Prompt: []int32{1}, IgnoreEOS: true}, nil)
	if err != nil || res.Generated != e.Context()-1 {
		t.Errorf("got %+v, %v; want %d tokens", res, err, e.Context()-1)
	}
}

// TestEnds scripts what is drawn: position p of the text is followed by token script[p].
func TestEnds(t *testing.T) {
	names := bytesTokenizer{"a", "b", "c", "st", "op", "", "\xe4\xbd", "\xa0", "x stop y", ""}
	names[9] = "<end>"
	for _, c := range []struct {
		name   string
		script []int32
		r      Request
		ids    []int32
		text   string
		finish FinishReason
	}{
		{"stop id", []int32{0, 1, 9, 2}, Request{}, []int32{0, 1, 9}, "ab", FinishStop},
		{"ignored", []int32{0, 9, 2}, Request{IgnoreEOS: true, MaxTokens: 3}, []int32{0, 9, 2}, "a<end>c", FinishLength},
		{"own stop id", []int32{9, 2, 1}, Request{StopIDs: []int32{2}}, []int32{9, 2}, "<end>", FinishStop},
		{"no stop ids", []int32{9, 2}, Request{StopIDs: []int32{}, MaxTokens: 2}, []int32{9, 2}, "<end>c", FinishLength},
		{"own stop id although ignored", []int32{9, 2, 1}, Request{StopIDs: []int32{2}, IgnoreEOS: true}, []int32{9, 2}, "<end>", FinishStop},
		{"stop string across tokens", []int32{0, 3, 4, 1}, Request{Stop: []string{"stop"}}, []int32{0, 3, 4}, "a", FinishStop},
		{"stop string in a token", []int32{0, 8, 1}, Request{Stop: []string{"stop"}}, []int32{0, 8}, "ax ", FinishStop},
		{"stop string although ignored", []int32{0, 8, 1}, Request{Stop: []string{"stop"}, IgnoreEOS: true}, []int32{0, 8}, "ax ", FinishStop},
		{"held back at a stop id", []int32{0, 3, 9}, Request{Stop: []string{"stop"}}, []int32{0, 3, 9}, "ast", FinishStop},
		{"held back at the last token", []int32{0, 3}, Request{Stop: []string{"stop"}, MaxTokens: 2}, []int32{0, 3}, "ast", FinishLength},
		{"characters", []int32{6, 7, 9}, Request{}, []int32{6, 7, 9}, "你", FinishStop},
		{"half a character", []int32{0, 6, 9}, Request{}, []int32{0, 6, 9}, "a\uFFFD", FinishStop},
		{"one token", []int32{1}, Request{MaxTokens: 1}, []int32{1}, "b", FinishLength},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(10, 64, 8)
			f.script = c.script
			e := start(t, f, names, Options{})
			c.r.Prompt, c.r.LogProbs, c.r.Top = []int32{0}, true, 2
			var ids []int32
			var text strings.Builder
			res, err := e.Generate(context.Background(), c.r, func(v Event) error {
				ids = append(ids, v.ID)
				text.WriteString(v.Text)
				if len(v.Top) != 2 {
					t.Errorf("%d alternatives, want 2", len(v.Top))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(ids, c.ids) || text.String() != c.text || res.Finish != c.finish {
				t.Errorf("got %v %q %s, want %v %q %s", ids, text.String(), res.Finish, c.ids, c.text, c.finish)
			}
			if !slices.Equal(res.IDs, ids) || res.Text != text.String() || res.Generated != len(ids) || res.Prompt != 1 || len(res.LogProbs) != len(ids) {
				t.Errorf("the result %+v is not what was emitted", res)
			}
		})
	}
}

// TestAdjust says what the sampler is told after the answer 3 3 4 to the prompt 1 3.
func TestAdjust(t *testing.T) {
	for _, c := range []struct {
		name string
		s    Sampling
		want []kernels.Adjust
	}{
		{"nothing", Sampling{Temperature: 1}, nil},
		{"no repetition", Sampling{RepetitionPenalty: 1}, nil},
		{"bias", Sampling{LogitBias: map[int32]float32{9: -1, 3: 2, 5: 0}}, []kernels.Adjust{{ID: 3, Add: 2}, {ID: 9, Add: -1}}},
		{"repetition", Sampling{RepetitionPenalty: 2}, []kernels.Adjust{{ID: 1, Penalty: 2}, {ID: 3, Penalty: 2}, {ID: 4, Penalty: 2}}},
		{"presence", Sampling{PresencePenalty: 0.5}, []kernels.Adjust{{ID: 3, Add: -0.5}, {ID: 4, Add: -0.5}}},
		{"frequency", Sampling{FrequencyPenalty: 0.5}, []kernels.Adjust{{ID: 3, Add: -1}, {ID: 4, Add: -0.5}}},
		{"all", Sampling{RepetitionPenalty: 2, PresencePenalty: 1, FrequencyPenalty: 0.5, LogitBias: map[int32]float32{3: 4}},
			[]kernels.Adjust{{ID: 3, Penalty: 2, Add: 2}, {ID: 1, Penalty: 2}, {ID: 4, Penalty: 2, Add: -1.5}}},
	} {
		d := newDrawer(c.s, []int32{1, 3})
		for _, id := range []int32{3, 3, 4} {
			d.drew(id)
		}
		if !slices.Equal(d.sampler.Adjust, c.want) || d.sampler.Index != 3 {
			t.Errorf("%s: got %+v, index %d; want %+v, index 3", c.name, d.sampler.Adjust, d.sampler.Index, c.want)
		}
	}
}

func TestBusyAndCancelled(t *testing.T) {
	f := newFake(20, 4096, 8)
	f.delay = time.Millisecond
	e := start(t, f, nil, Options{MaxSequences: 1, MaxQueue: 1})
	ctx, cancel := context.WithCancelCause(context.Background())
	r := Request{Prompt: []int32{1}, IgnoreEOS: true, MaxTokens: 4000}
	var wg sync.WaitGroup
	running := make(chan struct{})
	reason := errors.New("stop button")
	wg.Go(func() {
		n := 0
		res, err := e.Generate(ctx, r, func(Event) error {
			if n++; n == 3 {
				close(running)
			}
			return nil
		})
		if err != reason || res.Finish != FinishCancelled || res.Generated < 3 || res.Generated != n {
			t.Errorf("running: %+v, %v", res, err)
		}
	})
	<-running
	wg.Go(func() { // waits in the queue
		if res, err := e.Generate(ctx, r, nil); err != reason || res.Finish != FinishCancelled || res.Generated != 0 {
			t.Errorf("queued: %+v, %v", res, err)
		}
	})
	for e.Stats().Queued == 0 {
		time.Sleep(time.Millisecond)
	}
	if res, err := e.Generate(ctx, r, nil); err != ErrBusy || res != nil {
		t.Errorf("one too many: %+v, %v", res, err)
	}
	cancel(reason)
	wg.Wait()
	if res, err := e.Generate(ctx, r, nil); err != reason || res.Finish != FinishCancelled {
		t.Errorf("cancelled before: %+v, %v", res, err)
	}
	r.MaxTokens = 5
	if res, err := e.Generate(context.Background(), r, nil); err != nil || res.Generated != 5 {
		t.Errorf("afterwards: %+v, %v", res, err)
	}
	if s := e.Stats(); s.Refused != 1 || s.Requests != 3 || s.GeneratedTokens < 8 {
		t.Errorf("%+v", s)
	}
}

// TestEmit: an error stops the request, a panic reaches the caller and nobody else, a slow reader delays nobody.
func TestEmit(t *testing.T) {
	f := newFake(20, 512, 8)
	e := start(t, f, nil, Options{})
	r := Request{Prompt: []int32{1}, IgnoreEOS: true, MaxTokens: 300}
	full := errors.New("disk full")
	if res, err := e.Generate(context.Background(), r, func(Event) error { return full }); err != full || res.Generated != 1 || res.Finish != FinishCancelled {
		t.Errorf("%+v, %v", res, err)
	}
	func() {
		defer func() {
			if p := recover(); p != "emit" {
				t.Errorf("recovered %v", p)
			}
		}()
		e.Generate(context.Background(), r, func(Event) error { panic("emit") })
	}()
	release := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		n := 0
		res, err := e.Generate(context.Background(), r, func(Event) error { n++; <-release; return nil })
		if err != nil || n != 300 || res.Generated != 300 {
			t.Errorf("slow reader: %d events, %v", n, err)
		}
	})
	if res, err := e.Generate(context.Background(), r, nil); err != nil || res.Generated != 300 {
		t.Errorf("beside a slow reader: %+v, %v", res, err)
	}
	close(release)
	wg.Wait()
}

// TestSlowTap: a caller that does not take captured values waits, others run on.
func TestSlowTap(t *testing.T) {
	f := newFake(20, 512, 8)
	e := start(t, f, nil, Options{})
	release := make(chan struct{})
	last := -1
	r := Request{Prompt: make([]int32, 20), IgnoreEOS: true, MaxTokens: 50}
	var wg sync.WaitGroup
	tapped := r
	tapped.Taps = []Tap{{At: kernels.Point{Hook: kernels.HookLogits}, Row: func(pos int, v []float32) {
		if <-release; pos != last+1 || len(v) != 20 {
			t.Errorf("row of position %d with %d values after %d", pos, len(v), last)
		}
		last = pos
	}}}
	wg.Go(func() {
		if res, err := e.Generate(context.Background(), tapped, nil); err != nil || res.Generated != 50 || last != 68 {
			t.Errorf("%+v, %v, last row %d", res, err, last)
		}
	})
	if _, err := e.Generate(context.Background(), r, nil); err != nil {
		t.Error(err)
	}
	if n := e.Stats().GeneratedTokens; n > 51 {
		t.Errorf("%d tokens were generated while nobody took the rows, want at most 51", n)
	}
	close(release)
	wg.Wait()
}

func TestFailedStep(t *testing.T) {
	f := newFake(20, 64, 8)
	e := start(t, f, nil, Options{})
	r := Request{Prompt: []int32{1}, MaxTokens: 4, IgnoreEOS: true}
	f.failStep.Store(true)
	res, err := e.Generate(context.Background(), r, nil)
	var step *StepError
	if !errors.As(err, &step) || res.Finish != FinishError {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err := e.Generate(context.Background(), r, nil); err != nil || res.Generated != 4 {
		t.Errorf("after a failed step: %+v, %v", res, err)
	}
	f.panics.Store(true)
	for range 2 { // the device's state is unknown from then on
		if res, err := e.Generate(context.Background(), r, nil); !errors.As(err, &step) || res != nil && res.Finish != FinishError {
			t.Errorf("after a panic: %+v, %v", res, err)
		}
	}
}

func TestShutdown(t *testing.T) {
	for _, patient := range []bool{true, false} {
		f := newFake(20, 4096, 8)
		f.delay = time.Millisecond
		e := start(t, f, nil, Options{MaxSequences: 1})
		r := Request{Prompt: []int32{1}, IgnoreEOS: true, MaxTokens: 30}
		if !patient {
			r.MaxTokens = 4000
		}
		var wg sync.WaitGroup
		for range 2 { // one runs, one waits
			wg.Go(func() {
				res, err := e.Generate(context.Background(), r, nil)
				if patient && (err != nil || res.Generated != 30) || !patient && (err != ErrClosed || res.Finish != FinishError) {
					t.Errorf("patient %v: %+v, %v", patient, res, err)
				}
			})
		}
		for e.Stats().Requests < 2 {
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithCancel(context.Background())
		if !patient {
			cancel()
		}
		if err := e.Shutdown(ctx); patient != (err == nil) {
			t.Errorf("patient %v: %v", patient, err)
		}
		wg.Wait()
		cancel()
		if _, err := e.Generate(context.Background(), r, nil); err != ErrClosed {
			t.Errorf("after the end: %v", err)
		}
	}
}

func TestTimings(t *testing.T) {
	f := newFake(20, 64, 8)
	f.delay = 2 * time.Millisecond
	e := start(t, f, nil, Options{StepTokens: 5})
	res, err := e.Generate(context.Background(), Request{Prompt: make([]int32, 10), MaxTokens: 4, IgnoreEOS: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if x := res.Timings; x.Prefill < 4*time.Millisecond || x.Decode < 6*time.Millisecond || x.Queue < 0 || x.Queue > time.Second {
		t.Errorf("two steps of prefill, three of decode, 2 ms each: %+v", x)
	}
	if s := e.Stats(); s.Steps != 5 || s.PromptTokens != 10 || s.GeneratedTokens != 4 {
		t.Errorf("%+v", s)
	}
}
