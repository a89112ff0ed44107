package openai_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// TestErrors: each wrong field is a 400 that names it.
func TestErrors(t *testing.T) {
	b := says("x")
	b.Model.Name, b.Model.Context = "fake", 60
	s := with(t, b)
	const chats, texts = "/v1/chat/completions", "/v1/completions"
	tool := object{"type": "function", "function": object{"name": "f"}}
	user := func(content any) object { return object{"messages": []object{{"role": "user", "content": content}}} }
	for _, c := range []struct {
		path  string
		body  any
		param string
		want  string
	}{
		{chats, "", "", "not valid JSON"},
		{chats, "[]", "", "want an object, got an array"},
		{chats, object{}, "messages", "the field is missing"},
		{chats, object{"messages": nil}, "messages", "the field is missing"},
		{chats, object{"messages": []int{}}, "messages", "want at least one message"},
		{chats, object{"messages": "Hi"}, "messages", "want an array"},
		{chats, object{"messages": []any{nil}}, "messages[0]", "want an object"},
		{chats, object{"messages": []object{{"content": "Hi"}}}, "messages[0].role", "the field is missing"},
		{chats, object{"messages": []object{{"role": "robot", "content": "Hi"}}}, "messages[0].role", "want one of system, developer, user, assistant, tool, function"},
		{chats, object{"messages": []object{{"role": "user"}}}, "messages[0].content", "the field is missing"},
		{chats, user(3), "messages[0].content", "want a string or an array of parts"},
		{chats, user([]any{3}), "messages[0].content[0]", "want an object, got the number 3"},
		{chats, user([]object{{"text": "Hi"}}), "messages[0].content[0].type", "the field is missing"},
		{chats, user([]object{{"type": "audio"}}), "messages[0].content[0].type", "want one of text, image_url, refusal"},
		{chats, user([]object{{"type": "text"}}), "messages[0].content[0].text", "the field is missing"},
		{chats, user([]object{{"type": "text", "text": "a"}, {"type": "image_url", "image_url": object{"url": "data:image/png;base64,AA"}}}), "messages[0].content[1]", "does not take pictures"},
		{chats, user([]object{{"type": "image_url", "image_url": "https://example.com/a.png"}}), "messages[0].content[0]", "does not take pictures"},
		{chats, user([]object{{"type": "image_url", "image_url": object{}}}), "messages[0].content[0].image_url.url", "the field is missing"},
		{chats, object{"messages": []object{{"role": "assistant", "tool_calls": []object{{"function": object{"name": "f", "arguments": "{"}}}}}}, "messages[0].tool_calls[0].function.arguments", "want the text of a JSON value"},
		{chats, object{"messages": []object{{"role": "assistant", "tool_calls": []object{{"function": object{}}}}}}, "messages[0].tool_calls[0].function.name", "the field is missing"},
		{chats, chat("Hi", object{"temperature": "hot"}), "temperature", `want a number from 0 to 100, got the string "hot"`},
		{chats, chat("Hi", object{"temperature": -1}), "temperature", "want a number from 0 to 100, got the number -1"},
		{chats, `{"messages":[{"role":"user","content":"Hi"}],"temperature":NaN}`, "temperature", "not valid JSON"},
		{chats, `{"messages":[{"role":"user","content":"Hi"}],"top_p":1e999}`, "top_p", "want a number from 0 to 1"},
		{chats, chat("Hi", object{"max_tokens": 0}), "max_tokens", "want a whole number of at least 1, got the number 0"},
		{chats, chat("Hi", object{"max_completion_tokens": -5}), "max_completion_tokens", "want a whole number of at least 1"},
		{chats, chat("Hi", object{"max_tokens": "100"}), "max_tokens", `got the string "100"`},
		{chats, chat("Hi", object{"n": 0}), "n", "want a whole number from 1 to 128"},
		{chats, chat("Hi", object{"n": 1000000}), "n", "want a whole number from 1 to 128"},
		{chats, chat("Hi", object{"stop": []any{"a", nil}}), "stop[1]", "want a string"},
		{chats, chat("Hi", object{"stop": []any{"a", ""}}), "stop[1]", "not empty"},
		{chats, chat("Hi", object{"stop": ""}), "stop", "not empty"},
		{chats, chat("Hi", object{"stop": 7}), "stop", "want a string or an array of strings"},
		{chats, chat("Hi", object{"logit_bias": object{"a": 1}}), "logit_bias.a", "want a token id as the name"},
		{chats, chat("Hi", object{"logit_bias": object{"7": 101}}), "logit_bias.7", "want a number from -100 to 100"},
		{chats, chat("Hi", object{"logit_bias": []int{1}}), "logit_bias", "want an object"},
		{chats, chat("Hi", object{"top_logprobs": 3}), "top_logprobs", "needs logprobs to be true"},
		{chats, chat("Hi", object{"logprobs": true, "top_logprobs": 21}), "top_logprobs", "want a whole number from 0 to 20"},
		{chats, chat("Hi", object{"logprobs": 3}), "logprobs", "want a boolean"},
		{chats, chat("Hi", object{"stream": 1}), "stream", "want a boolean"},
		{chats, chat("Hi", object{"stream_options": true}), "stream_options", "want an object"},
		{chats, chat("Hi", object{"response_format": object{"type": "yaml"}}), "response_format.type", "want one of text, json_object, json_schema"},
		{chats, chat("Hi", object{"response_format": object{}}), "response_format.type", "the field is missing"},
		{chats, chat("Hi", object{"response_format": object{"type": "json_schema"}}), "response_format.json_schema", "the field is missing"},
		{chats, chat("Hi", object{"response_format": object{"type": "json_schema", "json_schema": object{"name": "x"}}}), "response_format.json_schema.schema", "the field is missing"},
		{chats, chat("Hi", object{"response_format": object{"type": "json_schema", "json_schema": object{"schema": 3}}}), "response_format.json_schema.schema", "want an object"},
		{chats, chat("Hi", object{"regex": "a", "grammar": "root ::= \"a\""}), "grammar", "cannot be combined with regex"},
		{chats, chat("Hi", object{"tools": object{}}), "tools", "want an array"},
		{chats, chat("Hi", object{"tools": []object{{"type": "custom"}}}), "tools[0].type", "want one of function"},
		{chats, chat("Hi", object{"tools": []object{{"function": object{"name": "a b"}}}}), "tools[0].function.name", "want letters"},
		{chats, chat("Hi", object{"tools": []object{tool, tool}}), "tools[1].function.name", `two tools with the name "f"`},
		{chats, chat("Hi", object{"tools": []object{{"type": "function", "function": object{"name": "f", "parameters": "{}"}}}}), "tools[0].function.parameters", "want an object"},
		{chats, chat("Hi", object{"tools": []object{tool}, "tool_choice": "must"}), "tool_choice", "want one of none, auto, required"},
		{chats, chat("Hi", object{"tool_choice": "required"}), "tool_choice", "there are no tools"},
		{chats, chat("Hi", object{"tools": []object{tool}, "tool_choice": object{"type": "function", "function": object{"name": "g"}}}), "tool_choice.function.name", `no "g"`},
		{chats, chat("Hi", object{"functions": []object{}}), "functions", "use tools"},
		{chats, chat("Hi", object{"continue_final_message": true}), "continue_final_message", "must be a text of the assistant's"},
		{chats, chat("Hi", object{"continue_final_message": true, "add_generation_prompt": true}), "add_generation_prompt", "cannot be combined"},
		{chats, chat("Hi", object{"min_tokens": 9, "max_tokens": 3}), "min_tokens", "want at most max_tokens (3), got 9"},
		{chats, `{"messages":[{"role":"user","content":"Hi"}],"n":1,"n":2}`, "n", "twice"},
		{chats, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "messages[0].content", "not valid UTF-8"},
		{chats, `{"messages":` + strings.Repeat("[", 5000), "messages" + strings.Repeat("[0]", 99), "nested more than 100"},
		{texts, object{}, "prompt", "the field is missing"},
		{texts, object{"prompt": 3}, "prompt", "want a string, an array of token ids"},
		{texts, object{"prompt": []any{}}, "prompt", "want at least one item"},
		{texts, object{"prompt": []any{"a", 3}}, "prompt[1]", "want a string or an array of token ids"},
		{texts, object{"prompt": []any{3, "a"}}, "prompt[1]", "want a token id"},
		{texts, object{"prompt": []any{3, -1}}, "prompt[1]", "want a whole number of at least 0"},
		{texts, object{"prompt": []any{[]int{1}, []int{}}}, "prompt[1]", "want at least one token"},
		{texts, object{"prompt": "a", "suffix": "b"}, "suffix", "filling in the middle"},
		{texts, object{"prompt": "a", "best_of": 2}, "best_of", "no more than n"},
		{texts, object{"prompt": "a", "logprobs": true}, "logprobs", "want a whole number from 0 to 20"},
		{texts, object{"prompt": "a", "echo": "yes"}, "echo", "want a boolean"},
		{texts, object{"prompt": "a", "echo": true, "logprobs": 1, "stream": true}, "logprobs", "cannot be combined with echo in a stream"},
		{texts, object{"prompt": "a", "max_tokens": 0, "n": 2}, "n", "want 1 with max_tokens 0"},
		{"/tokenize", object{}, "prompt", "the field is missing"},
		{"/tokenize", object{"content": 3}, "content", "want a string"},
		{"/tokenize", object{"messages": 3}, "messages", "want an array"},
		{"/detokenize", object{}, "tokens", "the field is missing"},
		{"/detokenize", object{"tokens": []any{1, "a"}}, "tokens[1]", "want a whole number"},
		{"/detokenize", object{"tokens": []any{99999999}}, "tokens[0]", "want a whole number"},
		{"/apply-template", object{"messages": []any{3}}, "messages[0]", "want an object"},
	} {
		response, text := s.do("POST", c.path, c.body)
		e := at(parse(t, text), "error")
		param, _ := at(e, "param").(string)
		message, _ := at(e, "message").(string)
		if response.StatusCode != 400 || at(e, "type") != "invalid_request_error" || param != c.param || !strings.Contains(message, c.want) ||
			param != "" && !strings.HasPrefix(message, param+": ") || response.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s %.200v:\ngot  %d %q %q\nwant %q %q", c.path, c.body, response.StatusCode, param, message, c.param, c.want)
		}
	}
	if n := len(b.Requests()); n != 0 {
		t.Errorf("%d wrong requests reached the engine", n)
	}
}

// TestTooLong: what does not fit is told with the numbers.
func TestTooLong(t *testing.T) {
	b := says("x")
	b.Model.Name, b.Model.Context = "fake", 20
	s := with(t, b)
	for _, c := range []struct {
		path   string
		body   object
		prompt float64
		param  string
	}{
		{"/v1/chat/completions", chat("123456789012345678", nil), 25, "messages"},
		{"/v1/chat/completions", chat("1234567890123", nil), 20, "messages"},
		{"/v1/chat/completions", chat("123", object{"max_tokens": 11}), 10, "max_tokens"},
		{"/v1/chat/completions", chat("123", object{"max_tokens": 1 << 30, "stream": true}), 10, "max_tokens"},
		{"/v1/completions", object{"prompt": strings.Repeat("x", 21)}, 21, "prompt"},
	} {
		status, got := s.post(c.path, c.body)
		e := at(got, "error")
		if status != 400 || at(e, "type") != "exceed_context_size_error" || at(e, "code") != "context_length_exceeded" ||
			at(e, "n_prompt_tokens") != c.prompt || at(e, "n_ctx") != 20.0 || at(e, "param") != c.param {
			t.Errorf("%v: %d %v", c.body, status, got)
		}
	}
	if status, got := s.post("/v1/chat/completions", chat("123", object{"max_tokens": 10})); status != 200 {
		t.Errorf("what fits: %d %v", status, got)
	}
}

// TestShapes: errors that no handler of this package wrote have its shape too.
func TestShapes(t *testing.T) {
	s := with(t, &fake.Backend{Script: func(string) ([]string, error) { panic("boom") }})
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		kind, code   any
	}{
		{"GET", "/v1/nothing", nil, 404, "not_found_error", nil},
		{"GET", "/v1/models/other", nil, 404, "not_found_error", "model_not_found"},
		{"POST", "/v1/chat/completions", object{"model": "gpt-4", "messages": []object{{"role": "user", "content": "Hi"}}}, 404, "not_found_error", "model_not_found"},
		{"POST", "/v1/completions", object{"model": "gpt-4", "prompt": "Hi"}, 404, "not_found_error", "model_not_found"},
		{"DELETE", "/v1/models", nil, 405, "invalid_request_error", nil},
		{"GET", "/v1/chat/completions", nil, 405, "invalid_request_error", nil},
		{"GET", "/slots", nil, 501, "not_supported_error", nil},
		{"POST", "/v1/completions", `{"prompt":"` + strings.Repeat("x", 17<<20) + `"}`, 413, "invalid_request_error", nil},
		{"POST", "/v1/chat/completions", chat("Hi", nil), 500, "server_error", nil},
		{"POST", "/v1/completions", object{"prompt": "Hi"}, 500, "server_error", nil},
	} {
		response, text := s.do(c.method, c.path, c.body)
		e := at(parse(t, text), "error")
		if response.StatusCode != c.status || at(e, "type") != c.kind || at(e, "code") != c.code || at(e, "message") == nil ||
			(response.Header.Get("X-Should-Retry") == "false") != (c.status != 500) {
			t.Errorf("%s %s: %d %s", c.method, c.path, response.StatusCode, text)
		}
	}
	r, _ := http.NewRequest("POST", s.url+"/v1/chat/completions", strings.NewReader("{}"))
	r.Header.Set("Content-Type", "text/plain")
	r.Header.Set("Accept-Language", "zh-CN")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode != 415 || !strings.Contains(string(text), "请求的 Content-Type 必须是 application/json") {
		t.Errorf("%d %s", response.StatusCode, text)
	}
}

// TestUnknownFields are ignored, and logged once.
func TestUnknownFields(t *testing.T) {
	s := with(t, says("x"))
	for range 3 {
		if status, got := s.post("/v1/chat/completions", chat("Hi", object{"frobnicate": 1, "user": "me", "metadata": object{}})); status != 200 {
			t.Fatalf("%d %v", status, got)
		}
	}
	if log := s.log.String(); strings.Count(log, "frobnicate") != 1 || strings.Contains(log, "metadata") {
		t.Errorf("log %s", log)
	}
}

// seeds are requests that use every field.
var seeds = []struct{ path, body string }{
	{"/v1/chat/completions", `{"model":"fake","messages":[{"role":"system","content":"S"},{"role":"user","content":[{"type":"text","text":"Hi"},{"type":"image_url","image_url":{"url":"data:,"}}]}],"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},"max_tokens":5,"n":2}`},
	{"/v1/chat/completions", `{"messages":[{"role":"user","content":"Hi","name":"Eve"}],"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"seed":7,"presence_penalty":0.5,"frequency_penalty":-0.5,"repetition_penalty":1.1,"logit_bias":{"65":5},"logprobs":true,"top_logprobs":2,"stop":["END","\n"],"ignore_eos":false,"stop_token_ids":[66],"user":"u","return_token_ids":true}`},
	{"/v1/chat/completions", `{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","tool_call_id":"c1","content":"42"}],"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{"a":{"type":"integer"}}}}}],"tool_choice":"auto","parallel_tool_calls":false,"response_format":{"type":"text"}}`},
	{"/v1/chat/completions", `{"messages":[{"role":"user","content":"Q"},{"role":"assistant","content":"Well"}],"continue_final_message":true,"add_generation_prompt":false,"cache_salt":"s","cache_prompt":true,"n_predict":3,"skip_special_tokens":false,"include_stop_str_in_output":true}`},
	{"/v1/completions", `{"prompt":["a","b"],"max_tokens":4,"n":2,"echo":true,"stream":true,"stream_options":{"include_usage":true}}`},
	{"/v1/completions", `{"prompt":[65,66,67],"max_tokens":4,"logprobs":2,"best_of":1,"suffix":null,"seed":1}`},
	{"/v1/completions", `{"prompt":[[65],[66,67]],"max_completion_tokens":3,"add_special_tokens":false,"temperature":0}`},
	{"/tokenize", `{"content":"Hello","add_special":true,"parse_special":false,"with_pieces":true}`},
	{"/tokenize", `{"model":"fake","messages":[{"role":"user","content":"Hi"}],"return_token_strs":true}`},
	{"/detokenize", `{"model":"fake","tokens":[72,105]}`},
	{"/apply-template", `{"messages":[{"role":"user","content":"Hi"}],"tools":[]}`},
}

// scraps are values to be put where others were.
var scraps = []string{"null", "true", "false", "0", "-1", "1", "3.7", "1e308", "-1e999", "99999999999999999999", `""`, `"x"`, `"1"`, "[]", "{}", "[null]", `[[]]`,
	`{"type":"text"}`, "NaN", "Infinity", "\"\xff\"", `"\ud800"`, `"\u0000"`, "[1,2,3]", `{"a":{"b":[{}]}}`, "'x'", "2147483648", "-2147483649", "9223372036854775807", "1.0"}

// mutate changes a request in one to three places: a value for another, bytes, a part doubled or taken away.
func mutate(r *rand.Rand, body string) string {
	for range 1 + r.IntN(3) {
		from := r.IntN(len(body) + 1)
		to := min(len(body), from+r.IntN(12))
		switch r.IntN(12) {
		default: // a value
			if colon := strings.IndexByte(body[from:], ':'); colon >= 0 {
				start := from + colon + 1
				end := start
				if decoder := json.NewDecoder(strings.NewReader(body[start:])); decoder.Decode(new(any)) == nil {
					end += int(decoder.InputOffset())
				}
				body = body[:start] + scraps[r.IntN(len(scraps))] + body[end:]
			}
		case 1:
			body = body[:from] + body[to:]
		case 2:
			body = body[:to] + body[from:]
		case 3:
			body = body[:from] + string([]byte{byte(r.IntN(256))}) + body[from:]
		case 4:
			body = body[:from] + scraps[r.IntN(len(scraps))] + body[to:]
		}
	}
	return body
}

// TestMutated: 10,000 spoilt requests are 4xx with the shape of an error, or valid after all.
func TestMutated(t *testing.T) {
	b := &fake.Backend{Script: func(string) ([]string, error) { return []string{"a", "é", "c"}, nil }}
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 200, []int32{fake.EOT}
	s := launch(t, serve.Options{})
	s.server.SetReady(b)
	handler := s.server.Handler()
	const seed = 20261123
	r := rand.New(rand.NewPCG(seed, 0))
	counts, named := map[int]int{}, 0
	for i := range 10_000 {
		from := seeds[r.IntN(len(seeds))]
		body := from.body
		if i >= len(seeds) {
			body = mutate(r, body)
		}
		request := httptest.NewRequest("POST", from.path, strings.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		status := recorder.Code
		counts[status]++
		switch {
		case status == 200:
		case status >= 400 && status < 500:
			e := at(parse(t, recorder.Body.String()), "error")
			if message, _ := at(e, "message").(string); message == "" || at(e, "type") == nil {
				t.Fatalf("request %d: %s: %q: %d %s", i, from.path, body, status, recorder.Body)
			}
			if at(e, "param") != nil {
				named++
			}
		default:
			t.Fatalf("request %d: %s: %q: %d %s", i, from.path, body, status, recorder.Body)
		}
	}
	t.Logf("answers by status: %v; %d errors name a field", counts, named)
	if counts[200] < 500 || counts[400] < 3000 || named < counts[400]*3/4 {
		t.Errorf("the mutations are not what they were: %v, %d named", counts, named)
	}
	if log := s.log.String(); strings.Contains(log, "panic") {
		t.Errorf("panics: %s", log)
	}
}

// FuzzChat: no body brings the server down.
func FuzzChat(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed.path, seed.body)
	}
	b := says("a", "é")
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 200, []int32{fake.EOT}
	s := launch(f, serve.Options{})
	s.server.SetReady(b)
	handler := s.server.Handler()
	f.Fuzz(func(t *testing.T, path, body string) {
		known := false
		for _, seed := range seeds {
			known = known || seed.path == path
		}
		if !known {
			return
		}
		request := httptest.NewRequestWithContext(context.Background(), "POST", path, strings.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		if status := recorder.Code; status >= 500 {
			t.Error(fmt.Sprint(status, " ", recorder.Body))
		}
	})
}
