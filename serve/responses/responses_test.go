package responses_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// site is a server whose model always says the same.
func site(t *testing.T, pieces ...string) (string, *fake.Backend) {
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
	return web.URL + "/v1/responses", b
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
	return r.StatusCode, string(text)
}

type object = map[string]any

// at walks into JSON by names and indexes.
func at(v any, path ...any) any {
	for _, step := range path {
		switch key := step.(type) {
		case string:
			m, _ := v.(object)
			v = m[key]
		case int:
			list, _ := v.([]any)
			if key >= len(list) {
				return nil
			}
			v = list[key]
		}
	}
	return v
}

func parse(t *testing.T, text string) (v object) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

const call = `{"name": "weather", "parameters": {"city": "Paris"}}`

const weather = `"tools":[{"type":"function","name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}]`

func TestCreate(t *testing.T) {
	url, b := site(t, "Hel", "lo")
	status, text := post(t, url, `{"model":"fake","instructions":"Be kind.","input":"Hi","metadata":{"a":"b"},"temperature":0.5}`)
	got := parse(t, text)
	if status != 200 || got["object"] != "response" || got["status"] != "completed" || at(got, "output", 0, "content", 0, "text") != "Hello" ||
		at(got, "output", 0, "content", 0, "type") != "output_text" || at(got, "metadata", "a") != "b" || got["instructions"] != "Be kind." ||
		got["temperature"] != 0.5 || at(got, "usage", "total_tokens") == nil || got["store"] != false || !strings.HasPrefix(got["id"].(string), "resp_") {
		t.Errorf("%d %s", status, text)
	}
	prompt := b.Requests()[0].Prompt
	// What a client sends back as items is the chat that it was.
	_, text = post(t, url, `{"input":[{"role":"developer","content":"Be kind."},{"type":"message","role":"user","content":[{"type":"input_text","text":"Hi"}]}]}`)
	if same := b.Requests()[1].Prompt; fmt.Sprint(same) != fmt.Sprint(prompt) {
		t.Errorf("the same chat as items has another prompt: %s", text)
	}
	status, text = post(t, url, `{"input":[{"role":"user","content":"Weather?"},{"type":"reasoning","summary":[]},
		{"type":"function_call","call_id":"c1","name":"weather","arguments":"{\"city\":\"Paris\"}"},
		{"type":"function_call_output","call_id":"c1","output":"sunny"}],"max_output_tokens":1,`+weather+`}`)
	got = parse(t, text)
	if status != 200 || got["status"] != "incomplete" || at(got, "incomplete_details", "reason") != "max_output_tokens" || got["max_output_tokens"] != 1.0 {
		t.Errorf("%d %s", status, text)
	}
}

// events gives a stream's events; their names, types and numbers must agree.
func events(t *testing.T, text string) (list []object) {
	t.Helper()
	for _, frame := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if strings.HasPrefix(frame, ":") {
			continue
		}
		name, data, ok := strings.Cut(frame, "\ndata: ")
		e := parse(t, data)
		if !ok || "event: "+e["type"].(string) != name || e["sequence_number"] != float64(len(list)) {
			t.Fatalf("event %d: %s", len(list), frame)
		}
		list = append(list, e)
	}
	return list
}

func TestStream(t *testing.T) {
	for _, x := range []struct {
		body   string
		pieces []string
		types  string
		output string
	}{
		{`{"input":"Hi","stream":true}`, []string{"Hel", "lo"},
			"created in_progress output_item.added content_part.added output_text.delta output_text.delta output_text.done content_part.done output_item.done completed", "message:Hello"},
		{`{"input":"Hi","stream":true,` + weather + `}`, []string{"Sure. ", call[:30], call[30:]},
			"created in_progress output_item.added content_part.added output_text.delta output_text.done content_part.done output_item.done " +
				"output_item.added function_call_arguments.delta function_call_arguments.done output_item.done completed", `message:Sure. |weather:{"city": "Paris"}`},
		{`{"input":"Hi","stream":true,"max_output_tokens":1}`, []string{"one", "two"},
			"created in_progress output_item.added content_part.added output_text.delta output_text.done content_part.done output_item.done incomplete", "message:one"},
		{`{"input":"Hi","stream":true}`, nil,
			"created in_progress output_item.added content_part.added output_text.done content_part.done output_item.done completed", "message:"},
	} {
		url, _ := site(t, x.pieces...)
		_, text := post(t, url, x.body)
		list := events(t, text)
		var types []string
		for _, e := range list {
			types = append(types, strings.TrimPrefix(e["type"].(string), "response."))
		}
		var output []string
		last := list[len(list)-1]
		items, _ := at(last, "response", "output").([]any)
		for i, item := range items {
			if at(item, "type") == "message" {
				output = append(output, fmt.Sprint("message:", at(item, "content", 0, "text")))
			} else {
				output = append(output, fmt.Sprint(at(item, "name"), ":", at(item, "arguments")))
			}
			for _, e := range list { // what was announced is what came
				if e["type"] == "response.output_item.done" && e["output_index"] == float64(i) && fmt.Sprint(e["item"]) != fmt.Sprint(item) {
					t.Errorf("item %d: %v, in the end %v", i, e["item"], item)
				}
			}
		}
		if got := strings.Join(types, " "); got != x.types || strings.Join(output, "|") != x.output || at(last, "response", "usage") == nil {
			t.Errorf("%s:\nwant %s, %s\ngot  %s, %s", x.body, x.types, x.output, got, strings.Join(output, "|"))
		}
	}
}

func TestToolsAndFormats(t *testing.T) {
	url, b := site(t, call)
	_, text := post(t, url, `{"input":"Hi",`+weather+`}`)
	got := parse(t, text)
	if at(got, "output", 0, "type") != "function_call" || at(got, "output", 0, "arguments") != `{"city": "Paris"}` || at(got, "output", 1) != nil {
		t.Errorf("%s", text)
	}
	for _, fields := range []string{`"tool_choice":"required",` + weather, `"tool_choice":{"type":"function","name":"weather"},` + weather,
		`"text":{"format":{"type":"json_object"}}`, `"text":{"format":{"type":"json_schema","name":"x","schema":{"type":"object"}}}`} {
		status, text := post(t, url, `{"input":"Hi",`+fields+`}`)
		if all := b.Requests(); status != 200 || all[len(all)-1].Constraint == nil {
			t.Errorf("%s: %d %s", fields, status, text)
		}
	}
	_, text = post(t, url, `{"input":"Hi","top_logprobs":2}`)
	if probs, _ := at(parse(t, text), "output", 0, "content", 0, "logprobs").([]any); len(probs) == 0 {
		t.Errorf("no log-probabilities: %s", text)
	}
}

func TestErrors(t *testing.T) {
	url, b := site(t, "Hi")
	for body, param := range map[string]string{
		`{}`:                            "input",
		`{"input":[]}`:                  "input",
		`{"input":3}`:                   "input",
		`{"input":[3]}`:                 "input[0]",
		`{"input":[{"role":"king"}]}`:   "input[0].role",
		`{"input":[{"role":"user"}]}`:   "input[0].content",
		`{"input":[{"type":"x"}]}`:      "input[0].type",
		`{"input":"a","stream":"yes"}`:  "stream",
		`{"input":"a","temperature":3}`: "temperature",
		`{"input":"a","previous_response_id":"resp_1"}`:                                                 "previous_response_id",
		`{"input":"a","background":true}`:                                                               "background",
		`{"input":"a","conversation":"c"}`:                                                              "conversation",
		`{"input":"a","tools":[{"type":"web_search"}]}`:                                                 "tools[0].type",
		`{"input":"a","tool_choice":"required"}`:                                                        "tool_choice",
		`{"input":"a","text":{"format":{"type":"json_schema","name":"x"}}}`:                             "text.format.schema",
		`{"input":"a","text":{"format":{"type":"json_schema","name":"x","schema":{"type":"bad"}}}}`:     "text.format.schema",
		`{"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png,*"}]}]}`: "input[0].content[0].image_url",
		`{"input":"a","model":"another"}`:                                                               "model",
		`{"input":"a","max_output_tokens":0}`:                                                           "max_output_tokens",
	} {
		status, text := post(t, url, body)
		got := parse(t, text)
		if status < 400 || status >= 500 || at(got, "error", "param") != param {
			t.Errorf("%s: want an error at %s, got %d %s", body, param, status, text)
		}
	}
	if n := len(b.Requests()); n != 0 {
		t.Errorf("%d bad requests reached the engine", n)
	}
	r, err := http.Get(url + "/resp_1")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != 404 {
		t.Errorf("what is not kept: %d", r.StatusCode)
	}
}

// Two thousand spoilt bodies: an answer, or an error of the client's that says where.
func TestSpoilt(t *testing.T) {
	url, _ := site(t, "Hi")
	seeds := []string{`{"model":"fake","instructions":"x","input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]},{"type":"function_call","call_id":"a","name":"weather","arguments":"{}"},{"type":"function_call_output","call_id":"a","output":"1"}],` + weather + `,"tool_choice":"auto","text":{"format":{"type":"text"}},"max_output_tokens":3,"stream":false}`}
	words := []string{`null`, `true`, `-1`, `1e999`, `"x"`, `[]`, `{}`, `[[[[`, `{"a":`, `"\ud800"`, "\xff", `NaN`}
	r := rand.New(rand.NewPCG(5, 6))
	named := 0
	for range 2000 {
		b := []byte(seeds[0])
		for range 1 + r.IntN(3) {
			i := r.IntN(len(b))
			j := min(len(b), i+r.IntN(12))
			b = append(append(append([]byte{}, b[:i]...), words[r.IntN(len(words))]...), b[j:]...)
		}
		status, text := post(t, url, string(b))
		if status >= 500 || status < 200 {
			t.Fatalf("%s: %d %s", b, status, text)
		}
		if status >= 400 {
			if at(parse(t, text), "error", "message") == "" {
				t.Errorf("%s: %s", b, text)
			}
			if at(parse(t, text), "error", "param") != nil {
				named++
			}
		}
	}
	if named < 100 {
		t.Errorf("only %d errors name a field", named)
	}
}
