package engine

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// counter allows ids 10, 11, …, then the stop id 19. It counts what it accepted.
type counter struct {
	n, end  int32
	bad     string
	cloned  *int
	scratch []uint32
}

func (c *counter) Mask() []uint32 {
	id := 10 + c.n
	if c.n >= c.end {
		id = 19
	}
	switch {
	case c.bad == "nothing" && c.n == 2:
		return []uint32{1 << 25} // beyond the vocabulary
	case c.bad == "mask" && c.n == 2:
		panic("mask")
	case c.bad == "size":
		return []uint32{}
	}
	c.scratch = append(c.scratch[:0], 1<<id)
	return c.scratch
}

func (c *counter) Accept(id int32) error {
	if c.bad == "accept" && c.n == 1 {
		return errors.New("refused")
	}
	if c.bad == "panic" && c.n == 1 {
		panic("accept")
	}
	c.n++
	return nil
}

func (c *counter) Clone() Constraint {
	*c.cloned++
	d := *c
	d.scratch = nil
	return &d
}

func TestConstraint(t *testing.T) {
	f := newFake(20, 64, 8)
	e := start(t, f, nil, Options{})
	clones := 0
	for _, ignore := range []bool{false, true} {
		r := Request{Prompt: []int32{1}, Constraint: &counter{end: 3, cloned: &clones}, IgnoreEOS: ignore}
		if res := generate(t, e, r); !slices.Equal(res.IDs, []int32{10, 11, 12, 19}) || res.Finish != FinishStop || res.StopID != 19 {
			t.Errorf("%+v", res)
		}
	}
	r := Request{Prompt: []int32{1}, Constraint: &counter{end: 3, cloned: &clones}, Choices: 3, Sampling: Sampling{Temperature: 1}}
	results, err := e.GenerateChoices(context.Background(), r, nil)
	if err != nil || clones != 3 {
		t.Fatalf("%v, %d clones", err, clones)
	}
	for _, res := range results {
		if !slices.Equal(res.IDs, []int32{10, 11, 12, 19}) {
			t.Errorf("choice %d: %v", res.Choice, res.IDs)
		}
	}
	for _, bad := range []string{"nothing", "mask", "size", "accept", "panic"} {
		res, err := e.Generate(context.Background(), Request{Prompt: []int32{1}, Constraint: &counter{end: 5, bad: bad}}, nil)
		var failed *ConstraintError
		if !errors.As(err, &failed) || res.Finish != FinishError {
			t.Errorf("%s: %+v, %v", bad, res, err)
		}
	}
	if res := generate(t, e, Request{Prompt: []int32{1}, MaxTokens: 4, IgnoreEOS: true}); res.Generated != 4 {
		t.Errorf("afterwards: %+v", res)
	}
}

// TestMinTokens: every draw of this model is the stop id, if it may be.
func TestMinTokens(t *testing.T) {
	f := newFake(20, 64, 8)
	e := start(t, f, bytesTokenizer(slices.Repeat([]string{"a"}, 20)), Options{})
	bias := map[int32]float32{19: 100}
	for _, n := range []int{0, 1, 5} {
		res := generate(t, e, Request{Prompt: []int32{1}, MinTokens: n, Sampling: Sampling{LogitBias: bias}})
		if res.Generated != n+1 || res.StopID != 19 || slices.Index(res.IDs, 19) != n {
			t.Errorf("at least %d: %+v", n, res)
		}
		res = generate(t, e, Request{Prompt: []int32{1}, MinTokens: n, Stop: []string{"a"}, IgnoreEOS: true})
		if res.Generated != max(1, n) || res.StopText != "a" || res.StopID != -1 {
			t.Errorf("at least %d before a stop string: %+v", n, res)
		}
	}
}

// TestPromptLogProbs: every token's, whatever the pieces.
func TestPromptLogProbs(t *testing.T) {
	var want []PromptToken
	for _, piece := range []int{40, 1, 7} {
		e := start(t, newFake(20, 64, 8), nil, Options{StepTokens: piece})
		r := Request{Prompt: []int32{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5}, MaxTokens: 2, PromptLogProbs: true, PromptTop: 2}
		got := generate(t, e, r).PromptLogProbs
		if len(got) != len(r.Prompt) || got[0].LogProb == got[0].LogProb || got[0].Top != nil {
			t.Fatalf("pieces of %d: %+v", piece, got)
		}
		for i, p := range got {
			if p.ID != r.Prompt[i] || i > 0 && (len(p.Top) != 2 || p.LogProb == 0) || i > 0 && want != nil && p.LogProb != want[i].LogProb {
				t.Errorf("pieces of %d, token %d: %+v, want %+v", piece, i, p, want)
			}
		}
		want = got
	}
}
