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
	var tags struct{ Models []struct{ Digest string } }
	if _, text := do(t, "GET", url+"/api/tags", ""); json.Unmarshal([]byte(text), &tags) != nil || len(tags.Models) != 1 || len(tags.Models[0].Digest) != 64 {
		t.Error(text) // the command prints twelve characters of it
	}
	for body, want := range map[string]string{`{"model":"fake"}`: "application/x-ndjson", `{"model":"fake:latest","stream":false}`: "application/json"} {
		if r, text := do(t, "POST", url+"/api/pull", body); strings.TrimSpace(text) != `{"status":"success"}` || !strings.HasPrefix(r.Header.Get("Content-Type"), want) {
			t.Errorf("pull %s: %d %s", body, r.StatusCode, text)
		}
	}
	if r, text := do(t, "POST", url+"/api/pull", `{"model":"other"}`); r.StatusCode != 404 || !strings.Contains(text, `no model \"other\" here`) {
		t.Errorf("pull of another: %d %s", r.StatusCode, text)
	}
	for path, method := range map[string]string{"/api/embed": "POST", "/api/create": "POST", "/api/delete": "DELETE"} {
		if r, text := do(t, method, url+path, `{"model":"fake"}`); r.StatusCode != 501 || !strings.HasPrefix(text, `{"error":"this server chats`) {
			t.Errorf("%s: %d %s", path, r.StatusCode, text)
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
		`{"messages":[{"role":"user","content":5}]}`:                                                   "messages[0].content",
		`{"messages":[{"role":"user","content":"a","images":["?"]}]}`:                                  "messages[0].images[0]",
		`{"messages":[{"role":"user","content":"a"}],"options":{"temperature":-1}}`:                    "options.temperature",
		`{"messages":[{"role":"user","content":"a"}],"options":5}`:                                     "options",
		`{"messages":[{"role":"user","content":"a"}],"format":"xml"}`:                                  "format",
		`{"messages":[{"role":"user","content":"a"}],"tools":[{}]}`:                                    "tools[0].function",
		`{"messages":[{"role":"user","content":"a"}],"stream":"yes"}`:                                  "stream",
		`{"messages":[{"role":"user","content":"a"}],"think":true}`:                                    "think",
		`{"messages":[{"role":"user","content":"a"}],"think":"high"}`:                                  "think",
		`{"messages":[{"role":"user","content":"a"}],"think":3}`:                                       "think",
		`{"messages":[{"role":"user","content":"a"}],"keep_alive":"soon"}`:                             "keep_alive",
		`{"messages":[{"role":"user","content":"a"}],"keep_alive":{}}`:                                 "keep_alive",
		`{"messages":[{"role":"user","content":"a"}],"top_logprobs":3}`:                                "top_logprobs",
		`{"messages":[{"role":"user","content":"a"}],"options":{"num_ctx":"many"}}`:                    "options.num_ctx",
		`{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b","images":["aGk="]}]}`: "messages[1].images[0]",
		`{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"x"}}]}]}`: "messages[0].tool_calls[0].function.arguments",
		`{"messages":[{"role":"user","content":"` + strings.Repeat("x", 3000) + `"}]}`:                 "messages",
	} {
		r, text := do(t, "POST", url+"/api/chat", body)
		var e struct{ Error string }
		if err := json.Unmarshal([]byte(text), &e); err != nil || r.StatusCode != 400 || !strings.Contains(e.Error, field) {
			t.Errorf("%.90s: %d %s, want %s", body, r.StatusCode, text, field)
		}
	}
	for body, field := range map[string]string{
		`{"prompt":"a","images":["aGk="]}`:                 "images[0]",
		`{"prompt":"` + strings.Repeat("x", 3000) + `"}`:   "prompt",
		`{"prompt":"a","suffix":"b"}`:                      "suffix",
		`{"prompt":7}`:                                     "prompt",
		`{"prompt":"a","options":{"stop":["x",""]}}`:       "options.stop",
		`{"prompt":"a","options":{"num_predict":"a lot"}}`: "options.num_predict",
	} {
		r, text := do(t, "POST", url+"/api/generate", body)
		var e struct{ Error string }
		if err := json.Unmarshal([]byte(text), &e); err != nil || r.StatusCode != 400 || !strings.HasPrefix(e.Error, field+":") {
			t.Errorf("%.60s: %d %s, want %s", body, r.StatusCode, text, field)
		}
	}
}

// TestOptions: what Ollama's clients send besides.
func TestOptions(t *testing.T) {
	url := site(t)
	for body, want := range map[string]string{
		`{"model":"fake"}`:                   `"done_reason":"load"`,
		`{"model":"fake","keep_alive":-1}`:   `"done_reason":"load"`,
		`{"model":"fake","keep_alive":"5m"}`: `"done_reason":"load"`,
		`{"model":"fake","keep_alive":0}`:    `"done_reason":"unload"`,
		`{"model":"fake","keep_alive":"0s"}`: `"done_reason":"unload"`,
		`{"model":"fake","messages":[]}`:     `"done_reason":"load"`,
		`{"messages":[{"role":"user","content":"a"}],"stream":false,"think":false,"keep_alive":"1h","options":{"num_ctx":8192,"repeat_last_n":64,"mirostat":0},"truncate":true}`: `"content":"Hello"`,
		`{"messages":[{"role":"user","content":"a"}],"stream":false,"logprobs":true,"top_logprobs":1}`:                                                                           `"logprobs":[{"bytes":[72,101,108],"logprob":-0.125,"token":"Hel","top_logprobs":[{"bytes":[63],"logprob":-0.125,"token":"?"}]},`,
		`{"messages":[{"role":"user","content":"a"}],"logprobs":true}`:                                                                                                           `"logprobs":[{"bytes":[72,101,108],"logprob":-0.125,"token":"Hel"}]`,
	} {
		if r, text := do(t, "POST", url+"/api/chat", body); r.StatusCode != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s, want %s", body, r.StatusCode, text, want)
		}
	}
}

// TestContentType: curl -d does not say that its body is JSON, which no browser may do unasked.
func TestContentType(t *testing.T) {
	url := site(t)
	for _, c := range []struct {
		path, media, name, value string
		want                     int
	}{
		{"/api/chat", "application/x-www-form-urlencoded", "User-Agent", "curl/8.5.0", 200},
		{"/api/generate", "application/x-www-form-urlencoded", "User-Agent", "curl/8.5.0", 200},
		{"/api/chat", "", "", "", 200},
		{"/api/show", "text/plain", "", "", 200},
		{"/api/chat", "text/plain", "Origin", "https://evil.example", 415},
		{"/api/chat", "text/plain", "Origin", "null", 415},
		{"/api/generate", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site", 415},
		{"/api/chat", "multipart/form-data", "User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/60.0", 415},
		{"/api/chat", "text/plain", "Referer", "https://evil.example/", 415},
		{"/api/pull", "text/plain", "Cookie", "a=b", 415},
		{"/api/chat", "application/json", "Origin", "https://evil.example", 200}, // asked before: the browser would not have sent it
	} {
		r, err := http.NewRequest("POST", url+c.path, strings.NewReader(`{"model":"fake","prompt":"hi","messages":[{"role":"user","content":"hi"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Content-Type": c.media, c.name: c.value} {
			if name != "" && value != "" {
				r.Header.Set(name, value)
			}
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != c.want {
			t.Errorf("%+v: %d", c, response.StatusCode)
		}
	}
	// The tutorial's own requests stay as they are.
	response, err := http.Post(url+"/api/generate", "text/plain", strings.NewReader(`{"user_input":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 400 {
		t.Errorf("the tutorial's question as text/plain: %d", response.StatusCode)
	}
}

// TestGreeting: programs that look for Ollama find it, everybody else the page.
func TestGreeting(t *testing.T) {
	url := site(t)
	for _, c := range []struct {
		method, accept string
		greets         bool
	}{
		{"GET", "application/json", true}, {"HEAD", "application/json", true}, {"GET", "text/plain", true},
		{"GET", "", false}, {"GET", "*/*", false}, {"GET", "text/html,application/xhtml+xml,*/*;q=0.8", false}, {"HEAD", "", false},
	} {
		r, err := http.NewRequest(c.method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.accept != "" {
			r.Header.Set("Accept", c.accept)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		greets := strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain") && (c.method == "HEAD" || string(text) == "Ollama is running")
		if response.StatusCode != 200 || greets != c.greets {
			t.Errorf("%+v: %d %v %.40q", c, response.StatusCode, response.Header, text)
		}
	}
}
