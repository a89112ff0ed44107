package tokenizer

import (
	"fmt"

	"github.com/nlpodyssey/gotokenizers/encodings"
	"github.com/nlpodyssey/gotokenizers/models"
	"github.com/nlpodyssey/gotokenizers/models/bpemodel"
	"github.com/nlpodyssey/gotokenizers/splitpattern"
	"github.com/nlpodyssey/gotokenizers/strutils"
	gtvocabulary "github.com/nlpodyssey/gotokenizers/vocabulary"
)

// Splitter is the split pattern as gotokenizers' interface; the zero value is ready for use.
type Splitter struct{}

var _ splitpattern.SplitPattern = Splitter{}

// FindMatches returns the pieces of s in order; every piece is a match. It never fails.
func (Splitter) FindMatches(s string) ([]splitpattern.Capture, error) {
	var pieces []splitpattern.Capture
	table := classes()
	for i := 0; i < len(s); {
		end := table.next(s, i)
		pieces = append(pieces, splitpattern.Capture{Offsets: strutils.ByteOffsets{Start: i, End: end}, IsMatch: true})
		i = end
	}
	return pieces, nil
}

// Model returns the byte-pair model as gotokenizers' interface. It takes one piece whose bytes are written as
// characters, as gotokenizers' byte-level pre-tokenizer leaves them, and counts offsets in that text.
func (t *Tokenizer) Model() models.Model {
	if t.model != nil {
		return t.model
	}
	return linearModel{t}
}

type linearModel struct{ t *Tokenizer }

// Tokenize returns the tokens of one piece.
func (m linearModel) Tokenize(sequence string) ([]models.Token, error) {
	if sequence == "" {
		return nil, nil
	}
	piece, err := appendBytes(nil, []byte(sequence))
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	w := m.t.engine.scratch()
	defer m.t.engine.scratches.Put(w)
	ranks := m.t.engine.append(nil, string(piece), w)
	tokens := make([]models.Token, len(ranks))
	at := 0
	for i, rank := range ranks {
		value := byteLevel(m.t.engine.token(uint32(rank)))
		tokens[i] = models.Token{ID: int(m.t.id(rank)), Value: value, Offsets: strutils.ByteOffsets{Start: at, End: at + len(value)}}
		at += len(value)
	}
	return tokens, nil
}

func (t *Tokenizer) id(rank int32) int32 {
	if t.ids != nil {
		return t.ids[rank]
	}
	return rank
}

// goTokenizersModel is gotokenizers' own byte-pair model, filled so that it merges by rank: its vocabulary is numbered
// by rank, and every pair of tokens that together are a token is a merge of that token's rank.
type goTokenizersModel struct {
	t     *Tokenizer
	vocab *gtvocabulary.Vocabulary
	model *bpemodel.BPEModel
}

func newGoTokenizersModel(t *Tokenizer) (*goTokenizersModel, error) {
	vocab, merges := gtvocabulary.NewVocabulary(), bpemodel.NewMergeMap()
	e := t.engine
	for u := range uint32(len(e.split)) {
		s := e.token(u)
		vocab.AddTerm(byteLevel(s))
		for k := 1; k < len(s) && e.made(u); k++ {
			if l, r := e.find(s[:k]), e.find(s[k:]); l != none && r != none && e.made(l) && e.made(r) {
				merges.Set(int(l), int(r), bpemodel.MergeValue{Rank: int(u), ID: int(u)})
			}
		}
	}
	if vocab.Size() != len(e.split) {
		return nil, fmt.Errorf("tokenizer: gotokenizers' vocabulary has %d tokens, want %d", vocab.Size(), len(e.split))
	}
	return &goTokenizersModel{t, vocab, bpemodel.New(vocab, merges, 0, 0, "", "", "", false)}, nil
}

// Tokenize returns the tokens of one piece.
func (m *goTokenizersModel) Tokenize(sequence string) ([]models.Token, error) {
	var tokens []models.Token
	rank, ok := m.vocab.GetID(sequence)
	if ok && (m.t.engine.pieces || m.t.engine.made(uint32(rank))) {
		tokens = []models.Token{{ID: rank, Value: sequence, Offsets: strutils.ByteOffsets{End: len(sequence)}}}
	} else {
		var err error
		if tokens, err = m.model.Tokenize(sequence); err != nil {
			return nil, err
		}
	}
	for i := range tokens {
		tokens[i].ID = int(m.t.id(int32(tokens[i].ID)))
	}
	return tokens, nil
}

// appendModel appends the ids of one piece as the second engine finds them.
func (t *Tokenizer) appendModel(out []int32, piece string) []int32 {
	tokens, err := t.model.Tokenize(byteLevel(piece))
	if err != nil {
		panic(fmt.Sprintf("tokenizer: gotokenizers: %v", err)) // its vocabulary has all bytes and all merges
	}
	for _, token := range tokens {
		out = append(out, int32(token.ID))
	}
	return out
}

// Encoding is EncodeAllowing with everything that gotokenizers' type tells: for each token its name in the vocabulary,
// the bytes of text that it stands for, and the piece it comes from (-1 for a special token). Offsets follow one
// another without gaps or overlaps, so they may cut through a character.
func (t *Tokenizer) Encoding(text string, special func(name string, id int32) bool) *encodings.Encoding {
	var tokens []encodings.EncodableToken
	var mask []int
	piece := 0
	w := t.engine.scratch()
	defer t.engine.scratches.Put(w)
	t.cut(text, special, func(start, end int, id int32) {
		if id >= 0 {
			tokens = append(tokens, encodings.EncodableToken{ID: int(id), Token: text[start:end],
				Offsets: strutils.ByteOffsets{Start: start, End: end}, WordIndex: -1})
			mask = append(mask, 1)
			return
		}
		for start < end {
			next := start + t.classes.next(text[start:end], 0)
			for _, id := range t.appendPiece(nil, text[start:next], w) {
				s := t.text(id)
				mask = append(mask, 0)
				tokens = append(tokens, encodings.EncodableToken{ID: int(id), Token: byteLevel(s),
					Offsets: strutils.ByteOffsets{Start: start, End: start + len(s)}, WordIndex: piece})
				start += len(s)
			}
			piece++
		}
	})
	e := encodings.EncodingFromEncodableTokens(tokens)
	e.SpecialTokensMask = mask
	return e
}
