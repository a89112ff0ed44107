package engine

import (
	"fmt"
	"maps"
	"slices"
)

// Bounds far beyond what changes a draw; within them no logit overflows.
const (
	maxTemperature = 1e4
	maxRepetition  = 100.0
	maxBias        = 1e4 // of bias and penalties
	maxChoices     = 1024
)

// validate checks a request against the model and gives the number of tokens that it may generate.
func (e *Engine) validate(r *Request) (maxTokens int, err error) {
	fail := func(field, want string, got any) {
		if err == nil {
			err = &ParamError{Field: field, Want: want, Got: fmt.Sprint(got)}
		}
	}
	id := func(field string, id int32) {
		if id < 0 || int(id) >= e.spec.Vocab {
			fail(field, fmt.Sprintf("ids in [0, %d)", e.spec.Vocab), id)
		}
	}
	number := func(field string, v float32, low, high float64) {
		if f := float64(v); !(f >= low && f <= high) { // also NaN
			fail(field, fmt.Sprintf("a number in [%v, %v]", low, high), v)
		}
	}
	atLeast := func(field string, v int) {
		if v < 0 {
			fail(field, "at least 0", v)
		}
	}

	if len(r.Prompt) == 0 {
		fail("prompt", "at least 1 token", "none")
	}
	for _, v := range r.Prompt {
		id("prompt", v)
	}
	s := &r.Sampling
	number("temperature", s.Temperature, 0, maxTemperature)
	atLeast("top_k", s.TopK)
	number("top_p", s.TopP, 0, 1)
	number("min_p", s.MinP, 0, 1)
	if s.RepetitionPenalty != 0 {
		number("repetition_penalty", s.RepetitionPenalty, 1/maxRepetition, maxRepetition)
	}
	number("presence_penalty", s.PresencePenalty, -maxBias, maxBias)
	number("frequency_penalty", s.FrequencyPenalty, -maxBias, maxBias)
	for _, k := range slices.Sorted(maps.Keys(s.LogitBias)) {
		id("logit_bias", k)
		number("logit_bias", s.LogitBias[k], -maxBias, maxBias)
	}
	atLeast("max_tokens", r.MaxTokens)
	for _, v := range r.StopIDs {
		id("stop_ids", v)
	}
	for _, v := range r.Stop {
		if v == "" {
			fail("stop", "strings that are not empty", `""`)
		}
	}
	if len(r.Stop) > 0 && e.tokenizer == nil {
		fail("stop", "none: the checkpoint has no tokenizer", fmt.Sprintf("%d strings", len(r.Stop)))
	}
	if r.Top < 0 || r.Top > e.spec.Vocab {
		fail("top_logprobs", fmt.Sprintf("at least 0 and at most the %d ids of the vocabulary", e.spec.Vocab), r.Top)
	}
	if r.PromptTop < 0 || r.PromptTop > e.spec.Vocab {
		fail("prompt_logprobs", fmt.Sprintf("at least 0 and at most the %d ids of the vocabulary", e.spec.Vocab), r.PromptTop)
	}
	if r.Choices < 0 || r.Choices > maxChoices {
		fail("n", fmt.Sprintf("at least 1 and at most %d", maxChoices), r.Choices)
	}
	if r.Choices > 1 && len(r.Taps) > 0 {
		fail("n", "1 with taps", r.Choices)
	}
	if r.MinTokens < 0 || r.MaxTokens > 0 && r.MinTokens > r.MaxTokens {
		fail("min_tokens", "at least 0 and at most max_tokens", r.MinTokens)
	}
	end := 0
	for i, m := range r.Media {
		if m.Pos < end || m.Len < 1 || m.Len > len(r.Prompt)-m.Pos {
			fail(fmt.Sprintf("media[%d]", i), fmt.Sprintf("tokens within [%d, %d)", end, len(r.Prompt)), fmt.Sprintf("%d tokens at %d", m.Len, m.Pos))
			break
		}
		if m.Pixels != nil && e.pictures.device == nil {
			fail(fmt.Sprintf("media[%d]", i), "none: pictures need a model and a device that can see", "one for "+e.device.Name())
			break
		}
		end = m.Pos + m.Len
	}
	for i, t := range r.Taps {
		field := fmt.Sprintf("taps[%d]", i)
		if t.Row == nil {
			fail(field, "a function that takes the rows", "nil")
		}
		if e.spec.Columns == nil {
			fail(field, "none: the model has no hooks", t.At)
		} else if _, bad := e.spec.Columns(t.At); bad != nil {
			fail(field, "a point of the model", bad)
		}
	}
	if err != nil {
		return 0, err
	}
	if len(r.Prompt) >= e.context || r.MaxTokens > e.context-len(r.Prompt) {
		return 0, &ContextError{Prompt: len(r.Prompt), MaxTokens: max(1, r.MaxTokens), Context: e.context}
	}
	if left := e.context - len(r.Prompt); r.MinTokens > left {
		return 0, &ContextError{Prompt: len(r.Prompt), MaxTokens: r.MinTokens, Context: e.context}
	}
	if r.MaxTokens == 0 {
		return e.context - len(r.Prompt), nil
	}
	return r.MaxTokens, nil
}
