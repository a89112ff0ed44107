// Package ollama speaks Ollama's API as a thin translation onto package completion: /api/tags, /api/chat, /api/show,
// /api/ps, /api/version, and POST /api/generate where the body is not the tutorial's (Wants says which it is).
//
// Answers are lines of JSON unless "stream" is false; durations are nanoseconds. Errors are {"error": text} and name the
// field, in a line of their own where the answer has begun.
package ollama

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

type api struct{ host *completion.Host }

// Register adds the routes to a group, all but /api/generate, whose handler it returns.
func Register(g *echo.Group, h *completion.Host) (generate echo.HandlerFunc) {
	a := &api{h}
	g.GET("/api/tags", a.tags)
	g.GET("/api/ps", a.ps)
	g.GET("/api/version", a.version)
	g.POST("/api/show", a.show)
	g.POST("/api/chat", a.chat)
	return a.generate
}

// Wants says whether a body of /api/generate is Ollama's: it has no user_input, but model or prompt.
func Wants(data []byte) bool {
	var f map[string]json.RawMessage
	if json.Unmarshal(data, &f) != nil {
		return false
	}
	_, tutorial := f["user_input"]
	_, model := f["model"]
	_, prompt := f["prompt"]
	return !tutorial && (model || prompt)
}

type fields = map[string]any

type request struct {
	completion.Request
	model  string
	stream bool
	load   bool // there is nothing to answer: the client wants the model loaded
}

// common reads the fields that chat and generate share.
func common(v body.Value) *request {
	r := &request{model: v.Get("model").Text(""), stream: v.Get("stream").Bool(true)}
	r.Clamp = true
	o := v.Get("options")
	o.Object()
	s := &r.Sampling
	s.Temperature = o.Get("temperature").Float(0, 100)
	s.TopP = o.Get("top_p").Float(0, 1)
	s.MinP = o.Get("min_p").Float(0, 1)
	s.RepetitionPenalty = o.Get("repeat_penalty").Float(0.01, 100)
	s.PresencePenalty = o.Get("presence_penalty").Float(-2, 2)
	s.FrequencyPenalty = o.Get("frequency_penalty").Float(-2, 2)
	if k := o.Get("top_k"); k.Is() {
		n := k.Int(0, -1, math.MaxInt32)
		s.TopK = &n
	}
	if seed := o.Get("seed"); seed.Is() {
		n := int64(seed.Int(0, math.MinInt64, math.MaxInt))
		s.Seed = &n
	}
	r.MaxTokens = max(0, o.Get("num_predict").Int(0, -2, math.MaxInt32)) // -1, -2: until the context is full
	r.Stop = o.Get("stop").Texts(64)
	for _, stop := range r.Stop {
		if stop == "" {
			o.Get("stop").Fail("停止字符串不能为空", "want stop strings that are not empty")
		}
	}
	switch format := v.Get("format"); {
	case format.IsObject():
		r.Format = completion.Format{Schema: format.Raw(), Param: "format"}
	case format.Text("") == "json":
		r.Format = completion.Format{JSON: true, Param: "format"}
	case format.Text("") != "":
		format.Fail("应为 json 或一个 JSON schema", "want json or a JSON schema")
	}
	return r
}

// images reads raw base64 pictures.
func images(v body.Value) (parts []completion.Part) {
	for _, item := range v.List() {
		file, err := base64.StdEncoding.DecodeString(item.Text(""))
		if err != nil || !item.IsText() {
			item.Fail("不是有效的 base64", "not valid base64")
		}
		parts = append(parts, completion.Part{Image: &completion.Image{Data: file}})
	}
	return parts
}

func readChat(v body.Value) (*request, error) {
	r := common(v)
	list := v.Get("messages")
	r.load = !list.Is() || list.IsList() && len(list.List()) == 0
	for _, item := range list.List() {
		if !item.IsObject() {
			item.Fail("应为对象", "want an object")
			break
		}
		role := item.Get("role")
		if !role.Is() {
			item.Missing("role")
		}
		m := completion.Message{Role: role.One("", "system", "user", "assistant", "tool"), Parts: images(item.Get("images"))}
		if text := item.Get("content").Text(""); text != "" || len(m.Parts) == 0 {
			m.Parts = append(m.Parts, completion.Part{Text: text})
		}
		for _, call := range item.Get("tool_calls").List() {
			if !call.Object() {
				continue
			}
			f := call.Get("function")
			f.Object()
			m.Calls = append(m.Calls, completion.Call{ID: call.Get("id").Text(""), Name: f.Get("name").Text(""), Arguments: string(f.Get("arguments").Raw())})
		}
		r.Messages = append(r.Messages, m)
	}
	for _, item := range v.Get("tools").List() {
		if !item.IsObject() {
			item.Fail("应为对象", "want an object")
			break
		}
		f := item.Get("function")
		if !f.Is() {
			item.Missing("function")
		}
		f.Object()
		name, parameters := f.Get("name"), f.Get("parameters")
		if f.IsObject() && !name.Is() {
			f.Missing("name")
		}
		parameters.Object()
		r.Tools = append(r.Tools, completion.Tool{Name: name.Text(""), Parameters: parameters.Raw(), Definition: item.Raw()})
	}
	return r, v.Err()
}

func readGenerate(v body.Value) (*request, error) {
	r := common(v)
	prompt, raw := v.Get("prompt").Text(""), v.Get("raw").Bool(false)
	r.load = prompt == ""
	if suffix := v.Get("suffix"); suffix.Text("") != "" {
		suffix.Fail("不支持在两段文字之间补写", "this model does not fill in between two texts")
	}
	if raw {
		r.Text, r.NoBOS = prompt, strings.HasPrefix(prompt, "<|begin_of_text|>")
		return r, v.Err()
	}
	if system := v.Get("system").Text(""); system != "" {
		r.Messages = append(r.Messages, completion.Text(completion.RoleSystem, system))
	}
	m := completion.Message{Role: completion.RoleUser, Parts: append(images(v.Get("images")), completion.Part{Text: prompt})}
	r.Messages = append(r.Messages, m)
	return r, v.Err()
}

func (a *api) chat(c echo.Context) error     { return a.answer(c, true, readChat) }
func (a *api) generate(c echo.Context) error { return a.answer(c, false, readGenerate) }

// answer answers a chat, or a prompt.
func (a *api) answer(c echo.Context, chat bool, read func(body.Value) (*request, error)) error {
	v, err := body.Read(c.Response(), c.Request(), a.host.BodyLimit)
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
	line := func(text string, calls []completion.Call) fields {
		f := fields{"model": model, "created_at": time.Now().UTC().Format(time.RFC3339Nano), "done": false}
		if !chat {
			f["response"] = text
			return f
		}
		m := fields{"role": "assistant", "content": text}
		var list []fields
		for _, call := range calls {
			arguments := json.RawMessage(call.Arguments)
			if !json.Valid(arguments) {
				arguments = json.RawMessage("{}")
			}
			list = append(list, fields{"function": fields{"name": call.Name, "arguments": arguments}})
		}
		if list != nil {
			m["tool_calls"] = list
		}
		f["message"] = m
		return f
	}
	if r.load {
		last := line("", nil)
		last["done"], last["done_reason"] = true, "load"
		return c.JSON(http.StatusOK, last)
	}
	job, err := core.Prepare(&r.Request)
	if err != nil {
		return a.fail(c, err)
	}
	var emit func(completion.Event) error
	if r.stream {
		emit = func(e completion.Event) error {
			if e.Text == "" {
				return nil // calls leave whole, at the end
			}
			return send(c, line(e.Text, nil))
		}
	}
	result, err := job.Run(ctx, emit)
	switch {
	case err != nil && c.Response().Committed:
		if !errors.Is(err, context.Canceled) {
			a.log(c, err)
			_ = send(c, fields{"error": public(err).Text(chinese(c))})
		}
		return nil
	case err != nil:
		return a.fail(c, err)
	}
	choice, text := &result.Choices[0], ""
	if !r.stream {
		text = choice.Text
	}
	last := line(text, choice.Calls)
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

// named checks a model's name; Ollama's clients add a tag to names that have none.
func named(core *completion.Core, model string) error {
	return core.Named(strings.TrimSuffix(model, ":latest"))
}

// describe is what lists say of the model.
func describe(core *completion.Core) fields {
	o := core.Options()
	return fields{"name": o.Name, "model": o.Name, "modified_at": o.Created.UTC().Format(time.RFC3339Nano), "size": o.Meta.Bytes, "digest": "",
		"details": fields{"parent_model": "", "format": "safetensors", "family": "llama4", "families": []string{"llama4"}, "parameter_size": "", "quantization_level": ""}}
}

func (a *api) list(c echo.Context, more fields) error {
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	one := describe(core)
	for name, v := range more {
		one[name] = v
	}
	return c.JSON(http.StatusOK, fields{"models": []fields{one}})
}

func (a *api) tags(c echo.Context) error { return a.list(c, nil) }

// ps lists what is loaded: the model, for good.
func (a *api) ps(c echo.Context) error {
	return a.list(c, fields{"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0})
}

func (a *api) version(c echo.Context) error {
	return c.JSON(http.StatusOK, fields{"version": a.host.Version})
}

func (a *api) show(c echo.Context) error {
	v, err := body.Read(c.Response(), c.Request(), a.host.BodyLimit)
	if err != nil {
		return a.fail(c, err)
	}
	model := v.First("model", "name").Text("")
	if err := v.Err(); err != nil {
		return a.fail(c, err)
	}
	core, err := a.host.Ready()
	if err == nil {
		err = named(core, model)
	}
	if err != nil {
		return a.fail(c, err)
	}
	o := core.Options()
	return c.JSON(http.StatusOK, fields{"modelfile": "", "parameters": "", "template": o.ChatTemplate, "details": describe(core)["details"],
		"capabilities": []string{"completion", "tools"}, "modified_at": o.Created.UTC().Format(time.RFC3339Nano),
		"model_info": fields{"general.architecture": "llama4", "llama4.context_length": o.Context, "llama4.embedding_length": o.Meta.Dim}})
}

func public(err error) *completion.Error {
	var e *completion.Error
	if errors.As(err, &e) {
		return e
	}
	return &completion.Error{Kind: completion.KindInternal, ZH: "服务器内部错误", EN: "internal server error", Cause: err}
}

func (a *api) log(c echo.Context, err error) {
	if e := public(err); e.Kind == completion.KindInternal && !errors.Is(err, context.Canceled) {
		a.host.Log(c.Request()).Error("request failed", "route", c.Path(), "error", e.Cause)
	}
}

func (a *api) fail(c echo.Context, err error) error {
	if c.Request().Context().Err() != nil && errors.Is(err, context.Canceled) {
		c.Response().Status = 499 // for the log: the client is gone
		return nil
	}
	a.log(c, err)
	e := public(err)
	if e.RetryAfter > 0 {
		c.Response().Header().Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	return c.JSON(e.Status(), fields{"error": e.Text(chinese(c))})
}

func chinese(c echo.Context) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(c.Request().Header.Get("Accept-Language"))), "zh")
}
