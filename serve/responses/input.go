package responses

import (
	"encoding/base64"
	"math"
	"strings"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

// request is a chat with what only its translation needs.
type request struct {
	completion.Request
	model    string
	stream   bool
	parallel bool
	echo     map[string]any // fields that come back as they were sent
}

// read gives the request in a body.
func read(v body.Value) (*request, error) {
	r := &request{model: v.Get("model").Text(""), stream: v.Get("stream").Bool(false), echo: map[string]any{}}
	for _, name := range []string{"previous_response_id", "conversation", "prompt"} {
		if field := v.Get(name); field.Is() {
			field.Fail("这里不保存任何内容：请在 input 中发送全部", "nothing is kept here: send everything as input")
		}
	}
	if store := v.Get("store"); store.Bool(false) {
		store.Fail("这里不保存回答：请省略，或设为 false", "answers are not kept here: leave it out, or want false")
	}
	if background := v.Get("background"); background.Bool(false) {
		background.Fail("不能在后台生成：这里不保存回答", "want false: answers are not kept here")
	}
	if instructions := v.Get("instructions"); instructions.Is() {
		r.echo["instructions"] = instructions.Text("")
		r.Messages = append(r.Messages, completion.Text(completion.RoleSystem, instructions.Text("")))
	}
	r.input(v)
	r.tools(v)
	r.format(v)
	r.Sampling.Temperature = v.Get("temperature").Float(0, 2)
	r.Sampling.TopP = v.Get("top_p").Float(0, 1)
	if limit := v.Get("max_output_tokens"); limit.Is() {
		r.MaxTokens = limit.Int(0, 1, math.MaxInt32)
		r.echo["max_output_tokens"] = r.MaxTokens
	}
	r.Clamp = v.Get("truncation").One("disabled", "auto", "disabled") == "auto"
	if top := v.Get("top_logprobs"); top.Is() {
		r.LogProbs, r.Top = true, top.Int(0, 0, 20)
	}
	for _, wanted := range v.Get("include").Texts(32) {
		r.LogProbs = r.LogProbs || wanted == "message.output_text.logprobs"
	}
	if metadata := v.Get("metadata"); metadata.Object() {
		r.echo["metadata"] = metadata.Raw()
	}
	if user := v.Get("user"); user.Is() {
		r.echo["user"] = user.Text("")
	}
	return r, v.Err()
}

// input reads a text or a list of items.
func (r *request) input(v body.Value) {
	input := v.Get("input")
	switch {
	case !input.Is():
		v.Missing("input")
	case input.IsText():
		r.Messages = append(r.Messages, completion.Text(completion.RoleUser, input.Text("")))
	case input.IsList() && len(input.List()) == 0:
		input.Fail("至少要有一项", "want at least one item")
	case input.IsList():
		for _, item := range input.List() {
			if !item.MustObject() {
				return
			}
			r.item(item)
		}
	default:
		input.Fail("应为字符串或数组", "want a string or an array of items")
	}
}

// item reads one item. What an assistant said and called in a row is one turn.
func (r *request) item(v body.Value) {
	kind := "message"
	if field := v.Get("type"); field.Is() {
		kind = field.One("", "message", "function_call", "function_call_output", "reasoning")
	}
	var m completion.Message
	switch kind {
	case "message":
		m = message(v)
	case "function_call":
		m = completion.Message{Role: completion.RoleAssistant, Calls: []completion.Call{{
			ID: v.Need("call_id").Text(""), Name: v.Need("name").Text(""), Arguments: v.Need("arguments").Text("")}}}
	case "function_call_output":
		m = completion.Message{Role: completion.RoleTool, CallID: v.Need("call_id").Text(""), Parts: parts(v.Need("output"))}
	default:
		return
	}
	if n := len(r.Messages); n > 0 && m.Role == completion.RoleAssistant && r.Messages[n-1].Role == m.Role {
		r.Messages[n-1].Parts = append(r.Messages[n-1].Parts, m.Parts...)
		r.Messages[n-1].Calls = append(r.Messages[n-1].Calls, m.Calls...)
		return
	}
	r.Messages = append(r.Messages, m)
}

func message(v body.Value) completion.Message {
	role := v.Need("role").One("", "user", "assistant", "system", "developer")
	if role == "developer" {
		role = completion.RoleSystem
	}
	return completion.Message{Role: role, Parts: parts(v.Need("content"))}
}

// parts reads a text or a list of texts and pictures.
func parts(v body.Value) (out []completion.Part) {
	switch {
	case !v.Is():
		return nil
	case v.IsText():
		return []completion.Part{{Text: v.Text("")}}
	case !v.IsList():
		v.Fail("应为字符串或内容数组", "want a string or an array of parts")
		return nil
	}
	for _, part := range v.List() {
		if !part.MustObject() {
			return nil
		}
		switch part.Need("type").One("", "input_text", "output_text", "text", "refusal", "input_image") {
		case "input_image":
			out = append(out, completion.Part{Image: picture(part.Need("image_url"))})
		case "refusal":
			out = append(out, completion.Part{Text: part.Need("refusal").Text("")})
		default:
			out = append(out, completion.Part{Text: part.Need("text").Text("")})
		}
	}
	return out
}

// picture reads where an image is.
func picture(v body.Value) *completion.Image {
	address := v.Text("")
	if data, ok := strings.CutPrefix(address, "data:"); ok {
		_, encoded, _ := strings.Cut(data, ",")
		if _, err := base64.StdEncoding.DecodeString(encoded); err != nil {
			v.Fail("不是有效的 base64", "not valid base64")
		}
	}
	return &completion.Image{URL: address}
}

// tools reads tools, tool_choice and parallel_tool_calls.
func (r *request) tools(v body.Value) {
	known := map[string]bool{}
	list := v.Get("tools")
	for _, item := range list.List() {
		if !item.MustObject() {
			return
		}
		item.Need("type").One("", "function")
		name := item.Need("name")
		parameters := item.Get("parameters")
		parameters.Object()
		item.Get("strict").Bool(false) // schemas are always kept where calls are forced
		description := item.Get("description").Text("")
		if known[name.Text("")] {
			name.Fail("工具名出现了两次", "there are two tools of this name")
		}
		if v.Err() != nil {
			return
		}
		known[name.Text("")] = true
		r.Tools = append(r.Tools, completion.NewTool(name.Text(""), description, parameters.Raw()))
	}
	r.echo["tools"] = []any{}
	if list.Is() {
		r.echo["tools"] = list.Raw()
	}
	r.parallel = v.Get("parallel_tool_calls").Bool(true)
	r.NoParallelCalls = !r.parallel
	choice := v.Get("tool_choice")
	r.echo["tool_choice"] = "auto"
	if choice.Is() {
		r.echo["tool_choice"] = choice.Raw()
	}
	if choice.IsObject() {
		choice.Need("type").One("", "function")
		name := choice.Need("name")
		r.ToolChoice = completion.ToolChoice{Mode: completion.ToolNamed, Name: name.Text("")}
		if name.IsText() && !known[r.ToolChoice.Name] {
			name.Fail("tools 中没有这个名字", "there is no such name among the tools")
		}
		return
	}
	switch choice.One("auto", "none", "auto", "required") {
	case "none":
		r.ToolChoice.Mode = completion.ToolNone
	case "required":
		if r.ToolChoice.Mode = completion.ToolRequired; len(known) == 0 {
			choice.Fail("没有 tools 可供调用", "there are no tools to call")
		}
	}
}

// format reads text.format.
func (r *request) format(v body.Value) {
	r.echo["text"] = map[string]any{"format": map[string]string{"type": "text"}}
	text := v.Get("text")
	if !text.Object() {
		return
	}
	format := text.Get("format")
	if !format.Object() {
		return
	}
	r.echo["text"] = map[string]any{"format": format.Raw()}
	kind := format.Need("type")
	switch kind.One("", "text", "json_object", "json_schema") {
	case "json_object":
		r.Format.JSON, r.Format.Param = true, kind.Path()
	case "json_schema":
		schema := format.Need("schema")
		schema.Object()
		format.Get("name").Text("")
		format.Get("strict").Bool(false)
		r.Format.Schema, r.Format.Param = schema.Raw(), schema.Path()
	}
}
