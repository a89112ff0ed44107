//go:build unix

package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestServeAccess starts a server with what operators set, and finds every bit of it.
func TestServeAccess(t *testing.T) {
	keys := file(t, "keys.txt", "# of the team\n\n  from-the-file  \nanother\n")
	p := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--verbose", "--base-path", "/llm", "--api-key-file", keys, "--api-key", "on-the-line",
		"--temperature", "100", "--top-p", "1", // nothing ends an answer but its length
		"--answer-timeout", "400ms", "--body-limit", "1", "--rate-limit", "0.001", "--rate-burst", "12", "--max-batch", "1", "--max-queue", "0",
		"--allowed-host", "chat.example.org", "--cors-origin", "https://app.example.org", "--trusted-proxy", "127.0.0.1")
	url := "http://127.0.0.1" + p.until(t, `http://localhost(:\d+)/llm/$`) + "/llm"
	p.until(t, "is ready")
	do := func(key, path, body string, header ...string) (int, string, http.Header) {
		t.Helper()
		method := "GET"
		if body != "" {
			method = "POST"
		}
		r, err := http.NewRequest(method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if key != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		for i := 0; i < len(header); i += 2 {
			if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
				r.Host = header[i+1]
			}
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(text), response.Header
	}
	const chat = `{"messages":[{"role":"user","content":"Tell me a story."}],"ignore_eos":true}`
	for _, c := range []struct {
		what, key, path, body string
		header                []string
		want                  int
		text                  string
	}{
		{"no key", "", "/v1/models", "", nil, 401, "invalid_api_key"},
		{"a comment is no key", "# of the team", "/v1/models", "", nil, 401, "invalid_api_key"},
		{"a key of the file", "from-the-file", "/v1/models", "", nil, 200, "chulengo-demo"},
		{"another", "another", "/api/tags", "", nil, 200, "chulengo-demo"},
		{"the key of the line", "on-the-line", "/metrics", "", nil, 200, "chulengo:num_requests_running"},
		{"no such host", "another", "/v1/models", "", []string{"Host", "evil.example"}, 403, "--allowed-host"},
		{"the host", "another", "/v1/models", "", []string{"Host", "chat.example.org"}, 200, "chulengo-demo"},
		{"the page's limit", "another", "/api/stop", `{"chat_id":"` + strings.Repeat("x", 1<<10) + `"}`, nil, 413, "error"},
		{"the programs' limit", "another", "/v1/completions", `{"prompt":"` + strings.Repeat("x", 16<<10) + `"}`, nil, 413, "16384 bytes"},
		{"too long", "another", "/v1/chat/completions", chat, nil, 504, "timeout_error"},
		{"too long, Anthropic's", "another", "/v1/messages", `{"max_tokens":30000,"messages":[{"role":"user","content":"Sing."}],
			"tools":[{"name":"sing","input_schema":{"type":"object","properties":{"song":{"type":"string","minLength":10000}},"required":["song"]}}],"tool_choice":{"type":"any"}}`, nil, 504, "timeout_error"},
	} {
		status, text, _ := do(c.key, c.path, c.body, c.header...)
		if status != c.want || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %.300s, want %d with %s", c.what, status, text, c.want, c.text)
		}
	}
	if _, _, header := do("another", "/v1/models", "", "Origin", "https://app.example.org"); header.Get("Access-Control-Allow-Origin") != "https://app.example.org" {
		t.Errorf("headers for the other origin: %v", header)
	}

	// One at a time and none in the queue.
	var all sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]int{}
	for range 2 {
		all.Go(func() {
			status, _, _ := do("on-the-line", "/v1/chat/completions", chat)
			mu.Lock()
			defer mu.Unlock()
			seen[status]++
		})
	}
	all.Wait()
	if fmt.Sprint(seen) != "map[503:1 504:1]" {
		t.Errorf("two at a time: %v", seen)
	}
	for range 12 {
		do("from-the-file", "/v1/models", "")
	}
	if status, text, header := do("from-the-file", "/v1/models", ""); status != 429 || header.Get("Retry-After") == "" {
		t.Errorf("too often: %d %s %v", status, text, header)
	}
	p.Process.Signal(syscall.SIGINT)
	began := time.Now()
	if code := p.end(t); code != 0 || time.Since(began) > 30*time.Second {
		t.Errorf("code %d after %v", code, time.Since(began))
	}
	for _, key := range []string{"from-the-file", "another", "on-the-line"} {
		if strings.Contains(p.errout.String(), key) {
			t.Errorf("key %s is in the log", key)
		}
	}
	empty := start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--api-key-file", file(t, "none.txt", "# nobody yet\n"))
	if code := empty.end(t); code != exitUsage || !strings.Contains(empty.errout.String(), "there is no key in") {
		t.Errorf("a file without keys: code %d, %q", code, empty.errout.String())
	}
}
