package completion

import (
	"context"
	"sync"

	"chulengo/engine"
)

// draw draws n answers from the prompt, one request to the engine for each; answer c is what seed + c alone would give.
// emit is called on the caller's goroutine, whose error ends them all.
func (c *Core) draw(ctx context.Context, r engine.Request, n int, emit func(choice int, e engine.Event) error) ([]*engine.Result, error) {
	if n == 1 {
		return c.model.GenerateChoices(ctx, r, func(e engine.Event) error { return emit(0, e) })
	}
	r.Progress = nil
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
	for i := range n {
		wait.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			r := r
			r.Sampling.Seed += uint64(i)
			one, err := c.model.GenerateChoices(ctx, r, func(e engine.Event) error {
				select {
				case tokens <- token{i, e}:
				case <-ctx.Done():
				}
				return context.Cause(ctx)
			})
			if err != nil {
				cancel(err) // the first counts
				return
			}
			results[i] = one[0]
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
		{r.Format.Param, r.Format.any()},
		{"tool_choice", r.ToolChoice.Mode == ToolRequired || r.ToolChoice.Mode == ToolNamed},
	} {
		if field.wants {
			return &Error{Kind: KindNotSupported, Param: field.name, ZH: "这个版本还不支持", EN: "this build does not support it"}
		}
	}
	return nil
}
