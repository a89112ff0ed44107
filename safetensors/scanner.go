package safetensors

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads strict JSON (RFC 8259) from a text known to be UTF-8. encoding/json would hide what matters here: it
// keeps the last of two equal keys, takes 1e3 and 1.0 for numbers like any other, and mends broken surrogates, so that
// two different names could become one.
type scanner struct {
	file   string // for errors
	tensor string // for errors: the entry being read, "" outside entries
	text   []byte
	pos    int
}

func (s *scanner) fail(f Fault, want, got string) error {
	return &Error{Fault: f, File: s.file, Tensor: s.tensor, Want: want, Got: got}
}

// found describes what stands at the cursor.
func (s *scanner) found() string {
	if s.pos >= len(s.text) {
		return fmt.Sprintf("the end of the text at byte %d", s.pos)
	}
	r, _ := utf8.DecodeRune(s.text[s.pos:])
	return fmt.Sprintf("%q at byte %d", r, s.pos)
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// kind names the JSON type that begins with c, "" where no value does.
func kind(c byte) string {
	switch {
	case c == '{':
		return "an object"
	case c == '[':
		return "a list"
	case c == '"':
		return "a string"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	case c == '-' || c >= '0' && c <= '9':
		return "a number"
	}
	return ""
}

// expect consumes the opening byte of a value; another type is WrongType, anything else Syntax.
func (s *scanner) expect(c byte, what string) error {
	got := s.peek()
	if got == c {
		s.pos++
		return nil
	}
	if k := kind(got); k != "" {
		return s.fail(WrongType, what+" ("+kind(c)+")", fmt.Sprintf("%s at byte %d", k, s.pos))
	}
	return s.fail(Syntax, what, s.found())
}

// object reads {"key": value, …} and calls member with the cursor on each value.
func (s *scanner) object(what string, member func(key string) error) error {
	if err := s.expect('{', what); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.fail(Syntax, "a key in quotes", s.found())
		}
		key, err := s.string("a key")
		if err != nil {
			return err
		}
		if s.peek() != ':' {
			return s.fail(Syntax, "':' after the key "+quote(key), s.found())
		}
		s.pos++
		if err := member(key); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return s.fail(Syntax, "',' or '}'", s.found())
		}
	}
}

// list reads [value, …] and calls element with the cursor on each value.
func (s *scanner) list(what string, element func() error) error {
	if err := s.expect('[', what); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.fail(Syntax, "',' or ']'", s.found())
		}
	}
}

// string reads a string; what names it in errors.
func (s *scanner) string(what string) (string, error) {
	if err := s.expect('"', what); err != nil {
		return "", err
	}
	start := s.pos
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == '"':
			s.pos++
			return string(s.text[start : s.pos-1]), nil
		case c == '\\':
			return s.escaped(append([]byte(nil), s.text[start:s.pos]...))
		case c < 0x20:
			return "", s.fail(Syntax, "no control character in a string", s.found())
		}
	}
	return "", s.fail(Syntax, "'\"' at the end of a string", s.found())
}

// escaped goes on with a string whose first escape stands at the cursor; out holds what came before.
func (s *scanner) escaped(out []byte) (string, error) {
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		switch {
		case c == '"':
			s.pos++
			return string(out), nil
		case c < 0x20:
			return "", s.fail(Syntax, "no control character in a string", s.found())
		case c != '\\':
			out = append(out, c)
			s.pos++
			continue
		}
		s.pos++
		if s.pos >= len(s.text) {
			break
		}
		switch c := s.text[s.pos]; c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := s.hex4(s.pos + 1)
			if ok && utf16.IsSurrogate(r) {
				low, lowOK := s.hex4(s.pos + 7)
				ok = lowOK && s.text[s.pos+5] == '\\' && s.text[s.pos+6] == 'u'
				r = utf16.DecodeRune(r, low)
				ok = ok && r != utf8.RuneError
				s.pos += 6
			}
			if !ok {
				s.pos = min(s.pos, len(s.text))
				return "", s.fail(Syntax, `\u and four hexadecimal digits, surrogates in pairs`, s.found())
			}
			s.pos += 4
			out = utf8.AppendRune(out, r)
		default:
			return "", s.fail(Syntax, "one of \"\\/bfnrtu after a backslash", s.found())
		}
		s.pos++
	}
	return "", s.fail(Syntax, "'\"' at the end of a string", s.found())
}

// hex4 decodes the four hexadecimal digits at pos.
func (s *scanner) hex4(pos int) (rune, bool) {
	if pos+4 > len(s.text) {
		return 0, false
	}
	var r rune
	for _, c := range s.text[pos : pos+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// number reads a number of any form and says whether it is written as an integer.
func (s *scanner) number(what string) (text string, integer bool, err error) {
	c := s.peek()
	if k := kind(c); k != "a number" {
		if k != "" {
			return "", false, s.fail(WrongType, what+" (a number)", fmt.Sprintf("%s at byte %d", k, s.pos))
		}
		return "", false, s.fail(Syntax, what, s.found())
	}
	start := s.pos
	digits := func() bool {
		from := s.pos
		for s.pos < len(s.text) && s.text[s.pos] >= '0' && s.text[s.pos] <= '9' {
			s.pos++
		}
		return s.pos > from
	}
	at := func(set string) bool {
		for i := range len(set) {
			if s.pos < len(s.text) && s.text[s.pos] == set[i] {
				s.pos++
				return true
			}
		}
		return false
	}
	at("-")
	if !at("0") && !digits() { // no digit may follow a leading zero: the caller meets it as a missing comma
		return "", false, s.fail(Syntax, "a digit", s.found())
	}
	integer = true
	if at(".") {
		integer = false
		if !digits() {
			return "", false, s.fail(Syntax, "a digit after the point", s.found())
		}
	}
	if at("eE") {
		integer = false
		at("+-")
		if !digits() {
			return "", false, s.fail(Syntax, "a digit in the exponent", s.found())
		}
	}
	return string(s.text[start:s.pos]), integer, nil
}

// int reads an integer from 0 to the largest int.
func (s *scanner) int(what string) (int, error) {
	text, integer, err := s.number(what)
	switch {
	case err != nil:
		return 0, err
	case !integer:
		return 0, s.fail(NotInteger, what+" as an integer", clip(text))
	case text[0] == '-':
		return 0, s.fail(Negative, what+" ≥ 0", clip(text))
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > math.MaxInt {
		return 0, s.fail(Overflow, fmt.Sprintf("%s ≤ %d", what, math.MaxInt), clip(text))
	}
	return int(n), nil
}

// clip bounds a number's text in an error.
func clip(text string) string {
	if len(text) > 40 {
		return text[:40] + "…"
	}
	return text
}

// maxDepth bounds the nesting of values that skip passes over, so that a hostile index cannot exhaust the stack.
const maxDepth = 100

// skip passes over a value of any type and returns its text.
func (s *scanner) skip(depth int) ([]byte, error) {
	c := s.peek()
	start := s.pos
	var err error
	switch {
	case depth > maxDepth:
		err = s.fail(Syntax, fmt.Sprintf("at most %d nested values", maxDepth), s.found())
	case c == '{':
		err = s.object("an object", func(string) error { _, err := s.skip(depth + 1); return err })
	case c == '[':
		err = s.list("a list", func() error { _, err := s.skip(depth + 1); return err })
	case c == '"':
		_, err = s.string("a string")
	case kind(c) == "a number":
		_, _, err = s.number("a number")
	default:
		for _, word := range []string{"true", "false", "null"} {
			if end := s.pos + len(word); end <= len(s.text) && string(s.text[s.pos:end]) == word {
				s.pos = end
				return s.text[start:end], nil
			}
		}
		err = s.fail(Syntax, "a value", s.found())
	}
	return s.text[start:s.pos], err
}
