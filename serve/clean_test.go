package serve

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// cleanWhole is the specification: what a text is cleaned to in one piece.
func cleanWhole(text string) string {
	text = regexp.MustCompile(`<[|/]?eot[|]?>`).ReplaceAllString(text, "")
	return strings.TrimFunc(string([]rune(text)), unicode.IsSpace)
}

func cleanPieces(pieces ...string) string {
	var c cleaner
	var out strings.Builder
	for _, p := range pieces {
		out.WriteString(c.Write(p))
	}
	out.WriteString(c.Close())
	return out.String()
}

func TestCleaner(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"Paris.<|eot|>", "Paris."},
		{"<eot>Paris.</eot>", "Paris."},
		{"a<eot|>b<|eot>c</eot|>d", "abcd"},
		{" \n Paris. \u3000\n", "Paris."},
		{"Paris. <|eot|> \n", "Paris."},
		{"a < b, <e, <eo, <eot and <|eot", "a < b, <e, <eo, <eot and <|eot"},
		{"<|eom|> <eots> <||eot> <EOT>", "<|eom|> <eots> <||eot> <EOT>"},
		{"<<eot>eot>", "<eot>"}, // one pass, as the regular expression says
		{"a  \n\n  b", "a  \n\n  b"},
		{"你好,🦙!", "你好,🦙!"},
		{"a\xffb\xe4\xbd", "a\uFFFDb\uFFFD\uFFFD"},
		{"", ""}, {" ", ""}, {"<eot>", ""}, {" <eot> ", ""}, {"<", "<"}, {"\t<\t", "<"},
	} {
		if got := cleanWhole(test.text); got != test.want {
			t.Errorf("specification of %q: got %q, want %q", test.text, got, test.want)
		}
		// Every way of cutting into two and three pieces, within characters too.
		for i := range len(test.text) + 1 {
			for j := i; j <= len(test.text); j++ {
				if got := cleanPieces(test.text[:i], test.text[i:j], test.text[j:]); got != test.want {
					t.Fatalf("%q | %q | %q: got %q, want %q", test.text[:i], test.text[i:j], test.text[j:], got, test.want)
				}
			}
		}
		if got := cleanPieces(strings.Split(test.text, "")...); got != test.want {
			t.Errorf("%q by characters: got %q, want %q", test.text, got, test.want)
		}
	}
}

// Text must leave as soon as it is certain: a stream that arrives all at once is none.
func TestCleanerIsPrompt(t *testing.T) {
	var c cleaner
	for _, step := range []struct{ in, out string }{
		{" He", "He"}, {"llo ", "llo"}, {"there", " there"}, {"<", ""}, {"b>", "<b>"}, {"<|eo", ""}, {"t|>", ""}, {"!", "!"},
		{"\xe4\xbd", ""}, {"\xa0", "你"},
	} {
		if got := c.Write(step.in); got != step.out {
			t.Errorf("after %q: got %q, want %q", step.in, got, step.out)
		}
	}
}

func FuzzCleaner(f *testing.F) {
	f.Add("a<|eot|>b", 3, 5)
	f.Add(" \xe4\xbd\xa0<eo", 2, 4)
	f.Add("<<eot>eot>\xff", 1, 6)
	f.Fuzz(func(t *testing.T, text string, i, j int) {
		i = min(max(i, 0), len(text))
		j = min(max(j, i), len(text))
		if got, want := cleanPieces(text[:i], text[i:j], text[j:]), cleanWhole(text); got != want {
			t.Errorf("%q | %q | %q: got %q, want %q", text[:i], text[i:j], text[j:], got, want)
		}
	})
}
