package serve_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"chulengo/engine"
	"chulengo/serve"
)

// endless are requests for answers without an end, in every protocol.
func endless(prompt string, stream bool) map[string]object {
	messages := []object{{"role": "user", "content": prompt}}
	return map[string]object{
		"/v1/chat/completions": {"messages": messages, "ignore_eos": true, "stream": stream},
		"/v1/completions":      {"prompt": prompt, "ignore_eos": true, "stream": stream, "max_tokens": 2000},
		"/v1/messages":         {"messages": messages, "max_tokens": 30000, "temperature": 1, "stream": stream},
		"/api/chat":            {"messages": messages, "options": object{"temperature": 5}, "stream": stream},
		"/api/generate":        {"prompt": prompt, "raw": true, "options": object{"temperature": 5}, "stream": stream},
	}
}

// TestEndsFreePages: an answer that takes too long, or whose client goes away, gives its pages back within one step, while
// its prompt is read as well.
func TestEndsFreePages(t *testing.T) {
	patient, pe := demoSite(t, serve.Options{BodyLimit: 1 << 20}, engine.Options{NoPrefixCache: true})
	long := strings.Repeat("The llama went up the mountain and came down again. ", 2200)
	timeout := 150 * time.Millisecond
	for range 2 { // first times take longer
		began := time.Now()
		if status, body := patient.program().post("/v1/completions", object{"prompt": long[:len(long)/20], "max_tokens": 1}); status != 200 {
			t.Fatalf("%d %.300s", status, body)
		}
		timeout = min(timeout, 5*time.Since(began)) // the prompt takes longer to read than it may, on a GPU, too
	}
	s, e := demoSite(t, serve.Options{AnswerTimeout: timeout, BodyLimit: 1 << 20}, engine.Options{NoPrefixCache: true})
	freed := func(t *testing.T, e *engine.Engine) {
		t.Helper()
		// The step that ran when the request ended, and at most the one that was being prepared.
		before := e.Stats().Steps
		eventually(t, "the pages are free", func() bool { return pagesUsed(e) == 0 })
		if steps := e.Stats().Steps - before; steps > 1 {
			t.Errorf("the pages were free after %d steps", steps)
		}
	}
	for _, stream := range []bool{false, true} {
		for what, prompt := range map[string]string{"reading": long, "answering": "Tell me a story."} {
			for path, body := range endless(prompt, stream) {
				t.Run(fmt.Sprintf("%s %s stream %v", what, strings.Trim(path, "/"), stream), func(t *testing.T) {
					// Too long.
					began := time.Now()
					c := s.program()
					response, err := c.http.Do(c.request(t.Context(), "POST", path, body))
					if err != nil {
						t.Fatal(err)
					}
					text, _ := io.ReadAll(response.Body)
					response.Body.Close()
					freed(t, e)
					if took := time.Since(began); took < timeout && !strings.Contains(string(text), "done") && !strings.Contains(string(text), "end_turn") {
						t.Errorf("it ended after %v", took)
					}
					ended := strings.Contains(string(text), "longer than this server allows")
					early := what == "answering" && (strings.Contains(string(text), `"stop"`) || strings.Contains(string(text), "end_turn")) // by itself
					if want := 504; !ended && !early || (response.StatusCode == want) != (ended && (what == "reading" || !stream)) {
						t.Errorf("too long: %d %.300s", response.StatusCode, text)
					}

					// Gone.
					ctx, leave := context.WithCancel(t.Context())
					done := make(chan struct{})
					c = patient.program()
					go func() {
						defer close(done)
						if response, err := c.http.Do(c.request(ctx, "POST", path, body)); err == nil {
							io.Copy(io.Discard, response.Body)
							response.Body.Close()
						}
					}()
					eventually(t, "it runs", func() bool { return pe.Stats().Running == 1 && pagesUsed(pe) > 0 })
					leave()
					<-done
					eventually(t, "the pages are free", func() bool { return pagesUsed(pe) == 0 && pe.Stats().Running == 0 })
				})
			}
		}
	}
}

// TestBodyLimit: the page may send so much, programs sixteen times as much, with or without a length.
func TestBodyLimit(t *testing.T) {
	const limit = 4 << 10
	b := says("x")
	b.Model.Name = "fake"
	s := ready(t, serve.Options{BodyLimit: limit}, b)
	for _, c := range []struct {
		path, body string // body with %s where text grows
		limit      int
	}{
		{"/api/generate", `{"user_input":"%s"}`, limit},
		{"/api/stop", `{"chat_id":"","x":"%s"}`, limit},
		{"/api/generate", `{"prompt":"%s","model":"fake"}`, 16 * limit},
		{"/api/chat", `{"messages":[{"role":"user","content":"%s"}]}`, 16 * limit},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"%s"}]}`, 16 * limit},
		{"/v1/completions", `{"prompt":"%s","max_tokens":1}`, 16 * limit},
		{"/v1/messages", `{"max_tokens":1,"messages":[{"role":"user","content":"%s"}]}`, 16 * limit},
		{"/v1/messages/count_tokens", `{"messages":[{"role":"user","content":"%s"}]}`, 16 * limit},
		{"/tokenize", `{"content":"%s"}`, 16 * limit},
	} {
		for _, over := range []int{0, 1} {
			for _, length := range []bool{true, false} {
				body := fmt.Sprintf(c.body, strings.Repeat("x", c.limit+over-len(c.body)+len("%s")))
				var reader io.Reader = strings.NewReader(body)
				if !length {
					reader = struct{ io.Reader }{reader} // chunked
				}
				response, err := http.Post(s.url+c.path, "application/json", reader)
				if err != nil {
					t.Fatal(err)
				}
				text, _ := io.ReadAll(response.Body)
				response.Body.Close()
				if want := []int{200, 413}[over]; response.StatusCode != want {
					t.Errorf("%s, %d bytes, length %v: %d %.200s, want %d", c.path, len(body), length, response.StatusCode, text, want)
				}
			}
		}
	}
}

// TestBasePath: every protocol lies under it, and nothing beside it.
func TestBasePath(t *testing.T) {
	b := says("hi")
	b.Model.Name = "fake"
	s := ready(t, serve.Options{BasePath: "/a/b"}, b)
	messages := []object{{"role": "user", "content": "x"}}
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"GET", "/", nil}, {"GET", "/health", nil}, {"GET", "/readyz", nil}, {"GET", "/version", nil}, {"GET", "/metrics", nil}, {"GET", "/api/status", nil},
		{"GET", "/v1/models", nil}, {"POST", "/v1/chat/completions", object{"messages": messages}}, {"POST", "/v1/completions", object{"prompt": "x"}},
		{"POST", "/v1/messages", object{"messages": messages, "max_tokens": 5}}, {"POST", "/v1/messages/count_tokens", object{"messages": messages}},
		{"GET", "/api/tags", nil}, {"GET", "/api/ps", nil}, {"GET", "/api/version", nil}, {"POST", "/api/show", object{"model": "fake"}},
		{"POST", "/api/chat", object{"messages": messages}}, {"POST", "/api/generate", object{"prompt": "x"}}, {"POST", "/api/generate", object{"user_input": "x"}},
		{"POST", "/tokenize", object{"content": "x"}},
	} {
		p := s.program()
		for base, want := range map[string]int{"/a/b": 200, "": 404, "/a": 404} {
			response, err := p.http.Do(p.request(t.Context(), c.method, base+c.path, c.body))
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%s %s%s: %d, want %d", c.method, base, c.path, response.StatusCode, want)
			}
		}
	}
}

// TestRateByAddress: without keys every address has its own bucket, as a trusted proxy tells it.
func TestRateByAddress(t *testing.T) {
	s := ready(t, serve.Options{RateLimit: 0.001, RateBurst: 2, TrustedProxies: []string{"127.0.0.1"}}, says("hi"))
	from := func(addr string) int {
		p := s.program()
		p.header.Set("X-Forwarded-For", addr)
		status, _ := p.do("GET", "/api/tags", nil)
		return status
	}
	for i, c := range []struct {
		addr string
		want int
	}{
		{"192.0.2.1", 200}, {"192.0.2.1", 200}, {"192.0.2.1", 429}, {"192.0.2.2", 200},
		{"2001:db8::1", 200}, {"2001:db8::2", 200}, {"2001:db8::3", 429}, {"2001:db8:1::1", 200},
		{"192.0.2.1, 127.0.0.1", 429}, // through a second proxy of ours
	} {
		if got := from(c.addr); got != c.want {
			t.Errorf("request %d, from %s: %d, want %d", i, c.addr, got, c.want)
		}
	}
	for _, path := range []string{"/health", "/", "/api/status", "/api/conversations"} { // a page may look
		p := s.program()
		p.header.Set("X-Forwarded-For", "192.0.2.1")
		for range 5 {
			if status, _ := p.do("GET", path, nil); status != 200 {
				t.Errorf("%s: %d", path, status)
			}
		}
	}
	p := s.program()
	p.header.Set("X-Forwarded-For", "192.0.2.1")
	if status, _ := p.post("/api/generate", object{"user_input": "x"}); status != 429 {
		t.Errorf("a question: %d", status)
	}
}
