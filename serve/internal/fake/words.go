package fake

import (
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"chulengo/tokenizer"
)

// EOT ends every answer and, in templates, every message. Smaller ids are characters, larger ones the longer pieces that
// were said.
const EOT = utf8.MaxRune + 1

const eotName = "<|eot|>"

// vocabulary is what the backend can say: every character, and the pieces that it said.
type vocabulary struct {
	mu     sync.Mutex
	pieces []string
	ids    map[string]int32
}

// id of a piece.
func (v *vocabulary) id(piece string) int32 {
	if r, n := utf8.DecodeRuneInString(piece); n == len(piece) && r != utf8.RuneError {
		return r
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	id, ok := v.ids[piece]
	if !ok {
		if v.ids == nil {
			v.ids = map[string]int32{}
		}
		v.pieces = append(v.pieces, piece)
		id = EOT + int32(len(v.pieces))
		v.ids[piece] = id
	}
	return id
}

// VocabSize leaves room for a thousand pieces.
func (v *vocabulary) VocabSize() int { return EOT + 1024 }
func (v *vocabulary) BOS() int32     { return -1 }

func (v *vocabulary) Encode(text string) []int32 { return []rune(text) }

func (v *vocabulary) EncodeAllowing(text string, special func(name string, id int32) bool) []int32 {
	var ids []int32
	for special != nil && special(eotName, EOT) {
		before, after, found := strings.Cut(text, eotName)
		if !found {
			break
		}
		ids, text = append(append(ids, []rune(before)...), EOT), after
	}
	return append(ids, []rune(text)...)
}

func (v *vocabulary) Decode(ids []int32) string     { return v.decode(ids, eotName) }
func (v *vocabulary) DecodeText(ids []int32) string { return v.decode(ids, "") }

func (v *vocabulary) decode(ids []int32, eot string) string {
	var text strings.Builder
	for _, id := range ids {
		if id == EOT {
			text.WriteString(eot)
		} else {
			text.Write(v.Bytes(id))
		}
	}
	return strings.ToValidUTF8(text.String(), "\uFFFD")
}

func (v *vocabulary) Bytes(id int32) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch i := int(id) - EOT - 1; {
	case id >= 0 && id < EOT:
		return []byte(string(id))
	case i >= 0 && i < len(v.pieces):
		return []byte(v.pieces[i])
	}
	return nil
}

func (v *vocabulary) IsSpecial(id int32) bool { return id == EOT }

func (v *vocabulary) Name(id int32) string {
	if id == EOT {
		return eotName
	}
	if b := v.Bytes(id); b != nil {
		return string(b)
	}
	return fmt.Sprintf("<|?%d|>", id)
}

// template writes "role: content" lines.
type template struct{}

func (template) Text(c tokenizer.Chat) (string, error) {
	var text strings.Builder
	for _, tool := range c.Tools {
		fmt.Fprintf(&text, "tool: %s\n", tool)
	}
	for i, m := range c.Messages {
		fmt.Fprintf(&text, "%s: ", m.Role)
		for _, part := range m.Content {
			text.WriteString(part.Text)
		}
		for _, call := range m.ToolCalls {
			fmt.Fprintf(&text, "\ncall: %s %s", call.Name, call.Arguments)
		}
		if c.NoGenerationPrompt && i == len(c.Messages)-1 {
			text.WriteString(eotName)
		}
		text.WriteString("\n")
	}
	return text.String(), nil
}

func (t template) Render(c tokenizer.Chat) ([]int32, error) {
	text, err := t.Text(c)
	return (&vocabulary{}).EncodeAllowing(text, func(string, int32) bool { return true }), err
}
