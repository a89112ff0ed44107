package serve_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// The shapes of errors: what each protocol's clients read.
func kindOpenAI(o object) string {
	e, _ := o["error"].(object)
	kind, _ := e["type"].(string)
	if _, ok := e["message"].(string); !ok || len(o) != 1 {
		return "no error of OpenAI's"
	}
	return kind
}

func kindAnthropic(o object) string {
	e, _ := o["error"].(object)
	kind, _ := e["type"].(string)
	if _, ok := e["message"].(string); !ok || o["type"] != "error" || len(o) != 2 {
		return "no error of Anthropic's"
	}
	return kind
}

func kindOllama(o object) string {
	if text, ok := o["error"].(string); !ok || text == "" || len(o) != 1 {
		return "no error of Ollama's"
	} else if strings.ContainsFunc(text, func(r rune) bool { return r > 0x2000 }) {
		return "not English"
	}
	return ""
}

// TestErrorsOutsideHandlers: whatever goes wrong before, around and inside a protocol's handlers has the protocol's shape,
// under a base path too.
func TestErrorsOutsideHandlers(t *testing.T) {
	const key = "the-key"
	panics := &fake.Backend{Script: func(string) ([]string, error) { panic("a mistake") }}
	panics.Model.Name = "fake"
	s := ready(t, serve.Options{BasePath: "/llm", APIKeys: []string{key}, BodyLimit: 1 << 10}, panics) // programs: 16 KiB
	limited := ready(t, serve.Options{BasePath: "/llm", RateLimit: 1e-6, RateBurst: 1}, says("x"))
	loading := launch(t, serve.Options{BasePath: "/llm"})
	huge := `{"x":"` + strings.Repeat("x", 20<<10) + `"}`
	const ask = `{"model":"fake","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}`
	for _, protocol := range []struct {
		path, kind string
		of         func(object) string
		kinds      map[int]string
	}{
		{"/llm/v1/messages", "anthropic", kindAnthropic, map[int]string{401: "authentication_error", 403: "permission_error", 404: "not_found_error",
			405: "invalid_request_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 503: "overloaded_error"}},
		{"/llm/v1/chat/completions", "openai", kindOpenAI, map[int]string{401: "authentication_error", 403: "permission_error", 404: "not_found_error",
			405: "invalid_request_error", 413: "invalid_request_error", 429: "rate_limit_error", 500: "server_error", 503: "unavailable_error"}},
		{"/llm/api/chat", "ollama", kindOllama, nil},
	} {
		missing := protocol.path + "/nothing"
		if protocol.kind == "ollama" {
			missing = "" // Ollama's addresses lie among the page's own
		}
		for _, c := range []struct {
			what, url, method, path, body, key, host string
			want                                     int
		}{
			{"no key", s.url, "POST", protocol.path, ask, "", "", 401},
			{"a wrong key", s.url, "POST", protocol.path, ask, "wrong", "", 401},
			{"a strange host", s.url, "POST", protocol.path, ask, key, "evil.example", 403},
			{"no such address", s.url, "POST", missing, ask, key, "", 404},
			{"a wrong method", s.url, "PUT", protocol.path, ask, key, "", 405},
			{"too large", s.url, "POST", protocol.path, huge, key, "", 413},
			{"a panic", s.url, "POST", protocol.path, ask, key, "", 500},
			{"loading", loading.url, "POST", protocol.path, ask, "", "", 503},
			{"once", limited.url, "POST", protocol.path, "{", "", "", 0},
			{"too often", limited.url, "POST", protocol.path, ask, "", "", 429},
		} {
			if c.path == "" {
				continue
			}
			r, err := http.NewRequest(c.method, c.url+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			if c.key != "" {
				r.Header.Set("X-Api-Key", c.key)
			}
			if c.host != "" {
				r.Host = c.host
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if c.want == 0 {
				continue
			}
			var o object
			err = json.Unmarshal(text, &o)
			if response.StatusCode != c.want || err != nil || protocol.of(o) != protocol.kinds[c.want] || bytes.Contains(text, []byte("a mistake")) {
				t.Errorf("%s, %s: %d %s", protocol.kind, c.what, response.StatusCode, text)
			}
			h := response.Header
			if (c.want == 429 || c.want == 503) != (h.Get("Retry-After") != "") || c.want == 401 && h.Get("WWW-Authenticate") != "Bearer" ||
				c.want == 405 && h.Get("Allow") == "" || h.Get("Cache-Control") != "no-store" || h.Get("X-Request-Id") == "" {
				t.Errorf("%s, %s: header %v", protocol.kind, c.what, h)
			}
		}
	}
	if log := s.log.String(); strings.Count(log, "a mistake") < 3 {
		t.Errorf("the panics are not in the log:\n%s", log)
	}
}
