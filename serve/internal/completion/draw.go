package completion

import (
	"context"
	"sync"

	"chulengo/engine"
)

// draw draws n answers from the prompt, one request to the engine for each; answer c is what seed + c alone would give.
// emit is called on the caller's goroutine, whose error ends them all.
func (j *Job) draw(ctx context.Context, n int, emit func(choice int, e engine.Event) error) ([]*engine.Result, error) {
	if n == 1 {
		result, err := j.core.model.Generate(ctx, j.engine, func(e engine.Event) error { return emit(0, e) })
		return []*engine.Result{result}, err
	}
	type token struct {
		choice int
		event  engine.Event
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tokens := make(chan token)
	results := make([]*engine.Result, n)
	const atOnce = 8 // more would fill the engine's queue
	places := make(chan struct{}, atOnce)
	var wait sync.WaitGroup
	for c := range n {
		wait.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			r := j.engine
			r.Sampling.Seed += uint64(c)
			var err error
			results[c], err = j.core.model.Generate(ctx, r, func(e engine.Event) error {
				select {
				case tokens <- token{c, e}:
				case <-ctx.Done():
				}
				return context.Cause(ctx)
			})
			if err != nil {
				cancel(err) // the first counts
			}
		})
	}
	go func() {
		wait.Wait()
		close(tokens)
	}()
	defer func() { // a panic of emit must not leave them behind
		cancel(context.Canceled)
		for range tokens {
		}
	}()
	for t := range tokens {
		if err := emit(t.choice, t.event); err != nil {
			cancel(err)
			return nil, err
		}
	}
	return results, context.Cause(ctx)
}

// supported says what the engine cannot do.
func (r *Request) supported() error {
	for _, field := range []struct {
		name  string
		wants bool
	}{
		{"min_tokens", r.MinTokens > 0},
		{"prompt_logprobs", r.PromptLogProbs},
		{r.Format.Param, r.Format.any()},
		{"tool_choice", r.ToolChoice.Mode == ToolRequired || r.ToolChoice.Mode == ToolNamed},
	} {
		if field.wants {
			return &Error{Kind: KindNotSupported, Param: field.name, ZH: "这个版本还不支持", EN: "this build does not support it"}
		}
	}
	return nil
}
