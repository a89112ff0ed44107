package tokenizer

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestReferenceCases(t *testing.T) {
	var cases []struct {
		Text string
		IDs  []int32
	}
	if err := json.Unmarshal(readGzip(t, shared(t, "llama4", "tokenizer_cases.json.gz")), &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 1520 {
		t.Fatalf("%d cases, want 1520", len(cases))
	}
	for name, fsys := range llama4Files(t) {
		t.Run(name, func(t *testing.T) {
			tok := load(t, fsys, Options{})
			if tok.VocabSize() != 202048 || tok.ids != nil {
				t.Fatalf("vocabulary of %d, ids equal ranks: %v", tok.VocabSize(), tok.ids == nil)
			}
			for _, c := range cases {
				if got := tok.Encode(c.Text); !slices.Equal(got, c.IDs) {
					t.Errorf("%q: got %v, want %v", c.Text, got, c.IDs)
				}
				if got := tok.Decode(c.IDs); got != c.Text {
					t.Errorf("%v: got %q, want %q", c.IDs, got, c.Text)
				}
			}
			for unmade, u := 0, 256; u < 200000; u++ {
				if !tok.engine.made(uint32(u)) {
					if unmade++; unmade > 0 {
						t.Fatalf("token %d (%q) cannot be made by merges", u, tok.engine.token(uint32(u)))
					}
				}
			}
		})
	}
}

// The two files name the same special tokens with the same ids.
func TestSpecialIDs(t *testing.T) {
	files := llama4Files(t)
	a, b := load(t, files["tokenizer.json"], Options{}), load(t, files["tokenizer.model"], Options{})
	if len(a.special) != 2048 || len(b.special) != 2048 {
		t.Fatalf("%d and %d special tokens, want 2048", len(a.special), len(b.special))
	}
	for name, id := range a.special {
		if got, ok := b.Special(name); !ok || got != id {
			t.Errorf("%s: tokenizer.model gives %d, tokenizer.json %d", name, got, id)
		}
	}
	for name, id := range map[string]int32{
		"<|begin_of_text|>": 200000, "<|end_of_text|>": 200001, "<|fim_prefix|>": 200002, "<|fim_suffix|>": 200004,
		"<|header_start|>": 200005, "<|header_end|>": 200006, "<|eom|>": 200007, "<|eot|>": 200008, "<|step|>": 200009,
		"<|python_start|>": 200016, "<|python_end|>": 200017, "<|finetune_right_pad|>": 200018,
		"<|image_start|>": 200080, "<|image_end|>": 200081, "<|tile_x_separator|>": 200084, "<|tile_y_separator|>": 200085,
		"<|image|>": 200090, "<|patch|>": 200092, "<|reasoning_reserved_special_token_0|>": 201134,
		"<|reasoning_thinking_end|>": 201143, "<|reserved_special_token_903|>": 202047,
	} {
		if got, ok := b.Special(name); !ok || got != id {
			t.Errorf("%s: got %d, want %d", name, got, id)
		}
		if got := b.Name(id); got != name {
			t.Errorf("%d: got %q, want %q", id, got, name)
		}
	}
	if a.BOS() != 200000 || b.BOS() != 200000 {
		t.Errorf("begin-of-text is %d and %d, want 200000", a.BOS(), b.BOS())
	}
}
