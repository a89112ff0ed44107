package openai

import (
	"regexp"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

// messages reads a chat.
func messages(v body.Value) []completion.Message {
	list := v.Get("messages")
	if !list.Is() {
		v.Missing("messages")
		return nil
	}
	items := list.List()
	if len(items) == 0 {
		list.Fail("至少要有一条消息", "want at least one message")
	}
	out := make([]completion.Message, 0, len(items))
	for _, item := range items {
		if !item.IsObject() {
			item.Fail("应为对象", "want an object")
			return nil
		}
		out = append(out, message(item))
	}
	return out
}

func message(v body.Value) completion.Message {
	role := v.Get("role")
	if !role.Is() {
		v.Missing("role")
	}
	m := completion.Message{}
	switch r := role.One("", "system", "developer", "user", "assistant", "tool", "function"); r {
	case "developer":
		m.Role = completion.RoleSystem
	case "function": // what tools were before
		m.Role = completion.RoleTool
	default:
		m.Role = r
	}
	v.Get("name").Text("") // the template has no place for it
	m.CallID = v.Get("tool_call_id").Text("")
	content := v.Get("content")
	switch {
	case content.IsText():
		m.Parts = []completion.Part{{Text: content.Text("")}}
	case content.IsList():
		for _, part := range content.List() {
			m.Parts = append(m.Parts, contentPart(part))
		}
	case content.Is():
		content.Fail("应为字符串或内容数组", "want a string or an array of parts")
	case m.Role == completion.RoleAssistant:
		if refusal := v.Get("refusal"); refusal.Is() {
			m.Parts = []completion.Part{{Text: refusal.Text("")}}
		}
	default:
		v.Missing("content")
	}
	if calls := v.Get("tool_calls"); calls.Is() && m.Role == completion.RoleAssistant {
		for _, call := range calls.List() {
			m.Calls = append(m.Calls, toolCall(call))
		}
	}
	return m
}

// contentPart reads a text or a picture.
func contentPart(v body.Value) completion.Part {
	if v.IsText() {
		return completion.Part{Text: v.Text("")}
	}
	if !v.Object() {
		if !v.Is() {
			v.Fail("应为对象", "want an object")
		}
		return completion.Part{}
	}
	kind := v.Get("type")
	if !kind.Is() {
		v.Missing("type")
	}
	switch name := kind.One("", "text", "image_url", "refusal"); name {
	case "text", "refusal":
		text := v.Get(name)
		if !text.Is() {
			v.Missing(name)
		}
		return completion.Part{Text: text.Text("")}
	case "image_url":
		image := v.Get("image_url")
		address := image // Ollama's documentation shows a bare string
		if !image.Is() {
			v.Missing("image_url")
		} else if !image.IsText() && image.Object() {
			image.Get("detail").Text("")
			if address = image.Get("url"); !address.Is() {
				image.Missing("url")
			}
		}
		return completion.Part{Image: &completion.Image{URL: address.Text("")}}
	}
	return completion.Part{}
}

// toolCall reads a call that the assistant made earlier.
func toolCall(v body.Value) completion.Call {
	if !v.Object() {
		if !v.Is() {
			v.Fail("应为对象", "want an object")
		}
		return completion.Call{}
	}
	v.Get("type").One("function", "function")
	function := v.Get("function")
	if !function.Is() {
		v.Missing("function")
	}
	function.Object()
	name := function.Get("name")
	if function.IsObject() && !name.Is() {
		function.Missing("name")
	}
	call := completion.Call{ID: v.Get("id").Text(""), Name: name.Text("")}
	if arguments := function.Get("arguments"); arguments.IsObject() {
		call.Arguments = string(arguments.Raw()) // some clients forget to write them as text
	} else {
		call.Arguments = arguments.Text("")
	}
	return call
}

// toolName is what functions may be called. OpenAI takes letters, digits, _ and -; names of programs have dots and
// colons too.
var toolName = regexp.MustCompile(`^[A-Za-z0-9_.:/-]{1,128}$`)

// mostTools are the tools of one request; OpenAI takes 128.
const mostTools = 256

// tools reads tools, tool_choice and parallel_tool_calls.
func tools(v body.Value, r *completion.Request) {
	if functions := v.First("functions", "function_call"); functions.Is() {
		functions.Fail("已废弃，请使用 tools 与 tool_choice", "no longer supported: use tools and tool_choice")
	}
	list := v.Get("tools")
	items := list.List()
	if len(items) > mostTools {
		list.Fail("最多 %d 项，实际有 %d 项", "want at most %d items, got %d", mostTools, len(items))
		return
	}
	known := map[string]bool{}
	for _, item := range items {
		tool, name := tool(item)
		if known[tool.Name] {
			name.Fail("工具名 %q 出现了两次", "there are two tools with the name %q", tool.Name)
		}
		known[tool.Name] = true
		r.Tools = append(r.Tools, tool)
	}
	r.NoParallelCalls = !v.Get("parallel_tool_calls").Bool(true)
	choice := v.Get("tool_choice")
	switch {
	case choice.IsObject():
		if kind := choice.Get("type"); kind.Is() {
			kind.One("function", "function")
		}
		function := choice.Get("function")
		if !function.Is() {
			choice.Missing("function")
		}
		function.Object()
		name := function.Get("name")
		if function.IsObject() && !name.Is() {
			function.Missing("name")
		}
		r.ToolChoice = completion.ToolChoice{Mode: completion.ToolNamed, Name: name.Text("")}
		if name.IsText() && !known[r.ToolChoice.Name] {
			name.Fail("tools 中没有 %q", "there is no %q among the tools", r.ToolChoice.Name)
		}
	case choice.Is():
		switch choice.One("", "none", "auto", "required") {
		case "none":
			r.ToolChoice.Mode = completion.ToolNone
		case "required":
			r.ToolChoice.Mode = completion.ToolRequired
			if len(items) == 0 {
				choice.Fail("没有 tools 可供调用", "there are no tools to call")
			}
		}
	}
}

// tool reads one tool and gives its name's place as well.
func tool(v body.Value) (completion.Tool, body.Value) {
	if !v.Object() {
		if !v.Is() {
			v.Fail("应为对象", "want an object")
		}
		return completion.Tool{}, v
	}
	v.Get("type").One("function", "function")
	function := v.Get("function")
	if !function.Is() {
		v.Missing("function")
		return completion.Tool{}, v
	}
	if !function.Object() {
		return completion.Tool{}, function
	}
	name := function.Get("name")
	if !name.Is() {
		function.Missing("name")
	}
	t := completion.Tool{Name: name.Text(""), Definition: v.Raw()}
	if name.IsText() && !toolName.MatchString(t.Name) {
		name.Fail("工具名只能有字母、数字和 _ . : / -，最多 128 个", "want letters, digits and _ . : / -, at most 128 of them")
	}
	function.Get("description").Text("")
	function.Get("strict").Bool(false)
	if parameters := function.Get("parameters"); parameters.Object() {
		t.Parameters = parameters.Raw()
	}
	return t, name
}
