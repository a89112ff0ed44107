package responses

import (
	"maps"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
	"chulengo/serve/internal/sse"
	"chulengo/serve/openai"
)

type api struct{ host *completion.Host }

// Register adds the routes to a group.
func Register(g *echo.Group, h *completion.Host) {
	a := &api{h}
	g.POST("/v1/responses", a.create)
	for _, path := range []string{"/v1/responses/:id", "/v1/responses/:id/*"} {
		g.Any(path, func(c echo.Context) error {
			return a.fail(c, &completion.Error{Kind: completion.KindNotFound, Param: "response_id", ZH: "这里不保存回答", EN: "answers are not kept here"})
		})
	}
}

type fields = map[string]any

func newID(prefix string) string { return prefix + strings.ReplaceAll(uuid.NewString(), "-", "") }

// create is POST /v1/responses.
func (a *api) create(c echo.Context) error {
	v, err := body.Read(c.Response(), c.Request(), a.host.BodyLimit)
	if err != nil {
		return a.fail(c, err)
	}
	r, err := read(v)
	if err != nil {
		return a.fail(c, err)
	}
	core, ctx, done, err := a.host.Begin(c.Request().Context())
	if err != nil {
		return a.fail(c, err)
	}
	defer done()
	if err := core.Named(r.model); err != nil {
		return a.fail(c, err)
	}
	job, err := core.Prepare(ctx, &r.Request)
	if err != nil {
		return a.fail(c, err)
	}
	o := &response{request: r, id: newID("resp_"), model: core.Options().Name, created: time.Now().Unix()}
	if !r.stream {
		answer, err := job.Run(ctx, nil)
		if err != nil {
			return a.fail(c, err)
		}
		o.take(answer)
		return c.JSON(200, o.json())
	}
	w := sse.New(c, a.host.KeepAlive)
	defer w.Close()
	s := &stream{Writer: w, response: o}
	answer, err := job.Run(ctx, s.event)
	if err == nil {
		s.end(answer)
		return nil
	}
	if !w.Quiet() {
		return a.fail(c, err)
	}
	if ctx.Err() == nil || c.Request().Context().Err() == nil {
		a.log(c, err)
		s.fail(completion.Public(err).Text(completion.Chinese(c.Request())))
	}
	return nil
}

// response is what the client gets, as it grows.
type response struct {
	request *request
	id      string
	model   string
	created int64
	status  string // "": in_progress
	reason  string // why it is incomplete
	failure string
	output  []fields
	usage   *completion.Usage
}

func (o *response) json() fields {
	out := fields{"id": o.id, "object": "response", "created_at": o.created, "model": o.model, "status": o.status, "output": o.output,
		"background": false, "error": nil, "incomplete_details": nil, "instructions": nil, "max_output_tokens": nil, "metadata": fields{},
		"parallel_tool_calls": o.request.parallel, "previous_response_id": nil, "reasoning": fields{"effort": nil, "summary": nil}, "store": false,
		"temperature": o.request.Sampling.Temperature, "top_p": o.request.Sampling.TopP, "truncation": "disabled", "usage": nil, "user": nil}
	if o.status == "" {
		out["status"] = "in_progress"
	}
	if o.output == nil {
		out["output"] = []fields{}
	}
	if o.request.Clamp {
		out["truncation"] = "auto"
	}
	if o.reason != "" {
		out["incomplete_details"] = fields{"reason": o.reason}
	}
	if o.failure != "" {
		out["error"] = fields{"code": "server_error", "message": o.failure}
	}
	maps.Copy(out, o.request.echo)
	if u := o.usage; u != nil {
		out["usage"] = fields{"input_tokens": u.Prompt, "input_tokens_details": fields{"cached_tokens": u.Cached}, "output_tokens": u.Generated,
			"output_tokens_details": fields{"reasoning_tokens": 0}, "total_tokens": u.Prompt + u.Generated}
	}
	return out
}

// ended notes how an answer ended.
func (o *response) ended(answer *completion.Answer) {
	o.status, o.usage = "completed", &answer.Usage
	if answer.Choices[0].Finish == completion.FinishLength {
		o.status, o.reason = "incomplete", "max_output_tokens"
	}
}

// take makes the output of a whole answer.
func (o *response) take(answer *completion.Answer) {
	o.ended(answer)
	choice := &answer.Choices[0]
	if choice.Text != "" || len(choice.Calls) == 0 {
		o.output = append(o.output, messageItem(newID("msg_"), o.status, choice.Text, logProbs(choice.Tokens)))
	}
	for _, call := range choice.Calls {
		o.output = append(o.output, callItem(newID("fc_"), o.status, call))
	}
}

func textPart(text string, probs []fields) fields {
	return fields{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": probs}
}

func messageItem(id, status, text string, probs []fields) fields {
	item := fields{"id": id, "type": "message", "role": "assistant", "status": status, "content": []fields{}}
	if status != "in_progress" {
		item["content"] = []fields{textPart(text, probs)}
	}
	return item
}

func callItem(id, status string, call completion.Call) fields {
	return fields{"id": id, "type": "function_call", "status": status, "call_id": call.ID, "name": call.Name, "arguments": call.Arguments}
}

// logProbs describes tokens as this API does.
func logProbs(tokens []completion.Token) []fields {
	out := []fields{}
	for _, t := range tokens {
		top := []fields{}
		for _, other := range t.Top {
			top = append(top, fields{"token": other.Text, "logprob": other.LogProb, "bytes": ints(other.Bytes)})
		}
		out = append(out, fields{"token": t.Text, "logprob": t.LogProb, "bytes": ints(t.Bytes), "top_logprobs": top})
	}
	return out
}

// ints is a list where JSON would make a text of bytes.
func ints(b []byte) []int {
	out := []int{}
	for _, x := range b {
		out = append(out, int(x))
	}
	return out
}

func (a *api) log(c echo.Context, err error) {
	if e := completion.Public(err); e.Kind == completion.KindInternal && c.Request().Context().Err() == nil {
		a.host.Log(c.Request()).Error("request failed", "route", c.Path(), "error", e.Cause)
	}
}

func (a *api) fail(c echo.Context, err error) error {
	a.log(c, err)
	return openai.WriteError(c, err)
}
