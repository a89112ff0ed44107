package grammar

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"chulengo/demo"
	"chulengo/tokenizer"
)

// encoder is a vocabulary with the tokenizer that it is of.
type encoder struct {
	*tokenizer.Tokenizer
	v *Vocabulary
}

func newEncoder(tok *tokenizer.Tokenizer) encoder {
	var stops []int32
	for _, name := range []string{"<|end_of_text|>", "<|eom|>", "<|eot|>"} {
		if id, ok := tok.Special(name); ok {
			stops = append(stops, id)
		}
	}
	return encoder{tok, NewVocabulary(tok.VocabSize(), tok.Bytes, stops)}
}

var loadDemo = sync.OnceValues(func() (encoder, error) {
	tok, err := tokenizer.Load(demo.FS())
	if err != nil {
		return encoder{}, err
	}
	return newEncoder(tok), nil
})

var loadLlama4 = sync.OnceValues(func() (encoder, error) {
	root, err := os.Getwd()
	for ; err == nil; root = filepath.Dir(root) {
		if _, there := os.Stat(filepath.Join(root, "go.mod")); there == nil {
			break
		}
	}
	model, err := os.ReadFile(filepath.Join(root, "..", "shared", "llama4", "tokenizer.model"))
	if err != nil {
		return encoder{}, err
	}
	tok, err := tokenizer.Load(fstest.MapFS{"tokenizer.model": {Data: model}})
	if err != nil {
		return encoder{}, err
	}
	return newEncoder(tok), nil
})

func vocabularies(t testing.TB) map[string]encoder {
	d, err := loadDemo()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]encoder{"demo": d}
	if l, err := loadLlama4(); err == nil {
		out["llama4"] = l
	} else {
		t.Logf("without the tokenizer of Llama 4: %v", err)
	}
	return out
}

var answers = []struct{ name, schema, text string }{
	{"object", "", `{"name": "Ada Lovelace", "born": 1815, "places": ["London", "Ockham"], "note": "wrote \"the first program\"\nfor a machine — 解析机 😀", "more": {"a": {"b": [true, null, 1.5]}}}`},
	{"person", `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},"email":{"type":"string","format":"email"},
		"tags":{"type":"array","items":{"enum":["admin","user","guest"]}},"address":{"type":"object","properties":{"street":{"type":"string","maxLength":100},"zip":{"type":"string","pattern":"^\\d{5}$"}},"required":["street"]}},
		"required":["name","age"],"additionalProperties":false}`,
		`{"name": "Grace Hopper", "age": 85, "email": "grace@navy.mil", "tags": ["admin", "user"], "address": {"street": "1 Compiler Road, Arlington", "zip": "22201"}}`},
	{"bounded", `{"type":"object","properties":{"summary":{"type":"string","minLength":20,"maxLength":400}},"required":["summary"]}`,
		`{"summary": "A long enough summary of what was said, in one sentence that goes on for a while, and then some more."}`},
	{"tree", `{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"value":{"type":"number"},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["value"]}}}`,
		"{\n  \"value\": 1,\n  \"children\": [\n    {\n      \"value\": 2.5,\n      \"children\": [{\"value\": -3, \"children\": []}]\n    },\n    {\n      \"value\": 4\n    }\n  ]\n}"},
}

func answerGrammar(t testing.TB, schema string) *Grammar {
	var g *Grammar
	var err error
	if schema == "" {
		g, err = compile(anyObject) // with tables of its own, unlike JSONObject
	} else {
		g, err = JSONSchema(json.RawMessage(schema))
	}
	return compiled(t)(g, err)
}

// TestTokenizers checks masks against bytes along real answers, for a sample of all tokens.
func TestTokenizers(t *testing.T) {
	for name, e := range vocabularies(t) {
		for b := range 256 { // or there could be texts that no tokens complete
			if !slices.ContainsFunc(e.v.bytes, func(token []byte) bool { return len(token) == 1 && token[0] == byte(b) }) {
				t.Errorf("%s: no token for the byte %#x", name, b)
			}
		}
		for _, a := range answers {
			t.Run(name+"/"+a.name, func(t *testing.T) {
				g := answerGrammar(t, a.schema)
				m := g.Matcher(e.v)
				slow := newMachine(g.automaton, nil)
				at := slow.first
				for n, id := range e.Encode(a.text) {
					mask := m.Mask()
					for other := int32(n % 29); int(other) < e.v.size; other += 29 {
						b := e.v.bytes[other]
						to := at
						for i := 0; i < len(b) && to > 0; i++ {
							to = slow.step(to, b[i])
						}
						want := b != nil && to > 0 || slices.Contains(e.v.stops, other) && slow.situations[at].accept
						if got := mask[other/32]>>(other%32)&1 == 1; got != want {
							t.Fatalf("token %d of the answer, %q: want %t, got %t", n, b, want, got)
						}
					}
					if mask[id/32]>>(id%32)&1 == 0 {
						t.Fatalf("token %d of the answer, %q, is not allowed", n, e.v.bytes[id])
					}
					if err := m.Accept(id); err != nil {
						t.Fatal(err)
					}
					for _, b := range e.v.bytes[id] {
						at = slow.step(at, b)
					}
				}
				if !m.MayEnd() {
					t.Error("want an end")
				}
			})
		}
	}
}

// BenchmarkMask follows an answer and reports the time per token, of the first answer (with empty tables) and of later
// ones, and the slowest mask of the first.
func BenchmarkMask(b *testing.B) {
	for name, e := range vocabularies(b) {
		for _, a := range answers {
			ids := e.Encode(a.text)
			follow := func(b *testing.B, g *Grammar) (all, slowest time.Duration) {
				m := g.Matcher(e.v)
				begin := time.Now()
				for _, id := range ids {
					start := time.Now()
					m.Mask()
					slowest = max(slowest, time.Since(start))
					if err := m.Accept(id); err != nil {
						b.Fatal(err)
					}
				}
				return time.Since(begin), slowest
			}
			b.Run(fmt.Sprintf("%s/%s/first", name, a.name), func(b *testing.B) {
				var all, slowest time.Duration
				for range b.N {
					b.StopTimer()
					g := answerGrammar(b, a.schema)
					b.StartTimer()
					t, s := follow(b, g)
					all, slowest = all+t, max(slowest, s)
				}
				b.ReportMetric(float64(all.Microseconds())/float64(b.N*len(ids)), "µs/token")
				b.ReportMetric(float64(slowest.Microseconds()), "µs/slowest")
			})
			b.Run(fmt.Sprintf("%s/%s/later", name, a.name), func(b *testing.B) {
				g := answerGrammar(b, a.schema)
				follow(b, g)
				b.ResetTimer()
				var all, slowest time.Duration
				for range b.N {
					t, s := follow(b, g)
					all, slowest = all+t, max(slowest, s)
				}
				b.ReportMetric(float64(all.Nanoseconds())/1e3/float64(b.N*len(ids)), "µs/token")
				b.ReportMetric(float64(slowest.Microseconds()), "µs/slowest")
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, a := range answers[1:] {
		b.Run(a.name, func(b *testing.B) {
			for range b.N {
				answerGrammar(b, a.schema)
			}
		})
	}
}

func BenchmarkVocabulary(b *testing.B) {
	for name, e := range vocabularies(b) {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				NewVocabulary(e.VocabSize(), e.Bytes, nil)
			}
			b.ReportMetric(float64(len(e.v.short)), "nodes")
			b.ReportMetric(float64(len(e.v.long)), "long-nodes")
		})
	}
}
