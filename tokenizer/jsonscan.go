package tokenizer

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// jsonScanner walks over a JSON text without building values: tokenizer.json has 28 MB, nearly all of it strings of
// the vocabulary and the merges. Its first error sticks, and every later call does nothing.
type jsonScanner struct {
	text []byte
	pos  int
	err  error
	buf  []byte // the last string with escapes
}

func (s *jsonScanner) fail(wanted string) {
	if s.err != nil {
		return
	}
	if s.pos >= len(s.text) {
		s.err = fmt.Errorf("the JSON text ends after %d bytes where %s was expected", len(s.text), wanted)
		return
	}
	r, _ := utf8.DecodeRune(s.text[s.pos:])
	s.err = fmt.Errorf("JSON syntax at byte %d: wanted %s, got %q", s.pos, wanted, r)
}

// peek returns the next byte that is not space, 0 at the end or after an error.
func (s *jsonScanner) peek() byte {
	if s.err != nil {
		return 0
	}
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; c {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *jsonScanner) expect(c byte) {
	if s.peek() != c {
		s.fail(fmt.Sprintf("%q", c))
		return
	}
	s.pos++
}

// list calls item for each element of an array or object whose brackets these are; item reads the element.
func (s *jsonScanner) list(open, shut byte, item func()) {
	s.expect(open)
	if s.peek() == shut {
		s.pos++
		return
	}
	for s.err == nil {
		item()
		if s.peek() == ',' {
			s.pos++
			continue
		}
		s.expect(shut)
		return
	}
}

func (s *jsonScanner) array(item func()) { s.list('[', ']', item) }

// object calls member with each key; member reads the value. The key is valid until the next string is read.
func (s *jsonScanner) object(member func(key []byte)) {
	s.list('{', '}', func() {
		key := s.string()
		s.expect(':')
		if s.err == nil {
			member(key)
		}
	})
}

// string reads a string; the result is valid until the next one is read.
func (s *jsonScanner) string() []byte {
	s.expect('"')
	if s.err != nil {
		return nil
	}
	begin := s.pos
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '"':
			s.pos++
			return s.text[begin : s.pos-1]
		case c == '\\':
			s.pos = begin
			return s.escaped()
		case c < ' ':
			s.fail("a character of a string")
			return nil
		}
		s.pos++
	}
	s.fail("the end of a string")
	return nil
}

// escaped reads the rest of a string that has escapes: encoding/json knows how.
func (s *jsonScanner) escaped() []byte {
	begin := s.pos - 1
	for s.pos < len(s.text) && s.text[s.pos] != '"' {
		if s.text[s.pos] == '\\' {
			s.pos++
		}
		s.pos++
	}
	if s.pos >= len(s.text) {
		s.pos = len(s.text)
		s.fail("the end of a string")
		return nil
	}
	s.pos++
	var v string
	if err := json.Unmarshal(s.text[begin:s.pos], &v); err != nil {
		s.err = fmt.Errorf("JSON string at byte %d: %w", begin, err)
		return nil
	}
	s.buf = append(s.buf[:0], v...)
	return s.buf
}

// id reads a number that is a token id: 0 to 2³¹-1.
func (s *jsonScanner) id() int32 {
	s.peek()
	begin, n := s.pos, int64(0)
	for s.err == nil && s.pos < len(s.text) && '0' <= s.text[s.pos] && s.text[s.pos] <= '9' && n < 1<<31 {
		n = 10*n + int64(s.text[s.pos]-'0')
		s.pos++
	}
	if s.pos == begin || n >= 1<<31 {
		s.pos = begin
		s.fail("a token id")
		return 0
	}
	return int32(n)
}

// raw reads any value and returns its text; what is inside brackets is checked by whoever reads it.
func (s *jsonScanner) raw() json.RawMessage {
	c := s.peek()
	begin := s.pos
	switch c {
	case '"':
		s.string()
	case '{', '[':
		depth := 0
		for s.err == nil {
			switch s.peek() {
			case '{', '[':
				depth++
				s.pos++
			case '}', ']':
				depth--
				s.pos++
			case '"':
				s.string()
			case 0:
				s.fail("a closing bracket")
			default:
				s.pos++
			}
			if depth == 0 {
				break
			}
		}
	default:
		for s.err == nil && s.pos < len(s.text) {
			switch s.text[s.pos] {
			case ',', '}', ']', ' ', '\t', '\r', '\n':
			default:
				s.pos++
				continue
			}
			break
		}
		if s.pos == begin {
			s.fail("a value")
		}
	}
	if s.err != nil {
		return nil
	}
	return s.text[begin:s.pos]
}
