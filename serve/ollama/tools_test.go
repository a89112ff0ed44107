package ollama_test

import (
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

const weather = `"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]`

// says is a server whose model always gives the same pieces.
func says(t *testing.T, pieces ...string) (url string, b *fake.Backend) {
	t.Helper()
	server, err := serve.New(serve.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b = &fake.Backend{Script: func(string) ([]string, error) { return pieces, nil }}
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 2000, []int32{fake.EOT}
	server.SetReady(b)
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		web.Close()
		server.Close()
	})
	return web.URL, b
}

// TestTools: calls come whole, with their arguments as an object, in one line of a stream and in a single answer.
func TestTools(t *testing.T) {
	url, _ := says(t, "Let me see. ", `{"name": "wea`, `ther", "parameters": {"ci`, `ty": "Paris"}}`, "; ", `{"name": "weather", "parameters": {}}`)
	for _, stream := range []string{"true", "false"} {
		_, text := do(t, "POST", url+"/api/chat", `{"model":"fake","messages":[{"role":"user","content":"hi"}],`+weather+`,"stream":`+stream+`}`)
		said := ""
		var arguments []map[string]any
		for row := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			var got struct {
				Message struct {
					Content string
					Calls   []struct {
						Function struct {
							Name      string
							Arguments map[string]any
						}
					} `json:"tool_calls"`
				}
			}
			if err := json.Unmarshal([]byte(row), &got); err != nil {
				t.Fatalf("%v: %s", err, row)
			}
			said += got.Message.Content
			for _, call := range got.Message.Calls {
				if call.Function.Name != "weather" {
					t.Errorf("stream %s: %s", stream, row)
				}
				arguments = append(arguments, call.Function.Arguments)
			}
		}
		if want := []map[string]any{{"city": "Paris"}, {}}; strings.TrimSpace(said) != "Let me see." || !reflect.DeepEqual(arguments, want) {
			t.Errorf("stream %s: said %q, called with %v: %s", stream, said, arguments, text)
		}
	}
}

// TestFormat: a format reaches the engine, and one that cannot be enforced is named.
func TestFormat(t *testing.T) {
	url, b := says(t, "{}")
	for _, format := range []string{`"json"`, `{"type":"object","properties":{"a":{"type":"integer"}}}`} {
		for path, prompt := range map[string]string{"/api/chat": `"messages":[{"role":"user","content":"hi"}]`, "/api/generate": `"prompt":"hi"`} {
			r, text := do(t, "POST", url+path, `{"model":"fake","stream":false,`+prompt+`,"format":`+format+`}`)
			if all := b.Requests(); r.StatusCode != 200 || all[len(all)-1].Constraint == nil {
				t.Errorf("%s %s: %d %s", path, format, r.StatusCode, text)
			}
		}
	}
	n := len(b.Requests())
	if r, text := do(t, "POST", url+"/api/chat", `{"model":"fake","messages":[{"role":"user","content":"hi"}],"format":{"type":"bad"}}`); r.StatusCode != 400 || !strings.Contains(text, "format") {
		t.Errorf("a wrong schema: %d %s", r.StatusCode, text)
	}
	if r, _ := do(t, "POST", url+"/api/chat", `{"model":"fake","messages":[{"role":"user","content":"hi"}],"format":""}`); r.StatusCode != 200 {
		t.Errorf("no format: %d", r.StatusCode)
	}
	if all := b.Requests(); len(all) != n+1 || all[n].Constraint != nil {
		t.Error("what cannot be enforced reached the engine, or no format holds an answer to something")
	}
}
