package engine

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestStopStrings(t *testing.T) {
	for _, c := range []struct {
		name   string
		tokens []string
		stops  []string
		want   []string // certain text after each token; the last is the flush where nothing stopped
		hit    bool
	}{
		{"none", []string{"ab", "c"}, nil, []string{"ab", "c", ""}, false},
		{"whole token", []string{"ab", "stop"}, []string{"stop"}, []string{"ab", ""}, true},
		{"in the middle of a token", []string{"a stop b"}, []string{"stop"}, []string{"a "}, true},
		{"across tokens", []string{"one s", "to", "p two"}, []string{"stop"}, []string{"one ", "", ""}, true},
		{"held back, then let go", []string{"one s", "to", "re"}, []string{"stop"}, []string{"one ", "", "store", ""}, false},
		{"held back to the end", []string{"one st"}, []string{"stop"}, []string{"one ", "st"}, false},
		{"first to be complete wins", []string{"x world hello"}, []string{"hello", "world"}, []string{"x "}, true},
		{"complete first, though it begins later", []string{"abcd"}, []string{"abcd", "bc"}, []string{"a"}, true},
		{"the same, token by token", []string{"a", "b", "c", "d"}, []string{"abcd", "bc"}, []string{"", "", "a"}, true},
		{"the longest of those that end together", []string{"xab"}, []string{"b", "ab"}, []string{"x"}, true},
		{"overlap with itself", []string{"a", "a", "b"}, []string{"aab"}, []string{"", "", ""}, true},
		{"a false start within a start", []string{"aa", "ab"}, []string{"aab"}, []string{"", "a"}, true},
		{"characters cut by tokens", []string{"\xe4\xbd", "\xa0\xe5", "\xa5\xbd"}, []string{"好"}, []string{"", "你", ""}, true},
		{"an unfinished character at the end", []string{"a\xe4"}, nil, []string{"a", "\uFFFD"}, false},
		{"a stop string that the flush completes", []string{"a\xe4"}, []string{"\uFFFD"}, []string{"a", ""}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := answerText{decoder: bytesTokenizer(c.tokens).NewDecoder(), stops: c.stops}
			var got []string
			hit := false
			for i := range c.tokens {
				var s string
				if s, hit = a.next(int32(i)); hit {
					got = append(got, s)
					break
				}
				got = append(got, s)
			}
			if !hit {
				got = append(got, a.flush())
			}
			if hit != c.hit || strings.Join(got, "|") != strings.Join(c.want, "|") {
				t.Errorf("got %q, hit %v; want %q, %v", got, hit, c.want, c.hit)
			}
		})
	}
}

// TestStopStringsAnyTokens compares with the definition, whatever the tokens: the shortest beginning of the text that
// ends with a stop string, without the longest stop string that it ends with. Those that end within the first tokens, as
// many as there must be, do not count.
func TestStopStringsAnyTokens(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		word := func(n int) string {
			b := make([]byte, n)
			for i := range b {
				b[i] = "ab"[rng.IntN(2)]
			}
			return string(b)
		}
		text := word(rng.IntN(30))
		var stops, tokens []string
		for range 1 + rng.IntN(3) {
			stops = append(stops, word(1+rng.IntN(6)))
		}
		for rest := text; rest != ""; {
			n := 1 + rng.IntN(min(5, len(rest)))
			tokens, rest = append(tokens, rest[:n]), rest[n:]
		}
		deaf := max(0, rng.IntN(8)-3)
		heard := 0 // where the text of the tokens begins whose stop strings count
		for i := range min(deaf, len(tokens)) {
			heard += len(tokens[i])
		}
		want := text
		for end := heard + 1; end <= len(text) && want == text; end++ {
			for _, s := range stops {
				if strings.HasSuffix(text[:end], s) && end-len(s) < len(want) {
					want = text[:end-len(s)]
				}
			}
		}
		a := answerText{decoder: bytesTokenizer(tokens).NewDecoder(), stops: stops}
		got, hit := "", false
		for i := 0; i < len(tokens) && !hit; i++ {
			var s string
			a.deaf = i < deaf
			s, hit = a.next(int32(i))
			got += s
			if !strings.HasPrefix(want, got) {
				t.Fatalf("seed %d: %q was let out of %q with stops %q", seed, got, tokens, stops)
			}
		}
		if !hit {
			got += a.flush()
		}
		if got != want || hit != (want != text) {
			t.Fatalf("seed %d: tokens %q, stops %q: the first %d deaf: got %q, hit %v; want %q", seed, tokens, stops, deaf, got, hit, want)
		}
	}
}
