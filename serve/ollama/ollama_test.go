package ollama_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
	"chulengo/serve/ollama"
)

func TestWants(t *testing.T) {
	for text, want := range map[string]bool{
		`{"user_input":"x"}`: false, `{"user_input":"x","model":"m","prompt":"p"}`: false, `{}`: false, `{"stream":true}`: false,
		`{"model":"m"}`: true, `{"prompt":"p"}`: true, `{"model":"m","prompt":"p"}`: true, `[`: false, `[]`: false, ``: false,
	} {
		if ollama.Wants([]byte(text)) != want {
			t.Errorf("Wants(%s) = %v", text, !want)
		}
	}
}

func site(t *testing.T) string {
	t.Helper()
	server, err := serve.New(serve.Options{Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	b := &fake.Backend{Script: func(string) ([]string, error) { return []string{"Hel", "lo"}, nil }}
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 2000, []int32{fake.EOT}
	server.SetReady(b)
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		web.Close()
		server.Close()
	})
	return web.URL
}

func do(t *testing.T, method, url, body string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(text)
}

type line struct {
	Model, Response string
	Message         struct{ Role, Content string }
	Done            bool
	DoneReason      string `json:"done_reason"`
	EvalCount       int    `json:"eval_count"`
	Total           int64  `json:"total_duration"`
}

func TestAnswers(t *testing.T) {
	url := site(t)
	for _, c := range []struct{ path, body, reason string }{
		{"/api/chat", `{"model":"fake:latest","messages":[{"role":"user","content":"hi"}]}`, "stop"},
		{"/api/generate", `{"model":"fake","prompt":"hi"}`, "stop"},
		{"/api/generate", `{"model":"fake","prompt":"hi","options":{"num_predict":2}}`, "length"},
		{"/api/chat", `{"model":"fake","messages":[{"role":"user","content":"hi"}],"stream":false}`, "stop"},
		{"/api/generate", `{"prompt":"hi","system":"s","stream":false}`, "stop"},
	} {
		r, text := do(t, "POST", url+c.path, c.body)
		media := "application/x-ndjson"
		if strings.Contains(c.body, `"stream":false`) {
			media = "application/json"
		}
		said := ""
		var last line
		for one := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			last = line{}
			if err := json.Unmarshal([]byte(one), &last); err != nil || last.Model != "fake" {
				t.Fatalf("%s: %q", c.body, one)
			}
			said += last.Response + last.Message.Content
		}
		if said != "Hello" || !last.Done || last.DoneReason != c.reason || last.EvalCount < 2 || last.Total <= 0 || !strings.HasPrefix(r.Header.Get("Content-Type"), media) {
			t.Errorf("%s: %s", c.body, text)
		}
	}
	if _, text := do(t, "POST", url+"/api/chat", `{"model":"fake"}`); !strings.Contains(text, `"done_reason":"load"`) {
		t.Error(text)
	}
	// The tutorial's own question, and one without any field.
	if _, text := do(t, "POST", url+"/api/generate", `{"user_input":"x","model":"m"}`); !strings.Contains(text, `"max_history_length"`) {
		t.Error(text)
	}
	if r, text := do(t, "POST", url+"/api/generate", `{}`); r.StatusCode != 400 || !strings.Contains(text, "请输入问题") {
		t.Error(text)
	}
}

func TestLists(t *testing.T) {
	url := site(t)
	for path, want := range map[string]string{"/api/tags": `"name":"fake"`, "/api/ps": `"expires_at"`, "/api/version": `{"version":"v1"}`} {
		if r, text := do(t, "GET", url+path, ""); r.StatusCode != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %s", path, text)
		}
	}
	if r, text := do(t, "POST", url+"/api/show", `{"model":"fake"}`); r.StatusCode != 200 || !strings.Contains(text, `"llama4.context_length":2000`) {
		t.Error(text)
	}
	for body, want := range map[string]int{`{"model":"other"}`: 404, `{"model":3}`: 400} {
		if r, text := do(t, "POST", url+"/api/show", body); r.StatusCode != want || !strings.Contains(text, "model") {
			t.Errorf("%s: %d %s", body, r.StatusCode, text)
		}
	}
}

func TestErrors(t *testing.T) {
	url := site(t)
	for body, field := range map[string]string{
		`{`:                           "not valid JSON",
		`{"model":"m","messages":5}`:  "messages",
		`{"messages":[5]}`:            "messages[0]",
		`{"messages":[{"role":"x"}]}`: "messages[0].role",
		`{"messages":[{"role":"user","content":5}]}`:                                "messages[0].content",
		`{"messages":[{"role":"user","content":"a","images":["?"]}]}`:               "messages[0].images[0]",
		`{"messages":[{"role":"user","content":"a"}],"options":{"temperature":-1}}`: "options.temperature",
		`{"messages":[{"role":"user","content":"a"}],"options":5}`:                  "options",
		`{"messages":[{"role":"user","content":"a"}],"format":"xml"}`:               "format",
		`{"messages":[{"role":"user","content":"a"}],"tools":[{}]}`:                 "tools[0].function",
		`{"messages":[{"role":"user","content":"a"}],"stream":"yes"}`:               "stream",
	} {
		r, text := do(t, "POST", url+"/api/chat", body)
		var e struct{ Error string }
		if err := json.Unmarshal([]byte(text), &e); err != nil || r.StatusCode != 400 || !strings.Contains(e.Error, field) {
			t.Errorf("%s: %d %s, want %s", body, r.StatusCode, text, field)
		}
	}
}
