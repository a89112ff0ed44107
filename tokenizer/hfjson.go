package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// hfModel holds the settings of tokenizer.json's model that change how it encodes.
type hfModel struct {
	Type                    string   `json:"type"`
	Dropout                 *float64 `json:"dropout"`
	UnkToken                *string  `json:"unk_token"`
	ContinuingSubwordPrefix *string  `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string  `json:"end_of_word_suffix"`
	ByteFallback            bool     `json:"byte_fallback"`
	IgnoreMerges            bool     `json:"ignore_merges"`
}

func (m *hfModel) check() error {
	switch {
	case m.Type != "BPE" && m.Type != "":
		return fmt.Errorf("type %q is not supported, only BPE", m.Type)
	case m.Dropout != nil && *m.Dropout != 0:
		return fmt.Errorf("dropout %v is not supported", *m.Dropout)
	case m.ContinuingSubwordPrefix != nil && *m.ContinuingSubwordPrefix != "":
		return fmt.Errorf("continuing_subword_prefix %q is not supported", *m.ContinuingSubwordPrefix)
	case m.EndOfWordSuffix != nil && *m.EndOfWordSuffix != "":
		return fmt.Errorf("end_of_word_suffix %q is not supported", *m.EndOfWordSuffix)
	case m.ByteFallback:
		return errors.New("byte_fallback is not supported: the vocabulary must be byte-level")
	}
	return nil
}

// addedToken is an entry of added_tokens.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Special    bool   `json:"special"`
}

// parseJSON reads Hugging Face's tokenizer.json.
func parseJSON(text []byte) (*Tokenizer, error) {
	var (
		s       = &jsonScanner{text: text}
		v       vocabulary
		merges  mergeList
		parts   = map[string]json.RawMessage{}
		model   = map[string]json.RawMessage{}
		foreign []foreignToken
		hasBPE  bool
	)
	s.object(func(key []byte) {
		if string(key) != "model" {
			parts[string(key)] = s.raw()
			return
		}
		if s.peek() != '{' {
			s.fail("the model's object")
			return
		}
		s.object(func(key []byte) {
			switch string(key) {
			case "vocab":
				foreign = scanVocab(s, &v)
			case "merges":
				hasBPE = true
				scanMerges(s, &merges)
			default:
				model[string(key)] = s.raw()
			}
		})
	})
	if s.err == nil && s.peek() != 0 {
		s.fail("the end of the file")
	}
	if s.err != nil {
		return nil, s.err
	}
	if v.tokens.len() == 0 {
		return nil, errors.New("model.vocab is missing or empty")
	}
	if !hasBPE {
		return nil, errors.New("model.merges is missing")
	}
	var settings hfModel
	if err := again(model, &settings); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if err := settings.check(); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	var file hfParts
	if err := again(parts, &file); err != nil {
		return nil, err
	}
	if err := file.check(); err != nil {
		return nil, err
	}
	t, err := v.tokenizer(&merges, settings.IgnoreMerges)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	for i, a := range file.AddedTokens {
		if a.Content == "" || a.ID < 0 || a.SingleWord || a.LStrip || a.RStrip {
			return nil, fmt.Errorf("added_tokens[%d] (%q, id %d): single_word, lstrip and rstrip are not supported, and content and id are needed", i, a.Content, a.ID)
		}
		if err := t.addToken(a); err != nil {
			return nil, fmt.Errorf("added_tokens[%d]: %w", i, err)
		}
	}
	for _, f := range foreign {
		if a, ok := t.added[f.id]; !ok || a.Content != f.content {
			return nil, fmt.Errorf("model.vocab: %w", f.err)
		}
	}
	return t, nil
}

// again turns the raw members of an object into a struct.
func again(raw map[string]json.RawMessage, v any) error {
	text, err := json.Marshal(raw)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

// foreignToken is an entry of the vocabulary that is not byte-level; it must be among the added tokens too.
type foreignToken struct {
	content string
	id      int32
	err     error
}

func scanVocab(s *jsonScanner, v *vocabulary) (foreign []foreignToken) {
	var token []byte
	s.object(func(key []byte) {
		var err error
		if token, err = appendBytes(token[:0], key); err != nil {
			f := foreignToken{content: string(key), err: err}
			f.id = s.id()
			foreign = append(foreign, f)
			return
		}
		v.add(token, s.id())
	})
	return foreign
}

// scanMerges reads both spellings of a merge: "left right" and ["left", "right"].
func scanMerges(s *jsonScanner, m *mergeList) {
	var both []byte
	s.array(func() {
		var left int
		var err error
		part := func(text []byte) {
			if err == nil {
				both, err = appendBytes(both, text)
			}
		}
		both = both[:0]
		if s.peek() == '[' {
			n := 0
			s.array(func() {
				part(s.string())
				if n++; n == 1 {
					left = len(both)
				}
			})
			if s.err == nil && n != 2 {
				err = fmt.Errorf("has %d parts, want 2", n)
			}
		} else {
			text := s.string()
			l, r, ok := bytes.Cut(text, []byte(" "))
			if s.err == nil && !ok {
				err = fmt.Errorf("%q: want two tokens with a space between", text)
			}
			part(l)
			left = len(both)
			part(r)
		}
		if err != nil && s.err == nil {
			s.err = fmt.Errorf("model.merges: number %d: %w", m.pairs.len(), err)
		}
		m.pairs.add(both)
		m.left = append(m.left, uint32(left))
	})
}

// hfParts is the rest of tokenizer.json.
type hfParts struct {
	AddedTokens  []addedToken    `json:"added_tokens"`
	Normalizer   json.RawMessage `json:"normalizer"`
	PreTokenizer hfPreTokenizer  `json:"pre_tokenizer"`
	Decoder      *hfPreTokenizer `json:"decoder"`
}

type hfPreTokenizer struct {
	Type           string           `json:"type"`
	PreTokenizers  []hfPreTokenizer `json:"pretokenizers"`
	Pattern        struct{ Regex string }
	Behavior       string `json:"behavior"`
	Invert         bool   `json:"invert"`
	AddPrefixSpace *bool  `json:"add_prefix_space"` // absent means true
	UseRegex       *bool  `json:"use_regex"`        // absent means true
}

// check accepts what Llama 4's file says: no normaliser, the split pattern, then bytes as characters.
func (p *hfParts) check() error {
	if len(p.Normalizer) > 0 && string(p.Normalizer) != "null" {
		return fmt.Errorf("normalizer %.80s is not supported", p.Normalizer)
	}
	pre := p.PreTokenizer.PreTokenizers
	if p.PreTokenizer.Type != "Sequence" || len(pre) != 2 || pre[0].Type != "Split" || pre[1].Type != "ByteLevel" {
		return errors.New("pre_tokenizer: only the sequence of Split and ByteLevel is supported")
	}
	split, level := pre[0], pre[1]
	if split.Pattern.Regex != SplitPattern {
		return fmt.Errorf("pre_tokenizer: the split pattern is not Llama 4's: %.200q", split.Pattern.Regex)
	}
	if split.Behavior != "Isolated" || split.Invert {
		return fmt.Errorf("pre_tokenizer: split behavior %q (invert %v) is not supported, only Isolated", split.Behavior, split.Invert)
	}
	if level.AddPrefixSpace == nil || *level.AddPrefixSpace || level.UseRegex == nil || *level.UseRegex {
		return errors.New("pre_tokenizer: ByteLevel needs add_prefix_space and use_regex false")
	}
	if p.Decoder != nil && p.Decoder.Type != "ByteLevel" {
		return fmt.Errorf("decoder: type %q is not supported, only ByteLevel", p.Decoder.Type)
	}
	return nil
}
