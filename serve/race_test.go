package serve

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"chulengo/engine"
)

// parrot is the least of a backend: it answers with its prompt.
type parrot struct{ Backend }

func (parrot) Info() ModelInfo     { return ModelInfo{} }
func (parrot) Stats() engine.Stats { return engine.Stats{} }

func (parrot) Prompt(messages []Message) (prompt []int32, err error) {
	for _, m := range messages {
		prompt = append(prompt, []rune(m.Content+" ")...)
	}
	return prompt, nil
}

func (parrot) Generate(_ context.Context, r engine.Request, emit func(engine.Event) error) (*engine.Result, error) {
	text := string(r.Prompt)
	return &engine.Result{Text: text, Finish: engine.FinishStop}, emit(engine.Event{Text: text})
}

// clearing is a store whose conversations are cleared, once, just before a question is written down.
type clearing struct {
	Store
	armed bool
}

func (c *clearing) Begin(ctx context.Context, id string, q Question) (int64, error) {
	if c.armed {
		c.armed = false
		if err := c.Clear(ctx, id); err != nil {
			return 0, err
		}
	}
	return c.Store.Begin(ctx, id, q)
}

// A question that comes while its conversation is cleared is the first of the empty one; one that names a message of
// before finds it gone.
func TestClearedWhileAsking(t *testing.T) {
	server, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	store := &clearing{Store: server.store}
	server.store = store
	server.core, server.backend = nil, parrot{}
	ask := func(body string) (int, string) {
		r := httptest.NewRequest("POST", "http://localhost/api/generate", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	ask(`{"user_input": "Q1", "chat_id": "x"}`)
	store.armed = true
	if status, text := ask(`{"user_input": "Q2", "chat_id": "x"}`); status != http.StatusOK || !strings.Contains(text, `"response":"Q2"`) {
		t.Errorf("got %d %s", status, text)
	}
	messages := must[[]StoredMessage](t)(store.Messages(context.Background(), "x", 0))
	if len(messages) != 2 || messages[0].Parent != 0 {
		t.Fatalf("got %q", texts(messages))
	}
	store.armed = true
	if status, text := ask(`{"regenerate": 3, "chat_id": "x"}`); status != http.StatusNotFound {
		t.Errorf("regenerate: got %d %s, messages %+v", status, text, messages)
	}
}
