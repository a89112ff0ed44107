package ollama

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

func (a *api) chat(c echo.Context) error     { return a.answer(c, readChat) }
func (a *api) generate(c echo.Context) error { return a.answer(c, readGenerate) }

// answer answers a chat, or a prompt.
func (a *api) answer(c echo.Context, read func(body.Value) (*request, error)) error {
	v, err := a.read(c)
	if err != nil {
		return a.fail(c, err)
	}
	r, err := read(v)
	if err != nil {
		return a.fail(c, err)
	}
	began := time.Now()
	core, ctx, done, err := a.host.Begin(c.Request().Context())
	if err != nil {
		return a.fail(c, err)
	}
	defer done()
	if err := named(core, r.model); err != nil {
		return a.fail(c, err)
	}
	model := core.Options().Name
	if r.load != "" {
		last := r.line(model, "", nil)
		last["done"], last["done_reason"] = true, r.load
		return c.JSON(http.StatusOK, last)
	}
	job, err := core.Prepare(ctx, &r.Request)
	if err != nil {
		return a.fail(c, r.translate(err))
	}
	var emit func(completion.Event) error
	if r.stream {
		emit = func(e completion.Event) error {
			if e.Text == "" && len(e.Tokens) == 0 {
				return nil // calls leave whole, at the end
			}
			line := r.line(model, e.Text, nil)
			if len(e.Tokens) > 0 {
				line["logprobs"] = logProbs(e.Tokens)
			}
			return send(c, line)
		}
	}
	result, err := job.Run(ctx, emit)
	switch {
	case err != nil && c.Response().Committed:
		if !errors.Is(err, context.Canceled) {
			a.log(c, err)
			_ = send(c, fields{"error": completion.Public(err).Text(completion.Chinese(c.Request()))})
		}
		return nil
	case err != nil:
		return a.fail(c, r.translate(err))
	}
	choice := &result.Choices[0]
	if r.stream && len(choice.Calls) > 0 {
		if err := send(c, r.line(model, "", choice.Calls)); err != nil {
			return nil // the client is gone
		}
	}
	var last fields
	if r.stream {
		last = r.line(model, "", nil)
	} else {
		last = r.line(model, choice.Text, choice.Calls)
		if len(choice.Tokens) > 0 {
			last["logprobs"] = logProbs(choice.Tokens)
		}
	}
	last["done"], last["done_reason"] = true, "stop"
	if choice.Finish == completion.FinishLength {
		last["done_reason"] = "length"
	}
	last["total_duration"], last["load_duration"] = time.Since(began).Nanoseconds(), 0
	last["prompt_eval_count"], last["prompt_eval_duration"] = result.Usage.Prompt, result.Timings.Prefill.Nanoseconds()
	last["eval_count"], last["eval_duration"] = result.Usage.Generated, result.Timings.Decode.Nanoseconds()
	if r.stream {
		_ = send(c, last) // a client that is gone misses nothing
		return nil
	}
	return c.JSON(http.StatusOK, last)
}

// line is one line of an answer.
func (r *request) line(model, text string, calls []completion.Call) fields {
	f := fields{"model": model, "created_at": time.Now().UTC().Format(time.RFC3339Nano), "done": false}
	if !r.chat {
		f["response"] = text
		return f
	}
	m := fields{"role": "assistant", "content": text}
	var list []fields
	for i, call := range calls {
		arguments := json.RawMessage(call.Arguments)
		if !json.Valid(arguments) {
			arguments = json.RawMessage("{}")
		}
		list = append(list, fields{"id": call.ID, "function": fields{"index": i, "name": call.Name, "arguments": arguments}})
	}
	if list != nil {
		m["tool_calls"] = list
	}
	f["message"] = m
	return f
}

// logProbs describes tokens.
func logProbs(tokens []completion.Token) (list []fields) {
	one := func(t *completion.Token) fields {
		bytes := []int{} // an array in JSON; []byte would be base64
		for _, b := range t.Bytes {
			bytes = append(bytes, int(b))
		}
		return fields{"token": t.Text, "logprob": max(t.LogProb, -9999), "bytes": bytes}
	}
	for i := range tokens {
		f := one(&tokens[i])
		var top []fields
		for j := range tokens[i].Top {
			top = append(top, one(&tokens[i].Top[j]))
		}
		if top != nil {
			f["top_logprobs"] = top
		}
		list = append(list, f)
	}
	return list
}

// send writes a line of a stream.
func send(c echo.Context, v any) error {
	const stuckAfter = 30 * time.Second
	w := c.Response()
	if !w.Committed {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Accel-Buffering", "no") // nginx
		w.WriteHeader(http.StatusOK)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(stuckAfter)) // where there are deadlines
	defer control.SetWriteDeadline(time.Time{})
	if _, err := w.Write(text.Bytes()); err != nil {
		return err
	}
	return control.Flush()
}
