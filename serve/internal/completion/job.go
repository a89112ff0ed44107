package completion

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"chulengo/engine"
)

// Job is a request that can be served: its prompt is rendered and its fields were checked.
type Job struct {
	core    *Core
	request *Request
	engine  engine.Request
	stops   map[int32]bool // ids that end an answer
	gallery gallery
	tools   []string // that the answer may call; none: its text is text
	began   time.Time
}

// Prepare checks a request, gets its pictures and renders its prompt. Errors are *Error. The request must not change afterwards.
func (c *Core) Prepare(ctx context.Context, r *Request) (*Job, error) {
	j := &Job{core: c, request: r, stops: c.stops}
	ids, err := c.prompt(ctx, r, &j.gallery)
	if err != nil {
		return nil, err
	}
	ids, media, err := j.gallery.expand(c, ids)
	if err != nil {
		return nil, err
	}
	j.engine = engine.Request{
		Prompt: ids, Media: media, Sampling: r.Sampling.over(c.options.Sampling), MaxTokens: r.MaxTokens, MinTokens: r.MinTokens,
		Stop: r.Stop, IgnoreEOS: r.IgnoreEOS,
		LogProbs: r.LogProbs, Top: r.Top, PromptLogProbs: r.PromptLogProbs, PromptTop: r.PromptTop,
		CacheSalt: r.CacheSalt, NoCache: r.NoCache, Choices: max(1, r.Choices),
	}
	if err := j.limit(); err != nil {
		return nil, err
	}
	if j.engine.Constraint, err = c.constrain(r); err != nil {
		return nil, err
	}
	if r.ToolChoice.Mode != ToolNone && !r.Format.any() {
		for _, tool := range r.Tools {
			j.tools = append(j.tools, tool.Name)
		}
	}
	if len(r.StopIDs) > 0 || r.IgnoreEOS {
		j.engine.StopIDs = slices.Clone(r.StopIDs)
		if !r.IgnoreEOS {
			j.engine.StopIDs = append(j.engine.StopIDs, c.options.StopIDs...)
		}
		j.stops = set(j.engine.StopIDs)
	}
	switch seed := r.Sampling.Seed; {
	case seed != nil:
		j.engine.Sampling.Seed = uint64(*seed)
	case c.options.Sampling.Seed == 0:
		j.engine.Sampling.Seed = rand.Uint64()
	}
	return j, nil
}

// limit checks prompt and answer against the context.
func (j *Job) limit() error {
	r, context := &j.engine, j.core.options.Context
	switch {
	case j.request.OnlyPrompt:
		r.MaxTokens, r.Choices = 1, 1
	case context > 0 && r.MaxTokens > context-len(r.Prompt) && j.request.Clamp:
		r.MaxTokens = context - len(r.Prompt)
	}
	if context > 0 && (len(r.Prompt) >= context || r.MaxTokens > context-len(r.Prompt)) {
		return tooLong(len(r.Prompt), j.request.MaxTokens, context)
	}
	if r.MaxTokens > 0 && r.MinTokens > r.MaxTokens {
		return Invalid("min_tokens", "应不大于 max_tokens（%[2]d），实际是 %[1]d", "want at most max_tokens (%[2]d), got %[1]d", r.MinTokens, r.MaxTokens)
	}
	return nil
}

// tooLong says by how much a request does not fit.
func tooLong(prompt, maxTokens, context int) *Error {
	e := &Error{Kind: KindContext, Sizes: &Sizes{prompt, maxTokens, context}}
	if prompt >= context {
		e.Param = "messages"
		e.ZH = fmt.Sprintf("提示词有 %d 个 token，而上下文只能容纳 %d 个（含回答），请缩短", prompt, context)
		e.EN = fmt.Sprintf("the prompt has %d tokens, but the context holds %d for prompt and answer together; please shorten it", prompt, context)
		return e
	}
	e.Param = "max_tokens"
	e.ZH = fmt.Sprintf("提示词有 %d 个 token，加上至多 %d 个的回答，超过了上下文的 %d 个", prompt, maxTokens, context)
	e.EN = fmt.Sprintf("the prompt has %d tokens; with an answer of up to %d it exceeds the context of %d", prompt, maxTokens, context)
	return e
}

// Prompt is what the model will continue, as ids. It must not be changed.
func (j *Job) Prompt() []int32 { return j.engine.Prompt }

// PromptTokens is its length.
func (j *Job) PromptTokens() int { return len(j.engine.Prompt) }

// Run lets the model speak. emit (nil: none) is called on the caller's goroutine, Event after Event; an error that it
// returns ends the answer and is returned. Other errors are *Error, or context.Canceled where ctx was cancelled: the
// client is gone, and there is nobody to tell. With an error there is no Answer.
func (j *Job) Run(ctx context.Context, emit func(Event) error) (*Answer, error) {
	j.began = time.Now()
	if emit == nil {
		emit = func(Event) error { return nil }
	}
	choices := make([]*choice, j.engine.Choices)
	for i := range choices {
		choices[i] = newChoice(j, i)
	}
	r := j.engine
	if j.request.Progress {
		r.Progress = func(p engine.Progress) {
			// An error ends the request at its next token; progress itself cannot.
			_ = emit(Event{Progress: &Progress{p.Queue, p.Prompt, p.Cached, p.Read, time.Since(j.began)}})
		}
	}
	var emitted error // by emit: not ours to explain
	results, err := j.core.model.GenerateChoices(ctx, r, func(e engine.Event) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if j.request.OnlyPrompt {
			return nil
		}
		if event, ok := choices[e.Choice].token(&e); ok {
			emitted = emit(event)
		}
		if emitted == nil && len(choices) == 1 && choices[e.Choice].enough {
			return errEnough
		}
		return emitted
	})
	if errors.Is(err, errEnough) && ctx.Err() == nil {
		results[0].Finish, err = engine.FinishStop, nil
	}
	switch {
	case emitted != nil:
		return nil, emitted
	case err != nil:
		return nil, j.core.explain(j.gallery.blame(err))
	case ctx.Err() != nil:
		return nil, j.core.explain(context.Cause(ctx))
	}
	answer := &Answer{}
	for i, result := range results {
		if result.Finish != engine.FinishStop && result.Finish != engine.FinishLength {
			return nil, &Error{Kind: KindInternal, ZH: "回答没有完成", EN: "the answer was not finished",
				Cause: fmt.Errorf("completion: choice %d ended with %q", i, result.Finish)}
		}
		if j.request.OnlyPrompt {
			result.Finish, result.Generated = engine.FinishLength, 0
		}
		if err := emit(choices[i].end(result)); err != nil {
			return nil, err
		}
		answer.Choices = append(answer.Choices, choices[i].Choice)
		answer.Usage.Generated += result.Generated
		answer.Timings.Decode = max(answer.Timings.Decode, result.Timings.Decode)
	}
	if len(results) > 0 {
		first := results[0]
		answer.Usage.Prompt, answer.Usage.Cached = first.Prompt, first.Cached
		answer.Timings.Queue, answer.Timings.Prefill = first.Timings.Queue, first.Timings.Prefill
		for _, t := range first.PromptLogProbs {
			token := j.core.token(t.ID, t.LogProb)
			for _, alternative := range t.Top {
				token.Top = append(token.Top, j.core.token(alternative.ID, alternative.LogProb))
			}
			answer.Prompt = append(answer.Prompt, token)
		}
	}
	return answer, nil
}

// errEnough ends an answer after its only call.
var errEnough = errors.New("completion: the answer has its call")

// explain turns an error of the engine into one that a client may read.
func (c *Core) explain(err error) error {
	var own *Error
	var param *engine.ParamError
	var context_ *engine.ContextError
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Kind: KindTimeout, ZH: "生成回答超过了服务器允许的时间", EN: "the answer took longer than this server allows"}
	case errors.As(err, &param):
		field := param.Field
		if field == "stop_ids" {
			field = "stop_token_ids"
		}
		return &Error{Kind: KindInvalid, Param: field, ZH: "应为 " + param.Want + "，实际是 " + param.Got, EN: "want " + param.Want + ", got " + param.Got}
	case errors.As(err, &context_):
		return tooLong(context_.Prompt, context_.MaxTokens, context_.Context)
	case errors.Is(err, engine.ErrBusy):
		return &Error{Kind: KindBusy, ZH: "服务器正忙，请稍后再试", EN: "the server is busy: too many requests are waiting; please try again in a moment",
			RetryAfter: 2 * time.Second}
	case errors.Is(err, engine.ErrClosed):
		return Draining()
	}
	return &Error{Kind: KindInternal, ZH: "服务器内部错误", EN: "internal server error", Cause: err}
}

// Draining says that the server ends.
func Draining() *Error {
	return &Error{Kind: KindDraining, ZH: "服务器正在关闭，不再接受新的请求", EN: "the server is shutting down and takes no new requests",
		RetryAfter: 5 * time.Second}
}
