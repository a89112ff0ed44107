package body_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

// read asks for everything that a small request may have.
func read(data string) error {
	v, err := body.Parse([]byte(data))
	if err != nil {
		return err
	}
	for _, m := range v.Get("messages").List() {
		if m.Object() {
			m.Get("role").One("user", "user", "system")
			m.Get("content").Text("")
			for _, part := range m.Get("parts").List() {
				part.Get("type").Text("")
			}
		}
	}
	v.Get("n").Int(1, 1, 8)
	v.Get("most").Int(1, 0, math.MaxInt)
	v.Get("temperature").Float(0, 2)
	v.Get("stop").Texts(2)
	v.Get("ids").IDs(3)
	v.Get("flag").Bool(false)
	names, values := v.Get("bias").Fields()
	for i := range names {
		values[i].Float(-1, 1)
	}
	return v.Err()
}

func TestErrors(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101)
	for _, c := range []struct{ in, param, en string }{
		{`{}`, "", ""},
		{"\uFEFF" + `{"n":3.0,"most":9007199254740992,"stop":null,"ids":[],"flag":true,"temperature":1e0}`, "", ""},
		{`{"n":1e0,"stop":["a","b"],"bias":{"x":-1}}`, "", ""},
		{``, "", "not valid JSON (near byte 0: unexpected end)"},
		{`[]`, "", "want an object, got an array"},
		{`3`, "", "want an object, got the number 3"},
		{`null`, "", "want an object, got nothing"},
		{`{} {}`, "", "there is something behind the JSON value, at byte 4"},
		{`{"temperature": NaN}`, "temperature", "not valid JSON"},
		{`{"temperature": -Infinity}`, "temperature", "not valid JSON"},
		{`{"messages":[{"role":"user"},{"content": tru}]}`, "messages[1].content", "not valid JSON"},
		{`{"messages":[{"role":"user"},`, "messages[1]", "not valid JSON"},
		{`{"messages":[{"role":"user"},]`, "messages[1]", "not valid JSON"},
		{`{"a" 1}`, "a", "not valid JSON"},
		{`{"temperature":"0.5"}`, "temperature", `want a number from 0 to 2, got the string "0.5"`},
		{`{"temperature":1e999}`, "temperature", "want a number from 0 to 2, got the number 1e999"},
		{`{"temperature":-0.1}`, "temperature", "want a number from 0 to 2, got the number -0.1"},
		{`{"n":0}`, "n", "want a whole number from 1 to 8, got the number 0"},
		{`{"n":1.5}`, "n", "want a whole number from 1 to 8, got the number 1.5"},
		{`{"n":99999999999999999999}`, "n", "want a whole number from 1 to 8, got the number 99999999999999999999"},
		{`{"n":true}`, "n", "want a whole number from 1 to 8, got true"},
		{`{"most":-1}`, "most", "want a whole number of at least 0, got the number -1"},
		{`{"messages":{}}`, "messages", "want an array, got an object"},
		{`{"messages":[3]}`, "messages[0]", "want an object, got the number 3"},
		{`{"messages":[{"role":"robot"}]}`, "messages[0].role", `want one of user, system, got the string "robot"`},
		{`{"messages":[{"parts":[{"type":{}}]}]}`, "messages[0].parts[0].type", "want a string, got an object"},
		{`{"stop":[1]}`, "stop[0]", "want a string, got the number 1"},
		{`{"stop":1}`, "stop", "want a string or an array of strings, got the number 1"},
		{`{"stop":["","",""]}`, "stop", "want at most 2 items, got 3"},
		{`{"ids":["1"]}`, "ids[0]", `want a token id, got the string "1"`},
		{`{"ids":[-1]}`, "ids[0]", "want a whole number of at least 0, got the number -1"},
		{`{"ids":[1,2,3,4]}`, "ids", "want at most 3 items, got 4"},
		{`{"flag":"true"}`, "flag", `want a boolean, got the string "true"`},
		{`{"bias":{"a b":2}}`, `bias["a b"]`, "want a number from -1 to 1, got the number 2"},
		{`{"n":1,"n":2}`, "n", "the field is there twice"},
		{`{"x":{"y":1,"y":1}}`, "x.y", "the field is there twice"},
		{deep, strings.Repeat("a.", 99) + "a", "nested more than 100 levels deep"},
		{strings.Repeat("[", 200000), strings.Repeat("[0]", 100), "nested more than 100 levels deep"},
		{"{\"messages\":[{\"content\":\"\xff\"}]}", "messages[0].content", "not valid UTF-8"},
		{`{"ids":[` + strings.Repeat("1,", 2<<20) + `1]}`, "ids[2097150]", "the body has more than 2097152 values"},
		{"{\"\xff\":1}", `["\ufffd"]`, "the field's name is not valid UTF-8"},
	} {
		err := read(c.in)
		var e *completion.Error
		switch {
		case c.en == "" && err == nil:
		case !errors.As(err, &e):
			t.Errorf("%.80q: got %v, want %q", c.in, err, c.en)
		case e.Param != c.param || !strings.HasPrefix(e.EN, c.en) || e.ZH == "" || e.Kind != completion.KindInvalid:
			t.Errorf("%.80q: got %q %q %q, want %q %q", c.in, e.Param, e.EN, e.ZH, c.param, c.en)
		}
	}
}

func TestUnknown(t *testing.T) {
	v, err := body.Parse([]byte(`{"a":null,"b":{"c":1},"d":2,"é":null}`))
	if err != nil {
		t.Fatal(err)
	}
	v.First("x", "a", "d").Int(0, 0, 9)
	if got := strings.Join(v.Unknown(), " "); got != "b é" {
		t.Errorf("unknown: %q", got)
	}
	if got := string(v.Get("b").Raw()); got != `{"c":1}` {
		t.Errorf("raw %q", got)
	}
	if v.Get("a").Is() || v.Get("a").Raw() != nil || v.Get("nothing").Get("inside").Text("x") != "x" {
		t.Error("null is something")
	}
}

// FuzzParse: whatever is read is valid, and whatever is not has an error that a client may read.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"messages":[{"role":"user","content":"Hi"}],"n":1}`, `{"a":[1,2.5,-3e9,true,null,"\ud800"]}`,
		"{\"a\":\"\xff\"}", `{"n":1,"n":1}`, `[[[[`, `{"`, "\uFEFF{}", `{"a":1}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := read(string(data))
		if err == nil {
			return
		}
		var e *completion.Error
		if !errors.As(err, &e) || e.Status() != 400 || !utf8.ValidString(e.EN) || !utf8.ValidString(e.Param) {
			t.Errorf("%q: %#v", data, err)
		}
	})
}
