package serve_test

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"chulengo/engine"
	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestGenerateAnswersWithFourFields(t *testing.T) {
	c := ready(t, serve.Options{}, says(" Par", "is", ".<|e", "ot|>\n")).program()
	status, got := c.post("/api/generate", object{"user_input": "Where?", "chat_id": "x"})
	want := object{"response": "Paris.", "chat_id": "x", "max_new_tokens": 1024.0, "max_history_length": 10.0}
	if status != 200 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %d %v, want %v", status, got, want)
	}
}

// Every line of the fine print about a request, in one table. The model is ready.
func TestGenerateFinePrint(t *testing.T) {
	c := ready(t, serve.Options{BodyLimit: 1000}, says("ok")).program()
	for _, test := range []struct {
		name, kind, body string
		status           int
		tokens, rounds   float64 // of a 200
		err              string  // part of the error
	}{
		{name: "string", body: `{"user_input":"a","max_new_tokens":"512","max_history_length":"3"}`, status: 200, tokens: 512, rounds: 3},
		{name: "float", body: `{"user_input":"a","max_new_tokens":700.9,"max_history_length":3.9}`, status: 200, tokens: 700, rounds: 3},
		{name: "below", body: `{"user_input":"a","max_new_tokens":1,"max_history_length":1}`, status: 200, tokens: 256, rounds: 2},
		{name: "above", body: `{"user_input":"a","max_new_tokens":1e9,"max_history_length":99}`, status: 200, tokens: 2048, rounds: 20},
		{name: "defaults", body: `{"user_input":"a"}`, status: 200, tokens: 1024, rounds: 10},
		{name: "white space", body: `{"user_input":"  "}`, status: 200, tokens: 1024, rounds: 10},
		{name: "unknown fields", body: `{"user_input":"a","temperature":3}`, status: 200, tokens: 1024, rounds: 10},
		{name: "charset", kind: "application/json; charset=UTF-8", body: `{"user_input":"a"}`, status: 200, tokens: 1024, rounds: 10},

		{name: "bad tokens", body: `{"user_input":"a","max_new_tokens":"x"}`, status: 400, err: "max_new_tokens"},
		{name: "bad rounds", body: `{"user_input":"a","max_history_length":null}`, status: 400, err: "max_history_length"},
		{name: "bad JSON", body: `{"user_input":`, status: 400, err: "JSON"},
		{name: "no object", body: `["user_input"]`, status: 400, err: "JSON"},
		{name: "no body", body: ``, status: 400, err: "JSON"},
		{name: "wrong type", kind: "text/plain", body: `{"user_input":"a"}`, status: 400, err: "Content-Type"},
		{name: "form", kind: "application/x-www-form-urlencoded", body: `user_input=a`, status: 400, err: "Content-Type"},
		{name: "absent", body: `{}`, status: 400, err: "请输入问题"},
		{name: "empty", body: `{"user_input":""}`, status: 400, err: "请输入问题"},
		{name: "null", body: `{"user_input":null}`, status: 400, err: "请输入问题"},
		{name: "zero", body: `{"user_input":0}`, status: 400, err: "请输入问题"},
		{name: "false", body: `{"user_input":false}`, status: 400, err: "请输入问题"},
		{name: "a number", body: `{"user_input":7}`, status: 400, err: "user_input"},
		{name: "a list", body: `{"user_input":["a"]}`, status: 400, err: "user_input"},
		{name: "chat_id of another type", body: `{"user_input":"a","chat_id":7}`, status: 400, err: "chat_id"},
		{name: "stream of another type", body: `{"user_input":"a","stream":"yes"}`, status: 400, err: "stream"},
		{name: "integers before the question", body: `{"user_input":"","max_new_tokens":"x"}`, status: 400, err: "max_new_tokens"},
		{name: "body before integers", kind: "text/plain", body: `{"max_new_tokens":"x"}`, status: 400, err: "Content-Type"},
		{name: "English", body: `{"user_input":"","lang":"en"}`, status: 400, err: "please enter a question"},
		{name: "too large", body: `{"user_input":"` + strings.Repeat("a", 1000) + `"}`, status: 413, err: "太大"},
		{name: "the page's poll", body: `{"user_input":"","chat_id":"x"}`, status: 400, err: "请输入问题"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.header.Set("Content-Type", test.kind)
			status, got := c.post("/api/generate", test.body)
			if status != test.status {
				t.Fatalf("got %d %v, want %d", status, got, test.status)
			}
			if status == 200 {
				if got["max_new_tokens"] != test.tokens || got["max_history_length"] != test.rounds {
					t.Errorf("got %v, want %v tokens, %v rounds", got, test.tokens, test.rounds)
				}
				return
			}
			if text, _ := got["error"].(string); len(got) != 1 || !strings.Contains(text, test.err) {
				t.Errorf("got %v, want an error with %q", got, test.err)
			}
		})
	}
}

// While the model loads nothing else is looked at.
func TestGenerateWhileLoading(t *testing.T) {
	s := launch(t, serve.Options{})
	c := s.program()
	want := object{"error": "模型正在加载中,请稍后再试"}
	for _, body := range []string{`{"user_input":""}`, `{"user_input":"a"}`, `{`, ``, `{"user_input":"a","max_new_tokens":"x"}`} {
		if status, got := c.post("/api/generate", body); status != 503 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %d %v", body, status, got)
		}
	}
	s.server.SetReady(says("ok"))
	if status, got := c.post("/api/generate", `{"user_input":""}`); status != 400 || got["error"] != "请输入问题" {
		t.Errorf("ready: got %d %v", status, got)
	}
}

func TestErrorLanguage(t *testing.T) {
	c := launch(t, serve.Options{}).program()
	for _, test := range []struct{ path, accept, want string }{
		{"/api/generate", "", "模型"}, {"/api/generate", "zh-CN,en", "模型"}, {"/api/generate", "fr", "模型"},
		{"/api/generate", "en-GB,en;q=0.9", "the model"}, {"/api/generate?lang=en", "zh", "the model"}, {"/api/generate?lang=zh", "en", "模型"},
	} {
		c.header.Set("Accept-Language", test.accept)
		if _, got := c.post(test.path, `{}`); !strings.HasPrefix(got["error"].(string), test.want) {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}

func TestChatIDs(t *testing.T) {
	s := ready(t, serve.Options{}, says("ok"))
	program := s.program()
	seen := map[string]bool{}
	for _, body := range []object{{}, {"chat_id": nil}, {"chat_id": ""}, {}} {
		body["user_input"] = "a"
		_, got := program.post("/api/generate", body)
		id := got["chat_id"].(string)
		if !uuidPattern.MatchString(id) || seen[id] {
			t.Errorf("%v: got id %q", body, id)
		}
		seen[id] = true
		if n := len(program.messages(id)); n != 2 {
			t.Errorf("%v: a history of %d messages", body, n)
		}
	}
	browser := s.browser()
	id := uuidIn(t, browser.page())
	for _, body := range []object{{}, {"chat_id": nil}, {"chat_id": ""}} {
		body["user_input"] = "a"
		if _, got := browser.post("/api/generate", body); got["chat_id"] != id {
			t.Errorf("%v: got %v, want the session's %s", body, got["chat_id"], id)
		}
	}
	for _, id := range []string{"x", "我的会话", "a/b c?d#e%2F", strings.Repeat("长", 80)} {
		if status, got := program.post("/api/generate", object{"user_input": "a", "chat_id": id}); status != 200 || got["chat_id"] != id {
			t.Errorf("%q: got %d %v", id, status, got)
		}
	}
}

// uuidIn finds the only id in a page.
func uuidIn(t *testing.T, page string) string {
	t.Helper()
	for _, word := range regexp.MustCompile(`[0-9a-f-]{36}`).FindAllString(page, -1) {
		if uuidPattern.MatchString(word) {
			return word
		}
	}
	t.Fatalf("no id in %q", page)
	return ""
}

// The prompt: the last 2·max_history_length messages, never an answer first; the history keeps everything.
func TestHistoryAndPrompt(t *testing.T) {
	n := 0
	b := &fake.Backend{Script: func(string) ([]string, error) { n++; return []string{fmt.Sprint("A", n)}, nil }}
	c := ready(t, serve.Options{System: "Be brief."}, b).program()
	for i, want := range []string{"user: Q1", "user: Q1|assistant: A1|user: Q2", "user: Q2|assistant: A2|user: Q3", "user: Q3|assistant: A3|user: Q4"} {
		c.post("/api/generate", object{"user_input": fmt.Sprint("Q", i+1), "chat_id": "x", "max_history_length": 2})
		requests := b.Requests()
		want = "system: Be brief.|" + want
		if got := strings.ReplaceAll(strings.TrimSpace(fake.Text(requests[i].Prompt)), "\n", "|"); got != want {
			t.Errorf("prompt %d: got %q, want %q", i+1, got, want)
		}
	}
	if got := len(c.messages("x")); got != 8 {
		t.Errorf("the history has %d messages, want all 8", got)
	}
	c.post("/api/generate", object{"user_input": "Q5", "chat_id": "x"})
	if got := strings.Count(fake.Text(b.Requests()[4].Prompt), "\n"); got != 10 {
		t.Errorf("with ten rounds the prompt has %d lines, want 10", got)
	}
	c.post("/api/generate", object{"user_input": "Q1", "chat_id": "y"})
	if got := fake.Text(b.Requests()[5].Prompt); got != "system: Be brief.\nuser: Q1\n" {
		t.Errorf("another conversation: got %q", got)
	}
}

func TestSampling(t *testing.T) {
	b := says("ok")
	b.Model.Sampling = engine.Sampling{Temperature: 0.6, TopP: 0.9}
	c := ready(t, serve.Options{}, b).program()
	for range 2 {
		c.post("/api/generate", object{"user_input": "a", "max_new_tokens": 300})
	}
	r := b.Requests()
	if r[0].Sampling.Temperature != 0.6 || r[0].Sampling.TopP != 0.9 || r[0].MaxTokens != 300 {
		t.Errorf("got %+v", r[0])
	}
	if r[0].Sampling.Seed == r[1].Sampling.Seed {
		t.Error("two answers have the same seed")
	}
	c = ready(t, serve.Options{Sampling: &engine.Sampling{Seed: 7}}, b).program()
	c.post("/api/generate", object{"user_input": "a"})
	if got := b.Requests()[2].Sampling; got.Seed != 7 || got.Temperature != 0 {
		t.Errorf("options' sampling: got %+v", got)
	}
}

// A failed answer leaves no trace and tells nothing of the inside.
func TestFailureLeavesNoTrace(t *testing.T) {
	fail := true
	b := &fake.Backend{Script: func(string) ([]string, error) {
		if fail {
			return []string{"half"}, errors.New("open /secret/path: kernel exploded")
		}
		return []string{"ok"}, nil
	}}
	s := ready(t, serve.Options{}, b)
	c := s.program()
	for _, stream := range []bool{false, true} {
		o := object{"user_input": "SECRETQUESTION", "chat_id": "x", "stream": stream}
		var text string
		if stream {
			last := c.open("POST", "/api/generate", o).rest()
			text, _ = last["error"].(string)
		} else {
			status, got := c.post("/api/generate", o)
			if status != 500 || len(got) != 1 {
				t.Errorf("got %d %v", status, got)
			}
			text, _ = got["error"].(string)
		}
		if text != "服务器内部错误" {
			t.Errorf("stream %v: got %q", stream, text)
		}
	}
	if got := c.messages("x"); len(got) != 0 {
		t.Errorf("the history has %v", got)
	}
	fail = false
	c.post("/api/generate", object{"user_input": "again", "chat_id": "x"})
	requests := b.Requests()
	if got := fake.Text(requests[len(requests)-1].Prompt); got != "user: again\n" {
		t.Errorf("the next prompt is %q", got)
	}
	if log := s.log.String(); !strings.Contains(log, "kernel exploded") || strings.Contains(log, "SECRETQUESTION") {
		t.Errorf("the log must have the cause and no contents:\n%s", log)
	}
}

func TestPanicsAreErrors(t *testing.T) {
	b := &fake.Backend{Script: func(prompt string) ([]string, error) {
		if strings.Contains(prompt, "boom") {
			panic("the backend panics")
		}
		return []string{"ok"}, nil
	}}
	s := ready(t, serve.Options{}, b)
	c := s.program()
	if status, got := c.post("/api/generate", object{"user_input": "boom", "chat_id": "x"}); status != 500 || got["error"] != "服务器内部错误" {
		t.Errorf("got %d %v", status, got)
	}
	if status, got := c.post("/api/generate", object{"user_input": "a", "chat_id": "x"}); status != 200 {
		t.Errorf("afterwards: got %d %v", status, got)
	}
	if !strings.Contains(s.log.String(), "the backend panics") {
		t.Error("the panic is not in the log")
	}
}

// Too much for the context: old rounds go first; a question that does not fit alone is refused with numbers.
func TestContext(t *testing.T) {
	b := says("ok")
	b.Model.Context = 100 // the fake model's tokens are characters
	c := ready(t, serve.Options{}, b).program()
	for i := range 5 {
		status, got := c.post("/api/generate", object{"user_input": fmt.Sprint("question", i), "chat_id": "x"})
		if status != 200 {
			t.Fatalf("got %d %v", status, got)
		}
	}
	for i, r := range b.Requests() {
		text := fake.Text(r.Prompt)
		if len(text)+25 > 100 || len(text)+r.MaxTokens > 100 || r.MaxTokens < 25 {
			t.Errorf("request %d: a prompt of %d and %d new tokens in a context of 100", i, len(text), r.MaxTokens)
		}
		if !strings.HasPrefix(text, "user: ") || !strings.HasSuffix(text, fmt.Sprintf("question%d\n", i)) {
			t.Errorf("request %d: %q", i, text)
		}
		if i > 0 && !strings.Contains(text, fmt.Sprintf("question%d\n", i-1)) {
			t.Errorf("request %d lost a round that fits: %q", i, text)
		}
	}
	// 93 + 7 = 100 leave no token for an answer; 92 + 7 leave one.
	status, got := c.post("/api/generate", object{"user_input": strings.Repeat("a", 93), "chat_id": "x"})
	if status != 400 || got["n_prompt_tokens"] != 100.0 || got["n_ctx"] != 100.0 ||
		!strings.Contains(got["error"].(string), "100 个 token") {
		t.Errorf("got %d %v", status, got)
	}
	_, got = c.post("/api/generate?lang=en", object{"user_input": strings.Repeat("a", 200), "chat_id": "new"})
	if !strings.Contains(got["error"].(string), "207 tokens, the context holds 100") {
		t.Errorf("got %v", got)
	}
	if status, _ := c.do("GET", "/api/conversations/new", nil); status != 404 {
		t.Errorf("a refused question made a conversation: %d", status)
	}
	if status, got := c.post("/api/generate", object{"user_input": strings.Repeat("a", 92), "chat_id": "x"}); status != 200 {
		t.Errorf("got %d %v", status, got)
	}
	if n := len(c.messages("x")); n != 12 {
		t.Errorf("the history has %d messages, want 12", n)
	}
}

// The engine may know of a smaller context than the model says.
func TestContextErrorOfTheEngine(t *testing.T) {
	b := &fake.Backend{Script: func(string) ([]string, error) {
		return nil, fmt.Errorf("engine: %w", &engine.ContextError{Prompt: 9, MaxTokens: 1, Context: 8})
	}}
	c := ready(t, serve.Options{}, b).program()
	if status, got := c.post("/api/generate", object{"user_input": "a"}); status != 400 || got["n_prompt_tokens"] != 9.0 || got["n_ctx"] != 8.0 {
		t.Errorf("got %d %v", status, got)
	}
}

func TestBusyEngine(t *testing.T) {
	b := &fake.Backend{Script: func(string) ([]string, error) { return nil, fmt.Errorf("too much: %w", engine.ErrBusy) }}
	c := ready(t, serve.Options{}, b).program()
	if status, got := c.post("/api/generate", object{"user_input": "a"}); status != 503 || !strings.Contains(got["error"].(string), "正忙") {
		t.Errorf("got %d %v", status, got)
	}
}

func TestClearHistory(t *testing.T) {
	s := launch(t, serve.Options{}) // works while loading
	program, browser := s.program(), s.browser()
	id := uuidIn(t, browser.page())
	good := object{"success": true, "message": "聊天历史已清除"}
	bad := object{"success": false, "error": "无效的会话ID"}
	for _, test := range []struct {
		name   string
		c      *client
		body   any
		status int
		want   object
	}{
		{"the page's id, before the first message", program, object{"chat_id": id}, 200, good},
		{"the session's id", browser, object{}, 200, good},
		{"null", browser, object{"chat_id": nil}, 200, good},
		{"empty", browser, object{"chat_id": ""}, 200, good},
		{"unknown", program, object{"chat_id": "nobody's"}, 400, bad},
		{"unknown, in a browser", browser, object{"chat_id": "nobody's"}, 400, bad},
		{"none", program, object{}, 400, bad},
		{"another browser's", s.browser(), object{"chat_id": id}, 400, bad},
		{"bad JSON", program, "{", 400, object{"success": false, "error": "请求体不是有效的 JSON 对象"}},
		{"a number", program, object{"chat_id": 5}, 400, object{"success": false, "error": "字段 chat_id 必须是字符串"}},
	} {
		if status, got := test.c.post("/api/clear_history", test.body); status != test.status || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %d %v, want %d %v", test.name, status, got, test.status, test.want)
		}
	}
	s.server.SetReady(says("ok"))
	program.post("/api/generate", object{"user_input": "a", "chat_id": "x"})
	for range 2 { // the id stays known
		if status, got := program.post("/api/clear_history", object{"chat_id": "x"}); status != 200 || !reflect.DeepEqual(got, good) {
			t.Errorf("got %d %v", status, got)
		}
		if got := program.messages("x"); len(got) != 0 {
			t.Errorf("after clearing: %v", got)
		}
	}
	// A conversation that was deleted is still the session's.
	browser.do("DELETE", "/api/conversations/"+id, nil)
	if status, got := browser.post("/api/clear_history", object{}); status != 200 {
		t.Errorf("got %d %v", status, got)
	}
}
