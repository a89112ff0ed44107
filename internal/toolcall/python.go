package toolcall

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// call looks at a call as in Python from `at` on: f(a=1, b="x"). If it is one, what is pending begins behind it.
func (p *Parser) call(at int) verdict {
	s := p.pending[at:]
	n := 0
	for n < len(s) && (s[n] == '_' || s[n] == '.' || s[n] == '-' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || s[n] >= '0' && s[n] <= '9') {
		n++
	}
	name := s[:n]
	if n == len(s) {
		if p.begins(name) {
			return more
		}
		return no
	}
	if n == 0 || s[n] != '(' || p.known(name) != yes {
		return no
	}
	end, v := closing(s[n:])
	if v != yes {
		return v
	}
	arguments, err := keywords(s[n+1 : n+end-1])
	if err != nil {
		return no
	}
	p.whole("", name, arguments)
	p.take(at + n + end)
	p.mode = inPython
	return yes
}

// python goes on behind a call of a list: the next one, or the list's end.
func (p *Parser) python(last bool) bool {
	i := blanks(p.pending)
	if i == len(p.pending) {
		return false
	}
	if p.pending[i] == ']' {
		p.take(i + 1)
		p.mode = between
		return true
	}
	if p.pending[i] == ',' {
		i++
		i += blanks(p.pending[i:])
		if i == len(p.pending) && !last {
			return false
		}
		if i < len(p.pending) {
			switch v := p.call(i); {
			case v == yes:
				return true
			case v == more && !last:
				return false
			}
		}
	}
	p.mode = inText
	p.text(p.take(i))
	return true
}

// closing finds the end of a parenthesis that s begins with, beyond strings and what is nested.
func closing(s string) (int, verdict) {
	depth, quote := 0, byte(0)
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case quote != 0:
			if b == '\\' {
				i++
			} else if b == quote {
				quote = 0
			}
		case b == '"' || b == '\'':
			quote = b
		case b == '(' || b == '[' || b == '{':
			if depth++; depth > maxDepth {
				return 0, no
			}
		case b == ')' || b == ']' || b == '}':
			if depth--; depth == 0 {
				return i + 1, yes
			}
		}
	}
	return 0, more
}

const maxDepth = 64

var errSyntax = errors.New("toolcall: want keyword arguments with literals")

// literals reads Python's literals.
type literals struct {
	s string
	i int
}

// keywords turns a=1, b="x" into a JSON object.
func keywords(s string) (string, error) {
	r := &literals{s: s}
	var out strings.Builder
	out.WriteByte('{')
	seen := map[string]bool{}
	for r.blank(); r.i < len(r.s); {
		begin := r.i
		for r.i < len(r.s) && (r.s[r.i] == '_' || r.s[r.i] >= 'a' && r.s[r.i] <= 'z' || r.s[r.i] >= 'A' && r.s[r.i] <= 'Z' || r.s[r.i] >= '0' && r.s[r.i] <= '9') {
			r.i++
		}
		name := r.s[begin:r.i]
		if r.blank(); name == "" || seen[name] || !r.eat('=') {
			return "", errSyntax
		}
		if seen[name] = true; len(seen) > 1 {
			out.WriteString(", ")
		}
		r.blank()
		out.WriteString(quote(name) + ": ")
		if err := r.value(&out, 0); err != nil {
			return "", err
		}
		if r.blank(); r.i < len(r.s) && !r.eat(',') {
			return "", errSyntax
		}
		r.blank()
	}
	out.WriteByte('}')
	return out.String(), nil
}

func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (r *literals) blank() { r.i += blanks(r.s[r.i:]) }

func (r *literals) eat(b byte) bool {
	if r.i < len(r.s) && r.s[r.i] == b {
		r.i++
		return true
	}
	return false
}

func (r *literals) value(out *strings.Builder, depth int) error {
	if r.i == len(r.s) || depth > maxDepth {
		return errSyntax
	}
	switch b := r.s[r.i]; {
	case b == '"' || b == '\'':
		s, err := r.string(b)
		out.WriteString(quote(s))
		return err
	case b == '[' || b == '(':
		return r.list(out, map[byte]byte{'[': ']', '(': ')'}[b], depth)
	case b == '{':
		return r.dict(out, depth)
	case b == '-' || b == '+' || b == '.' || b >= '0' && b <= '9':
		return r.number(out)
	}
	for _, word := range [][2]string{{"True", "true"}, {"False", "false"}, {"None", "null"}, {"true", "true"}, {"false", "false"}, {"null", "null"}} {
		if strings.HasPrefix(r.s[r.i:], word[0]) {
			r.i += len(word[0])
			out.WriteString(word[1])
			return nil
		}
	}
	return errSyntax
}

// list reads a list or a tuple; parentheses around one value, without a comma, are only parentheses.
func (r *literals) list(out *strings.Builder, end byte, depth int) error {
	r.i++
	var elements strings.Builder
	n, comma := 0, false
	for ; ; n++ {
		if r.blank(); r.eat(end) {
			break
		}
		if n > 0 {
			if !comma {
				return errSyntax
			}
			elements.WriteString(", ")
		}
		if err := r.value(&elements, depth+1); err != nil {
			return err
		}
		r.blank()
		comma = r.eat(',')
	}
	if end == ')' && n == 1 && !comma {
		out.WriteString(elements.String())
	} else {
		out.WriteString("[" + elements.String() + "]")
	}
	return nil
}

func (r *literals) dict(out *strings.Builder, depth int) error {
	r.i++
	out.WriteByte('{')
	for n := 0; ; n++ {
		if r.blank(); r.eat('}') {
			break
		}
		if n > 0 {
			out.WriteString(", ")
		}
		var key strings.Builder
		if err := r.value(&key, depth+1); err != nil {
			return err
		}
		switch k := key.String(); k[0] {
		case '"':
			out.WriteString(k)
		case '[', '{':
			return errSyntax
		default: // numbers and words, as Python's json writes such keys
			out.WriteString(quote(k))
		}
		out.WriteString(": ")
		if r.blank(); !r.eat(':') {
			return errSyntax
		}
		r.blank()
		if err := r.value(out, depth+1); err != nil {
			return err
		}
		if r.blank(); !r.eat(',') {
			if !r.eat('}') {
				return errSyntax
			}
			break
		}
	}
	out.WriteByte('}')
	return nil
}

// number writes an integer as it is, whatever its size, and a fraction as JSON spells it.
func (r *literals) number(out *strings.Builder) error {
	begin := r.i
	for r.i < len(r.s) && strings.IndexByte("+-.0123456789eE_", r.s[r.i]) >= 0 {
		r.i++
	}
	s := strings.ReplaceAll(strings.TrimPrefix(r.s[begin:r.i], "+"), "_", "")
	if json.Valid([]byte(s)) {
		out.WriteString(s)
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if digits := strings.TrimLeft(s, "-"); err == nil && len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		return errSyntax // neither is 007 Python
	}
	if err != nil || strings.ContainsAny(strings.TrimLeft(s, "-"), "+-") && !strings.ContainsAny(s, "eE") {
		return errSyntax
	}
	b, err := json.Marshal(f)
	out.Write(b)
	return err
}

// string reads a string in quotes, with Python's escapes.
func (r *literals) string(end byte) (string, error) {
	r.i++
	var b strings.Builder
	for r.i < len(r.s) {
		switch c := r.s[r.i]; c {
		case end:
			r.i++
			return b.String(), nil
		case '\\':
			if r.i++; r.i == len(r.s) {
				return "", errSyntax
			}
			e := r.s[r.i]
			r.i++
			if digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[e]; digits > 0 {
				if r.i+digits > len(r.s) {
					return "", errSyntax
				}
				code, err := strconv.ParseUint(r.s[r.i:r.i+digits], 16, 32)
				if err != nil {
					return "", errSyntax
				}
				r.i += digits
				if low := r.s[r.i:]; utf16.IsSurrogate(rune(code)) && len(low) >= 6 && low[:2] == `\u` {
					if second, err := strconv.ParseUint(low[2:6], 16, 32); err == nil && utf16.IsSurrogate(rune(second)) {
						code = uint64(utf16.DecodeRune(rune(code), rune(second)))
						r.i += 6
					}
				}
				b.WriteString(string(rune(min(code, utf8.MaxRune+1))))
				continue
			}
			if at := strings.IndexByte("ntrbfav0\\'\"\n", e); at >= 0 {
				b.WriteString([]string{"\n", "\t", "\r", "\b", "\f", "\a", "\v", "\x00", "\\", "'", "\"", ""}[at])
				continue
			}
			b.WriteByte('\\') // as Python does with escapes that it does not know
			b.WriteByte(e)
		default:
			b.WriteByte(c)
			r.i++
		}
	}
	return "", errSyntax
}
