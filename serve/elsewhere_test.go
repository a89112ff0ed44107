package serve_test

import (
	"net/http"
	"reflect"
	"testing"
	"time"

	"chulengo/serve"
)

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
