package grammar

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// listed makes a vocabulary of all bytes, some words, and a stop id, which is the last.
func listed(words ...string) (v *Vocabulary, stop int32) {
	var tokens [][]byte
	for b := range 256 {
		tokens = append(tokens, []byte{byte(b)})
	}
	for _, w := range words {
		tokens = append(tokens, []byte(w))
	}
	tokens = append(tokens, nil, nil) // a special token, and the stop id
	return NewVocabulary(len(tokens), func(id int32) []byte { return tokens[id] }, []int32{int32(len(tokens) - 1)}), int32(len(tokens) - 1)
}

var jsonWords = []string{`{"`, `":`, `": "`, `",`, `"}`, `"}]`, `}}`, `, "`, `{}`, `[]`, `[[`, `]]`, "true", "tru", "null", "10", "-1", "1.5", `\"`, `\\`, `\u`, `\u00`, "é", "日", "日本", "\xe6\x97", "\x97\xa5", "ab", "abc", "abc", "abc", `a"`, `abc": `, `"a"`, `"a":1`, "\n  ", "\n\n", "  ", strings.Repeat("a", 40), strings.Repeat("a", 33) + `":`, strings.Repeat(" ", 70)}

// TestMaskIsExact walks at random through the texts of grammars and compares every mask with what the grammar says about
// each token on its own.
func TestMaskIsExact(t *testing.T) {
	grammars := map[string]*Grammar{"json": JSONObject()}
	for _, source := range []string{
		`root ::= "a" root "b" | "a" root "c" | "d"`,
		`root ::= ("ab" | "a" | "abc"){0,70} "日本"?`,
		`root ::= [^a]{50,100} "a"`,
		`root ::= ([a-z] | "日"){3} ("[" root "]" | "")`,
		`root ::= s s s` + "\n" + `s ::= "a"* "b"? [ -~é]{0,40}`,
		`root ::= "a"{40,45} | ("ab"{34,36} "c"){36}`,
	} {
		grammars[source] = compiled(t)(EBNF(source))
	}
	v, stop := listed(jsonWords...)
	for name, g := range grammars {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4) {
				walkExactly(t, g, v, stop, seed)
			}
		})
	}
}

func walkExactly(t *testing.T, g *Grammar, v *Vocabulary, stop int32, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	m := g.Matcher(v)
	text := ""
	// The reference: a machine of its own, fed byte by byte from the situation of the text so far.
	slow := newMachine(g.automaton, nil)
	at := slow.first
	for range 60 {
		mask := m.Mask()
		var allowed []int32
		for id := range int32(v.size) {
			want := false
			if b := v.bytes[id]; b != nil {
				to := at
				for i := 0; i < len(b) && to > 0; i++ {
					to = slow.step(to, b[i])
				}
				want = to > 0
			} else if id == stop {
				want = slow.situations[at].accept
			}
			got := mask[id/32]>>(id%32)&1 == 1
			if got != want {
				t.Fatalf("seed %d, after %q, token %q: want %t, got %t", seed, text, v.bytes[id], want, got)
			}
			if err := m.Clone().Accept(id); (err == nil) != want {
				t.Fatalf("seed %d, after %q, token %q: want %t, Accept gives %v", seed, text, v.bytes[id], want, err)
			}
			if got && id != stop {
				allowed = append(allowed, id)
			}
		}
		if m.MayEnd() != slow.situations[at].accept || g.Matches(text) != m.MayEnd() || !g.Begins(text) {
			t.Fatalf("seed %d, after %q: MayEnd %t, Matches %t", seed, text, m.MayEnd(), g.Matches(text))
		}
		if len(allowed) == 0 {
			if !m.MayEnd() {
				t.Fatalf("seed %d, after %q: a dead end", seed, text)
			}
			break
		}
		id := allowed[random.IntN(len(allowed))]
		if random.IntN(2) == 0 { // words are rarer than bytes
			id = allowed[len(allowed)-1-random.IntN(min(8, len(allowed)))]
		}
		if random.IntN(4) == 0 {
			m = m.Clone()
		}
		if err := m.Accept(id); err != nil {
			t.Fatal(err)
		}
		for _, b := range v.bytes[id] {
			at = slow.step(at, b)
		}
		text += string(v.bytes[id])
	}
}

func TestMatcherEnds(t *testing.T) {
	v, stop := listed("ab")
	m := compiled(t)(EBNF(`root ::= "ab"`)).Matcher(v)
	if err := m.Accept(stop); err == nil {
		t.Error("stop id before the end: want an error")
	}
	for _, id := range []int32{-1, stop + 1, stop - 1, 'b'} {
		if err := m.Accept(id); err == nil {
			t.Errorf("id %d: want an error", id)
		}
	}
	if err := m.Accept(256); err != nil {
		t.Fatal(err)
	}
	for id, w := 0, m.Mask(); id < v.size; id++ {
		if got := w[id/32]>>(id%32)&1 == 1; got != (id == int(stop)) {
			t.Errorf("id %d at the end: got %t", id, got)
		}
	}
	if err := m.Accept(stop); err != nil {
		t.Fatal(err)
	}
	for _, w := range m.Mask() {
		if w != 0 {
			t.Error("after the stop id: want nothing")
		}
	}
	if err := m.Accept(stop); err == nil {
		t.Error("after the stop id: want an error")
	}
}

// TestTablesAreThrownAway goes on with new tables in the middle of deep nesting.
func TestTablesAreThrownAway(t *testing.T) {
	v, _ := listed(jsonWords...)
	g := compiled(t)(EBNF(`root ::= "[" (root ("," root)*)? "]" | "(" root ")" | [0-9]{100}`))
	m := g.Matcher(v)
	first := m.machine
	for i, c := range strings.Repeat("[(", 100) + strings.Repeat("7", 100) {
		if i%50 == 49 {
			m.machine.bytes = mostBytes + 1
		}
		m.Mask()
		if err := m.Accept(c); err != nil {
			t.Fatal(i, err)
		}
	}
	if m.machine == first {
		t.Error("want new tables")
	}
	for i, c := range strings.Repeat(")]", 100) {
		if err := m.Accept(c); err != nil {
			t.Fatal(i, err)
		}
	}
	if !m.MayEnd() {
		t.Error("want an end")
	}
}

// TestAmbiguity follows grammars with ever more ways to read a text.
func TestAmbiguity(t *testing.T) {
	v, _ := listed("aaaa")
	m := compiled(t)(EBNF(`root ::= "a" root "b" | "a" root "c" | "a" root "d" | "e"`)).Matcher(v)
	for _, c := range strings.Repeat("a", 300) + "e" + strings.Repeat("bcd", 100) {
		m.Mask()
		if err := m.Accept(c); err != nil {
			t.Fatal(err)
		}
	}
	if !m.MayEnd() {
		t.Error("want an end")
	}
	for name, e := range vocabularies(t) {
		for _, source := range []string{`root ::= "a" root root | "a"`, `root ::= ("a" | "a" root | [a-z] root [a-z])*`, `root ::= [a-z]+ root? [a-z]+ root?`} {
			m := compiled(t)(EBNF(source)).Matcher(e.v)
			begin := time.Now()
			for time.Since(begin) < 100*time.Millisecond {
				start := time.Now()
				m.Mask()
				err := m.Accept(e.Encode("a")[0])
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("%s: %s: a mask took %v", name, source, took)
				}
				if err != nil {
					if !strings.Contains(err.Error(), "too ambiguous") {
						t.Error(err)
					}
					break
				}
			}
		}
	}
}

// TestConcurrentMatchers lets many answers of one grammar run at a time, as an engine does, while tables are thrown away.
func TestConcurrentMatchers(t *testing.T) {
	v, _ := listed(jsonWords...)
	g := compiled(t)(compile(anyObject))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				m := g.Matcher(v)
				text := fmt.Sprintf(`{"a%d": [%d, {"b": "%s"}]}`, i, j, strings.Repeat("é", i))
				for k := range len(text) {
					m = m.Clone()
					if mask := m.Mask(); mask[text[k]/32]>>(text[k]%32)&1 == 0 {
						t.Errorf("%q: byte %d is not allowed", text, k)
						return
					}
					if i == 0 && k == 5 {
						m.machine.mu.Lock()
						m.machine.bytes = mostBytes + 1
						m.machine.mu.Unlock()
					}
					if err := m.Accept(int32(text[k])); err != nil {
						t.Error(err)
						return
					}
				}
				if !m.MayEnd() {
					t.Errorf("%q: want an end", text)
				}
			}
		})
	}
	wg.Wait()
}

func ExampleGrammar_Matcher() {
	g, _ := EBNF(`root ::= "yes" | "no" ", " [a-z]+`)
	v, stop := listed("yes", "no", ", ")
	m := g.Matcher(v)
	for _, id := range []int32{257, 258, 'm', 'e', stop} {
		if err := m.Accept(id); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(m.MayEnd())
	// Output: true
}
