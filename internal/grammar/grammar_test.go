package grammar

import (
	"strings"
	"testing"
)

// compiled gives a test its grammar.
func compiled(t testing.TB) func(*Grammar, error) *Grammar {
	return func(g *Grammar, err error) *Grammar {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
}

func checkMatches(t *testing.T, g *Grammar, yes, no []string) {
	t.Helper()
	for _, text := range yes {
		if !g.Matches(text) {
			t.Errorf("%q: want a match", text)
		}
		for i := range min(len(text), 200) {
			if !g.Begins(text[:i]) {
				t.Errorf("%q: want a beginning", text[:i])
			}
		}
	}
	for _, text := range no {
		if g.Matches(text) {
			t.Errorf("%q: want no match", text)
		}
	}
}

func TestEBNF(t *testing.T) {
	for _, c := range []struct{ source, yes, no string }{
		{`root ::= "yes" | "no" (", " reason)? # comment` + "\n" + `reason ::= [a-z]{1,3}`, "yes|no|no, abc|no, a", "|ye|no,|no, |no, abcd|yesno"},
		{"root ::= x{2}", "", ""},
		{"root ::= [^a-c]{2}", "zz|é日|\U0010FFFF\n", "a|za|z|zzz|\xff\xff|z\xff|\xed\xa0\x80z"},
		{"root ::= [a-z\\-\\]\\x41\\u00e9\\U0001F600]+", "a-]A|é😀", "B|"},
		{"root ::= .", "a|\n|é|😀", "|ab|\xc3"},
		{`root ::= "(" root ")" | ""`, "|()|((()))", "(|)|(()|())"},
		{"root ::= a\n  b\na ::= \"a\"\n\nb ::=\n\"b\"\n  | \"c\"", "ab|ac", "a|bc"},
		{`root ::= ("a"*)* "b"`, "b|aab", "a"},
		{`root ::= ("a"?){0,3}`, "|a|aaa", "aaaa"},
		{`root ::= (""{60000}){60000} ("" | ""){9} "a"`, "a", "|aa"},
		{`root ::= "a"{2,}`, "aa|aaaa", "a|"},
		{`root ::= "a"{,2}`, "", ""},
		{`root ::= "\"\\\n\x41"`, "\"\\\nA", "A"},
		{`root ::= "a" root "b" | "a" root "c" | "d"`, "d|adb|aadbc|" + strings.Repeat("a", 8) + "d" + strings.Repeat("bc", 4), "ad"},
	} {
		if c.yes == "" {
			if _, err := EBNF(c.source); err == nil {
				t.Errorf("%q: want an error", c.source)
			}
			continue
		}
		checkMatches(t, compiled(t)(EBNF(c.source)), strings.Split(c.yes, "|"), strings.Split(c.no, "|"))
	}
}

func TestEBNFErrors(t *testing.T) {
	for source, want := range map[string]string{
		"":                               `want a rule named "root"`,
		`a ::= "b"`:                      `want a rule named "root"`,
		`root ::= a`:                     `rule "a" is called but not defined`,
		"root ::= \"a\"\nroot ::= \"b\"": `line 2, column 1: rule "root" is defined twice`,
		`root ::= "a`:                    `want a " at the end`,
		`root ::= [a`:                    `want a ] at the end`,
		`root ::= [z-a]`:                 `want a range that goes up`,
		`root ::= ("a"`:                  `want ), got "end of text"`,
		`root ::= "a")`:                  `want ( before )`,
		`root ::= "\q"`:                  `unknown escape \q`,
		`root ::= "\uD800"`:              `want 4 hexadecimal digits`,
		`root ::= "a"{3,1}`:              `want {n}, {n,} or {n,m}`,
		`root ::= "a"{1000000}`:          `want {n}, {n,} or {n,m}`,
		`root ::= ("a"{60000}){60000}`:   `too large`,
		`root ::= root "a" | "b"`:        `rule "root" is left-recursive`,
		"root ::= \"x\" a\na ::= b? a \"c\" | \"d\"\nb ::= \"b\"": `rule "a" is left-recursive`,
		`root ::= ([a-z]* "x"?){3000}`:                            `too ambiguous: there are more than 1024 ways`,
		`root ::= "a" root`:                                       `no text follows it`,
		`root ::= [^\x00-\U0010FFFF]`:                             `no text follows it`,
		"root ::= " + strings.Repeat("(", 200):                    `want at most 128 parentheses`,
		"root ::= \"a\" $":                                        `line 1, column 14: want a literal`,
		"root ::= \"\xff\"":                                       `want UTF-8`,
	} {
		if _, err := EBNF(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: want an error with %q, got %v", source, want, err)
		}
	}
}

// llamaJSON is written as llama.cpp's grammars are.
const llamaJSON = `root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
`

func TestLlamaGrammars(t *testing.T) {
	checkMatches(t, compiled(t)(EBNF(llamaJSON)), []string{`{}`, `{"a": [1, -2.5e+3, "x\u00e9\n"], "b": {"c": null}}`}, []string{`[]`, `{"a":}`, `{"a"  :1}`})
	checkMatches(t, compiled(t)(EBNF(`root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
`)), []string{"a +1= 2\n", "(a*( b -3))=c\n1=1\n"}, []string{"a+=2\n", "a=1"})
	checkMatches(t, compiled(t)(EBNF(`root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
`)), []string{"1. e4 e5\n2. Nf3 Nc6\n"}, []string{"1. e4 e5\n", "1. e9 e5\n2. a4 a5\n"})
	checkMatches(t, compiled(t)(EBNF(`root ::= jp-char+ ([ \t\n] jp-char +) *
jp-char ::= hiragana | katakana | [ー、。]
hiragana ::= [ぁ-ゟ]
katakana ::= [ァ-ヿ]
`)), []string{"こんにちは、 セカイ。"}, []string{"hello", "こ "})
}

func TestRegex(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{`^[A-Z]{2}-\d+$`, []string{"AB-1", "XY-123"}, []string{"A-1", "AB-", "AB-1x", "xAB-1"}},
		{`a|^b|c$`, []string{"a", "b", "c"}, []string{"", "ab"}},
		{`(?i)straße`, []string{"STRAßE", "straße", "Straẞe"}, []string{"strasse"}},
		{`.*`, []string{"", "日本"}, []string{"\n", "\xff"}},
		{`(?s).`, []string{"\n"}, []string{""}},
		{`\u00e9\x{1F600}`, []string{"é😀"}, []string{"e"}},
		{`\\u00e9`, []string{`\u00e9`}, []string{`é`}},
		{`^$`, []string{""}, []string{"a"}},
		{`(a|b)*a(a|b){12}`, []string{"a" + strings.Repeat("b", 12), strings.Repeat("ab", 20) + "a"}, []string{strings.Repeat("b", 13)}},
	} {
		checkMatches(t, compiled(t)(Regex(c.pattern)), c.yes, c.no)
	}
	for _, pattern := range []string{`a^b`, `a$b`, `\bword\b`, `(`, `(?=a)`, `a{2000}`, `((a{100}){100}){100}`, `[^\x00-\x{10FFFF}]`, `(^a)*`} {
		if _, err := Regex(pattern); err == nil {
			t.Errorf("%q: want an error", pattern)
		}
	}
}

func TestParts(t *testing.T) {
	must := compiled(t)
	call := must(Sequence(must(Literal(`{"name": "f", "parameters": `)), JSONObject(), must(Literal(`}`))))
	g := must(Sequence(call, must(Repeat(must(Sequence(must(Literal("; ")), call)), 0, 2))))
	one := `{"name": "f", "parameters": {"a": [1, "}"]}}`
	checkMatches(t, g, []string{one, one + "; " + one, one + "; " + one + "; " + one}, []string{"", one + ";", one + "; " + one + "; " + one + "; " + one})
	checkMatches(t, must(Choice(must(Literal("a")), must(Literal("ab")))), []string{"a", "ab"}, []string{"", "b", "abb"})
	if _, err := Choice(); err == nil {
		t.Error("Choice of nothing: want an error")
	}
	if _, err := Repeat(call, 2, 1); err == nil {
		t.Error("Repeat 2 to 1: want an error")
	}
}

func TestJSONObject(t *testing.T) {
	checkMatches(t, JSONObject(), []string{
		`{}`, `{ }`, `{"a":1}`, `{"a": -0.5e+10, "b": [true, false, null, "x\n\u00e9\ud83d\ude00é😀"]}`,
		"{\n  \"a\": {\n    \"b\": []\n  },\n  \"c\": [\n    1,\n    2\n  ]\n}",
	}, []string{
		``, `[]`, `{`, `{"a"}`, `{"a":01}`, `{"a":1,}`, `{"a":"` + "\n" + `"}`, `{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":.5}`, `{a:1}`, ` {}`, `{} `, "{\"a\":\"\xff\"}", "{   }",
	})
}
