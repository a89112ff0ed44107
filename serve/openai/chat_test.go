package openai_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"chulengo/engine"
	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

func TestChat(t *testing.T) {
	s := with(t, says("Hel", "lo", " 🦙"))
	response, text := s.do("POST", "/v1/chat/completions", chat("Hi", object{"user": nil, "stop": nil, "n": 1}))
	const want = `{"id":"chatcmpl-…","object":"chat.completion","created":…,"model":"fake","system_fingerprint":"fp_…",` +
		`"choices":[{"index":0,"message":{"role":"assistant","content":"Hello 🦙","refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],` +
		`"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":0}},"timings":{…}}` + "\n"
	if got := stable(text); got != want || response.StatusCode != 200 {
		t.Errorf("got %d\n%s\nwant\n%s", response.StatusCode, got, want)
	}
}

// TestStream holds the frames to the letter: benchmarks and SDKs read them with simple means.
func TestStream(t *testing.T) {
	const head = `{"id":"chatcmpl-…","object":"chat.completion.chunk","created":…,"model":"fake","system_fingerprint":"fp_…",`
	for _, c := range []struct {
		name   string
		pieces []string
		fields object
		want   []string
	}{
		{"plain", []string{"Hel", "lo"}, nil, []string{
			head + `"choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"},"logprobs":null,"finish_reason":null}]}`,
			head + `"choices":[{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":null}]}`,
			head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"timings":{…}}`,
			`[DONE]`}},
		{"usage", []string{"Hel", "", "lo"}, object{"stream_options": object{"include_usage": true}, "max_tokens": 3}, []string{
			head + `"choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"},"logprobs":null,"finish_reason":null}]}`,
			head + `"choices":[{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":null}]}`,
			head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"timings":{…}}`,
			head + `"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":0}},"timings":{…}}`,
			`[DONE]`}},
		{"usage on every chunk", []string{"Hel", ""}, object{"stream_options": object{"include_usage": true, "continuous_usage_stats": true}}, []string{
			head + `"choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}`,
			head + `"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}`,
			head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12},"timings":{…}}`,
			head + `"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":0}},"timings":{…}}`,
			`[DONE]`}},
		{"nothing to say", nil, nil, []string{
			head + `"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}`,
			head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"timings":{…}}`,
			`[DONE]`}},
		{"logprobs and ids", []string{"A", "é"}, object{"logprobs": true, "top_logprobs": 1, "return_token_ids": true}, []string{
			head + `"choices":[{"index":0,"delta":{"role":"assistant","content":"A"},"logprobs":{"content":[{"token":"A","id":65,"logprob":-0.125,"bytes":[65],` +
				`"top_logprobs":[{"token":"?","id":63,"logprob":-0.125,"bytes":[63]}]}],"refusal":null},"finish_reason":null,"token_ids":[65]}],"prompt_token_ids":[117,115,101,114,58,32,72,105,10]}`,
			head + `"choices":[{"index":0,"delta":{"content":"é"},"logprobs":{"content":[{"token":"é","id":233,"logprob":-0.25,"bytes":[195,169],` +
				`"top_logprobs":[{"token":"?","id":63,"logprob":-0.25,"bytes":[63]}]}],"refusal":null},"finish_reason":null,"token_ids":[233]}]}`,
			head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"timings":{…}}`,
			`[DONE]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := with(t, says(c.pieces...))
			fields := object{"stream": true}
			for k, v := range c.fields {
				fields[k] = v
			}
			response, text := s.do("POST", "/v1/chat/completions", chat("Hi", fields))
			h := response.Header
			if h.Get("Content-Type") != "text/event-stream; charset=utf-8" || h.Get("X-Accel-Buffering") != "no" || !strings.Contains(h.Get("Cache-Control"), "no-cache") {
				t.Errorf("header %v", h)
			}
			var got []string
			for _, frame := range frames(t, text) {
				got = append(got, stable(frame))
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			seen := map[string]bool{}
			for _, frame := range frames(t, text) {
				if frame != "[DONE]" {
					seen[fmt.Sprint(parse(t, frame)["id"], parse(t, frame)["created"])] = true
				}
			}
			if len(seen) != 1 {
				t.Errorf("ids and times differ from chunk to chunk: %v", seen)
			}
		})
	}
}

func TestChoices(t *testing.T) {
	b := says("a", "b", "c")
	s := with(t, b)
	status, got := s.post("/v1/chat/completions", chat("Hi", object{"n": 3, "seed": 7}))
	if status != 200 || len(got["choices"].([]any)) != 3 || at(got, "usage", "completion_tokens") != 12.0 || at(got, "usage", "prompt_tokens") != 9.0 {
		t.Errorf("got %d %v", status, got)
	}
	if r := b.Requests()[0]; r.Choices != 3 || r.Sampling.Seed != 7 {
		t.Errorf("got %+v", r)
	}
	_, text := s.do("POST", "/v1/chat/completions", chat("Hi", object{"n": 3, "stream": true}))
	texts, ends := map[float64]string{}, map[float64]any{}
	for _, frame := range frames(t, text) {
		if frame == "[DONE]" {
			continue
		}
		choice := at(parse(t, frame), "choices", 0)
		index := at(choice, "index").(float64)
		if role := at(choice, "delta", "role"); (role == "assistant") != (texts[index] == "") && ends[index] == nil && at(choice, "finish_reason") == nil {
			t.Errorf("role %v in %s", role, frame)
		}
		if content, ok := at(choice, "delta", "content").(string); ok {
			texts[index] += content
		}
		if finish := at(choice, "finish_reason"); finish != nil {
			ends[index] = finish
		}
	}
	for i := range 3 {
		if texts[float64(i)] != "abc" || ends[float64(i)] != "stop" {
			t.Errorf("choice %d: %q %v", i, texts[float64(i)], ends[float64(i)])
		}
	}
}

// TestFields: what reaches the engine.
func TestFields(t *testing.T) {
	b := says("x")
	b.Model.Name, b.Model.Context = "fake", 500
	b.Model.Sampling = engine.Sampling{Temperature: 0.6, TopP: 0.9}
	s := with(t, b)
	last := func(fields object) engine.Request {
		t.Helper()
		if status, got := s.post("/v1/chat/completions", chat("Hi", fields)); status != 200 {
			t.Fatalf("%v: %d %v", fields, status, got)
		}
		all := b.Requests()
		return all[len(all)-1]
	}
	r := last(nil)
	if r.MaxTokens != 0 || r.Sampling.Temperature != 0.6 || r.Sampling.TopP != 0.9 || r.Sampling.Seed == 0 || r.StopIDs != nil {
		t.Errorf("defaults: %+v", r)
	}
	if again := last(nil); again.Sampling.Seed == r.Sampling.Seed {
		t.Error("the same seed twice")
	}
	r = last(object{"temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": -1, "frequency_penalty": 2,
		"logit_bias": object{"65": -100}, "seed": -7, "max_tokens": 9, "max_completion_tokens": 5, "stop": "END", "stop_token_ids": []int{66}, "logprobs": true, "top_logprobs": 3})
	seed := int64(-7)
	want := engine.Sampling{TopP: 0.5, MinP: 0.1, RepetitionPenalty: 1.1, PresencePenalty: -1, FrequencyPenalty: 2,
		LogitBias: map[int32]float32{65: -100}, Seed: uint64(seed)}
	if !reflect.DeepEqual(r.Sampling, want) || r.MaxTokens != 5 || !reflect.DeepEqual(r.Stop, []string{"END"}) ||
		!reflect.DeepEqual(r.StopIDs, []int32{66, fake.EOT}) || !r.LogProbs || r.Top != 3 {
		t.Errorf("got %+v", r)
	}
	if r = last(object{"ignore_eos": true, "top_p": 0, "n_predict": 4}); !r.IgnoreEOS || r.Sampling.TopK != 1 || r.MaxTokens != 4 {
		t.Errorf("got %+v", r)
	}
	if r = last(object{"n_predict": -1, "max_tokens": nil, "seed": -1}); r.MaxTokens != 0 {
		t.Errorf("got %+v", r)
	}
}

// TestMessages: how messages become a prompt.
func TestMessages(t *testing.T) {
	s := with(t, says("x"))
	prompt := func(body object) string {
		t.Helper()
		status, got := s.post("/apply-template", body)
		if status != 200 {
			t.Fatalf("%d %v", status, got)
		}
		return got["prompt"].(string)
	}
	messages := []object{
		{"role": "developer", "content": "Be kind."},
		{"role": "user", "name": "Eve", "content": []any{object{"type": "text", "text": "Weather "}, object{"type": "text", "text": "there?"}}},
		{"role": "assistant", "content": nil, "tool_calls": []object{{"id": "call_1", "type": "function",
			"function": object{"name": "weather", "arguments": `{"city": "Paris"}`}}}},
		{"role": "tool", "tool_call_id": "call_1", "content": "Sunny"},
	}
	tools := []object{{"type": "function", "function": object{"name": "weather"}}}
	const rest = "system: Be kind.\nuser: Weather there?\nassistant: \ncall: weather {\"city\": \"Paris\"}\ntool: Sunny\n"
	if got := prompt(object{"messages": messages}); got != rest {
		t.Errorf("got %q", got)
	}
	if got, want := prompt(object{"messages": messages, "tools": tools}), `tool: {"function":{"name":"weather"},"type":"function"}`+"\n"+rest; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := prompt(object{"messages": messages, "tools": tools, "tool_choice": "none"}); got != rest {
		t.Errorf("tool_choice none: %q", got)
	}
	open := []object{{"role": "user", "content": "Q"}, {"role": "assistant", "content": "Well"}}
	if got := prompt(object{"messages": open, "continue_final_message": true}); got != "user: Q\nassistant: Well" {
		t.Errorf("got %q", got)
	}
	if got := prompt(object{"messages": open, "add_generation_prompt": false}); got != "user: Q\nassistant: Well<|eot|>\n" {
		t.Errorf("got %q", got)
	}
}

// TestUnavailable: what cannot be answered now is refused with its status, streaming or not.
func TestUnavailable(t *testing.T) {
	refused := func(s *site, path string, body object, kind string) {
		t.Helper()
		response, text := s.do("POST", path, body)
		if response.StatusCode != 503 || response.Header.Get("Retry-After") == "" || at(parse(t, text), "error", "type") != kind || response.Header.Get("X-Should-Retry") != "" {
			t.Errorf("%s: %d %v %s", path, response.StatusCode, response.Header, text)
		}
	}
	busy := with(t, &fake.Backend{Refuse: engine.ErrBusy})
	loading := launch(t, serve.Options{})
	closed := with(t, &fake.Backend{Refuse: engine.ErrClosed})
	for _, streaming := range []bool{false, true} {
		refused(busy, "/v1/chat/completions", chat("Hi", object{"stream": streaming}), "overloaded_error")
		refused(busy, "/v1/completions", object{"prompt": []string{"a", "b", "c", "d", "e", "f"}, "stream": streaming}, "overloaded_error")
		refused(busy, "/v1/chat/completions", chat("Hi", object{"stream": streaming, "n": 3}), "overloaded_error")
		refused(loading, "/v1/chat/completions", chat("Hi", object{"stream": streaming}), "unavailable_error")
		refused(closed, "/v1/completions", object{"prompt": "a", "stream": streaming}, "unavailable_error")
	}
	if response, text := loading.do("GET", "/v1/models", nil); response.StatusCode != 503 {
		t.Errorf("models while loading: %d %s", response.StatusCode, text)
	}
}

// TestFailure: an answer that fails midway is a 500, or a frame and [DONE]; what went wrong is in the log alone.
func TestFailure(t *testing.T) {
	s := with(t, &fake.Backend{Script: func(string) ([]string, error) { return []string{"Hel"}, errors.New("the secret reason") }})
	response, text := s.do("POST", "/v1/chat/completions", chat("Hi", nil))
	if response.StatusCode != 500 || at(parse(t, text), "error", "type") != "server_error" || strings.Contains(text, "secret") {
		t.Errorf("%d %s", response.StatusCode, text)
	}
	for _, path := range []string{"/v1/chat/completions", "/v1/completions"} {
		response, text = s.do("POST", path, chat("Hi", object{"stream": true, "prompt": "Hi"}))
		got := frames(t, text)
		if n := len(got); response.StatusCode != 200 || n != 3 || got[2] != "[DONE]" ||
			got[1] != `{"error":{"message":"internal server error","type":"server_error","param":null,"code":null}}` {
			t.Errorf("%s: %d %s", path, response.StatusCode, text)
		}
	}
	if !strings.Contains(s.log.String(), "the secret reason") {
		t.Error("the log does not have the reason")
	}
}

// TestGone: a client that goes away ends its answer, streaming or not, before the first token or after.
func TestGone(t *testing.T) {
	for _, c := range []struct {
		path   string
		fields object
		tokens int
	}{
		{"/v1/chat/completions", nil, 0},
		{"/v1/chat/completions", nil, 2},
		{"/v1/chat/completions", object{"stream": true}, 0},
		{"/v1/chat/completions", object{"stream": true}, 2},
		{"/v1/chat/completions", object{"stream": true, "n": 2}, 2},
		{"/v1/completions", object{"prompt": "x"}, 1},
		{"/v1/completions", object{"prompt": []string{"x", "y"}, "stream": true}, 1},
	} {
		b := says("a", "b", "c", "d")
		b.Hold = make(chan struct{})
		s := with(t, b)
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			if response, err := s.send(ctx, "POST", c.path, chat("Hi", c.fields)); err == nil {
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
		}()
		eventually(t, "the answer runs", func() bool { running, _, _ := b.Counts(); return running > 0 })
		for range c.tokens {
			b.Hold <- struct{}{}
		}
		cancel()
		eventually(t, fmt.Sprint("the answer ends: ", c), func() bool { running, _, _ := b.Counts(); return running == 0 })
		<-gone
	}
}

// TestDrain: a server that ends refuses new requests, lets answers finish for a while, and then cuts them short with a
// frame that says why.
func TestDrain(t *testing.T) {
	b := says("a", "b")
	b.Hold = make(chan struct{}, 1)
	b.Hold <- struct{}{}
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 100, []int32{fake.EOT}
	s := launch(t, serve.Options{Addr: "127.0.0.1:0", DrainTimeout: 100 * time.Millisecond})
	s.url = "http://" + s.server.Addr().String()
	s.server.SetReady(b)
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.server.Run(ctx) }()
	response, err := s.send(context.Background(), "POST", "/v1/chat/completions", chat("Hi", object{"stream": true}))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	end()
	eventually(t, "new requests are refused", func() bool {
		response, err := s.send(context.Background(), "POST", "/v1/chat/completions", chat("Hi", object{"max_tokens": 1}))
		if err != nil {
			return true // it came after the listener was closed
		}
		defer response.Body.Close()
		return response.StatusCode == 503
	})
	rest, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := frames(t, string(rest))
	if n := len(got); n != 3 || at(parse(t, got[1]), "error", "type") != "unavailable_error" || got[2] != "[DONE]" {
		t.Errorf("got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestPing: silences have comments in them, and errors after the first are frames.
func TestPing(t *testing.T) {
	b := says("a", "b")
	b.Hold = make(chan struct{})
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 100, []int32{fake.EOT}
	s := launch(t, serve.Options{KeepAlive: 5 * time.Millisecond})
	s.server.SetReady(b)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	response, err := s.send(ctx, "POST", "/v1/chat/completions", chat("Hi", object{"stream": true}))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	ping := make([]byte, len(": ping\n\n"))
	if _, err := io.ReadFull(response.Body, ping); err != nil || string(ping) != ": ping\n\n" {
		t.Fatalf("got %q %v", ping, err)
	}
	b.Hold <- struct{}{}
	b.Hold <- struct{}{}
	rest, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := frames(t, string(rest)); len(got) != 4 || got[3] != "[DONE]" {
		t.Errorf("got %q", got)
	}
}
