package openai_test

import (
	"reflect"
	"strings"
	"testing"

	"chulengo/serve"
)

func TestCompletions(t *testing.T) {
	s := with(t, says("Hel", "lo"))
	_, text := s.do("POST", "/v1/completions", object{"model": "fake", "prompt": "Say:", "logprobs": 1})
	const want = `{"id":"cmpl-…","object":"text_completion","created":…,"model":"fake","system_fingerprint":"fp_…",` +
		`"choices":[{"index":0,"text":"Hello","logprobs":{"tokens":["Hel","lo"],"token_logprobs":[-0.125,-0.25],` +
		`"top_logprobs":[{"?":-0.125,"Hel":-0.125},{"?":-0.25,"lo":-0.25}],"text_offset":[0,3]},"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":4,"completion_tokens":3,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":0}},"timings":{…}}` + "\n"
	if got := stable(text); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestPrompts: texts, ids and lists of them; choice i of prompt p is number p·n + i.
func TestPrompts(t *testing.T) {
	s := with(t, says("x", "y"))
	for _, c := range []struct {
		prompt any
		fields object
		want   []string
		tokens float64 // of the prompts
	}{
		{"ab", nil, []string{"xy"}, 2},
		{"ab", object{"echo": true}, []string{"abxy"}, 2},
		{[]string{"a", "bc"}, object{"echo": true, "n": 2}, []string{"axy", "axy", "bcxy", "bcxy"}, 3},
		{[]int{65, 66}, object{"echo": true}, []string{"ABxy"}, 2},
		{[][]int{{65}, {66, 67}}, object{"echo": true}, []string{"Axy", "BCxy"}, 3},
		{[]any{"a", []int{65}}, object{"echo": true, "max_tokens": 1}, []string{"ax", "Ax"}, 2},
		{"ab", object{"echo": true, "max_tokens": 0}, []string{"ab"}, 2},
		{"ab", object{"max_tokens": 0, "stream": true}, []string{""}, 2},
		{strings.Split(strings.Repeat("a", 20), ""), nil, strings.Split(strings.Repeat(" xy", 20), " ")[1:], 20},
	} {
		body := object{"prompt": c.prompt}
		for k, v := range c.fields {
			body[k] = v
		}
		status, got := 200, object(nil)
		if body["stream"] == nil {
			status, got = s.post("/v1/completions", body)
			var texts []string
			for i, choice := range got["choices"].([]any) {
				texts = append(texts, at(choice, "text").(string))
				if at(choice, "index") != float64(i) {
					t.Errorf("%v: %v", c.prompt, got)
				}
			}
			if status != 200 || !reflect.DeepEqual(texts, c.want) || at(got, "usage", "prompt_tokens") != c.tokens {
				t.Errorf("%v %v: %d %v, want %q", c.prompt, c.fields, status, got, c.want)
			}
		}
		body["stream"], body["stream_options"] = true, object{"include_usage": true}
		_, text := s.do("POST", "/v1/completions", body)
		texts, ends := make([]string, len(c.want)), 0
		list := frames(t, text)
		for _, frame := range list[:len(list)-2] {
			choice := at(parse(t, frame), "choices", 0)
			texts[int(at(choice, "index").(float64))] += at(choice, "text").(string)
			if at(choice, "finish_reason") != nil {
				ends++
			}
		}
		if !reflect.DeepEqual(texts, c.want) || ends != len(c.want) || at(parse(t, list[len(list)-2]), "usage", "prompt_tokens") != c.tokens {
			t.Errorf("stream of %v %v: %q %d %s, want %q", c.prompt, c.fields, texts, ends, text, c.want)
		}
	}
}

// TestPromptLogProbs: what the model thinks of the prompt, in vLLM's shape and, echoed, in OpenAI's.
func TestPromptLogProbs(t *testing.T) {
	s := with(t, says("x"))
	_, got := s.post("/v1/chat/completions", chat("", object{"prompt_logprobs": 0, "max_tokens": 1}))
	list, _ := got["prompt_logprobs"].([]any)
	if len(list) != 7 || list[0] != nil || !reflect.DeepEqual(list[1], object{"115": object{"logprob": -0.25, "rank": nil, "decoded_token": "s"}}) {
		t.Errorf("got %v", got)
	}
	_, text := s.do("POST", "/v1/completions", object{"prompt": "ab", "echo": true, "logprobs": 0, "max_tokens": 0})
	const want = `"choices":[{"index":0,"text":"ab","logprobs":{"tokens":["a","b"],"token_logprobs":[null,-0.25],"top_logprobs":[null,{"b":-0.25}],"text_offset":[0,1]},"finish_reason":"length"}],`
	if !strings.Contains(text, want) || strings.Contains(text, "prompt_logprobs") || !strings.Contains(text, `"completion_tokens":0`) {
		t.Errorf("got %s, want %s", text, want)
	}
	_, text = s.do("POST", "/v1/completions", object{"prompt": "ab", "prompt_logprobs": 0})
	if !strings.Contains(text, `"prompt_logprobs":[null,{"98":{"logprob":-0.25,"rank":null,"decoded_token":"b"}}]`) {
		t.Errorf("got %s", text)
	}
	_, got = s.post("/v1/completions", object{"prompt": "ab", "echo": true, "logprobs": 0, "max_tokens": 1})
	if columns := at(got, "choices", 0, "logprobs"); !reflect.DeepEqual(at(columns, "tokens"), []any{"a", "b", "x"}) || !reflect.DeepEqual(at(columns, "text_offset"), []any{0.0, 1.0, 2.0}) {
		t.Errorf("got %v", got)
	}
}

// TestProgress: how far the prompt is, for those who ask.
func TestProgress(t *testing.T) {
	s := with(t, says("x"))
	for path, body := range map[string]object{"/v1/chat/completions": chat("Hi", nil), "/v1/completions": {"prompt": "user: Hi\n"}} {
		body["stream"], body["return_progress"] = true, true
		_, text := s.do("POST", path, body)
		list := frames(t, text)
		for i, read := range []float64{0, 9} {
			frame := parse(t, list[i])
			if p := frame["prompt_progress"]; at(p, "total") != 9.0 || at(p, "processed") != read || at(p, "queue") != 0.0 || len(frame["choices"].([]any)) != 0 {
				t.Errorf("%s: frame %d is %s", path, i, list[i])
			}
		}
	}
}

func TestModels(t *testing.T) {
	b := says("x")
	b.Model.Name, b.Model.Display, b.Model.Root, b.Model.Context, b.Model.Dim = "fake", "Fake 1B", "org/fake", 2000, 64
	s := with(t, b)
	for _, path := range []string{"/v1/models", "/v1/models/fake", "/v1/models/org/fake", "/v1/models/org%2Ffake", "/v1/models/fake%201b"} {
		response, text := s.do("GET", path, nil)
		var got any = parse(t, text)
		if path == "/v1/models" {
			got = at(got, "data", 0)
		}
		if response.StatusCode != 200 || at(got, "id") != "fake" || at(got, "object") != "model" || at(got, "root") != "org/fake" ||
			at(got, "max_model_len") != 2000.0 || at(got, "meta", "n_embd") != 64.0 || at(got, "created").(float64) < 1e9 {
			t.Errorf("%s: %d %s", path, response.StatusCode, text)
		}
	}
	if response, text := s.do("GET", "/props", nil); response.StatusCode != 200 || at(parse(t, text), "default_generation_settings", "n_ctx") != 2000.0 {
		t.Errorf("props: %s", text)
	}
}

// TestBasePath: everything lies under the server's base path, errors included.
func TestBasePath(t *testing.T) {
	b := says("x")
	b.Model.Name, b.Model.Context = "fake", 100
	s := launch(t, serve.Options{BasePath: "/llama"})
	s.server.SetReady(b)
	if status, got := s.post("/llama/v1/chat/completions", chat("Hi", nil)); status != 200 {
		t.Errorf("%d %v", status, got)
	}
	if status, got := s.post("/llama/v1/nothing", object{}); status != 404 || at(got, "error", "type") != "not_found_error" {
		t.Errorf("%d %v", status, got)
	}
}

func TestTokenize(t *testing.T) {
	s := with(t, says("x"))
	for _, c := range []struct {
		path string
		body object
		want object // among what comes
	}{
		{"/tokenize", object{"content": "Hé"}, object{"tokens": []any{72.0, 233.0}, "count": 2.0, "max_model_len": 2000.0}},
		{"/tokenize", object{"content": "a<|eot|>", "add_special": true}, object{"tokens": []any{97.0, 1114112.0}}},
		{"/tokenize", object{"content": "<|eot|>", "parse_special": false}, object{"count": 7.0}},
		{"/tokenize", object{"content": "a", "with_pieces": true}, object{"tokens": []any{object{"id": 97.0, "piece": "a"}}}},
		{"/tokenize", object{"model": "fake", "prompt": "ab", "return_token_strs": true}, object{"tokens": []any{97.0, 98.0}, "token_strs": []any{"a", "b"}}},
		{"/tokenize", object{"messages": []object{{"role": "user", "content": "Hi"}}}, object{"count": 9.0}},
		{"/tokenize", object{"prompt": ""}, object{"count": 0.0, "tokens": []any{}}},
		{"/detokenize", object{"tokens": []int{72, 233, 1114112}}, object{"content": "Hé<|eot|>", "prompt": "Hé<|eot|>"}},
	} {
		status, got := s.post(c.path, c.body)
		for name, want := range c.want {
			if status != 200 || !reflect.DeepEqual(got[name], want) {
				t.Errorf("%s %v: %d %v, want %v", c.path, c.body, status, got, c.want)
			}
		}
	}
}
