package serve_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// held is a backend whose pieces wait for the test.
func held(pieces ...string) *fake.Backend {
	b := says(pieces...)
	b.Hold = make(chan struct{})
	return b
}

// speak lets a held backend say n pieces. A stream opens with the first of them.
func (s *site) speak(n int) {
	s.t.Helper()
	for range n {
		select {
		case s.backend.Hold <- struct{}{}:
		case <-time.After(patience):
			s.t.Error("the backend does not speak")
			return
		}
	}
}

func TestStreamEvents(t *testing.T) {
	s := ready(t, serve.Options{}, held("  你", "\xe5", "\xa5", "\xbd <|", "eot|> ", "<b> ", "🦙", "\n"))
	go s.speak(1)
	st := s.program().open("POST", "/api/generate", object{"user_input": "a", "chat_id": "x", "stream": true, "max_new_tokens": 1})
	h := st.response.Header
	var deltas []string
	next := func() {
		o := st.next()
		if len(o) != 1 {
			t.Fatalf("got %v, want a delta", o)
		}
		deltas = append(deltas, o["delta"].(string))
	}
	next()
	s.speak(3) // a character in three tokens, then what may be a mark
	next()
	s.speak(2)
	next()
	s.speak(1)
	next()
	s.speak(1)
	last := st.rest()
	if want := []string{"你", "好", "  <b>", " 🦙"}; !reflect.DeepEqual(deltas, want) {
		t.Errorf("deltas %q, want %q", deltas, want)
	}
	want := object{"done": true, "response": "你好  <b> 🦙", "chat_id": "x", "max_new_tokens": 256.0, "max_history_length": 10.0, "finish_reason": "stop"}
	if !reflect.DeepEqual(last, want) {
		t.Errorf("got %v, want %v", last, want)
	}
	if st.text != last["response"] {
		t.Errorf("the deltas make %q, the response is %q", st.text, last["response"])
	}
	for name, want := range map[string]string{"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no", "Cache-Control": "no-cache, no-store"} {
		if h.Get(name) != want {
			t.Errorf("%s: got %q, want %q", name, h.Get(name), want)
		}
	}
}

func TestStreamErrorsBeforeTheFirstTokenKeepTheirStatus(t *testing.T) {
	b := &fake.Backend{Script: func(string) ([]string, error) { return nil, errors.New("at once") }}
	s := launch(t, serve.Options{})
	c := s.program()
	ask := object{"user_input": "a", "stream": true}
	if status, got := c.post("/api/generate", ask); status != 503 || got["error"] == nil {
		t.Errorf("loading: got %d %v", status, got)
	}
	s.server.SetReady(b)
	if status, got := c.post("/api/generate", ask); status != 500 || got["error"] == nil {
		t.Errorf("failing: got %d %v", status, got)
	}
	if status, got := c.post("/api/generate", object{"user_input": "", "stream": true}); status != 400 || got["error"] == nil {
		t.Errorf("empty: got %d %v", status, got)
	}
}

func TestStreamOfNothing(t *testing.T) {
	c := ready(t, serve.Options{}, says()).program()
	last := c.open("POST", "/api/generate", object{"user_input": "a", "stream": true}).rest()
	if last["done"] != true || last["response"] != "" {
		t.Errorf("got %v", last)
	}
}

func TestFinishReasonLength(t *testing.T) {
	c := ready(t, serve.Options{}, says(strings.Split(strings.Repeat("a", 300), "")...)).program()
	last := c.open("POST", "/api/generate", object{"user_input": "a", "chat_id": "x", "stream": true, "max_new_tokens": 256}).rest()
	if last["finish_reason"] != "length" || len(last["response"].(string)) != 256 {
		t.Errorf("got %v", last)
	}
}

func TestKeepAlive(t *testing.T) {
	s := ready(t, serve.Options{KeepAlive: 5 * time.Millisecond}, held("a"))
	st := s.program().open("POST", "/api/generate", object{"user_input": "a", "stream": true})
	time.Sleep(50 * time.Millisecond)
	s.speak(1)
	if last := st.rest(); last["response"] != "a" || st.comments < 2 {
		t.Errorf("got %v after %d comments", last, st.comments)
	}
}

func TestStopKeepsThePart(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprintf("stream %v", stream), func(t *testing.T) {
			s := ready(t, serve.Options{}, held("Once ", "upon ", "a time"))
			c := s.program()
			if _, got := c.post("/api/stop", object{"chat_id": "x"}); !reflect.DeepEqual(got, object{"success": true, "stopped": false}) {
				t.Errorf("with nothing to stop: %v", got)
			}
			replies := make(chan object, 1)
			go func() {
				o := object{"user_input": "Q", "chat_id": "x", "stream": stream}
				if stream {
					replies <- c.open("POST", "/api/generate", o).rest()
					return
				}
				_, got := c.post("/api/generate", o)
				replies <- got
			}()
			s.speak(2)
			eventually(t, "two pieces", func() bool {
				st := c.open("GET", "/api/conversations/x/stream", nil)
				defer st.close()
				return st.response.StatusCode == 200 && len(st.next()["delta"].(string)) == len("Once upon")
			})
			if status, got := c.post("/api/stop", object{"chat_id": "x"}); status != 200 || got["stopped"] != true {
				t.Errorf("got %d %v", status, got)
			}
			want := []string{"user: Q", "assistant: Once upon (stop_requested)"}
			if got := c.messages("x"); !reflect.DeepEqual(got, want) { // at once: stop waits for the history
				t.Errorf("got %q, want %q", got, want)
			}
			got := <-replies
			if got["response"] != "Once upon" || stream && got["finish_reason"] != "stop_requested" || !stream && len(got) != 4 {
				t.Errorf("got %v", got)
			}
			if running, _, _ := s.backend.Counts(); running != 0 {
				t.Error("the backend still speaks")
			}
		})
	}
}

// A program's request ends with its connection; its round leaves no trace.
func TestDisconnectCancels(t *testing.T) {
	for _, stream := range []bool{false, true} {
		for _, spoken := range []int{0, 2} {
			t.Run(fmt.Sprintf("stream %v after %d", stream, spoken), func(t *testing.T) {
				s := ready(t, serve.Options{}, held("a", "b", "c"))
				c := s.program()
				ctx, leave := context.WithCancel(context.Background())
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					response, err := c.http.Do(c.request(ctx, "POST", "/api/generate", object{"user_input": "Q", "chat_id": "x", "stream": stream}))
					if err == nil {
						defer response.Body.Close()
						<-ctx.Done()
					}
				}()
				eventually(t, "the answer's start", func() bool { running, _, _ := s.backend.Counts(); return running == 1 })
				s.speak(spoken)
				leave()
				<-gone
				eventually(t, "the answer's end", func() bool { running, _, ended := s.backend.Counts(); return running == 0 && ended == 1 })
				eventually(t, "the round's end", func() bool {
					_, got := c.do("GET", "/api/conversations/x", nil)
					return got["running"] == false && len(got["messages"].([]any)) == 0
				})
			})
		}
	}
}

// The page's request does not; only a stop ends it.
func TestDetachSurvives(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprintf("stream %v", stream), func(t *testing.T) {
			s := ready(t, serve.Options{}, held("a", "b", "c"))
			c := s.browser()
			ctx, leave := context.WithCancel(context.Background())
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				response, err := c.http.Do(c.request(ctx, "POST", "/api/generate", object{"user_input": "Q", "chat_id": "x", "stream": stream, "detach": true}))
				if err == nil {
					defer response.Body.Close()
					<-ctx.Done()
				}
			}()
			s.speak(1)
			leave()
			<-gone
			time.Sleep(20 * time.Millisecond) // for a wrong cancellation to arrive
			_, got := c.do("GET", "/api/conversations/x", nil)
			if got["running"] != true || len(got["messages"].([]any)) != 1 {
				t.Errorf("meanwhile: %v", got)
			}
			st := c.open("GET", "/api/conversations/x/stream?from=0", nil)
			s.speak(2)
			if last := st.rest(); last["done"] != true || last["response"] != "abc" || st.text != "abc" {
				t.Errorf("reattached: got %v after %q", last, st.text)
			}
			if got, want := c.messages("x"), []string{"user: Q", "assistant: abc (stop)"}; !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if st := c.open("GET", "/api/conversations/x/stream", nil); st.response.StatusCode != 204 {
				t.Errorf("with nothing running: %d", st.response.StatusCode)
			}
		})
	}
}

// Readers may come back at any byte, as often as they like, and always have the same text.
func TestReattachAtEveryByte(t *testing.T) {
	pieces := []string{"Zwei ", "Lla", "mas: ", "🦙", "🦙", " und ", "好", "!"}
	whole := strings.Join(pieces, "")
	s := ready(t, serve.Options{}, held(pieces...))
	c := s.browser()
	go s.speak(4)
	first := c.open("POST", "/api/generate", object{"user_input": "Q", "chat_id": "x", "stream": true, "detach": true})
	for first.text != "Zwei Llamas: 🦙" {
		first.next()
	}
	if status, got := c.do("GET", "/api/conversations/x/stream?from=18", nil); status != 400 {
		t.Errorf("beyond the text: got %d %v", status, got)
	}
	for _, from := range []string{"-1", "x", "1.5", "99999999999999999999"} {
		if status, got := c.do("GET", "/api/conversations/x/stream?from="+from, nil); status != 400 || !strings.Contains(got["error"].(string), "from") {
			t.Errorf("from=%s: got %d %v", from, status, got)
		}
	}
	var streams []*stream
	for from := range len(first.text) + 1 {
		streams = append(streams, c.open("GET", fmt.Sprintf("/api/conversations/x/stream?from=%d", from), nil))
	}
	s.speak(len(pieces) - 4)
	for from, st := range streams {
		last := st.rest()
		begin := from
		for !utf8.RuneStart(whole[begin]) {
			begin-- // a character is sent whole
		}
		if whole[:begin]+st.text != whole || last["response"] != whole || last["finish_reason"] != "stop" {
			t.Errorf("from %d: got %q, then %v", from, st.text, last)
		}
	}
}

// Requests of programs in one conversation are answered one after the other, each with the earlier ones in its prompt.
func TestOneConversationOneAnswer(t *testing.T) {
	b := says("yes")
	b.Delay = 2 * time.Millisecond
	s := ready(t, serve.Options{}, b)
	const requests = 12
	var wait sync.WaitGroup
	for i := range requests {
		wait.Go(func() {
			status, got := s.program().post("/api/generate", object{"user_input": fmt.Sprint("Q", i), "chat_id": "x", "max_history_length": 20})
			if status != 200 || got["response"] != "yes" {
				t.Errorf("got %d %v", status, got)
			}
		})
	}
	wait.Wait()
	if _, most, _ := b.Counts(); most != 1 {
		t.Errorf("%d answers ran at once", most)
	}
	for i, r := range b.Requests() {
		if got := strings.Count(fake.Text(r.Prompt), "\n"); got != 2*i+1 {
			t.Errorf("request %d: a prompt of %d messages, want %d", i, got, 2*i+1)
		}
	}
	messages := s.program().messages("x")
	if len(messages) != 2*requests {
		t.Fatalf("the history has %d messages", len(messages))
	}
	for i, m := range messages {
		if want := []string{"user: Q", "assistant: yes"}[i%2]; !strings.HasPrefix(m, want) {
			t.Errorf("message %d: %q", i, m)
		}
	}
}

func TestConversationsDoNotWaitForOneAnother(t *testing.T) {
	s := ready(t, serve.Options{}, held("a"))
	var wait sync.WaitGroup
	for i := range 3 {
		wait.Go(func() { s.program().post("/api/generate", object{"user_input": "Q", "chat_id": fmt.Sprint(i)}) })
	}
	eventually(t, "three answers at once", func() bool { running, _, _ := s.backend.Counts(); return running == 3 })
	s.speak(3)
	wait.Wait()
}

func TestBusyConversation(t *testing.T) {
	s := ready(t, serve.Options{}, held("a"))
	c := s.program()
	first := make(chan int, 1)
	go func() {
		status, _ := c.post("/api/generate", object{"user_input": "Q1", "chat_id": "x"})
		first <- status
	}()
	eventually(t, "the first answer", func() bool { running, _, _ := s.backend.Counts(); return running == 1 })
	if status, got := c.post("/api/generate", object{"user_input": "Q2", "chat_id": "x", "detach": true}); status != 409 || got["error"] == nil {
		t.Errorf("got %d %v", status, got)
	}
	// A program that waits and leaves is forgotten.
	ctx, leave := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer leave()
	if response, err := c.http.Do(c.request(ctx, "POST", "/api/generate", object{"user_input": "Q3", "chat_id": "x"})); err == nil {
		response.Body.Close()
		t.Errorf("a second answer began: %d", response.StatusCode)
	}
	// The server hears of it later than the program that left: it logs a request when it is done with it, Q2 and Q3.
	eventually(t, "the end of the request that left", func() bool { return strings.Count(s.log.String(), "route=/api/generate") == 2 })
	s.speak(1)
	if status := <-first; status != http.StatusOK {
		t.Errorf("the first: %d", status)
	}
	if got := c.messages("x"); len(got) != 2 {
		t.Errorf("got %q", got)
	}
}

// As soon as an answer's last event is read, the next question may come.
func TestNextQuestionAtOnce(t *testing.T) {
	c := ready(t, serve.Options{}, says("a")).browser()
	for i := range 50 {
		st := c.open("POST", "/api/generate", object{"user_input": "Q", "chat_id": "x", "stream": true, "detach": true})
		if st.response.StatusCode != 200 {
			t.Fatalf("question %d: status %d", i, st.response.StatusCode)
		}
		for o := st.next(); o["done"] == nil; o = st.next() {
			if o == nil {
				t.Fatal("the stream ended early")
			}
		}
	}
}

func TestClearingEndsTheAnswer(t *testing.T) {
	for _, how := range []string{"clear", "delete"} {
		t.Run(how, func(t *testing.T) {
			s := ready(t, serve.Options{}, held("a", "b"))
			c := s.program()
			go s.speak(1)
			st := c.open("POST", "/api/generate", object{"user_input": "Q", "chat_id": "x", "stream": true, "detach": true})
			st.next()
			want := 200
			if how == "clear" {
				c.post("/api/clear_history", object{"chat_id": "x"})
			} else {
				c.do("DELETE", "/api/conversations/x", nil)
				want = 404
			}
			if last := st.rest(); last["done"] != true {
				t.Errorf("got %v", last)
			}
			status, got := c.do("GET", "/api/conversations/x", nil)
			if status != want || want == 200 && len(got["messages"].([]any)) != 0 {
				t.Errorf("got %d %v", status, got)
			}
		})
	}
}
