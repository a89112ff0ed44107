package grammar

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// reference reads a text by an expression as directly as can be: all the places where a part that begins at one place may
// end. Rules must not be left-recursive.
type reference struct {
	text  string
	known map[referenceKey][]int
}

type referenceKey struct {
	rule *rule
	at   int
}

func (f *reference) ends(e expr, at int) []int {
	var out []int
	switch e := e.(type) {
	case literal:
		if strings.HasPrefix(f.text[at:], string(e)) {
			out = []int{at + len(e)}
		}
	case class:
		r, n := utf8.DecodeRuneInString(f.text[at:])
		if r == utf8.RuneError && n < 2 {
			return nil
		}
		for _, s := range e {
			if s.lo <= r && r <= s.hi {
				out = []int{at + n}
			}
		}
	case sequence:
		out = []int{at}
		for _, of := range e {
			out = f.each(of, out)
		}
	case choice:
		for _, of := range e {
			out = append(out, f.ends(of, at)...)
		}
	case repeat:
		now := []int{at}
		for i := 0; e.max < 0 || i <= e.max; i++ {
			if i >= e.min {
				before := len(out)
				out = unique(append(out, now...))
				if i > e.min && len(out) == before {
					break
				}
			}
			now = f.each(e.of, now)
		}
	case call:
		key := referenceKey{e.rule, at}
		known, ok := f.known[key]
		if !ok {
			known = f.ends(e.body, at)
			f.known[key] = known
		}
		out = known
	}
	return unique(out)
}

func (f *reference) each(e expr, from []int) (out []int) {
	for _, at := range from {
		out = append(out, f.ends(e, at)...)
	}
	return unique(out)
}

func unique(places []int) []int {
	out := slices.Clone(places)
	slices.Sort(out)
	return slices.Compact(out)
}

func referenceMatches(e expr, text string) bool {
	f := &reference{text, map[referenceKey][]int{}}
	return slices.Contains(f.ends(e, 0), len(text))
}

// randomExpr makes an expression over a, b and é; rules are called behind a character only, so none is left-recursive.
func randomExpr(random *rand.Rand, rules []*rule, depth int) expr {
	kind := random.IntN(9)
	if depth == 0 {
		kind = random.IntN(3)
	}
	sub := func() expr { return randomExpr(random, rules, depth-1) }
	switch kind {
	case 0, 1:
		return literal([]string{"a", "b", "é", "ab", "ba", ""}[random.IntN(6)])
	case 2:
		return []class{between('a', 'b'), chars("aé"), anyChar.without(chars("a"))}[random.IntN(3)]
	case 3, 4:
		return sequence{sub(), sub()}
	case 5:
		return choice{sub(), sub(), sub()}[:1+random.IntN(3)]
	case 6:
		low := random.IntN(3)
		return repeat{sub(), low, []int{-1, low, low + 1, low + 2}[random.IntN(4)]}
	case 7:
		return optional(sub())
	}
	return sequence{literal("a"), call{rules[random.IntN(len(rules))]}}
}

// TestAgainstReference compares random grammars with the reference on all short texts, and looks for dead ends.
func TestAgainstReference(t *testing.T) {
	var texts []string
	for size, all := 0, []string{""}; size <= 5; size++ {
		texts = append(texts, all...)
		var longer []string
		for _, s := range all {
			for _, c := range []string{"a", "b", "é"} {
				longer = append(longer, s+c)
			}
		}
		all = longer
	}
	begin := time.Now()
	compared := 0
	for seed := uint64(0); seed < 400 && time.Since(begin) < 2*time.Second; seed++ {
		random := rand.New(rand.NewPCG(seed, 4))
		rules := []*rule{{name: "r"}, {name: "s"}}
		for _, r := range rules {
			r.body = randomExpr(random, rules, 3)
		}
		root := randomExpr(random, rules, 4)
		g, err := compile(root)
		if err != nil {
			if !strings.Contains(err.Error(), "no text follows it") {
				t.Fatal(seed, err)
			}
			for _, text := range texts {
				if referenceMatches(root, text) {
					t.Fatalf("seed %d: %q matches, but: %v", seed, text, err)
				}
			}
			continue
		}
		for _, text := range texts {
			want := referenceMatches(root, text)
			if got := g.Matches(text); got != want {
				t.Fatalf("seed %d, %q: want %t, got %t\n%#v", seed, text, want, got, root)
			}
			if want {
				compared++
				for i := range text {
					if !g.Begins(text[:i]) {
						t.Fatalf("seed %d: %q does not begin %q", seed, text[:i], text)
					}
				}
			} else if g.Begins(text) && !completes(g, text) {
				t.Fatalf("seed %d: %q cannot be completed", seed, text)
			}
		}
	}
	if compared < 200 {
		t.Errorf("only %d texts matched: the grammars are too narrow", compared)
	}
}

// completes looks for a completion of a text.
func completes(g *Grammar, text string) bool {
	m := newMachine(g.automaton, nil)
	at := m.first
	for i := range len(text) {
		at = m.step(at, text[i])
	}
	seen := map[int32]bool{at: true}
	for todo := []int32{at}; len(todo) > 0 && len(seen) < 2000; todo = todo[1:] {
		if m.situations[todo[0]].accept {
			return true
		}
		for _, b := range m.classes {
			if to := m.step(todo[0], b); to > 0 && !seen[to] {
				seen[to] = true
				todo = append(todo, to)
			}
		}
	}
	return len(seen) >= 2000 // too far away to be found
}

func TestSplitUTF8(t *testing.T) {
	for _, s := range []span{{0, utf8.MaxRune}, {'a', 'z'}, {0x70, 0x900}, {0x7FF, 0x800}, {0xD000, 0xF000}, {0xFFFF, 0x10000}, {0x1F600, 0x1F64F}, {0x10FFFF, 0x10FFFF}, {0xD800, 0xDFFF}} {
		parts := splitUTF8(s)
		has := func(text string) bool {
			for _, part := range parts {
				ok := len(part) == len(text)
				for i := 0; ok && i < len(text); i++ {
					ok = part[i][0] <= text[i] && text[i] <= part[i][1]
				}
				if ok {
					return true
				}
			}
			return false
		}
		for r := rune(0); r <= utf8.MaxRune; r++ {
			if r > 0x3000 && r%7 != 0 && r < 0xCFFF { // a sample of the many in between
				continue
			}
			if !utf8.ValidRune(r) {
				continue
			}
			if want := s.lo <= r && r <= s.hi; has(string(r)) != want {
				t.Fatalf("%x in %x..%x: want %t", r, s.lo, s.hi, want)
			}
		}
	}
}

func FuzzRegex(f *testing.F) {
	for _, pattern := range []string{`^[A-Z]{2}-\d+$`, `(a|b)*a(a|b){3}`, `.*x?`, `(?i)straße`, `[^a-z]+|\s`, `(^a|b)c$`, `a{2,4}?b*`} {
		f.Add(pattern, "AB-12")
		f.Add(pattern, "ab\n")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if strings.Contains(pattern, "(?") || strings.Contains(pattern, `\u`) || !utf8.ValidString(text) {
			return // flags change what anchors mean
		}
		begin := time.Now()
		g, err := Regex(pattern)
		if err == nil {
			g.Begins(text)
		}
		checkTook(t, begin)
		if err != nil {
			return
		}
		re, err := regexp.Compile(`^(?:` + pattern + `)$`)
		if err != nil {
			return
		}
		if got, want := g.Matches(text), re.MatchString(text); got != want {
			t.Errorf("%q on %q: want %t, got %t", pattern, text, want, got)
		}
	})
}

func FuzzEBNF(f *testing.F) {
	for _, source := range []string{`root ::= "yes" | "no" (", " [a-z]{1,3})?`, "root ::= a b*\na ::= \"(\" root? \")\"\nb ::= [^\"\\n]", `root ::= .{0,40} "\u00e9"`, `root ::= "a" root "b" | ""`} {
		f.Add(source, "yes")
		f.Add(source, "()x")
	}
	v, _ := listed(jsonWords...)
	f.Fuzz(func(t *testing.T, source, text string) {
		p := &ebnfParser{source: source, rules: map[string]*rule{}}
		begin := time.Now()
		g, err := EBNF(source)
		if err == nil {
			g.Begins(text)
		}
		checkTook(t, begin)
		if err != nil || len(text) > 20 || len(g.automaton.states) > 500 { // the reference is slow
			return
		}
		if err := p.parse(); err != nil {
			t.Fatal(err)
		}
		root := call{p.rules["root"]}
		if got, want := g.Matches(text), referenceMatches(root, text); got != want {
			t.Fatalf("%q on %q: want %t, got %t", source, text, want, got)
		}
		m := g.Matcher(v)
		for i := 0; i < len(text); i++ {
			mask := m.Mask()
			allowed := mask[text[i]/32]>>(text[i]%32)&1 == 1
			if got := g.Begins(text[:i+1]); got != allowed {
				t.Fatalf("%q on %q: mask says %t, Begins %t", source, text[:i+1], allowed, got)
			}
			if err := m.Accept(int32(text[i])); (err == nil) != allowed {
				t.Fatalf("%q on %q: mask says %t, Accept %v", source, text[:i+1], allowed, err)
			}
			if !allowed {
				return
			}
		}
	})
}

// checkTook holds every source to a bounded time; texts of fuzzing are short. (Other work on the machine is allowed for.)
func checkTook(t *testing.T, begin time.Time) {
	t.Helper()
	if took := time.Since(begin); took > 20*time.Second {
		t.Fatalf("took %v", took)
	}
}

func ExampleSequence() {
	schema, _ := JSONSchema([]byte(`{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}`))
	open, _ := Literal(`{"name": "weather", "parameters": `)
	shut, _ := Literal(`}`)
	g, err := Sequence(open, schema, shut)
	fmt.Println(err, g.Matches(`{"name": "weather", "parameters": {"city": "Paris"}}`))
	// Output: <nil> true
}
