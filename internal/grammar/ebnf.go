package grammar

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// mostNested bounds parentheses within parentheses, and schemas within schemas.
const mostNested = 128

// EBNF compiles a grammar in llama.cpp's notation (GBNF); an answer follows its rule "root".
//
//	root   ::= "yes" | "no" (", " reason)?   # comment
//	reason ::= [a-z \x2C]{1,40}
//
// A rule is alternatives (|) of sequences of: literals "…", characters [a-z] or [^a-z] or . (any), names of rules, and
// parts in parentheses, each with *, +, ?, {n}, {n,}, {n,m} behind it or nothing. Literals and classes know the escapes
// \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH, the last three by code point. A rule goes on over lines until the next name with
// ::= behind it. Rules that call themselves before they have read a character, and rules that are missing, are errors
// that name them; others give line and column.
func EBNF(source string) (*Grammar, error) {
	if !utf8.ValidString(source) {
		return nil, fmt.Errorf("grammar: source: want UTF-8")
	}
	p := &ebnfParser{source: source, rules: map[string]*rule{}}
	if err := p.parse(); err != nil {
		return nil, err
	}
	root := p.rules["root"]
	if root == nil || root.body == nil {
		return nil, fmt.Errorf(`grammar: want a rule named "root"`)
	}
	for _, name := range p.order {
		if p.rules[name].body == nil {
			return nil, fmt.Errorf("grammar: rule %q is called but not defined", name)
		}
	}
	return compile(call{root})
}

type ebnfParser struct {
	source string
	at     int
	depth  int
	rules  map[string]*rule
	order  []string
}

func (p *ebnfParser) fail(format string, args ...any) error {
	before := p.source[:p.at]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("grammar: line %d, column %d: %s", line, column, fmt.Sprintf(format, args...))
}

// peek skips blanks and comments and gives the next byte; 0 at the end.
func (p *ebnfParser) peek() byte {
	for p.at < len(p.source) {
		switch c := p.source[p.at]; c {
		case ' ', '\t', '\r', '\n':
			p.at++
		case '#':
			if n := strings.IndexByte(p.source[p.at:], '\n'); n >= 0 {
				p.at += n
			} else {
				p.at = len(p.source)
			}
		default:
			return c
		}
	}
	return 0
}

func (p *ebnfParser) parse() error {
	for p.peek() != 0 {
		start := p.at
		name := p.name()
		if name == "" {
			return p.fail("want the name of a rule, got %q", p.here())
		}
		if p.peek(); !strings.HasPrefix(p.source[p.at:], "::=") {
			return p.fail("want ::= after %q, got %q", name, p.here())
		}
		p.at += len("::=")
		r := p.rule(name)
		if r.body != nil {
			p.at = start
			return p.fail("rule %q is defined twice", name)
		}
		body, err := p.choice()
		if err != nil {
			return err
		}
		if p.peek() == ')' {
			return p.fail("want ( before )")
		}
		r.body = body
	}
	return nil
}

// here is the character that is next, for messages.
func (p *ebnfParser) here() string {
	if p.at == len(p.source) {
		return "end of text"
	}
	_, n := utf8.DecodeRuneInString(p.source[p.at:])
	return p.source[p.at : p.at+n]
}

func (p *ebnfParser) rule(name string) *rule {
	r := p.rules[name]
	if r == nil {
		r = &rule{name: name}
		p.rules[name] = r
		p.order = append(p.order, name)
	}
	return r
}

// name reads a name, if one is next.
func (p *ebnfParser) name() string {
	start := p.at
	for p.at < len(p.source) {
		c := p.source[p.at]
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			break
		}
		p.at++
	}
	return p.source[start:p.at]
}

// choice reads alternatives, up to ), a definition, or the end.
func (p *ebnfParser) choice() (expr, error) {
	var out choice
	for {
		e, err := p.sequence()
		if err != nil {
			return nil, err
		}
		out = append(out, e)
		if p.peek() != '|' {
			break
		}
		p.at++
	}
	if len(out) == 1 {
		return out[0], nil
	}
	return out, nil
}

func (p *ebnfParser) sequence() (expr, error) {
	var out sequence
	for {
		c := p.peek()
		start := p.at
		if c == 0 || c == '|' || c == ')' {
			return out, nil
		}
		e, err := p.part(c)
		if err != nil {
			return nil, err
		}
		if e == nil { // a definition follows
			p.at = start
			return out, nil
		}
		if e, err = p.repeats(e); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
}

// part reads one literal, class, name or parenthesis; nil before the definition of the next rule.
func (p *ebnfParser) part(c byte) (expr, error) {
	switch c {
	case '"':
		p.at++
		var text strings.Builder
		for {
			if p.at == len(p.source) {
				return nil, p.fail("want a \" at the end of the literal")
			}
			if p.source[p.at] == '"' {
				p.at++
				return literal(text.String()), nil
			}
			r, err := p.char()
			if err != nil {
				return nil, err
			}
			text.WriteRune(r)
		}
	case '[':
		p.at++
		return p.class()
	case '.':
		p.at++
		return anyChar, nil
	case '(':
		p.at++
		if p.depth++; p.depth > mostNested {
			return nil, p.fail("want at most %d parentheses within each other", mostNested)
		}
		e, err := p.choice()
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, p.fail("want ), got %q", p.here())
		}
		p.at++
		p.depth--
		return e, nil
	}
	name := p.name()
	if name == "" {
		return nil, p.fail("want a literal, class, name or (, got %q", p.here())
	}
	end := p.at
	if p.peek(); strings.HasPrefix(p.source[p.at:], "::=") {
		return nil, nil
	}
	p.at = end
	return call{p.rule(name)}, nil
}

func (p *ebnfParser) class() (expr, error) {
	negated := p.at < len(p.source) && p.source[p.at] == '^'
	if negated {
		p.at++
	}
	var spans []span
	for {
		if p.at == len(p.source) {
			return nil, p.fail("want a ] at the end of the characters")
		}
		if p.source[p.at] == ']' {
			p.at++
			break
		}
		lo, err := p.char()
		if err != nil {
			return nil, err
		}
		hi := lo
		if rest := p.source[p.at:]; len(rest) >= 2 && rest[0] == '-' && rest[1] != ']' {
			p.at++
			if hi, err = p.char(); err != nil {
				return nil, err
			}
			if hi < lo {
				return nil, p.fail("want a range that goes up, got %q to %q", lo, hi)
			}
		}
		spans = append(spans, span{lo, hi})
	}
	c := newClass(spans)
	if negated {
		return anyChar.without(c), nil
	}
	return c.within(anyChar), nil
}

// char reads one character of a literal or class, which may be escaped.
func (p *ebnfParser) char() (rune, error) {
	r, n := utf8.DecodeRuneInString(p.source[p.at:])
	p.at += n
	if r != '\\' {
		return r, nil
	}
	if p.at == len(p.source) {
		return 0, p.fail("want a character after \\")
	}
	c := p.source[p.at]
	p.at++
	digits := 0
	switch c {
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case '\\', '"', '[', ']', '-', '^':
		return rune(c), nil
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		p.at--
		return 0, p.fail("unknown escape \\%s", p.here())
	}
	if p.at+digits > len(p.source) {
		return 0, p.fail("want %d hexadecimal digits after \\%c", digits, c)
	}
	code, err := strconv.ParseUint(p.source[p.at:p.at+digits], 16, 32)
	if err != nil || !utf8.ValidRune(rune(code)) || code > utf8.MaxRune {
		return 0, p.fail("want %d hexadecimal digits of a character after \\%c, got %q", digits, c, p.source[p.at:p.at+digits])
	}
	p.at += digits
	return rune(code), nil
}

// repeats reads what may stand behind a part: * + ? {n} {n,} {n,m}, any number of them.
func (p *ebnfParser) repeats(e expr) (expr, error) {
	for levels := 0; ; levels++ {
		if levels > mostNested {
			return nil, p.fail("want at most %d repetitions behind one part", mostNested)
		}
		switch p.peek() {
		case '*':
			e = star(e)
		case '+':
			e = repeat{e, 1, -1}
		case '?':
			e = optional(e)
		case '{':
			end := strings.IndexByte(p.source[p.at:], '}')
			if end < 0 {
				return nil, p.fail("want a } after {")
			}
			low, high, isRange := strings.Cut(p.source[p.at+1:p.at+end], ",")
			low, high = strings.TrimSpace(low), strings.TrimSpace(high)
			r := repeat{of: e, max: -1}
			var err error
			if r.min, err = count(low); err == nil && !isRange {
				r.max = r.min
			} else if err == nil && high != "" {
				r.max, err = count(high)
			}
			if err != nil || r.max >= 0 && r.max < r.min {
				return nil, p.fail("want {n}, {n,} or {n,m} with 0 <= n <= m <= %d, got %q", mostStates, p.source[p.at:p.at+end+1])
			}
			p.at += end
			e = r
		default:
			return e, nil
		}
		p.at++
	}
}

// count reads a number of repetitions.
func count(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n > mostStates {
		err = strconv.ErrRange
	}
	return int(n), err
}
