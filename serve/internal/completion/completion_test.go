package completion_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"chulengo/engine"
	"chulengo/serve/internal/completion"
	"chulengo/serve/internal/fake"
)

// core is a fake model with a context of 100 tokens.
func core(b *fake.Backend) *completion.Core {
	return completion.New(b, completion.Options{Name: "fake", Aliases: []string{"Fake 1B"}, Root: "org/fake", Context: 100, StopIDs: []int32{fake.EOT},
		Sampling: engine.Sampling{Temperature: 0.6}})
}

func says(pieces ...string) *fake.Backend {
	return &fake.Backend{Script: func(string) ([]string, error) { return pieces, nil }}
}

func question(text string) completion.Request {
	return completion.Request{Messages: []completion.Message{completion.Text(completion.RoleUser, text)}}
}

func TestRun(t *testing.T) {
	r := question("Hi")
	r.Choices, r.LogProbs, r.Specials = 2, true, true
	job, err := core(says("a", "b")).Prepare(t.Context(), &r)
	if err != nil {
		t.Fatal(err)
	}
	if job.PromptTokens() != len("user: Hi\n") || fake.Text(job.Prompt()) != "user: Hi\n" {
		t.Errorf("prompt %q", fake.Text(job.Prompt()))
	}
	texts, ends := map[int]string{}, map[int]completion.End{}
	answer, err := job.Run(context.Background(), func(e completion.Event) error {
		if _, over := ends[e.Choice]; over {
			t.Errorf("an event after the end: %+v", e)
		}
		texts[e.Choice] += e.Text
		if e.End != nil {
			ends[e.Choice] = *e.End
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := completion.End{Finish: completion.FinishStop, StopID: fake.EOT}
	for c := range 2 {
		got := answer.Choices[c]
		if texts[c] != "ab" || got.Text != "ab" || ends[c] != want || got.End != want || !reflect.DeepEqual(got.IDs, []int32{'a', 'b'}) ||
			len(got.Tokens) != 2 || got.Tokens[1].Text != "b" || got.Tokens[1].LogProb != -0.25 {
			t.Errorf("choice %d: said %q, end %+v, got %+v", c, texts[c], ends[c], got)
		}
	}
	if (answer.Usage != completion.Usage{Prompt: 9, Generated: 6}) {
		t.Errorf("usage %+v", answer.Usage)
	}
}

// TestFit: what does not fit is refused with numbers, or cut where the protocol wants that.
func TestFit(t *testing.T) {
	for _, test := range []struct {
		prompt, maxTokens int
		clamp             bool
		sizes             *completion.Sizes
		param             string
		want              int // MaxTokens that reach the engine
	}{
		{93, 0, false, &completion.Sizes{Prompt: 100, Context: 100}, "messages", 0},
		{93, 5, true, &completion.Sizes{Prompt: 100, MaxTokens: 5, Context: 100}, "messages", 0},
		{92, 0, false, nil, "", 0},
		{92, 1, false, nil, "", 1},
		{92, 2, false, &completion.Sizes{Prompt: 99, MaxTokens: 2, Context: 100}, "max_tokens", 0},
		{92, 2, true, nil, "", 1},
		{3, 1 << 40, true, nil, "", 90},
	} {
		b := says("x")
		c := core(b)
		r := question(strings.Repeat("x", test.prompt))
		r.MaxTokens, r.Clamp = test.maxTokens, test.clamp
		job, err := c.Prepare(t.Context(), &r)
		var e *completion.Error
		switch {
		case test.sizes == nil && err == nil:
			if _, err := job.Run(context.Background(), nil); err != nil || b.Requests()[0].MaxTokens != test.want {
				t.Errorf("%+v: %v %d", test, err, b.Requests()[0].MaxTokens)
			}
		case !errors.As(err, &e) || e.Kind != completion.KindContext || test.sizes == nil || *e.Sizes != *test.sizes || e.Param != test.param:
			t.Errorf("%+v: got %v", test, err)
		}
	}
}

// TestExplain: errors of the engine as clients may read them.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err    error
		kind   completion.Kind
		param  string
		status int
	}{
		{engine.ErrBusy, completion.KindBusy, "", 503},
		{fmt.Errorf("wrapped: %w", engine.ErrClosed), completion.KindDraining, "", 503},
		{&engine.ParamError{Field: "stop_ids", Want: "a", Got: "b"}, completion.KindInvalid, "stop_token_ids", 400},
		{&engine.ContextError{Prompt: 9, MaxTokens: 2, Context: 10}, completion.KindContext, "max_tokens", 400},
		{&engine.StepError{Err: errors.New("fire")}, completion.KindInternal, "", 500},
		{context.DeadlineExceeded, completion.KindTimeout, "", 504},
		{completion.Invalid("x", "y", "z"), completion.KindInvalid, "x", 400},
	} {
		for choices := 1; choices <= 3; choices += 2 {
			r := question("Hi")
			r.Choices = choices
			job, err := core(&fake.Backend{Refuse: c.err}).Prepare(t.Context(), &r)
			if err != nil {
				t.Fatal(err)
			}
			_, err = job.Run(context.Background(), func(completion.Event) error { t.Error("an event of a refused request"); return nil })
			var e *completion.Error
			if !errors.As(err, &e) || e.Kind != c.kind || e.Param != c.param || e.Status() != c.status || e.EN == "" || e.ZH == "" ||
				(e.RetryAfter > 0) != (c.status == 503) || strings.Contains(e.EN, "fire") {
				t.Errorf("%v: got %+v", c.err, err)
			}
		}
	}
}

// TestEnd: an error of emit, a client that is gone, a time that is over: each ends the answer, and soon.
func TestEnd(t *testing.T) {
	mine := errors.New("mine")
	for choices := 1; choices <= 3; choices += 2 {
		for name, test := range map[string]struct {
			context func() (context.Context, context.CancelFunc)
			emit    error
			want    func(error) bool
		}{
			"emit": {func() (context.Context, context.CancelFunc) { return context.WithCancel(context.Background()) }, mine,
				func(err error) bool { return errors.Is(err, mine) }},
			"gone": {func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(5*time.Millisecond, cancel)
				return ctx, cancel
			}, nil, func(err error) bool { return errors.Is(err, context.Canceled) }},
			"late": {func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(context.Background(), 5*time.Millisecond)
			}, nil,
				func(err error) bool {
					var e *completion.Error
					return errors.As(err, &e) && e.Kind == completion.KindTimeout
				}},
		} {
			b := says("a", "b", "c", "d")
			b.Hold = make(chan struct{}, 2)
			for range cap(b.Hold) {
				b.Hold <- struct{}{}
			}
			r := question("Hi")
			r.Choices = choices
			job, err := core(b).Prepare(t.Context(), &r)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := test.context()
			answer, err := job.Run(ctx, func(completion.Event) error { return test.emit })
			cancel()
			if running, _, _ := b.Counts(); answer != nil || !test.want(err) || running != 0 {
				t.Errorf("%s, %d choices: %v %v, %d still run", name, choices, answer, err, running)
			}
		}
	}
}

func TestNamed(t *testing.T) {
	c := core(says())
	for name, known := range map[string]bool{"": true, "fake": true, "FAKE 1b": true, "org/fake": true, "fake2": false, "gpt-4": false} {
		if err := c.Named(name); (err == nil) != known {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNewTool(t *testing.T) {
	tool := completion.NewTool("f", "says <b>", []byte(`{"type":"object"}`))
	if got := string(tool.Definition); got != `{"type":"function","function":{"name":"f","description":"says <b>","parameters":{"type":"object"}}}` {
		t.Errorf("got %s", got)
	}
}
