package anthropic_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// TestTools: prose and calls are blocks in their order; arguments are streamed as they come.
func TestTools(t *testing.T) {
	url := site(t, "Let me see. ", `{"name": "wea`, `ther", "parameters": {"ci`, `ty": "Paris"}}`, "; ", `[weather(city="Ro`, `me", days=[1, None])]`)
	const ask = `{"model":"x","max_tokens":50,"messages":[{"role":"user","content":"hi"}],"tools":[{"name":"weather","input_schema":{"type":"object"}}]`
	want := []string{"text Let me see.", `tool_use weather {"city":"Paris"}`, `tool_use weather {"city":"Rome","days":[1,null]}`}
	compact := func(text string) string {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Errorf("%v: %q", err, text)
		}
		out, _ := json.Marshal(v)
		return string(out)
	}

	_, text := post(t, url+"/v1/messages", ask+"}")
	var whole struct {
		StopReason string `json:"stop_reason"`
		Content    []struct {
			Type, Text, ID, Name string
			Input                json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var got []string
	ids := map[string]bool{}
	for _, block := range whole.Content {
		if block.Type == "text" {
			got = append(got, "text "+strings.TrimSpace(block.Text))
			continue
		}
		ids[block.ID] = true
		got = append(got, block.Type+" "+block.Name+" "+compact(string(block.Input)))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || whole.StopReason != "tool_use" || len(ids) != 2 || ids[""] {
		t.Errorf("got %s", text)
	}

	_, text = post(t, url+"/v1/messages", ask+`,"stream":true}`)
	var blocks, inputs []string
	pieces, reason := 0, ""
	for row := range strings.SplitSeq(text, "\n") {
		data, ok := strings.CutPrefix(row, "data: ")
		if !ok {
			continue
		}
		var event struct {
			Type  string
			Block struct{ Type, Text, Name string } `json:"content_block"`
			Delta struct {
				Type, Text string
				Partial    string `json:"partial_json"`
				StopReason string `json:"stop_reason"`
			}
		}
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		switch event.Type {
		case "content_block_start":
			blocks, inputs = append(blocks, strings.TrimSpace(event.Block.Type+" "+event.Block.Name)), append(inputs, event.Block.Text)
		case "content_block_delta":
			inputs[len(inputs)-1] += event.Delta.Text + event.Delta.Partial
			if event.Delta.Partial != "" {
				pieces++
			}
		case "message_delta":
			reason = event.Delta.StopReason
		}
	}
	got = nil
	for i, block := range blocks {
		if block == "text" {
			got = append(got, block+" "+strings.TrimSpace(inputs[i]))
		} else {
			got = append(got, block+" "+compact(inputs[i]))
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || reason != "tool_use" || pieces < 3 {
		t.Errorf("streamed %q in %d pieces, then %s: %s", got, pieces, reason, text)
	}
}

// TestToolChoice: forced calls hold the answer to a grammar; what cannot be enforced is named.
func TestToolChoice(t *testing.T) {
	server, err := serve.New(serve.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &fake.Backend{Script: func(string) ([]string, error) { return []string{`{"name": "weather", "parameters": {}}`}, nil }}
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 2000, []int32{fake.EOT}
	server.SetReady(b)
	web := httptest.NewServer(server.Handler())
	defer server.Close()
	defer web.Close()
	ask := func(schema, choice string) (int, string) {
		return post(t, web.URL+"/v1/messages", `{"model":"x","max_tokens":50,"messages":[{"role":"user","content":"hi"}],"tools":[{"name":"weather","input_schema":`+schema+`}],"tool_choice":`+choice+`}`)
	}
	for choice, forced := range map[string]bool{`{"type":"auto"}`: false, `{"type":"none"}`: false, `{"type":"any"}`: true, `{"type":"tool","name":"weather"}`: true} {
		status, text := ask(`{"type":"object"}`, choice)
		all := b.Requests()
		if status != 200 || (all[len(all)-1].Constraint != nil) != forced || strings.Contains(text, `"tool_use"`) != !strings.Contains(choice, "none") {
			t.Errorf("%s: %d %s", choice, status, text)
		}
	}
	n := len(b.Requests())
	if status, text := ask(`{"type":"bad"}`, `{"type":"any"}`); status != 400 || !strings.Contains(text, "weather") || len(b.Requests()) != n {
		t.Errorf("a wrong schema: %d %s", status, text)
	}
}
