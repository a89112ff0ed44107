package toolcall

import (
	"encoding/json"
	"slices"
	"strings"
)

// Call is one call of a tool.
type Call struct {
	ID        string // the model's, mostly ""
	Name      string
	Arguments string // JSON text
}

// Delta is what a piece of text brought: prose, or the begin, a part of the arguments, or the end of call Index. A delta may have
// all of a call at once.
type Delta struct {
	Text      string
	Index     int
	Begin     *Call  // its Arguments are empty
	Arguments string // a part of them
	End       bool
}

// Parser finds calls in a text that comes in pieces.
type Parser struct {
	tools   []string
	pending string // not passed on yet
	mode    mode
	calls   int
	scan    scanner // of the arguments that are being passed on
	out     []Delta
}

type mode int

const (
	inText      mode = iota
	inArguments      // of a JSON call
	inTail           // of a JSON call, behind its arguments
	inPython         // behind a call of a list as in Python
	between          // behind a call: separators, and the next one
)

// NewParser makes a parser for calls of these tools; nil: of any.
func NewParser(tools []string) *Parser { return &Parser{tools: tools} }

// verdict says what is known of text that may be a call.
type verdict int

const (
	no verdict = iota
	more
	yes
)

// known says whether a name is a tool's.
func (p *Parser) known(name string) verdict {
	if p.tools == nil || slices.Contains(p.tools, name) {
		return yes
	}
	return no
}

// begins says whether a tool's name begins like this.
func (p *Parser) begins(part string) bool {
	return p.tools == nil || slices.ContainsFunc(p.tools, func(t string) bool { return strings.HasPrefix(t, part) })
}

// Write takes the next piece of the text.
func (p *Parser) Write(text string) []Delta {
	p.pending += text
	return p.run(false)
}

// Close takes the end of the text.
func (p *Parser) Close() []Delta { return p.run(true) }

func (p *Parser) run(last bool) []Delta {
	p.out = nil
	for p.step(last) {
	}
	return p.out
}

func (p *Parser) text(s string) {
	if s == "" {
		return
	}
	if n := len(p.out); n > 0 && p.out[n-1].Begin == nil && p.out[n-1].Arguments == "" && !p.out[n-1].End {
		p.out[n-1].Text += s
		return
	}
	p.out = append(p.out, Delta{Text: s})
}

// take gives n bytes of what is pending.
func (p *Parser) take(n int) string {
	s := p.pending[:n]
	p.pending = p.pending[n:]
	return s
}

const pythonTag = "<|python_tag|>"

// step does what can be done next; false: nothing before more text has come.
func (p *Parser) step(last bool) bool {
	if p.pending == "" {
		return false
	}
	switch p.mode {
	case inArguments:
		before := p.scan
		n, done := p.scan.object(p.pending)
		d := Delta{Index: p.calls - 1, Arguments: before.printable(p.take(n)), End: done}
		if done {
			p.mode = inTail
		} else if last {
			d.End = true
		}
		p.out = append(p.out, d)
		return p.pending != ""
	case inTail:
		n, v := tail(p.pending)
		if v == more && !last {
			return false
		}
		p.take(n)
		p.mode = between
		return true
	case inPython:
		return p.python(last)
	case between:
		return p.next(last)
	}
	at := strings.IndexAny(p.pending, "{[<")
	if at < 0 {
		p.text(p.take(len(p.pending)))
		return false
	}
	p.text(p.take(at))
	return p.candidate(last, "")
}

// candidate looks at what is pending, which may begin a call; `before` goes with it if it is text.
func (p *Parser) candidate(last bool, before string) bool {
	v := no
	switch s := p.pending; s[0] {
	case '<':
		switch {
		case strings.HasPrefix(s, pythonTag):
			p.take(len(pythonTag))
			return true
		case strings.HasPrefix(pythonTag, s):
			v = more
		}
	case '{':
		v = p.object(0)
	case '[':
		inside := 1 + blanks(s[1:])
		switch {
		case inside == len(s):
			v = more
		case s[inside] == '{':
			v = p.object(inside)
		default:
			v = p.call(inside)
		}
	}
	if v == more && !last {
		if before != "" { // stays with what it stands before
			p.pending = before + p.pending
		}
		return false
	}
	if v != yes {
		p.mode = inText
		p.text(before + p.take(1))
	}
	return true
}

// next looks for another call behind one. Separators between calls are no text, others are.
func (p *Parser) next(last bool) bool {
	n := 0
	for n < len(p.pending) && strings.IndexByte(" \t\r\n;,]", p.pending[n]) >= 0 {
		n++
	}
	if n == len(p.pending) {
		if last {
			p.pending = ""
		}
		return false
	}
	before := p.take(n)
	if strings.IndexByte("{[<", p.pending[0]) < 0 {
		p.mode = inText
		p.text(before)
		return true
	}
	return p.candidate(last, before)
}

// begin announces a call.
func (p *Parser) begin(id, name string) {
	p.calls++
	p.out = append(p.out, Delta{Index: p.calls - 1, Begin: &Call{ID: id, Name: name}})
}

// whole passes a complete call on.
func (p *Parser) whole(id, name, arguments string) {
	p.calls++
	p.out = append(p.out, Delta{Index: p.calls - 1, Begin: &Call{ID: id, Name: name}, Arguments: arguments, End: true})
}

// object looks at a JSON object from `at` on. If it is a call, what is pending begins behind it, or within its arguments.
func (p *Parser) object(at int) verdict {
	s := p.pending
	i := at + 1
	var name, id, arguments string
	var seen []string
	named := false
	for first := true; ; first = false {
		i += blanks(s[i:])
		if i == len(s) {
			return more
		}
		if s[i] == '}' && !first || s[i] == '}' && named {
			break
		}
		if !first {
			if s[i] != ',' {
				return no
			}
			i++
			i += blanks(s[i:])
			if i == len(s) {
				return more
			}
		}
		key, n, v := quoted(s[i:])
		if v == more && slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, key) }) {
			return more
		}
		if v != yes || !slices.Contains(keys, key) || slices.Contains(seen, key) {
			return no
		}
		seen = append(seen, key)
		i += n
		i += blanks(s[i:])
		if i == len(s) {
			return more
		}
		if s[i] != ':' {
			return no
		}
		i++
		i += blanks(s[i:])
		if i == len(s) {
			return more
		}
		if (key == "parameters" || key == "arguments") && s[i] == '{' {
			if named {
				p.begin(id, name)
				p.take(i)
				p.scan, p.mode = scanner{}, inArguments
				return yes
			}
			var scan scanner
			n, done := scan.object(s[i:])
			if !done {
				return more
			}
			arguments = (&scanner{}).printable(s[i : i+n])
			if !json.Valid([]byte(arguments)) {
				return no
			}
			i += n
			continue
		}
		if key == "parameters" || key == "arguments" {
			if rest, ok := strings.CutPrefix(s[i:], "null"); ok {
				i = len(s) - len(rest)
				continue
			}
			if strings.HasPrefix("null", s[i:]) {
				return more
			}
		}
		value, n, v := quoted(s[i:])
		if v == more && (key != "name" || p.begins(value)) {
			return more
		}
		if v != yes {
			return no
		}
		i += n
		switch key {
		case "name":
			if name = value; p.known(name) != yes {
				return no
			}
			named = true
		case "id":
			id = value
		case "type":
			if value != "function" {
				return no
			}
		default: // arguments as text
			if !json.Valid([]byte(value)) || strings.TrimSpace(value)[0] != '{' {
				return no
			}
			arguments = value
		}
	}
	if !named {
		return no
	}
	if arguments == "" {
		arguments = "{}"
	}
	p.whole(id, name, arguments)
	p.take(i + 1)
	p.mode = between
	return yes
}

// keys are what an object that calls a tool may have.
var keys = []string{"name", "parameters", "arguments", "type", "id"}

// tail is what follows the arguments of a JSON call: further members, and its end.
func tail(s string) (int, verdict) {
	i := 0
	for {
		i += blanks(s[i:])
		if i == len(s) {
			return i, more
		}
		if s[i] == '}' {
			return i + 1, yes
		}
		if s[i] != ',' {
			return 0, no
		}
		i++
		i += blanks(s[i:])
		_, n, v := quoted(s[i:])
		if v != yes {
			return 0, v
		}
		i += n
		i += blanks(s[i:])
		if i == len(s) {
			return 0, more
		}
		if s[i] != ':' {
			return 0, no
		}
		i++
		i += blanks(s[i:])
		if _, n, v = quoted(s[i:]); v != yes {
			return 0, v
		}
		i += n
	}
}

// blanks is how many blanks a text begins with.
func blanks(s string) int { return len(s) - len(strings.TrimLeft(s, " \t\r\n")) }

// quoted reads a JSON string and says how long it is. Of one that is not complete it gives what there is.
func quoted(s string) (value string, n int, v verdict) {
	if s == "" {
		return "", 0, more
	}
	if s[0] != '"' {
		return "", 0, no
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			if json.Unmarshal([]byte(s[:i+1]), &value) != nil {
				return "", 0, no
			}
			return value, i + 1, yes
		}
	}
	return s[1:], 0, more
}

// scanner follows a JSON object to its end.
type scanner struct {
	depth          int
	inside, escape bool // of a string
}

// object gives how much of s belongs to the object, and whether it ends there.
func (c *scanner) object(s string) (int, bool) {
	for i := range len(s) {
		switch b := s[i]; {
		case c.escape:
			c.escape = false
		case c.inside:
			c.escape, c.inside = b == '\\', b != '"'
		case b == '"':
			c.inside = true
		case b == '{' || b == '[':
			c.depth++
		case b == '}' || b == ']':
			if c.depth--; c.depth == 0 {
				return i + 1, true
			}
		}
	}
	return len(s), false
}

// printable gives text of the object with the control characters in strings escaped: models write line ends as they are,
// which is not JSON. It leaves the scanner behind the text.
func (c *scanner) printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' }) < 0 {
		return s
	}
	var out []byte
	for i := range len(s) {
		if b := s[i]; b < ' ' && c.inside {
			escaped := quote(s[i : i+1])
			out = append(out, escaped[1:len(escaped)-1]...)
		} else {
			out = append(out, b)
		}
		c.object(s[i : i+1])
	}
	return string(out)
}
