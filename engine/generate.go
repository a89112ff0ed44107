package engine

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"chulengo/kernels"
)

// Generate continues a prompt and returns when the answer has ended. It may be called from many goroutines.
//
// emit (nil: none), Progress and the Row functions of taps run on the caller's goroutine, emit once for every generated
// token. A slow emit delays nobody else: its tokens wait in a buffer. A slow tap delays its own request, so that
// captured values do not pile up. A panic in any of them ends the request and goes on to the caller.
//
// A request that cannot be served gives a *ParamError, a *ContextError, ErrBusy or ErrClosed, and no Result. Once it
// was accepted there is always a Result, with what was emitted so far: when ctx ends (within one step of the device)
// Finish is FinishCancelled and the error is context.Cause(ctx); when emit gives an error, FinishCancelled and that
// error; when the device (*StepError) or the constraint (*ConstraintError) fails or the engine is closed (ErrClosed),
// FinishError. Text that was still held back then is left out. Without an error Finish is FinishStop or FinishLength.
func (e *Engine) Generate(ctx context.Context, r Request, emit func(Event) error) (*Result, error) {
	if r.Choices > 1 {
		return nil, &ParamError{Field: "n", Want: "at most 1", Got: fmt.Sprint(r.Choices)}
	}
	results, err := e.GenerateChoices(ctx, r, emit)
	if results == nil {
		return nil, err
	}
	return results[0], err
}

// GenerateChoices draws several answers from one prompt, which is read once; choice c uses Seed + c and is, bit for bit,
// what a request with that seed alone would give. Events of the choices are mixed; Event.Choice tells them apart. There
// is one Result for each choice, as Generate gives it; the first failure ends them all.
func (e *Engine) GenerateChoices(ctx context.Context, r Request, emit func(Event) error) ([]*Result, error) {
	maxTokens, err := e.validate(&r)
	if err != nil {
		return nil, err
	}
	a := newAnswers(&r, emit)
	if ctx.Err() != nil {
		a.close(time.Time{}, FinishCancelled)
		return a.results, context.Cause(ctx)
	}
	c, err := e.newCall(&r, maxTokens)
	if err != nil {
		return nil, err
	}
	a.submitted = time.Now()
	if err := e.submit(c); err != nil {
		return nil, err
	}
	rest := FinishCancelled // of choices that have not ended
	defer func() {
		e.leave(c) // however this ends, also by a panic of emit
		started, cached := c.mail.begin()
		a.cached = cached
		a.close(started, rest)
		if e.options.Observe != nil {
			e.options.Observe(a.observation())
		}
	}()
	for {
		select {
		case <-c.mail.ready:
		case <-ctx.Done():
		}
		if p, ok := c.mail.news(); ok && ctx.Err() == nil {
			r.Progress(p)
		}
		letters := c.mail.get()
		for i := range letters {
			l := &letters[i]
			if ctx.Err() != nil {
				break
			}
			for _, t := range l.rows {
				for i := 0; i*t.columns < len(t.values); i++ {
					t.row(t.pos+i, t.values[i*t.columns:(i+1)*t.columns])
				}
			}
			if len(l.rows) > 0 {
				c.mail.read()
				poke(e.wake)
			}
			if err := a.take(l); err != nil {
				return a.results, err
			}
			if l.err != nil {
				rest = FinishError
				return a.results, l.err
			}
			if a.open == 0 {
				return a.results, nil
			}
		}
		if ctx.Err() != nil {
			return a.results, context.Cause(ctx)
		}
		c.mail.done(letters)
	}
}

// answers collects what the caller of a request gets.
type answers struct {
	request   *Request
	emit      func(Event) error
	results   []*Result
	texts     []strings.Builder
	times     []span // of each choice's tokens
	open      int    // choices that have not ended
	cached    int
	prompt    []PromptToken
	submitted time.Time
	ended     time.Time
}

// span is when the first and the last token came; zero: none did.
type span struct{ first, last time.Time }

func newAnswers(r *Request, emit func(Event) error) *answers {
	n := max(1, r.Choices)
	a := &answers{request: r, emit: emit, results: make([]*Result, n), texts: make([]strings.Builder, n), times: make([]span, n), open: n}
	for i := range a.results {
		a.results[i] = &Result{Choice: i, Prompt: len(r.Prompt), StopID: -1}
	}
	if r.PromptLogProbs {
		a.prompt = append(make([]PromptToken, 0, len(r.Prompt)), PromptToken{ID: r.Prompt[0], LogProb: float32(math.NaN())})
	}
	return a
}

// take adds a letter. The error is emit's.
func (a *answers) take(l *letter) error {
	a.prompt = append(a.prompt, l.prompt...)
	res := a.results[l.choice]
	if v := l.event; v != nil {
		t := &a.times[l.choice]
		if t.first.IsZero() {
			t.first = l.at
		}
		t.last = l.at
		res.IDs = append(res.IDs, v.ID)
		a.texts[l.choice].WriteString(v.Text)
		if a.request.LogProbs {
			res.LogProbs = append(res.LogProbs, v.LogProb)
		}
		if a.emit != nil {
			if err := a.emit(*v); err != nil {
				return err
			}
		}
	}
	if l.end != "" {
		res.Finish = l.end
		if l.end == FinishStop {
			res.StopID, res.StopText = l.stopID, l.stop
		}
		a.open--
	}
	return nil
}

// close completes the results; choices that have not ended get the reason rest.
func (a *answers) close(started time.Time, rest FinishReason) {
	a.ended = time.Now()
	for i, res := range a.results {
		if res.Finish == "" {
			res.Finish = rest
		}
		res.Text, res.Generated, res.Cached, res.PromptLogProbs = a.texts[i].String(), len(res.IDs), a.cached, a.prompt
		if !a.submitted.IsZero() {
			res.Timings = timings(a.submitted, started, a.times[i].first, a.times[i].last)
		}
	}
}

func (a *answers) observation() Observation {
	r := a.results[0]
	o := Observation{
		Queue: r.Timings.Queue, Prefill: r.Timings.Prefill, Decode: r.Timings.Decode, EndToEnd: a.ended.Sub(a.submitted),
		Prompt: r.Prompt, Cached: r.Cached, Choices: len(a.results), MaxTokens: a.request.MaxTokens, Finish: r.Finish,
	}
	if t := a.times[0].first; !t.IsZero() {
		o.FirstToken = t.Sub(a.submitted)
	}
	for _, r := range a.results {
		o.Generated += r.Generated
	}
	return o
}

// newCall copies what the engine needs of a valid request, so that the caller may reuse it.
func (e *Engine) newCall(r *Request, maxTokens int) (c *call, err error) {
	c = &call{
		prompt:    slices.Clone(r.Prompt),
		maxTokens: maxTokens,
		minTokens: r.MinTokens,
		stopIDs:   map[int32]bool{},
		top:       int32(r.Top),
		scores:    r.PromptLogProbs,
		scoreTop:  int32(r.PromptTop),
		everyRow:  r.PromptLogProbs,
		progress:  r.Progress != nil,
		mail:      mailbox{ready: make(chan struct{}, 1)},
	}
	stops := r.StopIDs
	if stops == nil && !r.IgnoreEOS || r.Constraint != nil {
		stops = slices.Concat(stops, e.spec.StopIDs) // nothing can follow where a constraint has ended
	}
	for _, id := range stops {
		c.stopIDs[id] = true
	}
	for _, t := range r.Taps {
		columns, _ := e.spec.Columns(t.At)
		c.taps = append(c.taps, tapped{t, columns})
		c.everyRow = c.everyRow || t.At.Hook == kernels.HookFinalNorm || t.At.Hook == kernels.HookLogits
	}
	c.media = slices.Clone(r.Media)
	c.places = places(c.prompt, c.media, e.spec.Patch)
	if !e.options.NoPrefixCache && !r.NoCache {
		for g := range c.keys {
			c.keys[g] = e.promptKeys(g, c.prompt, r.CacheSalt, r.Media)
		}
		c.reads = !r.PromptLogProbs && len(r.Taps) == 0
	}
	for i := range max(1, r.Choices) {
		sampling := r.Sampling
		sampling.Seed += uint64(i)
		s := &sequence{call: c, choice: i, draw: newDrawer(sampling, r.Prompt), constraint: r.Constraint}
		if r.Constraint != nil && r.Choices > 1 {
			if s.constraint, err = clone(r.Constraint); err != nil {
				return nil, err
			}
		}
		if e.tokenizer != nil {
			s.text = answerText{decoder: e.tokenizer.NewDecoder(), stops: slices.Clone(r.Stop)}
		}
		c.choices = append(c.choices, s)
	}
	return c, nil
}

// timings of one choice.
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
