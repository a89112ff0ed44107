package serve

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPythonIntegers(t *testing.T) {
	const bad = -1
	for _, test := range []struct {
		json string
		want int // after clamping to 256..2048
	}{
		{`512`, 512}, {`"512"`, 512}, {`" 512\n"`, 512}, {`"+512"`, 512}, {`"0512"`, 512}, {`"1_000"`, 1000},
		{`"512"`, 512}, {`"٥١٢"`, 512},
		{`300.9`, 300}, {`3.9`, 256}, {`-3.9`, 256}, {`5e2`, 500}, {`5E2`, 500}, {`1e308`, 2048},
		{`true`, 256}, {`false`, 256},
		{`0`, 256}, {`-1`, 256}, {`255`, 256}, {`256`, 256}, {`2048`, 2048}, {`2049`, 2048}, {`99999999999999999999999999`, 2048},
		{`"99999999999999999999999999"`, 2048}, {`"-99999999999999999999999999"`, 256},
		{`null`, bad}, {`"3.9"`, bad}, {`""`, bad}, {`" "`, bad}, {`"x"`, bad}, {`"0x10"`, bad}, {`"1__0"`, bad}, {`"_1"`, bad},
		{`"1_"`, bad}, {`"+-1"`, bad}, {`"5 12"`, bad}, {`[]`, bad}, {`[512]`, bad}, {`{}`, bad}, {`1e400`, bad},
		{`"` + strings.Repeat("9", 4300) + `"`, 2048}, {`"` + strings.Repeat("9", 4301) + `"`, bad},
	} {
		f := fields{"n": json.RawMessage(test.json)}
		got, err := f.integer("n", 1024, 256, 2048)
		if test.want == bad {
			if err == nil || !strings.Contains(err.Error(), "field n") {
				t.Errorf("%.40s: got %d, %v, want an error that names the field", test.json, got, err)
			}
		} else if err != nil || got != test.want {
			t.Errorf("%.40s: got %d, %v, want %d", test.json, got, err, test.want)
		}
	}
	if got, err := (fields{}).integer("n", 1024, 256, 2048); err != nil || got != 1024 {
		t.Errorf("absent: got %d, %v, want 1024", got, err)
	}
}

func TestUserInput(t *testing.T) {
	for _, test := range []struct{ json, want, err string }{
		{`"hi"`, "hi", ""}, {`"  "`, "  ", ""}, {`"\u4f60"`, "你", ""}, {`"0"`, "0", ""},
		{`""`, "", "please enter"}, {`null`, "", "please enter"}, {`false`, "", "please enter"}, {`0`, "", "please enter"},
		{`-0.0e5`, "", "please enter"}, {`[]`, "", "please enter"}, {`[ ]`, "", "please enter"}, {`{ }`, "", "please enter"},
		{`5`, "", "user_input"}, {`0.1`, "", "user_input"}, {`true`, "", "user_input"}, {`["a"]`, "", "user_input"}, {`{"a":1}`, "", "user_input"},
	} {
		got, err := fields{"user_input": json.RawMessage(test.json)}.userInput()
		switch {
		case test.err == "" && (err != nil || got != test.want):
			t.Errorf("%s: got %q, %v, want %q", test.json, got, err, test.want)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: got %q, %v, want an error with %q", test.json, got, err, test.err)
		}
	}
	if _, err := (fields{}).userInput(); !errors.Is(err, errEmptyInput) {
		t.Errorf("absent: got %v", err)
	}
}

func TestBodies(t *testing.T) {
	const kind = "application/json"
	for _, test := range []struct {
		kind, body string
		want       error
	}{
		{kind, `{}`, nil}, {kind + "; charset=utf-8", ` {"a":1} `, nil}, {"application/vnd.x+json", `{}`, nil}, {"Application/JSON", `{}`, nil},
		{kind, "\uFEFF{}", nil}, // PowerShell
		{kind, ``, errBadJSON}, {kind, `{`, errBadJSON}, {kind, `[]`, errBadJSON}, {kind, `null`, errBadJSON}, {kind, `"x"`, errBadJSON},
		{kind, `{} {}`, errBadJSON}, {kind, "{\"a\":\"\xff\"}", errBadJSON}, {kind, `user_input=hi`, errBadJSON},
		{"", `{}`, errNotJSON}, {"text/plain", `{}`, errNotJSON}, {"application/x-www-form-urlencoded", `{}`, errNotJSON},
		{"application/jsonp", `{}`, errNotJSON}, {"multipart/form-data; boundary=x", `{}`, errNotJSON},
		{kind, `{"a":"` + strings.Repeat("x", 100) + `"}`, errTooLarge},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(test.body))
		r.Header.Set("Content-Type", test.kind)
		if _, err := readFields(httptest.NewRecorder(), r, 64); !errors.Is(err, test.want) {
			t.Errorf("%s %.30s: got %v, want %v", test.kind, test.body, err, test.want)
		}
	}
}

func TestChatIDs(t *testing.T) {
	for _, test := range []struct {
		json, want string
		bad        bool
	}{
		{`"x"`, "x", false}, {`""`, "", false}, {`null`, "", false}, {`5`, "", true}, {`[]`, "", true},
		{`"` + strings.Repeat("x", maxChatID) + `"`, strings.Repeat("x", maxChatID), false},
		{`"` + strings.Repeat("x", maxChatID+1) + `"`, "", true},
	} {
		got, err := fields{"chat_id": json.RawMessage(test.json)}.chatID()
		if got != test.want || (err != nil) != test.bad {
			t.Errorf("%.40s: got %q, %v", test.json, got, err)
		}
	}
}

// Whatever a body holds, its fields are read without a panic, and the bounds hold.
func FuzzFields(f *testing.F) {
	for _, seed := range []string{`{"user_input":"a","max_new_tokens":"5_1","max_history_length":3.9,"chat_id":null,"stream":1,"lang":"en"}`,
		`{"user_input":[ ],"max_new_tokens":-1e5}`, `{"user_input":{}}`, `{"max_new_tokens":"512"}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		fields, err := readFields(httptest.NewRecorder(), r, 1<<20)
		if err != nil {
			return
		}
		if n, err := fields.integer("max_new_tokens", 1024, 256, 2048); err == nil && (n < 256 || n > 2048) {
			t.Errorf("max_new_tokens %d", n)
		}
		if text, err := fields.userInput(); err == nil && text == "" {
			t.Error("an empty question passed")
		}
		fields.chatID()
		fields.flag("stream")
		fields.lang(Chinese)
	})
}

func TestWindow(t *testing.T) {
	history := func(pairs ...string) (list []StoredMessage) {
		for _, p := range pairs {
			finish := "stop"
			if strings.HasSuffix(p, "!") { // stopped before a word was said
				finish = FinishStopRequested
			}
			answer := strings.ToUpper(p)
			if finish != "stop" || p == "e" {
				answer = ""
			}
			list = append(list, StoredMessage{Role: RoleUser, Content: p}, StoredMessage{Role: RoleAssistant, Content: answer, Finish: finish})
		}
		return list
	}
	for _, test := range []struct {
		history []StoredMessage
		rounds  int
		want    string
	}{
		{nil, 2, "q"},
		{history("a"), 2, "a A q"},
		{history("a", "b"), 2, "b B q"}, // the original's a A b B q, cut to four, begins with A
		{history("a", "b", "c", "d"), 2, "d D q"},
		{history("a", "b", "c", "d"), 3, "c C d D q"},
		{history("a", "b", "c"), 20, "a A b B c C q"},
		{history("a", "b!", "c"), 20, "a A c C q"},
		{history("a!"), 2, "q"},
		{history("a", "e"), 20, "a A e  q"}, // an answer that the model itself left empty
	} {
		var got []string
		for i, m := range window(test.history, StoredMessage{Role: RoleUser, Content: "q"}, test.rounds) {
			if want := []string{RoleUser, RoleAssistant}[i%2]; m.Role != want {
				t.Errorf("%s: message %d is the %s's", test.want, i, m.Role)
			}
			got = append(got, m.Content)
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("got %q, want %q", text, test.want)
		}
	}
}
