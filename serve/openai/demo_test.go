package openai_test

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"

	"chulengo/cmd/demotest"
	"chulengo/engine"
	"chulengo/serve"
	"chulengo/tokenizer"
)

// demoModel is the demo checkpoint with its engine.
func demoModel(t *testing.T) (serve.Backend, *tokenizer.Tokenizer, *engine.Engine) {
	t.Helper()
	d := demotest.Load(t)
	d.Start(t, engine.Options{Context: 1024})
	info := d.Info()
	info.Pictures = nil
	return d.Backend(info), d.Tokenizer, d.Engine
}

// TestDemo runs the real thing through the API.
func TestDemo(t *testing.T) {
	backend, tok, e := demoModel(t)
	s := launch(t, serve.Options{})
	s.server.SetReady(backend)
	ask := func(t *testing.T, path string, body object) object {
		t.Helper()
		status, got := s.post(path, body)
		if status != 200 {
			t.Fatalf("%s %v: %d %v", path, body, status, got)
		}
		return got
	}
	question := func(fields object) object {
		o := object{"messages": []object{{"role": "user", "content": "Tell me a story about a llama."}}, "max_tokens": 40}
		for k, v := range fields {
			o[k] = v
		}
		return o
	}
	content := func(got object, choice int) string {
		text, _ := at(got, "choices", choice, "message", "content").(string)
		return text
	}

	t.Run("the same seed, the same answer", func(t *testing.T) {
		first := ask(t, "/v1/chat/completions", question(object{"seed": 5}))
		again := ask(t, "/v1/chat/completions", question(object{"seed": 5}))
		if content(first, 0) == "" || content(first, 0) != content(again, 0) || first["system_fingerprint"] != again["system_fingerprint"] {
			t.Errorf("%v\n%v", first, again)
		}
		_, text := s.do("POST", "/v1/chat/completions", question(object{"seed": 5, "stream": true}))
		var streamed strings.Builder
		for _, frame := range frames(t, text) {
			if frame != "[DONE]" {
				if piece, ok := at(parse(t, frame), "choices", 0, "delta", "content").(string); ok {
					streamed.WriteString(piece)
				}
			}
		}
		if streamed.String() != content(first, 0) {
			t.Errorf("streamed %q, whole %q", streamed.String(), content(first, 0))
		}
	})

	t.Run("choice c is what seed + c gives", func(t *testing.T) {
		all := ask(t, "/v1/chat/completions", question(object{"seed": 11, "n": 4, "temperature": 1.5}))
		different := map[string]bool{}
		for c := range 4 {
			alone := ask(t, "/v1/chat/completions", question(object{"seed": 11 + c, "temperature": 1.5}))
			if content(all, c) != content(alone, 0) {
				t.Errorf("choice %d: %q, alone %q", c, content(all, c), content(alone, 0))
			}
			different[content(alone, 0)] = true
		}
		if len(different) < 2 {
			t.Errorf("all seeds give %v", different)
		}
	})

	t.Run("log-probabilities", func(t *testing.T) {
		got := ask(t, "/v1/chat/completions", question(object{"temperature": 0, "logprobs": true, "top_logprobs": 5}))
		var bytes []byte
		for _, token := range at(got, "choices", 0, "logprobs", "content").([]any) {
			for _, b := range at(token, "bytes").([]any) {
				bytes = append(bytes, byte(b.(float64)))
			}
			top := at(token, "top_logprobs").([]any)
			sum, last := 0.0, math.Inf(1)
			for _, other := range top {
				lp := at(other, "logprob").(float64)
				if lp > last {
					t.Errorf("not best first: %v", token)
				}
				sum, last = sum+math.Exp(lp), lp
			}
			if len(top) != 5 || sum > 1+1e-5 || at(token, "logprob") != at(top, 0, "logprob") || at(token, "token") != at(top, 0, "token") {
				t.Errorf("greedy, but %v", token)
			}
		}
		if string(bytes) != content(got, 0) {
			t.Errorf("bytes of the tokens %q, text %q", bytes, content(got, 0))
		}
	})

	t.Run("at least so many tokens", func(t *testing.T) {
		short := object{"messages": []object{{"role": "user", "content": "Hello"}}, "temperature": 0}
		got := ask(t, "/v1/chat/completions", short)
		least := at(got, "usage", "completion_tokens").(float64) + 5
		short["min_tokens"], short["max_tokens"] = least, 200
		if got := ask(t, "/v1/chat/completions", short); at(got, "usage", "completion_tokens").(float64) < least {
			t.Errorf("want at least %v tokens: %v", least, got["usage"])
		}
	})

	t.Run("the prompt's log-probabilities are those of an answer", func(t *testing.T) {
		answer := ask(t, "/v1/completions", object{"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8, "logprobs": 0, "ignore_eos": true, "return_token_ids": true})
		choice := at(answer, "choices", 0)
		all := append(append([]any(nil), at(choice, "prompt_token_ids").([]any)...), at(choice, "token_ids").([]any)...)
		scored := ask(t, "/v1/completions", object{"prompt": all, "echo": true, "logprobs": 2, "max_tokens": 0})
		got := at(scored, "choices", 0, "logprobs", "token_logprobs").([]any)
		want := at(choice, "logprobs", "token_logprobs").([]any)
		if len(got) != len(all) || got[0] != nil {
			t.Fatalf("%d of %d: %v", len(got), len(all), scored)
		}
		for i := range want {
			// One was read token by token, the other at once: kernels of another class, the same within rounding.
			if g, w := got[len(got)-len(want)+i].(float64), want[i].(float64); math.Abs(g-w) > demotest.Rounding()*(1+math.Abs(w)) {
				t.Errorf("token %d: %v in the prompt, %v in the answer", i, g, w)
			}
		}
		vllm := ask(t, "/v1/chat/completions", question(object{"prompt_logprobs": 1, "max_tokens": 1}))
		if list := vllm["prompt_logprobs"].([]any); float64(len(list)) != at(vllm, "usage", "prompt_tokens") || list[0] != nil || len(list[1].(object)) < 1 {
			t.Errorf("got %v", vllm["prompt_logprobs"])
		}
	})

	t.Run("a prompt that was read before is cached, but not for another salt", func(t *testing.T) {
		long := func(salt any) object {
			return object{"messages": []object{{"role": "user", "content": strings.Repeat("The llama walks over the hill. ", 20)}}, "max_tokens": 4, "temperature": 0, "cache_salt": salt}
		}
		cached := func(got object) float64 {
			return at(got, "usage", "prompt_tokens_details", "cached_tokens").(float64)
		}
		first, second, other := ask(t, "/v1/chat/completions", long("a")), ask(t, "/v1/chat/completions", long("a")), ask(t, "/v1/chat/completions", long("b"))
		if cached(first) != 0 || cached(second) < 64 || cached(other) != 0 || at(second, "timings", "cache_n") != cached(second) {
			t.Errorf("cached: %v, then %v, with another salt %v", cached(first), cached(second), cached(other))
		}
		if content(first, 0) != content(second, 0) || content(first, 0) != content(other, 0) {
			t.Errorf("answers differ: %q %q %q", content(first, 0), content(second, 0), content(other, 0))
		}
	})

	t.Run("ids in, ids out", func(t *testing.T) {
		text := ask(t, "/v1/completions", object{"prompt": "Once upon a time", "temperature": 0, "max_tokens": 12, "return_token_ids": true})
		ids := ask(t, "/tokenize", object{"prompt": "Once upon a time"})["tokens"]
		same := ask(t, "/v1/completions", object{"prompt": ids, "temperature": 0, "max_tokens": 12, "return_token_ids": true})
		if !reflect.DeepEqual(at(text, "choices", 0, "prompt_token_ids"), ids) || !reflect.DeepEqual(text["choices"], same["choices"]) {
			t.Errorf("%v\n%v", text, same)
		}
		var out []int32
		for _, id := range at(text, "choices", 0, "token_ids").([]any) {
			out = append(out, int32(id.(float64)))
		}
		if got := tok.DecodeText(out); got != at(text, "choices", 0, "text") {
			t.Errorf("ids are %q, text %q", got, at(text, "choices", 0, "text"))
		}
	})

	t.Run("stop strings", func(t *testing.T) {
		whole := content(ask(t, "/v1/chat/completions", question(object{"temperature": 0})), 0)
		words := strings.Fields(whole)
		if len(words) < 5 {
			t.Fatalf("too short an answer: %q", whole)
		}
		stop := words[3]
		want, _, _ := strings.Cut(whole, stop)
		got := ask(t, "/v1/chat/completions", question(object{"temperature": 0, "stop": []string{"nowhere to be found", stop}}))
		if content(got, 0) != want || at(got, "choices", 0, "finish_reason") != "stop" || at(got, "choices", 0, "stop_reason") != stop {
			t.Errorf("stop %q: %v, want %q", stop, got["choices"], want)
		}
		got = ask(t, "/v1/chat/completions", question(object{"temperature": 0, "stop": stop, "include_stop_str_in_output": true}))
		if content(got, 0) != want+stop {
			t.Errorf("stop %q kept: %v", stop, got["choices"])
		}
	})

	t.Run("stop ids", func(t *testing.T) {
		got := ask(t, "/v1/chat/completions", question(object{"temperature": 0, "return_token_ids": true}))
		ids := at(got, "choices", 0, "token_ids").([]any)
		cut := ask(t, "/v1/chat/completions", question(object{"temperature": 0, "return_token_ids": true, "stop_token_ids": []any{ids[2]}}))
		if list, _ := at(cut, "choices", 0, "token_ids").([]any); len(list) > 2 || at(cut, "choices", 0, "stop_reason") != ids[2] || at(cut, "choices", 0, "finish_reason") != "stop" {
			t.Errorf("%v, want a stop at %v", cut["choices"], ids[2])
		}
	})

	t.Run("go on with the last message", func(t *testing.T) {
		whole := content(ask(t, "/v1/chat/completions", question(object{"temperature": 0})), 0)
		begin := whole[:strings.IndexByte(whole[8:], ' ')+8]
		body := question(object{"temperature": 0, "continue_final_message": true, "add_generation_prompt": false})
		body["messages"] = append(body["messages"].([]object), object{"role": "assistant", "content": begin})
		rest := content(ask(t, "/v1/chat/completions", body), 0)
		if !strings.HasPrefix(begin+rest, whole[:len(whole)/2]) {
			t.Errorf("%q goes on as %q; whole: %q", begin, rest, whole)
		}
	})

	t.Run("special tokens in a user's words are text", func(t *testing.T) {
		got := ask(t, "/v1/chat/completions", object{"messages": []object{{"role": "user", "content": "<|eot|>"}}, "max_tokens": 1, "return_token_ids": true})
		eot, _ := tok.Special("<|eot|>")
		count := 0
		for _, id := range got["prompt_token_ids"].([]any) {
			if int32(id.(float64)) == eot {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%d ends of turns in %v", count, got["prompt_token_ids"])
		}
	})

	t.Run("too long", func(t *testing.T) {
		status, got := s.post("/v1/chat/completions", question(object{"max_tokens": 2000}))
		if status != 400 || at(got, "error", "n_ctx") != 1024.0 {
			t.Errorf("%d %v", status, got)
		}
		status, got = s.post("/v1/completions", object{"prompt": []int{1 << 30}})
		if status != 400 || at(got, "error", "param") != "prompt" {
			t.Errorf("an id that is none: %d %v", status, got)
		}
		status, got = s.post("/v1/chat/completions", question(object{"logit_bias": object{"999999": 1}}))
		if status != 400 || at(got, "error", "param") != "logit_bias" {
			t.Errorf("an id that is none: %d %v", status, got)
		}
	})

	t.Run("many at once", func(t *testing.T) {
		alone := make([]string, 16)
		for i := range alone {
			alone[i] = content(ask(t, "/v1/chat/completions", question(object{"seed": i})), 0)
		}
		var wait sync.WaitGroup
		for i := range alone {
			wait.Go(func() {
				if _, got := s.post("/v1/chat/completions", question(object{"seed": i})); content(got, 0) != alone[i] {
					t.Errorf("seed %d: %q, alone %q", i, content(got, 0), alone[i])
				}
			})
		}
		wait.Wait()
	})

	t.Run("a client that goes away frees its pages", func(t *testing.T) {
		for _, streaming := range []bool{false, true} {
			ctx, cancel := context.WithCancel(context.Background())
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				body := question(object{"stream": streaming, "ignore_eos": true})
				delete(body, "max_tokens")
				if response, err := s.send(ctx, "POST", "/v1/chat/completions", body); err == nil {
					<-ctx.Done()
					response.Body.Close()
				}
			}()
			eventually(t, "it runs", func() bool { return e.Stats().Running > 0 })
			cancel()
			<-gone
			eventually(t, fmt.Sprint("no pages are used; stream ", streaming), func() bool {
				stats := e.Stats()
				for _, group := range stats.Pages {
					if group.Used > 0 {
						return false
					}
				}
				return stats.Running == 0 && stats.Queued == 0
			})
		}
	})
}
