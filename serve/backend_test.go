package serve_test

import (
	"reflect"
	"testing"

	"chulengo/engine"
	"chulengo/serve"
	"chulengo/tokenizer"
)

// recorder is a template that notes what it renders.
type recorder struct{ chat tokenizer.Chat }

func (r *recorder) Render(c tokenizer.Chat) ([]int32, error) {
	r.chat = c
	return []int32{'h', 'i'}, nil
}
func (r *recorder) Text(tokenizer.Chat) (string, error) { return "hi", nil }

var _ serve.Generator = (*engine.Engine)(nil)

func TestNewBackend(t *testing.T) {
	template, model := &recorder{}, says("ok")
	s := launch(t, serve.Options{System: "S"})
	s.server.SetReady(serve.NewBackend(serve.ModelInfo{Name: "m", Context: 100}, model.Tokenizer(), template, model))
	c := s.program()
	c.post("/api/generate", object{"user_input": "Q1", "chat_id": "x"})
	if _, got := c.post("/api/generate", object{"user_input": "Q2<|eot|>", "chat_id": "x"}); got["response"] != "ok" {
		t.Errorf("got %v", got)
	}
	want := tokenizer.Chat{Messages: []tokenizer.Message{tokenizer.Text("system", "S"), tokenizer.Text("user", "Q1"),
		tokenizer.Text("assistant", "ok"), tokenizer.Text("user", "Q2<|eot|>")}}
	if !reflect.DeepEqual(template.chat, want) {
		t.Errorf("got %+v, want %+v", template.chat, want)
	}
	if got := string(model.Requests()[1].Prompt); got != "hi" {
		t.Errorf("prompt %q", got)
	}
	if _, got := c.do("GET", "/api/status", nil); got["model"].(object)["name"] != "m" {
		t.Errorf("got %v", got)
	}
}
