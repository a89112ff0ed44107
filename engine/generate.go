package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	"chulengo/kernels"
)

// Generate continues a prompt and returns when the answer has ended. It may be called from many goroutines.
//
// emit (nil: none) and the Row functions of taps run on the caller's goroutine, emit once for every generated token. A
// slow emit delays nobody else: its tokens wait in a buffer. A slow tap delays its own request, so that captured values
// do not pile up. A panic in either ends the request and goes on to the caller.
//
// A request that cannot be served gives a *ParamError, a *ContextError, ErrBusy or ErrClosed, and no Result. Once it
// was accepted there is always a Result, with what was emitted so far: when ctx ends (within one step of the device)
// Finish is FinishCancelled and the error is context.Cause(ctx); when emit gives an error, FinishCancelled and that
// error; when the device fails (*StepError) or the engine is closed (ErrClosed), FinishError. Text that was still held
// back then is left out. Without an error Finish is FinishStop or FinishLength.
func (e *Engine) Generate(ctx context.Context, r Request, emit func(Event) error) (*Result, error) {
	maxTokens, err := e.validate(&r)
	if err != nil {
		return nil, err
	}
	res := &Result{Prompt: len(r.Prompt), StopID: -1}
	if ctx.Err() != nil {
		res.Finish = FinishCancelled
		return res, context.Cause(ctx)
	}
	s := e.newSequence(&r, maxTokens)
	submitted := time.Now()
	if err := e.submit(s); err != nil {
		return nil, err
	}
	defer e.leave(s) // however this ends, also by a panic of emit

	var text strings.Builder
	var first, last time.Time
	defer func() {
		res.Text, res.Generated = text.String(), len(res.IDs)
		res.Timings = timings(submitted, s.mail.startTime(), first, last)
	}()
	for {
		select {
		case <-s.mail.ready:
		case <-ctx.Done():
		}
		for _, l := range s.mail.get() {
			if ctx.Err() != nil {
				break
			}
			for _, c := range l.rows {
				for i := 0; i*c.columns < len(c.values); i++ {
					c.row(c.pos+i, c.values[i*c.columns:(i+1)*c.columns])
				}
			}
			if len(l.rows) > 0 {
				s.mail.read()
				poke(e.wake)
			}
			if v := l.event; v != nil {
				if first.IsZero() {
					first = l.at
				}
				last = l.at
				res.IDs = append(res.IDs, v.ID)
				text.WriteString(v.Text)
				if r.LogProbs {
					res.LogProbs = append(res.LogProbs, v.LogProb)
				}
				if emit != nil {
					if err := emit(*v); err != nil {
						res.Finish = FinishCancelled
						return res, err
					}
				}
			}
			if l.end != "" {
				res.Finish = l.end
				return res, l.err
			}
		}
		if ctx.Err() != nil {
			res.Finish = FinishCancelled
			return res, context.Cause(ctx)
		}
	}
}

// GenerateChoices draws several answers from one prompt, which is read once; choice c uses Seed + c and is, bit for bit,
// what a request with that seed alone would give. Events of the choices are mixed; Event.Choice tells them apart. There
// is one Result for each choice, as Generate gives it; the first failure ends them all.
func (e *Engine) GenerateChoices(ctx context.Context, r Request, emit func(Event) error) ([]*Result, error) {
	result, err := e.Generate(ctx, r, emit)
	if result == nil {
		return nil, err
	}
	return []*Result{result}, err
}

// newSequence copies what the engine needs of a valid request, so that the caller may reuse it.
func (e *Engine) newSequence(r *Request, maxTokens int) *sequence {
	s := &sequence{
		prompt:    slices.Clone(r.Prompt),
		maxTokens: maxTokens,
		stopIDs:   map[int32]bool{},
		top:       int32(r.Top),
		draw:      newDrawer(r.Sampling, r.Prompt),
		mail:      mailbox{ready: make(chan struct{}, 1)},
	}
	stops := r.StopIDs
	if stops == nil && !r.IgnoreEOS {
		stops = e.spec.StopIDs
	}
	for _, id := range stops {
		s.stopIDs[id] = true
	}
	if e.tokenizer != nil {
		s.text = answerText{decoder: e.tokenizer.NewDecoder(), stops: slices.Clone(r.Stop)}
	}
	for _, t := range r.Taps {
		columns, _ := e.spec.Columns(t.At)
		s.taps = append(s.taps, tapped{t, columns})
		s.everyRow = s.everyRow || t.At.Hook == kernels.HookFinalNorm || t.At.Hook == kernels.HookLogits
	}
	return s
}

func timings(submitted, started, first, last time.Time) (t Timings) {
	if started.IsZero() {
		t.Queue = time.Since(submitted)
		return t
	}
	t.Queue = started.Sub(submitted)
	if first.IsZero() {
		t.Prefill = time.Since(started)
		return t
	}
	t.Prefill = first.Sub(started)
	t.Decode = last.Sub(first)
	return t
}
