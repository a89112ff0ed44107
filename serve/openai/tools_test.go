package openai_test

import (
	"reflect"
	"strings"
	"testing"
)

// weather are tools, and calls the answers that use them, in pieces.
var (
	weather = []object{{"type": "function", "function": object{"name": "weather", "parameters": object{"type": "object", "properties": object{"city": object{"type": "string"}}}}}}
	calls   = []string{"Let me see.", "\n", `{"name": "wea`, `ther", "para`, `meters": {"city"`, `: "Paris"}}`, "; ", `{"name": "weather", "parameters": `, `{"city": "Rome"}}`}
)

// call is a tool call without its id.
func call(v any) (id, name, arguments string) {
	id, _ = at(v, "id").(string)
	name, _ = at(v, "function", "name").(string)
	arguments, _ = at(v, "function", "arguments").(string)
	return id, name, arguments
}

func TestTools(t *testing.T) {
	s := with(t, says(calls...))
	_, got := s.post("/v1/chat/completions", chat("Hi", object{"tools": weather}))
	choice := at(got, "choices", 0)
	content, _ := at(choice, "message", "content").(string)
	if strings.TrimSpace(content) != "Let me see." || at(choice, "finish_reason") != "tool_calls" || at(choice, "message", "tool_calls", 2) != nil {
		t.Errorf("got %v", got)
	}
	ids := map[string]bool{}
	for i, want := range []string{`{"city": "Paris"}`, `{"city": "Rome"}`} {
		id, name, arguments := call(at(choice, "message", "tool_calls", i))
		if !strings.HasPrefix(id, "call_") || name != "weather" || arguments != want || at(choice, "message", "tool_calls", i, "type") != "function" {
			t.Errorf("call %d: %v", i, choice)
		}
		ids[id] = true
	}
	if len(ids) != 2 {
		t.Errorf("ids %v", ids)
	}

	_, text := s.do("POST", "/v1/chat/completions", chat("Hi", object{"tools": weather, "tool_choice": "auto", "stream": true}))
	said, names, arguments := "", []string{"", ""}, []string{"", ""}
	var finish any
	for _, frame := range frames(t, text) {
		if frame == "[DONE]" {
			continue
		}
		choice := at(parse(t, frame), "choices", 0)
		if piece, ok := at(choice, "delta", "content").(string); ok {
			said += piece
		}
		list, _ := at(choice, "delta", "tool_calls").([]any)
		for _, piece := range list {
			index := int(at(piece, "index").(float64))
			id, name, more := call(piece)
			if (id != "") != (name != "") || name != "" && names[index] != "" {
				t.Errorf("id and name do not come once, together: %s", frame)
			}
			names[index] += name
			arguments[index] += more
		}
		if at(choice, "finish_reason") != nil {
			finish = at(choice, "finish_reason")
		}
	}
	if strings.TrimSpace(said) != "Let me see." || finish != "tool_calls" || !reflect.DeepEqual(names, []string{"weather", "weather"}) ||
		!reflect.DeepEqual(arguments, []string{`{"city": "Paris"}`, `{"city": "Rome"}`}) {
		t.Errorf("streamed %q %v %q, then %v: %s", said, names, arguments, finish, text)
	}
}

// TestToolChoice: no tools, no calls; one call where only one is wanted, and the answer ends with it.
func TestToolChoice(t *testing.T) {
	b := says(calls...)
	s := with(t, b)
	for _, fields := range []object{nil, {"tools": weather, "tool_choice": "none"}, {"tools": []object{}}} {
		_, got := s.post("/v1/chat/completions", chat("Hi", fields))
		if at(got, "choices", 0, "message", "content") != strings.Join(calls, "") || at(got, "choices", 0, "finish_reason") != "stop" {
			t.Errorf("%v: %v", fields, got)
		}
	}
	_, got := s.post("/v1/chat/completions", chat("Hi", object{"tools": weather, "parallel_tool_calls": false}))
	list, _ := at(got, "choices", 0, "message", "tool_calls").([]any)
	if _, _, arguments := call(at(list, 0)); len(list) != 1 || arguments != `{"city": "Paris"}` || at(got, "choices", 0, "finish_reason") != "tool_calls" ||
		at(got, "usage", "completion_tokens").(float64) > 7 {
		t.Errorf("got %v", got)
	}
	_, got = s.post("/v1/chat/completions", chat("Hi", object{"tools": weather, "parallel_tool_calls": false, "n": 2}))
	for c := range 2 {
		if list, _ := at(got, "choices", c, "message", "tool_calls").([]any); len(list) != 1 {
			t.Errorf("choice %d: %v", c, got)
		}
	}
}

// TestConstrained: what holds answers to a form reaches the engine, and what cannot be enforced is a 400 that names the field.
func TestConstrained(t *testing.T) {
	b := says(`{}`)
	s := with(t, b)
	schema := object{"type": "object", "properties": object{"a": object{"type": "integer"}}}
	named := object{"type": "function", "function": object{"name": "weather"}}
	for _, fields := range []object{
		{"response_format": object{"type": "json_object"}},
		{"response_format": object{"type": "json_schema", "json_schema": object{"name": "x", "strict": true, "schema": schema}}},
		{"response_format": object{"type": "json_object", "schema": schema}},
		{"guided_json": schema}, {"json_schema": schema}, {"structured_outputs": object{"json": schema}},
		{"regex": "a+"}, {"guided_regex": "a+"}, {"grammar": `root ::= "a"`},
		{"tools": weather, "tool_choice": "required"},
		{"tools": weather, "tool_choice": named},
	} {
		status, got := s.post("/v1/chat/completions", chat("Hi", fields))
		if all := b.Requests(); status != 200 || all[len(all)-1].Constraint == nil {
			t.Errorf("%v: %d %v", fields, status, got)
		}
	}
	if status, _ := s.post("/v1/chat/completions", chat("Hi", object{"response_format": object{"type": "text"}})); status != 200 {
		t.Errorf("text: %d", status)
	}
	if all := b.Requests(); all[len(all)-1].Constraint != nil {
		t.Error("text is held to something")
	}
	n := len(b.Requests())
	for param, fields := range map[string]object{
		"response_format.json_schema.schema": {"response_format": object{"type": "json_schema", "json_schema": object{"schema": object{"type": "bad"}}}},
		"regex":                              {"regex": "a+", "tools": weather, "tool_choice": "required"},
		"ignore_eos":                         {"regex": "a+", "ignore_eos": true},
	} {
		if status, got := s.post("/v1/chat/completions", chat("Hi", fields)); status != 400 || at(got, "error", "param") != param {
			t.Errorf("%v: %d %v", fields, status, got)
		}
	}
	if len(b.Requests()) != n {
		t.Error("what cannot be enforced reached the engine")
	}
}
