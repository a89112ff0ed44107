// Package anthropic speaks Anthropic's Messages API as a thin translation onto package completion:
//
//	POST /v1/messages               an answer, whole or as named events
//	POST /v1/messages/count_tokens  {"input_tokens": N}
//
// A system text, texts, pictures, tool calls (tool_use) and their results (tool_result) are taken; thinking blocks of
// earlier answers are left out of the prompt. Errors are {"type": "error", "error": {"type", "message"}} and name the
// field. Any model name is taken for the model that is here: coding agents ask for the names they know.
package anthropic

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
	"chulengo/serve/internal/sse"
)

type api struct{ host *completion.Host }

// Register adds the routes to a group.
func Register(g *echo.Group, h *completion.Host) {
	a := &api{h}
	g.POST("/v1/messages", identified(a.messages))
	g.POST("/v1/messages/count_tokens", identified(a.count))
}

// identified gives the request's id under the name by which Anthropic's clients report it.
func identified(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Response().Header().Set("Request-Id", c.Response().Header().Get(echo.HeaderXRequestID))
		return next(c)
	}
}

// Owns says whether errors of a path (behind the server's base path) have Anthropic's shape.
func Owns(path string) bool {
	return path == "/v1/messages" || strings.HasPrefix(path, "/v1/messages/")
}

// request is a chat with what only its translation needs.
type request struct {
	completion.Request
	model  string
	stream bool
}

// read gives the request in a body; counting needs no max_tokens.
func (a *api) read(c echo.Context, counting bool) (*request, error) {
	v, err := body.Read(c.Response(), c.Request(), a.host.BodyLimit)
	if err != nil {
		return nil, err
	}
	r := &request{model: v.Get("model").Text(""), stream: v.Get("stream").Bool(false)}
	if system := v.Get("system"); system.Is() {
		m := completion.Message{Role: completion.RoleSystem}
		m.Parts = texts(system)
		r.Messages = append(r.Messages, m)
	}
	list := v.Get("messages")
	if !list.Is() {
		v.Missing("messages")
	}
	items := list.List()
	if list.IsList() && len(items) == 0 {
		list.Fail("至少要有一条消息", "want at least one message")
	}
	for _, item := range items {
		r.Messages = append(r.Messages, message(item)...)
	}
	if n := len(items); n > 0 && v.Err() == nil && items[n-1].Get("role").Text("") == "assistant" {
		r.ContinueFinal = true // a beginning that the client put into the model's mouth
	}
	if limit := v.Get("max_tokens"); limit.Is() {
		r.MaxTokens, r.Clamp = limit.Int(0, 1, math.MaxInt32), true
	} else if !counting {
		v.Missing("max_tokens")
	}
	r.Sampling.Temperature = v.Get("temperature").Float(0, 1)
	r.Sampling.TopP = v.Get("top_p").Float(0, 1)
	if k := v.Get("top_k"); k.Is() {
		n := k.Int(0, 0, math.MaxInt32)
		r.Sampling.TopK = &n
	}
	r.Stop = v.Get("stop_sequences").Texts(64)
	for _, stop := range r.Stop {
		if stop == "" {
			v.Get("stop_sequences").Fail("停止字符串不能为空", "want stop strings that are not empty")
		}
	}
	tools(v, &r.Request)
	return r, v.Err()
}

// texts reads a string or a list of text blocks.
func texts(v body.Value) (parts []completion.Part) {
	if v.IsText() {
		return []completion.Part{{Text: v.Text("")}}
	}
	for _, block := range v.List() {
		if block.MustObject() {
			block.Get("type").One("text", "text")
			parts = append(parts, completion.Part{Text: block.Need("text").Text("")})
		}
	}
	return parts
}

// message reads one turn: results of tools in a user's turn become messages of their own, before its text.
func message(v body.Value) (out []completion.Message) {
	if !v.MustObject() {
		return nil
	}
	m := completion.Message{Role: v.Need("role").One("", "user", "assistant")}
	content := v.Need("content")
	if content.IsText() {
		return []completion.Message{completion.Text(m.Role, content.Text(""))}
	}
	if content.Is() && !content.IsList() {
		content.Fail("应为字符串或内容数组", "want a string or an array of blocks")
		return nil
	}
	for _, block := range content.List() {
		if !block.MustObject() {
			return nil
		}
		switch block.Need("type").One("", "text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking") {
		case "text":
			m.Parts = append(m.Parts, completion.Part{Text: block.Need("text").Text("")})
		case "image":
			m.Parts = append(m.Parts, completion.Part{Image: picture(block.Need("source"))})
		case "tool_use":
			input := block.Need("input")
			input.Object()
			m.Calls = append(m.Calls, completion.Call{ID: block.Need("id").Text(""), Name: block.Need("name").Text(""), Arguments: string(input.Raw())})
		case "tool_result":
			result := completion.Message{Role: completion.RoleTool, CallID: block.Need("tool_use_id").Text("")}
			if inside := block.Get("content"); inside.Is() {
				result.Parts = texts(inside)
			}
			if block.Get("is_error").Bool(false) {
				result.Parts = append([]completion.Part{{Text: "Error: "}}, result.Parts...)
			}
			out = append(out, result)
		}
	}
	if len(m.Parts) > 0 || len(m.Calls) > 0 || len(out) == 0 {
		out = append(out, m)
	}
	return out
}

// picture reads where an image is.
func picture(v body.Value) *completion.Image {
	if !v.Is() || !v.MustObject() {
		return nil
	}
	if v.Need("type").One("", "base64", "url") == "url" {
		return &completion.Image{URL: v.Need("url").Text("")}
	}
	data := v.Need("data")
	file, err := base64.StdEncoding.DecodeString(data.Text(""))
	if err != nil {
		data.Fail("不是有效的 base64", "not valid base64")
	}
	return &completion.Image{Data: file}
}

// tools reads tools and tool_choice.
func tools(v body.Value, r *completion.Request) {
	known := map[string]bool{}
	for _, item := range v.Get("tools").List() {
		if !item.MustObject() {
			return
		}
		name, schema := item.Need("name"), item.Need("input_schema")
		schema.Object()
		description := item.Get("description").Text("")
		if known[name.Text("")] {
			name.Fail("工具名出现了两次", "there are two tools of this name")
		}
		if v.Err() != nil {
			return
		}
		known[name.Text("")] = true
		r.Tools = append(r.Tools, completion.NewTool(name.Text(""), description, schema.Raw()))
	}
	choice := v.Get("tool_choice")
	if !choice.Object() {
		return
	}
	r.NoParallelCalls = choice.Get("disable_parallel_tool_use").Bool(false)
	switch choice.Need("type").One("", "auto", "any", "tool", "none") {
	case "any":
		r.ToolChoice.Mode = completion.ToolRequired
	case "none":
		r.ToolChoice.Mode = completion.ToolNone
	case "tool":
		name := choice.Need("name")
		r.ToolChoice = completion.ToolChoice{Mode: completion.ToolNamed, Name: name.Text("")}
		if name.IsText() && !known[r.ToolChoice.Name] {
			name.Fail("tools 中没有这个名字", "there is no such name among the tools")
		}
	}
}

func (a *api) count(c echo.Context) error {
	r, err := a.read(c, true)
	if err != nil {
		return a.fail(c, err)
	}
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	job, err := core.Prepare(c.Request().Context(), &r.Request)
	if err != nil {
		return a.fail(c, err)
	}
	return c.JSON(200, map[string]int{"input_tokens": job.PromptTokens()})
}

type usage struct {
	Input  int `json:"input_tokens"`
	Cached int `json:"cache_read_input_tokens"`
	Output int `json:"output_tokens"`
}

type block struct {
	Type  string          `json:"type"`
	Text  *string         `json:"text,omitempty"`
	ID    string          `json:"id,omitempty"`
	Name  string          `json:"name,omitempty"`
	Input json.RawMessage `json:"input,omitempty"`
}

type answer struct {
	ID           string  `json:"id"`
	Type         string  `json:"type"`
	Role         string  `json:"role"`
	Model        string  `json:"model"`
	Content      []block `json:"content"`
	StopReason   *string `json:"stop_reason"`
	StopSequence *string `json:"stop_sequence"`
	Usage        usage   `json:"usage"`
}

// stop says why an answer ended.
func stop(e *completion.End) (reason string, sequence *string) {
	switch {
	case e.Finish == completion.FinishToolCalls:
		return "tool_use", nil
	case e.Finish == completion.FinishLength:
		return "max_tokens", nil
	case e.StopText != "":
		return "stop_sequence", &e.StopText
	}
	return "end_turn", nil
}

func usageOf(u completion.Usage) usage { return usage{u.Prompt - u.Cached, u.Cached, u.Generated} }

func (a *api) messages(c echo.Context) error {
	r, err := a.read(c, false)
	if err != nil {
		return a.fail(c, err)
	}
	core, ctx, done, err := a.host.Begin(c.Request().Context())
	if err != nil {
		return a.fail(c, err)
	}
	defer done()
	job, err := core.Prepare(ctx, &r.Request)
	if err != nil {
		return a.fail(c, err)
	}
	out := answer{ID: "msg_" + strings.ReplaceAll(uuid.NewString(), "-", ""), Type: "message", Role: "assistant",
		Model: core.Options().Name, Content: []block{}}
	if r.stream {
		return a.follow(c, ctx, job, out)
	}
	result, err := job.Run(ctx, nil)
	if err != nil {
		return a.fail(c, err)
	}
	choice := &result.Choices[0]
	if choice.Text != "" {
		out.Content = append(out.Content, block{Type: "text", Text: &choice.Text})
	}
	for _, call := range choice.Calls {
		input := json.RawMessage(call.Arguments)
		if !json.Valid(input) {
			input = json.RawMessage("{}")
		}
		out.Content = append(out.Content, block{Type: "tool_use", ID: call.ID, Name: call.Name, Input: input})
	}
	reason, sequence := stop(&choice.End)
	out.StopReason, out.StopSequence, out.Usage = &reason, sequence, usageOf(result.Usage)
	return c.JSON(200, out)
}

type fields = map[string]any

// stream writes an answer's events.
type stream struct {
	*sse.Writer
	head  answer
	begun bool
	next  int    // index of the next block
	open  string // type of the open block; "": none
	call  int    // index of the open call
}

func (s *stream) begin() error {
	if s.begun {
		return nil
	}
	s.begun = true
	return s.Send("message_start", fields{"type": "message_start", "message": s.head})
}

// close ends the open block.
func (s *stream) close() error {
	if s.open == "" {
		return nil
	}
	s.open = ""
	return s.Send("content_block_stop", fields{"type": "content_block_stop", "index": s.next - 1})
}

// start opens a block after the one that is open.
func (s *stream) start(kind string, b any) error {
	if err := s.close(); err != nil {
		return err
	}
	s.open = kind
	s.next++
	return s.Send("content_block_start", fields{"type": "content_block_start", "index": s.next - 1, "content_block": b})
}

func (s *stream) delta(d fields) error {
	return s.Send("content_block_delta", fields{"type": "content_block_delta", "index": s.next - 1, "delta": d})
}

func (s *stream) event(e completion.Event) error {
	if err := s.begin(); err != nil {
		return err
	}
	if e.Text != "" {
		if s.open != "text" {
			if err := s.start("text", fields{"type": "text", "text": ""}); err != nil {
				return err
			}
		}
		if err := s.delta(fields{"type": "text_delta", "text": e.Text}); err != nil {
			return err
		}
	}
	for _, call := range e.Calls {
		if call.ID != "" || s.open != "tool_use" || s.call != call.Index {
			s.call = call.Index
			if err := s.start("tool_use", fields{"type": "tool_use", "id": call.ID, "name": call.Name, "input": fields{}}); err != nil {
				return err
			}
		}
		if call.Arguments != "" {
			if err := s.delta(fields{"type": "input_json_delta", "partial_json": call.Arguments}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *api) follow(c echo.Context, ctx context.Context, job *completion.Job, head answer) error {
	head.Usage.Input = job.PromptTokens()
	s := &stream{Writer: sse.New(c, a.host.KeepAlive), head: head}
	defer s.Close()
	result, err := job.Run(ctx, s.event)
	if err != nil {
		if !s.Quiet() {
			return a.fail(c, err)
		}
		if !errors.Is(err, context.Canceled) {
			a.log(c, err)
			_ = s.Send("error", describe(c, completion.Public(err)))
		}
		return nil
	}
	_ = s.close()
	reason, sequence := stop(&result.Choices[0].End)
	_ = s.Send("message_delta", fields{"type": "message_delta", "delta": fields{"stop_reason": reason, "stop_sequence": sequence}, "usage": usageOf(result.Usage)})
	_ = s.Send("message_stop", fields{"type": "message_stop"})
	return nil
}

func (a *api) log(c echo.Context, err error) {
	if e := completion.Public(err); e.Kind == completion.KindInternal && !errors.Is(err, context.Canceled) {
		a.host.Log(c.Request()).Error("request failed", "route", c.Path(), "error", e.Cause)
	}
}

func (a *api) fail(c echo.Context, err error) error {
	a.log(c, err)
	return WriteError(c, err)
}

// kinds are Anthropic's types of errors; those missing are invalid_request_error.
var kinds = map[completion.Kind]string{
	completion.KindAuth: "authentication_error", completion.KindForbidden: "permission_error", completion.KindNotFound: "not_found_error",
	completion.KindRate: "rate_limit_error", completion.KindTimeout: "timeout_error", completion.KindTooLarge: "request_too_large",
	completion.KindBusy: "overloaded_error", completion.KindLoading: "overloaded_error", completion.KindDraining: "overloaded_error",
	completion.KindInternal: "api_error",
}

func describe(c echo.Context, e *completion.Error) fields {
	kind := kinds[e.Kind]
	if kind == "" {
		kind = "invalid_request_error"
	}
	zh := completion.Chinese(c.Request())
	return fields{"type": "error", "error": fields{"type": kind, "message": e.Text(zh)}}
}

// WriteError answers a request with an error, if its response is still free.
func WriteError(c echo.Context, err error) error {
	if c.Response().Committed {
		return nil
	}
	if c.Request().Context().Err() != nil && errors.Is(err, context.Canceled) {
		c.Response().Status = 499 // for the log: the client is gone
		return nil
	}
	e := completion.Public(err)
	c.Response().Header().Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		c.Response().Header().Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	if status := e.Status(); status < 500 && status != 429 || status == 501 || status == 504 {
		c.Response().Header().Set("X-Should-Retry", "false") // the same request will fail again
	}
	return c.JSON(e.Status(), describe(c, e))
}
