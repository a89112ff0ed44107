package tokenizer

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nlpodyssey/gotokenizers/models"
)

// Tokenizer turns text into ids and back. It does not change after Load and may be used by any number of goroutines.
type Tokenizer struct {
	engine  *bpe
	classes *classTable
	ids     []int32  // [tokens] id by rank; nil: they are equal
	ranks   []uint32 // [highest vocabulary id + 1] rank by id, none in gaps; nil: they are equal
	model   models.Model

	added    map[int32]addedToken
	special  map[string]int32 // id of every added token
	lengths  []int            // of their names, longest first
	opening  string           // what all their names begin with
	ordinary bool             // some of them are not special: they are found in any text
	size     int
	bos      int32

	template    string
	hasTemplate bool
}

// setIDs notes which id each rank has; order is the vocabulary's index by rank.
func (t *Tokenizer) setIDs(v *vocabulary, order []int) {
	equal := true
	highest := int32(-1)
	for rank, i := range order {
		equal = equal && v.ids[i] == int32(rank)
		highest = max(highest, v.ids[i])
	}
	t.size = int(highest) + 1
	if equal {
		return
	}
	t.ids = make([]int32, len(order))
	t.ranks = make([]uint32, t.size)
	for i := range t.ranks {
		t.ranks[i] = none
	}
	for rank, i := range order {
		t.ids[rank] = v.ids[i]
		t.ranks[v.ids[i]] = uint32(rank)
	}
}

// addToken enters a token that stands beside the vocabulary.
func (t *Tokenizer) addToken(a addedToken) error {
	if old, ok := t.added[a.ID]; ok && old.Content != a.Content {
		return fmt.Errorf("%q and %q have the same id %d", old.Content, a.Content, a.ID)
	}
	if id, ok := t.special[a.Content]; ok && id != a.ID {
		return fmt.Errorf("%q has two ids, %d and %d", a.Content, id, a.ID)
	}
	if t.rank(a.ID) != none {
		return fmt.Errorf("the id %d of %q is %q in the vocabulary", a.ID, a.Content, t.engine.token(t.rank(a.ID)))
	}
	if len(t.added) == 0 {
		t.opening = a.Content
	}
	for !strings.HasPrefix(a.Content, t.opening) {
		t.opening = t.opening[:len(t.opening)-1]
	}
	t.added[a.ID] = a
	t.special[a.Content] = a.ID
	t.ordinary = t.ordinary || !a.Special
	t.size = max(t.size, int(a.ID)+1)
	if i, ok := slices.BinarySearchFunc(t.lengths, len(a.Content), func(x, n int) int { return n - x }); !ok {
		t.lengths = slices.Insert(t.lengths, i, len(a.Content))
	}
	return nil
}

// rank returns the rank of a vocabulary id, or none.
func (t *Tokenizer) rank(id int32) uint32 {
	switch {
	case id < 0:
		return none
	case t.ranks != nil:
		if int(id) < len(t.ranks) {
			return t.ranks[id]
		}
		return none
	case int(id) < len(t.engine.split):
		return uint32(id)
	}
	return none
}

// VocabSize is the number of ids: one more than the highest.
func (t *Tokenizer) VocabSize() int { return t.size }

// BOS is the id of begin-of-text, or -1.
func (t *Tokenizer) BOS() int32 { return t.bos }

// Special returns the id of a special token.
func (t *Tokenizer) Special(name string) (id int32, ok bool) {
	id, ok = t.special[name]
	return id, ok && t.added[id].Special
}

// Specials returns the names of all special tokens by id.
func (t *Tokenizer) Specials() map[int32]string {
	names := make(map[int32]string, len(t.added))
	for id, a := range maps.All(t.added) {
		if a.Special {
			names[id] = a.Content
		}
	}
	return names
}

// IsSpecial says whether id is a special token.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.added[id].Special }

// Name returns a token as people read it: a special token's name, any other's bytes as Go writes them in quotes, without
// the quotes; an id that does not exist is <|?id|>.
func (t *Tokenizer) Name(id int32) string {
	if a, ok := t.added[id]; ok {
		return a.Content
	}
	if rank := t.rank(id); rank != none {
		s := fmt.Sprintf("%q", t.engine.token(rank))
		return s[1 : len(s)-1]
	}
	return fmt.Sprintf("<|?%d|>", id)
}

// Bytes returns the bytes that a token stands for: nil for special tokens and ids that do not exist.
func (t *Tokenizer) Bytes(id int32) []byte {
	if s := t.text(id); s != "" {
		return []byte(s)
	}
	return nil
}

// text is Bytes as a string, "" for nil.
func (t *Tokenizer) text(id int32) string {
	if rank := t.rank(id); rank != none {
		return t.engine.token(rank)
	}
	if a, ok := t.added[id]; ok && !a.Special {
		return a.Content
	}
	return ""
}

// CheckpointTemplate returns the checkpoint's own chat template, if it has one.
func (t *Tokenizer) CheckpointTemplate() (source string, ok bool) { return t.template, t.hasTemplate }

// Encode returns the ids of plain text: never a special token, whatever the text says, and no begin-of-text. Bytes that
// are not UTF-8 count as symbols and are kept as they are, so the tokens' bytes are always the text's.
func (t *Tokenizer) Encode(text string) []int32 { return t.AppendEncode(nil, text) }

// AppendEncode appends what Encode returns to out.
func (t *Tokenizer) AppendEncode(out []int32, text string) []int32 {
	if t.ordinary {
		return t.appendAllowing(out, text, nil)
	}
	return t.appendPlain(out, text)
}

// EncodeAllowing is Encode, but special tokens that special returns true for are recognised in the text, from left to
// right, the longest name first.
func (t *Tokenizer) EncodeAllowing(text string, special func(name string, id int32) bool) []int32 {
	return t.appendAllowing(nil, text, special)
}

func (t *Tokenizer) appendAllowing(out []int32, text string, special func(name string, id int32) bool) []int32 {
	t.cut(text, special, func(start, end int, id int32) {
		if id >= 0 {
			out = append(out, id)
		} else {
			out = t.appendPlain(out, text[start:end])
		}
	})
	return out
}

// cut calls part for each added token that counts (id), and for each text between them that is not empty (id -1).
func (t *Tokenizer) cut(text string, special func(name string, id int32) bool, part func(start, end int, id int32)) {
	done, i := 0, 0
	for len(t.added) > 0 {
		if n := strings.Index(text[i:], t.opening); n < 0 {
			break
		} else if i += n; i == len(text) {
			break
		}
		id, n := t.addedAt(text[i:], special)
		if n == 0 {
			i++
			continue
		}
		if i > done {
			part(done, i, -1)
		}
		part(i, i+n, id)
		i += n
		done = i
	}
	if done < len(text) {
		part(done, len(text), -1)
	}
}

// addedAt returns the longest added token that s begins with and that counts, with the length of its name; else 0, 0.
func (t *Tokenizer) addedAt(s string, special func(name string, id int32) bool) (int32, int) {
	for _, n := range t.lengths {
		if n > len(s) {
			continue
		}
		if id, ok := t.special[s[:n]]; ok && (!t.added[id].Special || special != nil && special(s[:n], id)) {
			return id, n
		}
	}
	return 0, 0
}

// appendPlain appends the ids of text in which no added token counts.
func (t *Tokenizer) appendPlain(out []int32, text string) []int32 {
	w := t.engine.scratch()
	defer t.engine.scratches.Put(w)
	for i := 0; i < len(text); {
		end := t.classes.next(text, i)
		out = t.appendPiece(out, text[i:end], w)
		i = end
	}
	return out
}

// appendPiece appends the ids of one piece.
func (t *Tokenizer) appendPiece(out []int32, piece string, w *scratch) []int32 {
	if t.model != nil {
		return t.appendModel(out, piece)
	}
	first := len(out)
	out = t.engine.append(out, piece, w)
	if t.ids != nil {
		for i, rank := range out[first:] {
			out[first+i] = t.ids[rank]
		}
	}
	return out
}
