package anthropic_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// site is a server whose model always says the same.
func site(t *testing.T, pieces ...string) string {
	t.Helper()
	server, err := serve.New(serve.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &fake.Backend{Script: func(string) ([]string, error) { return pieces, nil }}
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 2000, []int32{fake.EOT}
	server.SetReady(b)
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		web.Close()
		server.Close()
	})
	return web.URL
}

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if id := r.Header.Get("Request-Id"); r.StatusCode != 404 && (id == "" || id != r.Header.Get("X-Request-Id")) {
		t.Errorf("the id that Anthropic's clients report: %q", id)
	}
	return r.StatusCode, string(text)
}

func TestMessages(t *testing.T) {
	url := site(t, "Hel", "lo")
	const ask = `{"model":"claude-x","max_tokens":50,"system":"be kind","messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]`
	status, text := post(t, url+"/v1/messages", ask+"}")
	var got struct {
		Type, Role, Model string
		Content           []struct{ Type, Text string }
		StopReason        string `json:"stop_reason"`
		Usage             struct {
			Input  int `json:"input_tokens"`
			Output int `json:"output_tokens"`
		}
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != 200 || got.Type != "message" || got.Role != "assistant" || len(got.Content) != 1 ||
		got.Content[0].Text != "Hello" || got.StopReason != "end_turn" || got.Usage.Output != 3 || got.Usage.Input == 0 {
		t.Errorf("%d %s", status, text)
	}
	status, text = post(t, url+"/v1/messages", ask+`,"stream":true}`)
	var events []string
	said := ""
	for frame := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		head, data, ok := strings.Cut(frame, "\ndata: ")
		name, named := strings.CutPrefix(head, "event: ")
		var v struct {
			Type  string
			Delta struct{ Text string }
		}
		if err := json.Unmarshal([]byte(data), &v); !ok || !named || err != nil || v.Type != name {
			t.Fatalf("frame %q", frame)
		}
		said += v.Delta.Text
		events = append(events, name)
	}
	want := "message_start content_block_start content_block_delta content_block_delta content_block_stop message_delta message_stop"
	if strings.Join(events, " ") != want || said != "Hello" || status != 200 {
		t.Errorf("%d %q: %v", status, said, events)
	}
	if status, text := post(t, url+"/v1/messages/count_tokens", `{"messages":[{"role":"user","content":"hi"}]}`); status != 200 || !strings.HasPrefix(text, `{"input_tokens":`) {
		t.Errorf("%d %s", status, text)
	}
	if _, text := post(t, url+"/v1/messages", `{"max_tokens":1,"messages":[{"role":"user","content":"hi"}]}`); !strings.Contains(text, `"stop_reason":"max_tokens"`) {
		t.Errorf("%s", text)
	}
}

func TestErrors(t *testing.T) {
	url := site(t, "x")
	for body, field := range map[string]string{
		`{`:                "not valid JSON",
		`{"max_tokens":5}`: "messages",
		`{"messages":[{"role":"user","content":"x"}]}`:                                                                     "max_tokens",
		`{"max_tokens":-1,"messages":[{"role":"user","content":"x"}]}`:                                                     "max_tokens",
		`{"max_tokens":5,"messages":[]}`:                                                                                   "messages",
		`{"max_tokens":5,"messages":[7]}`:                                                                                  "messages[0]",
		`{"max_tokens":5,"messages":[{"role":"robot","content":"x"}]}`:                                                     "messages[0].role",
		`{"max_tokens":5,"messages":[{"role":"user","content":5}]}`:                                                        "messages[0].content",
		`{"max_tokens":5,"messages":[{"role":"user","content":[{"type":"image"}]}]}`:                                       "messages[0].content[0].source",
		`{"max_tokens":5,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"?"}}]}]}`: "messages[0].content[0].source.data",
		`{"max_tokens":5,"messages":[{"role":"user","content":"x"}],"temperature":"hot"}`:                                  "temperature",
		`{"max_tokens":5,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"a"}]}`:                               "tools[0].input_schema",
		`{"max_tokens":5,"messages":[{"role":"user","content":"x"}],"tool_choice":{"type":"tool","name":"b"}}`:             "tool_choice.name",
		`{"max_tokens":5,"messages":[{"role":"user","content":"x"}],"stop_sequences":[""]}`:                                "stop_sequences",
		`{"max_tokens":5,"system":[{"type":"text"}],"messages":[{"role":"user","content":"x"}]}`:                           "system[0].text",
		`{"max_tokens":5,"messages":[{"role":"user","content":"` + strings.Repeat("x", 3000) + `"}]}`:                      "messages",
	} {
		status, text := post(t, url+"/v1/messages", body)
		if status != 400 || !strings.Contains(text, field) || !strings.HasPrefix(text, `{"error":{"message":`) || !strings.Contains(text, `"invalid_request_error"},"type":"error"}`) {
			t.Errorf("%.80s: %d %s, want %s", body, status, text, field)
		}
	}
	if status, text := post(t, url+"/v1/messages/nothing", "{}"); status != 404 || !strings.Contains(text, `"not_found_error"`) {
		t.Errorf("%d %s", status, text)
	}
}
