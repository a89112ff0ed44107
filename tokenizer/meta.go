package tokenizer

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
)

// llama4Specials lists Llama 4's 2,048 special tokens in the order of their ids, which follow the ranks. A name with
// %d stands for a run of tokens numbered from first to last.
var llama4Specials = []struct {
	name        string
	first, last int
}{
	{"<|begin_of_text|>", 0, 0},
	{"<|end_of_text|>", 0, 0},
	{"<|fim_prefix|>", 0, 0},
	{"<|fim_middle|>", 0, 0},
	{"<|fim_suffix|>", 0, 0},
	{"<|header_start|>", 0, 0},
	{"<|header_end|>", 0, 0},
	{"<|eom|>", 0, 0},
	{"<|eot|>", 0, 0},
	{"<|step|>", 0, 0},
	{"<|text_post_train_reserved_special_token_%d|>", 0, 5},
	{"<|python_start|>", 0, 0},
	{"<|python_end|>", 0, 0},
	{"<|finetune_right_pad|>", 0, 0},
	{"<|text_post_train_reserved_special_token_%d|>", 8, 68},
	{"<|image_start|>", 0, 0},
	{"<|image_end|>", 0, 0},
	{"<|vision_reserved_special_token_%d|>", 0, 1},
	{"<|tile_x_separator|>", 0, 0},
	{"<|tile_y_separator|>", 0, 0},
	{"<|vision_reserved_special_token_%d|>", 2, 5},
	{"<|image|>", 0, 0},
	{"<|vision_reserved_special_token_%d|>", 6, 6},
	{"<|patch|>", 0, 0},
	{"<|vision_reserved_special_token_%d|>", 7, 1047},
	{"<|reasoning_reserved_special_token_%d|>", 0, 7},
	{"<|reasoning_thinking_start|>", 0, 0},
	{"<|reasoning_thinking_end|>", 0, 0},
	{"<|reserved_special_token_%d|>", 0, 903},
}

// llama4SpecialNames returns the names, by id minus the number of ranks.
func llama4SpecialNames() []string {
	names := make([]string, 0, 2048)
	for _, s := range llama4Specials {
		for i := s.first; i <= s.last; i++ {
			if bytes.Contains([]byte(s.name), []byte("%d")) {
				names = append(names, fmt.Sprintf(s.name, i))
			} else {
				names = append(names, s.name)
			}
		}
	}
	return names
}

// parseRanks reads Meta's tokenizer.model: a line for each token, its bytes in base64 and its rank, which is its id and
// counts up from 0.
func parseRanks(text []byte) (*Tokenizer, error) {
	var v vocabulary
	var token []byte
	for line := 1; len(text) > 0; line++ {
		row, rest, _ := bytes.Cut(text, []byte("\n"))
		text = rest
		row = bytes.TrimSuffix(row, []byte("\r"))
		if len(row) == 0 {
			continue
		}
		encoded, number, ok := bytes.Cut(row, []byte(" "))
		if !ok {
			return nil, fmt.Errorf("line %d: want a base64 token and its rank, got %.80q", line, row)
		}
		rank, err := strconv.ParseUint(string(number), 10, 31)
		if err != nil {
			return nil, fmt.Errorf("line %d: the rank %.80q is not a number", line, number)
		}
		if want := v.tokens.len(); rank != uint64(want) {
			return nil, fmt.Errorf("line %d: rank %d, want %d: ranks count up from 0", line, rank, want)
		}
		if token, err = base64.StdEncoding.AppendDecode(token[:0], encoded); err != nil {
			return nil, fmt.Errorf("line %d: %.80q is not base64", line, encoded)
		}
		v.add(token, int32(rank))
	}
	t, err := v.tokenizer(nil, true)
	if err != nil {
		return nil, err
	}
	first := int32(v.tokens.len())
	for i, name := range llama4SpecialNames() {
		if err := t.addToken(addedToken{ID: first + int32(i), Content: name, Special: true}); err != nil {
			return nil, err
		}
	}
	return t, nil
}
