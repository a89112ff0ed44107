package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
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

func TestSearchSettingsExportImport(t *testing.T) {
	s := ready(t, serve.Options{}, echoes())
	c := s.browser()
	c.answers(object{"user_input": "人民广场在哪里? <b>&"})
	c.answers(object{"user_input": "B"})
	c.answers(object{"regenerate": c.ids("x")[3]})
	c.post("/api/generate", object{"user_input": "other", "chat_id": "y"})

	_, found := c.do("GET", "/api/conversations?q=民广", nil)
	list := found["conversations"].([]any)
	if len(list) != 1 || list[0].(object)["id"] != "x" || !strings.Contains(list[0].(object)["snippet"].(string), "人民广场") || list[0].(object)["message"] == nil {
		t.Errorf("search: %v", found)
	}
	if _, got := s.browser().do("GET", "/api/conversations?q=民广", nil); len(got["conversations"].([]any)) != 0 {
		t.Errorf("another browser finds %v", got)
	}
	if status, _ := c.do("GET", "/api/conversations?q="+strings.Repeat("x", 300), nil); status != 400 {
		t.Errorf("a long query: %d", status)
	}

	want := object{"current": object{"temperature": 0.5}, "presets": []any{object{"name": "精确"}}}
	if _, got := c.do("GET", "/api/settings", nil); got["settings"] != nil {
		t.Errorf("settings %v", got)
	}
	if status, got := c.do("PUT", "/api/settings", object{"settings": want}); status != 200 {
		t.Errorf("settings: %d %v", status, got)
	}
	if _, got := c.do("GET", "/api/settings", nil); !reflect.DeepEqual(got["settings"], want) {
		t.Errorf("settings %v", got)
	}
	for body, status := range map[string]int{`{}`: 400, `{"settings": []}`: 400, `{"settings": null}`: 400,
		`{"settings": {"a": "` + strings.Repeat("x", 70000) + `"}}`: 400} {
		if got, _ := c.do("PUT", "/api/settings", body); got != status {
			t.Errorf("%.40s: %d", body, got)
		}
	}
	if status, _ := s.program().do("PUT", "/api/settings", object{"settings": object{}}); status != 401 {
		t.Errorf("settings of no session: %d", status)
	}

	_, one := c.do("GET", "/api/conversations/x/export", nil)
	_, all := c.do("GET", "/api/export?format=json", nil)
	if n := len(all["conversations"].([]any)); n != 2 || len(one["conversations"].([]any)) != 1 {
		t.Fatalf("exports: %v", all)
	}
	response, err := c.http.Get(c.url + "/api/conversations/x/export?format=markdown&lang=en")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text := make([]byte, 4096)
	n, _ := response.Body.Read(text)
	if doc := string(text[:n]); !strings.HasPrefix(doc, "# 人民广场在哪里? <b>&\n") || strings.Count(doc, "\n## User\n") != 2 || strings.Count(doc, "\n## Assistant\n") != 2 ||
		!strings.Contains(response.Header.Get("Content-Disposition"), ".md") {
		t.Errorf("markdown %q", doc)
	}
	if status, _ := c.do("GET", "/api/export?format=pdf", nil); status != 400 {
		t.Errorf("format pdf: %d", status)
	}

	// Another browser imports it: the same trees under new ids.
	other := s.browser()
	status, got := other.post("/api/import", all)
	if status != 200 || got["imported"] != 2.0 || len(got["skipped"].([]any)) != 0 {
		t.Fatalf("import: %d %v", status, got)
	}
	_, again := other.do("GET", "/api/export", nil)
	if plain, want := comparable(t, again), comparable(t, all); plain != want {
		t.Errorf("exported again:\n%s\nwant\n%s", plain, want)
	}
	broken := all["conversations"].([]any)
	broken = append(broken, object{"messages": 5}, object{"messages": []any{}}, "text", object{"messages": []any{object{"id": 1, "role": "assistant", "content": "x"}}},
		object{"messages": []any{object{"id": 1, "role": "user", "content": "x"}, object{"id": 2, "parent": 3, "role": "assistant"}}})
	status, got = other.post("/api/import", object{"format": "chulengo-chats", "version": 1, "conversations": broken})
	skipped := got["skipped"].([]any)
	if status != 200 || got["imported"] != 2.0 || len(skipped) != 5 || !strings.Contains(skipped[4].(object)["error"].(string), "messages[1].parent") ||
		!strings.Contains(skipped[0].(object)["error"].(string), "messages") || strings.Contains(fmt.Sprint(skipped), "Go ") {
		t.Errorf("import of broken ones: %d %v", status, got)
	}
	for body, field := range map[string]string{`{}`: "format", `{"format": "x"}`: "format", `{"format": "chulengo-chats"}`: "version",
		`{"format": "chulengo-chats", "version": 2}`: "version", `{"format": "chulengo-chats", "version": 1, "conversations": {}}`: "conversations"} {
		if status, got := other.post("/api/import", body); status != 400 || !strings.Contains(got["error"].(string), field) {
			t.Errorf("%s: %d %v", body, status, got)
		}
	}
}

// comparable is an export without what differs from one to the next: ids become places.
func comparable(t *testing.T, export object) string {
	t.Helper()
	delete(export, "exported_at")
	for _, c := range export["conversations"].([]any) {
		c := c.(object)
		place := map[any]int{nil: 0}
		for i, m := range c["messages"].([]any) {
			m := m.(object)
			place[m["id"]] = i + 1
			m["id"] = i + 1
			if m["parent"] != nil {
				m["parent"] = place[m["parent"]]
			}
		}
		c["head"] = place[c["head"]]
	}
	text, err := json.Marshal(export)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Two servers with one database: one conversation, one answer at a time, the same browsers.
func TestServersShareChats(t *testing.T) {
	o := serve.Options{Database: serve.FreshDatabase(t), SaveEvery: 10 * time.Millisecond}
	one, two := ready(t, o, held("a", "b")), ready(t, o, says("second"))
	c := one.browser()
	jar := c.http.Jar
	elsewhere := two.program()
	elsewhere.http.Jar = jar // cookies know no ports
	go one.speak(1)
	st := c.open("POST", "/api/generate", object{"user_input": "Q1", "chat_id": "x", "stream": true})
	st.next()
	if status, _ := elsewhere.post("/api/generate", object{"user_input": "Q2", "chat_id": "x", "detach": true}); status != http.StatusConflict {
		t.Errorf("a second question with detach: %d", status)
	}
	if _, got := elsewhere.do("GET", "/api/conversations/x", nil); got["elsewhere"] != true || got["running"] != true || len(got["messages"].([]any)) != 1 {
		t.Errorf("seen from the other server: %v", got)
	}
	there := elsewhere.open("GET", "/api/conversations/x/stream", nil)
	for there.text != "a" {
		there.next()
	}
	one.speak(1)
	st.next()
	if last := there.rest(); last["response"] != "ab" || last["finish_reason"] != "stop" || last["message_id"] == nil || there.text != "ab" {
		t.Errorf("followed from the other server: %v after %q", last, there.text)
	}
	if last := st.rest(); last["response"] != "ab" {
		t.Errorf("got %v", last)
	}
	go one.speak(1)
	st = c.open("POST", "/api/generate", object{"user_input": "Q1b", "chat_id": "x", "stream": true})
	st.next()
	there = elsewhere.open("GET", "/api/conversations/x/stream?from=1", nil)
	waiting := make(chan object, 1)
	go func() {
		_, got := elsewhere.post("/api/generate", object{"user_input": "Q2", "chat_id": "x"})
		waiting <- got
	}()
	if _, got := elsewhere.post("/api/stop", object{"chat_id": "x"}); got["stopped"] != true {
		t.Errorf("stop through the other server: %v", got)
	}
	if last := st.rest(); last["finish_reason"] != "stop_requested" || last["response"] != "a" {
		t.Errorf("got %v", last)
	}
	if last := there.rest(); last["response"] != "a" || last["finish_reason"] != "stop_requested" || there.text != "" {
		t.Errorf("followed from the other server: %v after %q", last, there.text)
	}
	if got := <-waiting; got["response"] != "second" {
		t.Errorf("got %v", got)
	}
	want := []string{"user: Q1", "assistant: ab (stop)", "user: Q1b", "assistant: a (stop_requested)", "user: Q2", "assistant: second (stop)"}
	if got := c.messages("x"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := elsewhere.listed(); got != "x" {
		t.Errorf("the other server's list: %q", got)
	}
	// Cleared there, the answer ends here.
	go one.speak(1)
	st = c.open("POST", "/api/generate", object{"user_input": "Q3", "chat_id": "x", "stream": true})
	st.next()
	there = elsewhere.open("GET", "/api/conversations/x/stream", nil)
	elsewhere.post("/api/clear_history", object{"chat_id": "x"})
	if last := there.rest(); last["error"] == nil {
		t.Errorf("a cleared answer, followed from the other server: %v", last)
	}
	if last := st.rest(); last["finish_reason"] != "stop_requested" {
		t.Errorf("got %v", last)
	}
	if got := c.messages("x"); len(got) != 0 {
		t.Errorf("after clearing: %q", got)
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

// Whatever bytes come as a body or in a path, the answer is no failure of the server's, and what was kept stays whole.
func TestMutatedRequests(t *testing.T) {
	server, err := serve.New(serve.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetReady(says("A"))
	handler := server.Handler()
	page := httptest.NewRecorder()
	handler.ServeHTTP(page, httptest.NewRequest("GET", "/", nil))
	send := func(method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://localhost/", strings.NewReader(body))
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(path, "?")
		r.Header.Set("Content-Type", "application/json")
		r.AddCookie(page.Result().Cookies()[0])
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	for range 3 {
		send("POST", "/api/generate", `{"user_input": "Q", "chat_id": "kept"}`)
	}
	export := send("GET", "/api/conversations/kept/export", "").Body.String()
	seeds := []struct{ method, path, body string }{
		{"POST", "/api/generate", `{"user_input": "Q", "chat_id": "x", "parent": 2, "progress": true, "stream": true, "temperature": 0.5, "top_k": 3, "seed": 1, "system": "S"}`},
		{"POST", "/api/generate", `{"regenerate": 2, "chat_id": "x", "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.1, "lang": "en"}`},
		{"PUT", "/api/conversations/x/branch", `{"message": 2}`},
		{"PUT", "/api/settings", `{"settings": {"temperature": [1, 2, {"a": null}]}}`},
		{"POST", "/api/import", export},
		{"GET", "/api/conversations?q=A%25_", ""},
		{"GET", "/api/conversations/x/stream?from=3&progress=1", ""},
		{"GET", "/api/conversations/x/export?format=markdown", ""},
		{"DELETE", "/api/conversations/x/failure", ""},
		{"PATCH", "/api/conversations/x", `{"title": "T"}`},
		{"POST", "/api/clear_history", `{"chat_id": "x"}`},
		{"POST", "/api/stop", `{"chat_id": "x"}`},
	}
	splices := []string{"null", "-1", "1e999", "NaN", "\xff", "\x00", "\\u0000", "\\ud800", "[[[[", "{", "}", `"`, "0", "9223372036854775808", "好", "true", "%00", "%", "'"}
	random := rand.New(rand.NewPCG(4, 2026))
	statuses := map[int]int{}
	for i := range 10_000 {
		seed := seeds[random.IntN(len(seeds))]
		mutate := func(text string) string {
			for range 1 + random.IntN(3) {
				at := random.IntN(len(text) + 1)
				end := min(len(text), at+random.IntN(4))
				text = text[:at] + splices[random.IntN(len(splices))] + text[end:]
			}
			return text
		}
		path, body := seed.path, seed.body
		if body == "" || i%10 == 0 {
			path = "/api/" + mutate(strings.TrimPrefix(path, "/api/"))
		} else {
			body = mutate(body)
		}
		w := send(seed.method, path, body)
		statuses[w.Code]++
		if w.Code >= 500 {
			t.Errorf("%s %q %q: %d %s", seed.method, path, body, w.Code, w.Body)
		}
		if w.Code >= 400 && w.Body.Len() > 0 && !strings.Contains(w.Body.String(), `"error"`) {
			t.Errorf("%s %q %q: %d without an error: %s", seed.method, path, body, w.Code, w.Body)
		}
	}
	if statuses[200] < 500 || statuses[400] < 3000 {
		t.Errorf("statuses %v: the mutations reach too little", statuses)
	}
	if got := send("GET", "/api/conversations/kept", "").Body.String(); strings.Count(got, `"content":"A"`) != 3 {
		t.Errorf("afterwards: %s", got)
	}
}
