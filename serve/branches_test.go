package serve_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"chulengo/engine"
	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// echoes is a backend that answers with the number of its answer and the prompt's lines.
func echoes() *fake.Backend {
	n := 0
	return &fake.Backend{Script: func(prompt string) ([]string, error) {
		n++
		return []string{fmt.Sprintf("%d<", n), strings.ReplaceAll(strings.TrimSpace(prompt), "\n", "|"), ">"}, nil
	}}
}

// ids gives the ids of a conversation's active branch.
func (c *client) ids(id string) (ids []int64) {
	c.t.Helper()
	_, o := c.do("GET", "/api/conversations/"+id, nil)
	for _, m := range o["messages"].([]any) {
		ids = append(ids, int64(m.(object)["id"].(float64)))
	}
	return ids
}

// answers asks and gives the text and the last event.
func (c *client) answers(body object) (string, object) {
	c.t.Helper()
	body["stream"], body["progress"], body["chat_id"] = true, true, "x"
	last := c.open("POST", "/api/generate", body).rest()
	text, _ := last["response"].(string)
	return text, last
}

func TestBranches(t *testing.T) {
	s := ready(t, serve.Options{System: "S"}, echoes())
	c := s.browser()
	c.answers(object{"user_input": "A"})
	if text, _ := c.answers(object{"user_input": "B"}); text != "2<system: S|user: A|assistant: 1<system: S|user: A>|user: B>" {
		t.Errorf("got %q", text)
	}
	before := c.ids("x") // A 1 B 2
	// Regenerate, by the answer's id and by the question's.
	for i, id := range []int64{before[3], before[2]} {
		text, last := c.answers(object{"regenerate": id})
		if !strings.HasPrefix(text, fmt.Sprintf("%d<system: S|user: A|", 3+i)) || !strings.HasSuffix(text, "|user: B>") || int64(last["question_id"].(float64)) != before[2] {
			t.Errorf("regenerate %d: %q %v", id, text, last)
		}
	}
	// Edit and resend, a later question and the first one.
	if text, last := c.answers(object{"user_input": "B2", "parent": before[1]}); !strings.HasSuffix(text, "|user: B2>") || !strings.Contains(text, "user: A|") ||
		int64(last["parent"].(float64)) != before[1] {
		t.Errorf("got %q %v", text, last)
	}
	if text, last := c.answers(object{"user_input": "A2", "parent": nil}); text != "6<system: S|user: A2>" || last["parent"] != nil {
		t.Errorf("got %q %v", text, last)
	}
	if got := c.messages("x"); len(got) != 2 || got[0] != "user: A2" {
		t.Errorf("active branch: %q", got)
	}
	_, got := c.do("PUT", "/api/conversations/x/branch", object{"message": before[2]})
	messages := got["messages"].([]any)
	if len(messages) != 4 || !strings.HasPrefix(messages[3].(object)["content"].(string), "4<") {
		t.Fatalf("chosen: %v", messages)
	}
	for i, want := range []int{2, 1, 2, 3} {
		if siblings := messages[i].(object)["siblings"].([]any); len(siblings) != want {
			t.Errorf("message %d has siblings %v, want %d", i, siblings, want)
		}
	}
	// The choice is kept: the tutorial's clients go on from there.
	if text, _ := c.answers(object{"user_input": "C"}); !strings.Contains(text, "|user: B|assistant: 4<") {
		t.Errorf("got %q", text)
	}
	_, whole := c.do("GET", "/api/conversations/x/tree", nil)
	if n := len(whole["messages"].([]any)); n != 12 {
		t.Errorf("the tree has %d messages", n)
	}
	numbers := messages[3].(object)["numbers"].(object)
	if numbers["tokens"] != 4.0 || numbers["prompt_tokens"].(float64) < 20 || numbers["context_used"] != numbers["prompt_tokens"].(float64)+4 {
		t.Errorf("numbers %v", numbers)
	}
	for _, bad := range []struct {
		body object
		text string
	}{
		{object{"user_input": "Q", "parent": before[0]}, "parent"}, {object{"user_input": "Q", "parent": 1 << 40}, "parent"}, {object{"user_input": "Q", "parent": -1}, "parent"},
		{object{"user_input": "Q", "parent": "1"}, "parent"}, {object{"regenerate": 1 << 40}, "regenerate"}, {object{"regenerate": 0}, "regenerate"}, {object{"regenerate": true}, "regenerate"},
		{object{"regenerate": before[1], "parent": nil}, "regenerate"}, {object{"user_input": "Q", "temperature": "hot"}, "temperature"}, {object{"user_input": "Q", "temperature": -1}, "temperature"},
		{object{"user_input": "Q", "top_k": 1.5}, "top_k"}, {object{"user_input": "Q", "top_p": 1.01}, "top_p"}, {object{"user_input": "Q", "seed": -1}, "seed"},
		{object{"user_input": "Q", "system": 5}, "system"}, {object{"user_input": "Q", "progress": "yes"}, "progress"},
	} {
		bad.body["chat_id"] = "x"
		if status, got := c.post("/api/generate", bad.body); status != 400 || !strings.Contains(got["error"].(string), bad.text) {
			t.Errorf("%v: %d %v", bad.body, status, got)
		}
	}
	for body, want := range map[string]int{`{"message": 1099511627776}`: 404, `{"message": 0}`: 400, `{"message": "1"}`: 400, `{}`: 400, `[]`: 400} {
		if status, _ := c.do("PUT", "/api/conversations/x/branch", body); status != want {
			t.Errorf("%s: got %d, want %d", body, status, want)
		}
	}
	if status, _ := s.browser().do("PUT", "/api/conversations/x/branch", object{"message": before[2]}); status != 404 {
		t.Errorf("another browser chooses: %d", status)
	}
}

func TestRequestsBringSettings(t *testing.T) {
	s := ready(t, serve.Options{System: "S"}, says("A"))
	c := s.program()
	c.post("/api/generate", object{"user_input": "Q", "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5,
		"frequency_penalty": -1, "presence_penalty": 2, "seed": 42, "system": "T"})
	c.post("/api/generate", object{"user_input": "Q", "temperature": nil, "system": ""})
	c.post("/api/generate", object{"user_input": "Q", "system": nil})
	got := s.backend.Requests()
	p := got[0].Sampling
	if p.Temperature != 0.5 || p.TopP != 0.25 || p.TopK != 7 || p.MinP != 0.125 || p.RepetitionPenalty != 1.5 || p.FrequencyPenalty != -1 || p.PresencePenalty != 2 || p.Seed != 42 {
		t.Errorf("got %+v", p)
	}
	for i, want := range []string{"system: T\nuser: Q\n", "user: Q\n", "system: S\nuser: Q\n"} {
		if text := fake.Text(got[i].Prompt); text != want {
			t.Errorf("got %q, want %q", text, want)
		}
	}
}

func TestBranchesWhileAnswering(t *testing.T) {
	s := ready(t, serve.Options{}, held("a", "b"))
	c := s.browser()
	go func() { s.speak(2) }()
	c.post("/api/generate", object{"user_input": "Q", "chat_id": "x"})
	ids := c.ids("x")
	st := c.open("POST", "/api/generate", object{"user_input": "Q'", "chat_id": "x", "parent": nil, "stream": true, "progress": true})
	first := st.next()
	if p, ok := first["progress"].(object); !ok || p["prompt"] != 9.0 || p["queue"] != 0.0 {
		t.Errorf("first event %v", first)
	}
	if status, got := c.do("PUT", "/api/conversations/x/branch", object{"message": ids[0]}); status != 409 {
		t.Errorf("choosing meanwhile: %d %v", status, got)
	}
	_, got := c.do("GET", "/api/conversations/x", nil)
	messages := got["messages"].([]any)
	if got["running"] != true || len(messages) != 1 {
		t.Fatalf("got %v", got)
	}
	if q := messages[0].(object); q["id"] != nil || q["content"] != "Q'" || !reflect.DeepEqual(q["siblings"], []any{float64(ids[0])}) {
		t.Errorf("running question: %v", q)
	}
	go s.speak(2)
	if last := st.rest(); last["response"] != "ab" || last["numbers"].(object)["tokens"] != 3.0 {
		t.Errorf("got %v", last)
	}
}

// A detached answer that fails leaves its question and the reason beside the history, for whoever looks next.
func TestDetachedFailureIsSeenLater(t *testing.T) {
	b := &fake.Backend{Script: func(string) ([]string, error) { return []string{"some"}, errors.New("out of order: /secret/path") }}
	o := serve.Options{DataDir: t.TempDir()}
	s := ready(t, o, b)
	c := s.browser()
	c.post("/api/generate", object{"user_input": "attached", "chat_id": "x"})
	show := func(c *client) object { _, got := c.do("GET", "/api/conversations/x", nil); return got }
	if got := show(c); got["failure"] != nil {
		t.Errorf("an attached client heard of it: %v", got["failure"])
	}
	st := c.open("POST", "/api/generate", object{"user_input": "detached", "chat_id": "x", "stream": true, "detach": true})
	st.close()
	eventually(t, "the failure", func() bool { return show(c)["failure"] != nil })
	got := show(c)
	f := got["failure"].(object)
	if f["content"] != "detached" || f["error"] != "服务器内部错误" || f["parent"] != nil || len(got["messages"].([]any)) != 0 {
		t.Errorf("got %v", got)
	}
	if _, en := c.do("GET", "/api/conversations/x?lang=en", nil); en["failure"].(object)["error"] != "internal server error" {
		t.Errorf("got %v", en)
	}
	if got := c.listed(); got != "x" {
		t.Errorf("list: %q", got)
	}
	s.end()
	<-s.ended
	s.ended <- nil
	s = ready(t, o, says("well"))
	c = &client{s, c.http, c.header}
	if show(c)["failure"] == nil {
		t.Error("it is gone after a restart")
	}
	c.post("/api/generate", object{"user_input": "Q", "chat_id": "x"})
	if got := show(c); got["failure"] != nil || len(got["messages"].([]any)) != 2 || fake.Text(s.backend.Requests()[0].Prompt) != "user: Q\n" {
		t.Errorf("after the next question: %v", got)
	}
}

func TestDismissedFailure(t *testing.T) {
	b := &fake.Backend{Refuse: errors.New("broken")}
	c := ready(t, serve.Options{}, b).browser()
	c.post("/api/generate", object{"user_input": "Q", "chat_id": "x", "detach": true})
	if _, got := c.do("GET", "/api/conversations/x", nil); got["failure"] == nil {
		t.Fatalf("got %v", got)
	}
	if status, _ := c.do("DELETE", "/api/conversations/x/failure", nil); status != 200 {
		t.Errorf("got %d", status)
	}
	if _, got := c.do("GET", "/api/conversations/x", nil); got["failure"] != nil {
		t.Errorf("got %v", got)
	}
}

// waits is a backend that waits in a queue and reads its prompt before it speaks.
type waits struct {
	*fake.Backend
	step chan engine.Progress
}

func (w waits) Generate(ctx context.Context, r engine.Request, emit func(engine.Event) error) (*engine.Result, error) {
	for p := range w.step {
		r.Progress(p)
	}
	result, err := w.Backend.Generate(ctx, r, emit)
	if result != nil {
		result.Cached, result.Timings.Queue = 16, 250*time.Millisecond
	}
	return result, err
}

func TestProgressEvents(t *testing.T) {
	s := launch(t, serve.Options{})
	b := waits{says("a", "b"), make(chan engine.Progress)}
	s.server.SetReady(b)
	c := s.program()
	st := c.open("POST", "/api/generate", object{"user_input": "Q", "chat_id": "x", "stream": true, "progress": true})
	if first := st.next()["progress"]; !reflect.DeepEqual(first, object{"queue": 0.0, "prompt": 8.0, "cached": 0.0, "read": 0.0}) {
		t.Errorf("got %v", first)
	}
	for _, p := range []engine.Progress{{Queue: 2, Prompt: 8}, {Queue: 1, Prompt: 8}, {Prompt: 8, Cached: 4, Read: 6}} {
		b.step <- p
		want := object{"queue": float64(p.Queue), "prompt": 8.0, "cached": float64(p.Cached), "read": float64(p.Read)}
		if got := st.next()["progress"]; !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	// Who comes later hears how far it is; who did not ask, nothing but deltas.
	later := c.open("GET", "/api/conversations/x/stream?progress=1", nil)
	if got := later.next()["progress"]; !reflect.DeepEqual(got, object{"queue": 0.0, "prompt": 8.0, "cached": 4.0, "read": 6.0}) {
		t.Errorf("later: %v", got)
	}
	plain := c.open("GET", "/api/conversations/x/stream", nil)
	close(b.step)
	last := st.rest()
	numbers := last["numbers"].(object)
	if numbers["cached_tokens"] != 16.0 || numbers["queue_ms"] != 250.0 || numbers["tokens"] != 3.0 || numbers["ttft_ms"].(float64) <= 0 || last["message_id"] == nil {
		t.Errorf("got %v", last)
	}
	for o := plain.next(); o != nil; o = plain.next() {
		if o["delta"] == nil && o["done"] != true || o["numbers"] != nil {
			t.Errorf("a plain reader got %v", o)
		}
	}
	later.rest()
}
