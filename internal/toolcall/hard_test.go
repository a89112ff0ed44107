package toolcall

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestHard: answers that are near to calls, whole and cut at random.
func TestHard(t *testing.T) {
	call := func(name, arguments string) []Call { return []Call{{Name: name, Arguments: arguments}} }
	r := rand.New(rand.NewPCG(1, 2))
	for _, x := range []struct {
		in, text string
		calls    []Call
	}{
		{"{\"name\": \"weather\", \"parameters\": {\"code\": \"a\n\tb\"}}", "", call("weather", `{"code": "a\n\tb"}`)},
		{`{"id": "c1", "name": "time", "parameters": null}`, "", []Call{{"c1", "time", "{}"}}},
		{`{"name": "weather", "parameters": {"city": "Paris"}`, "", call("weather", `{"city": "Paris"}`)},
		{`{{"name": "weather", "parameters": {}}`, "{", call("weather", "{}")},
		{`[time()`, "", call("time", "{}")},
		{`[time(a="天津")] ok`, " ok", call("time", `{"a": "天津"}`)},
		{`[time(a='it\'s "so"', b="\x41\u00e9\U0001F600\ud83d\ude00\q\\", c = ( "x" ), d=("x",), e=())]`, "",
			call("time", `{"a": "it's \"so\"", "b": "Aé😀😀\\q\\", "c": "x", "d": ["x"], "e": []}`)},
		{`[time(a=1_000, b=.5, c=2., d=1e3, e=+4)]`, "", call("time", `{"a": 1000, "b": 0.5, "c": 2, "d": 1e3, "e": 4}`)},

		{"  \n", "  \n", nil},
		{`Hello, {world}! [1, 2] <b> <|python_tag`, `Hello, {world}! [1, 2] <b> <|python_tag`, nil},
		{`<|python_tag|>print(1)`, `print(1)`, nil},
		{`{"name": "weather", "parameters": [1]}`, `{"name": "weather", "parameters": [1]}`, nil},
		{`{"name": "weather", "parameters": "no"}`, `{"name": "weather", "parameters": "no"}`, nil},
		{`{"name": "weather", "parameters": " "}`, `{"name": "weather", "parameters": " "}`, nil},
		{`{"name": "weather", "name": "weather", "parameters": {}}`, `{"name": "weather", "name": "weather", "parameters": {}}`, nil},
		{`{"parameters": {"a": [1}}, "name": "weather"}`, `{"parameters": {"a": [1}}, "name": "weather"}`, nil},
		{`{"parameters": {"a": 01}, "name": "weather"}`, `{"parameters": {"a": 01}, "name": "weather"}`, nil},
		{`[{"name": "Bob"}, 5]`, `[{"name": "Bob"}, 5]`, nil},
		{`[weather](https://example.com) [x] [`, `[weather](https://example.com) [x] [`, nil},
		{`[weather(a=1, a=2)]`, `[weather(a=1, a=2)]`, nil},
		{`[weather(a=1 2)]`, `[weather(a=1 2)]`, nil},
		{`[weather(a=007)]`, `[weather(a=007)]`, nil},
		{`[weather(a="\x4")]`, `[weather(a="\x4")]`, nil},
		{`[weather(a=[1)]`, `[weather(a=[1)]`, nil},
	} {
		want := result{x.text, x.calls}
		for i := range 10 {
			pieces := []string{x.in}
			if i > 0 {
				pieces = nil
				for rest := x.in; rest != ""; {
					n := 1 + r.IntN(min(len(rest), 1+r.IntN(9)))
					pieces, rest = append(pieces, rest[:n]), rest[n:]
				}
			}
			if got := parse(t, tools, pieces...); !reflect.DeepEqual(got, want) {
				t.Errorf("%q\nwant %+v\ngot  %+v", pieces, want, got)
				break
			}
		}
	}
}

// TestLong: long answers, in pieces of the size of tokens, cost the parser little beside the model's work.
func TestLong(t *testing.T) {
	const n = 1 << 14
	for _, in := range []string{
		strings.Repeat(`[`, n), strings.Repeat(`{"parameters":`, n/14), strings.Repeat(`[time(a=`, n/8), strings.Repeat(`[time(a="`, n/9),
		strings.Repeat(`[t`, n/2), strings.Repeat(`<|python_tag|`, n/13), `[` + strings.Repeat(` `, n), `{"parameters": {"a": "` + strings.Repeat(`x`, n),
		`[time(a="` + strings.Repeat(`x`, n), `{"name": "time", "parameters": {"a": "` + strings.Repeat(`x`, n), strings.Repeat(`{"name":"time","parameters":`, n/28),
		`{"name": "time", "parameters": {}` + strings.Repeat(` `, n), `[time()` + strings.Repeat(` `, n),
	} {
		var pieces []string
		for rest := in; rest != ""; {
			k := min(4, len(rest))
			pieces, rest = append(pieces, rest[:k]), rest[k:]
		}
		began := time.Now()
		got := parse(t, tools, pieces...)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%.30q…: %v", in, took)
		}
		if len(got.calls) == 0 && got.text != in {
			t.Errorf("%.30q…: the text is not what it was", in)
		}
	}
}

// TestArguments: whatever a schema leaves out, arguments are an object.
func TestArguments(t *testing.T) {
	for _, schema := range []string{``, `null`, `true`, `{}`, ` { } `, `{"description": "x"}`, `{"type": "object"}`, `{"type": "object", "properties": {}}`, `{"properties": {"a": {"type": "string"}}}`,
		`{"anyOf": [{"type": "object"}, {"type": "string"}]}`, `{"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}`} {
		g, err := Constraint([]Tool{{"f", json.RawMessage(schema)}}, "f", false)
		if err != nil {
			t.Errorf("%s: %v", schema, err)
			continue
		}
		for arguments, want := range map[string]bool{`{}`: true, `"x"`: false, `[1]`: false, `null`: false, `1`: false} {
			if g.Matches(`{"name": "f", "parameters": `+arguments+`}`) != want {
				t.Errorf("%s: %s: want %v", schema, arguments, want)
			}
		}
	}
	for _, schema := range []string{`{"type": "string"}`, `{"type": ["object", "null"]}`, `5`, `[]`, `{`, `false`} {
		if _, err := Constraint([]Tool{{"f", json.RawMessage(schema)}}, "f", false); err == nil || !strings.Contains(err.Error(), "tool f") {
			t.Errorf("%s: got %v", schema, err)
		}
	}
}
