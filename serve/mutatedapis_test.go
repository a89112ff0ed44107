package serve_test

import (
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"testing"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// spoil changes a body in one to three places: a value for another, bytes, a part doubled or taken away.
func spoil(r *rand.Rand, body string) string {
	scraps := []string{"null", "true", "-1", "0", "1.5", "1e999", "NaN", "-Infinity", "99999999999999999999", `"x"`, `""`, `"\ud800"`, `"NaN"`, "[]", "{}",
		`[null]`, `[[1]]`, `{"a":{}}`, "\xff", "\x00", strings.Repeat("[", 200), `{"type":"text"}`, `[{"role":"user"}]`, `"` + strings.Repeat("y", 3000) + `"`}
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

// TestMutatedAPIs: ten thousand spoilt requests to Anthropic's and Ollama's addresses are 4xx in the protocol's shape and
// mostly name a field, or are valid after all.
func TestMutatedAPIs(t *testing.T) {
	b := &fake.Backend{Script: func(string) ([]string, error) { return []string{"a", "é", "c"}, nil }}
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 2000, []int32{fake.EOT}
	log := &logs{}
	server, err := serve.New(serve.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetReady(b)
	handler := server.Handler()
	const tools = `"tools":[{"name":"f","description":"d","input_schema":{"type":"object","properties":{"a":{"type":"string"}}}}]`
	seeds := []struct{ path, body string }{
		{"/v1/messages", `{"model":"m","max_tokens":9,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":"hi"}],"temperature":0.5,"top_k":3,"top_p":0.9,"stop_sequences":["z"],"stream":true,"metadata":{"user_id":"u"}}`},
		{"/v1/messages", `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"text","text":"q"}]},{"role":"assistant","content":[{"type":"tool_use","id":"i","name":"f","input":{"a":"1"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"i","content":[{"type":"text","text":"r"}],"is_error":true}]}],` + tools + `,"tool_choice":{"type":"auto","disable_parallel_tool_use":true}}`},
		{"/v1/messages/count_tokens", `{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"so"}],"system":"s",` + tools + `}`},
		{"/api/chat", `{"model":"fake","messages":[{"role":"system","content":"s"},{"role":"user","content":"q","images":[]}],"stream":false,"keep_alive":"5m","think":false,"options":{"temperature":0.5,"top_k":3,"top_p":0.9,"min_p":0.1,"seed":7,"num_predict":5,"num_ctx":100,"stop":["z"],"repeat_penalty":1.1},"logprobs":true,"top_logprobs":2}`},
		{"/api/chat", `{"model":"fake","messages":[{"role":"assistant","content":"","tool_calls":[{"id":"i","function":{"name":"f","arguments":{"a":1}}}]},{"role":"tool","content":"r","tool_name":"f"}],"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}]}`},
		{"/api/generate", `{"model":"fake","prompt":"p","system":"s","raw":false,"stream":true,"images":[],"options":{"num_predict":-1,"frequency_penalty":0.1,"presence_penalty":0.1},"context":[1,2]}`},
		{"/api/show", `{"model":"fake","verbose":true}`},
		{"/api/pull", `{"name":"fake","stream":true}`},
	}
	random := rand.New(rand.NewPCG(20261123, 4))
	statuses, named := map[int]int{}, 0
	for i := range 10_000 {
		seed := seeds[i%len(seeds)]
		body := seed.body
		if i >= len(seeds) {
			body = spoil(random, body)
		}
		r := httptest.NewRequest("POST", "http://localhost"+seed.path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		statuses[w.Code]++
		if w.Code == 200 {
			continue
		}
		if i < len(seeds) || w.Code < 400 || w.Code >= 500 {
			t.Fatalf("request %d: %s %q: %d %s", i, seed.path, body, w.Code, w.Body)
		}
		var answer struct {
			Type  string
			Error json.RawMessage
		}
		var theirs struct{ Type, Message string }
		text := ""
		err := json.Unmarshal(w.Body.Bytes(), &answer)
		if strings.HasPrefix(seed.path, "/v1") {
			if err == nil {
				err = json.Unmarshal(answer.Error, &theirs)
			}
			if text = theirs.Message; answer.Type != "error" || theirs.Type == "" {
				t.Fatalf("request %d: %s %q: %d %s", i, seed.path, body, w.Code, w.Body)
			}
		} else if err == nil {
			err = json.Unmarshal(answer.Error, &text)
		}
		if err != nil || text == "" {
			t.Fatalf("request %d: %s %q: %d %s (%v)", i, seed.path, body, w.Code, w.Body, err)
		}
		if name, _, found := strings.Cut(text, ":"); found && !strings.Contains(name, " ") {
			named++
		}
	}
	t.Logf("statuses %v; %d errors name a field", statuses, named)
	if statuses[200] < 1000 || statuses[400] < 3000 || named < statuses[400]*3/4 {
		t.Errorf("the mutations reach too little: %v, %d named", statuses, named)
	}
	if strings.Contains(log.String(), "panic") {
		t.Errorf("panics: %s", log.String())
	}
}
