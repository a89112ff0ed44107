package toolcall

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

type result struct {
	text  string
	calls []Call
}

// parse puts pieces together; it fails where deltas do not fit.
func parse(t testing.TB, tools []string, pieces ...string) result {
	t.Helper()
	p := NewParser(tools)
	var r result
	var ended []bool
	var text strings.Builder
	take := func(list []Delta) {
		for _, d := range list {
			text.WriteString(d.Text)
			if d.Begin != nil {
				if d.Index != len(r.calls) || d.Begin.Arguments != "" {
					t.Fatalf("begin of call %d after %d: %+v", d.Index, len(r.calls), d)
				}
				r.calls, ended = append(r.calls, *d.Begin), append(ended, false)
			}
			if d.Arguments != "" || d.End {
				if d.Index != len(r.calls)-1 || ended[d.Index] {
					t.Fatalf("call %d of %d goes on: %+v", d.Index, len(r.calls), d)
				}
				r.calls[d.Index].Arguments += d.Arguments
				ended[d.Index] = d.End
			}
		}
	}
	for _, piece := range pieces {
		take(p.Write(piece))
	}
	take(p.Close())
	r.text = text.String()
	return r
}

var tools = []string{"weather", "weather_now", "time", "f"}

func TestParser(t *testing.T) {
	paris := Call{Name: "weather", Arguments: `{"city": "Paris"}`}
	for _, x := range []struct {
		in, text string
		calls    []Call
	}{
		{"Hello.", "Hello.", nil},
		{`{"name": "weather", "parameters": {"city": "Paris"}}`, "", []Call{paris}},
		{`{"type": "function", "name": "weather", "parameters": {"city": "Paris"}}`, "", []Call{paris}},
		{`{"name": "weather", "arguments": {"city": "Paris"}, "id": "x"}`, "", []Call{paris}},
		{`{"id": "7", "name": "weather", "arguments": "{\"city\": \"Paris\"}"}`, "", []Call{{"7", "weather", `{"city": "Paris"}`}}},
		{`{"parameters": {"city": "Paris"}, "name": "weather"}`, "", []Call{paris}},
		{`{"name": "time"}`, "", []Call{{Name: "time", Arguments: "{}"}}},
		{"Let me see.\n" + `{"name": "weather", "parameters": {"city": "Paris"}}`, "Let me see.\n", []Call{paris}},
		{`{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "time", "parameters": {}}`, "", []Call{paris, {Name: "time", Arguments: "{}"}}},
		{`{"name": "weather", "parameters": {"city": "Paris"}}` + "\n" + `{"name": "time", "parameters": {}}` + "\n", "", []Call{paris, {Name: "time", Arguments: "{}"}}},
		{`[{"name": "weather", "parameters": {"city": "Paris"}}, {"name": "time", "parameters": {}}]`, "", []Call{paris, {Name: "time", Arguments: "{}"}}},
		{`<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}`, "", []Call{paris}},
		{`[weather(city="Paris")]`, "", []Call{paris}},
		{`[ weather( city = 'Paris' ) , time() ] `, "", []Call{paris, {Name: "time", Arguments: "{}"}}},
		{`Sure: [f(a=1, b=-2.5, c=True, d=None, e=[1, 'x', (2, 3)], g={"k": {'n': False}, 3: "z"}, h="q\"\n\u00e9)]", i=.5, j=1_000, k=12345678901234567890)] Done.`,
			"Sure:  Done.", []Call{{Name: "f", Arguments: `{"a": 1, "b": -2.5, "c": true, "d": null, "e": [1, "x", [2, 3]], "g": {"k": {"n": false}, "3": "z"}, "h": "q\"\né)]", "i": 0.5, "j": 1000, "k": 12345678901234567890}`}}},
		{`{"name": "weather", "parameters": {"city": "}{\"]"}} and more`, " and more", []Call{{Name: "weather", Arguments: `{"city": "}{\"]"}`}}},

		{`{"name": "unknown", "parameters": {}}`, `{"name": "unknown", "parameters": {}}`, nil},
		{`{"name": 3}`, `{"name": 3}`, nil},
		{`{}`, `{}`, nil},
		{`{"city": "Paris"}`, `{"city": "Paris"}`, nil},
		{`{"type": "object", "name": "weather"}`, `{"type": "object", "name": "weather"}`, nil},
		{`a[0] = {1, 2} < 3 <|x|>`, `a[0] = {1, 2} < 3 <|x|>`, nil},
		{`[weather]`, `[weather]`, nil},
		{`[weather("Paris")]`, `[weather("Paris")]`, nil},
		{`[weather(city=Paris)]`, `[weather(city=Paris)]`, nil},
		{`[unknown(a=1)]`, `[unknown(a=1)]`, nil},
		{`weather(city="Paris")`, `weather(city="Paris")`, nil},
		{`{"name": "weather", "param`, `{"name": "weather", "param`, nil},
		{`[weather(city="Par`, `[weather(city="Par`, nil},
		{`[[{"name": "weather", "parameters": {"city": "Paris"}}]]`, "[", []Call{paris}},
		{`{"name": "weather", "parameters": {"city": "Par`, "", []Call{{Name: "weather", Arguments: `{"city": "Par`}}},
		{`[time(), then`, ", then", []Call{{Name: "time", Arguments: "{}"}}},
	} {
		want := result{x.text, x.calls}
		if got := parse(t, tools, x.in); !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nwant %+v\ngot  %+v", x.in, want, got)
		}
		if got := parse(t, tools, strings.Split(x.in, "")...); !reflect.DeepEqual(got, want) {
			t.Errorf("letter by letter: %s\nwant %+v\ngot  %+v", x.in, want, got)
		}
	}
}

// Arguments come as they are written, and prose without delay.
func TestStreams(t *testing.T) {
	p := NewParser(tools)
	if got := p.Write("Hello, "); len(got) != 1 || got[0].Text != "Hello, " {
		t.Errorf("prose: %+v", got)
	}
	if got := p.Write(`{"x`); len(got) != 1 || got[0].Text != `{"x` {
		t.Errorf("no key of a call: %+v", got)
	}
	if got := p.Write(`{"name": "weather", "parameters": {"ci`); len(got) != 2 || got[0].Begin == nil || got[1].Arguments != `{"ci` {
		t.Errorf("begin: %+v", got)
	}
	if got := p.Write(`ty": "P`); len(got) != 1 || got[0].Arguments != `ty": "P` || got[0].End {
		t.Errorf("within: %+v", got)
	}
	if got := p.Write(`"}`); len(got) != 1 || got[0].Arguments != `"}` || !got[0].End {
		t.Errorf("end: %+v", got)
	}
}

// However a text is cut, the outcome is the same; what is no call comes out as it went in.
func FuzzParser(f *testing.F) {
	for _, s := range []string{`{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "time"}`, `x [f(a=1, b={"c": [None]})], [time()] y`, `<|python_tag|>[{"name": "f"}]`, `{"name": "we`} {
		f.Add(s, uint64(1))
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		whole := parse(t, tools, text)
		r := rand.New(rand.NewPCG(seed, 2))
		var pieces []string
		for rest := text; rest != ""; {
			n := 1 + r.IntN(min(len(rest), 7))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		if cut := parse(t, tools, pieces...); !reflect.DeepEqual(cut, whole) {
			t.Errorf("in pieces %+v, at once %+v", cut, whole)
		}
		if len(whole.calls) == 0 && whole.text != strings.ReplaceAll(text, pythonTag, "") {
			t.Errorf("no call, but the text became %q", whole.text)
		}
		for _, c := range whole.calls {
			if !strings.ContainsAny(text, "{") && !json.Valid([]byte(c.Arguments)) {
				t.Errorf("arguments of a Python call are no JSON: %s", c.Arguments)
			}
		}
	})
}

func TestConstraint(t *testing.T) {
	list := []Tool{{"weather", json.RawMessage(`{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}`)}, {"time", nil}}
	for _, x := range []struct {
		choice   string
		parallel bool
		text     string
		ok       bool
	}{
		{"required", true, `{"name": "weather", "parameters": {"city": "Paris"}}`, true},
		{"required", true, `{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "time", "parameters": {}}`, true},
		{"required", false, `{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "time", "parameters": {}}`, false},
		{"required", true, `{"name": "weather", "parameters": {}}`, false},
		{"required", true, `Hello`, false},
		{"time", true, `{"name": "time", "parameters": {"a": 1}}`, true},
		{"time", true, `{"name": "weather", "parameters": {"city": "Paris"}}`, false},
	} {
		g, err := Constraint(list, x.choice, x.parallel)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Matches(x.text); got != x.ok {
			t.Errorf("%s, %t: %s: want %t", x.choice, x.parallel, x.text, x.ok)
		}
		if r := parse(t, []string{"weather", "time"}, x.text); x.ok && (len(r.calls) == 0 || r.text != "") {
			t.Errorf("%s is not read as calls: %+v", x.text, r)
		}
	}
	for _, bad := range []struct {
		tools  []Tool
		choice string
	}{{nil, "required"}, {list, "other"}, {[]Tool{{"x", json.RawMessage(`{"type": "bad"}`)}}, "required"}} {
		if _, err := Constraint(bad.tools, bad.choice, true); err == nil {
			t.Errorf("%+v: want an error", bad)
		}
	}
}
