package grammar

import (
	"fmt"
	"regexp/syntax"
	"strings"
	"unicode"
)

// Regex compiles a regular expression (the syntax of package regexp, and \uHHHH); a whole answer follows it, so that ^ at its
// beginning and $ at its end say nothing more. Anchors elsewhere and word boundaries are errors.
func Regex(pattern string) (*Grammar, error) {
	re, err := parseRegex(pattern, `\S`)
	if err != nil {
		return nil, fmt.Errorf("grammar: %w", err)
	}
	r := &regexReader{char: func(c class) expr { return c }, dot: anyChar.without(chars("\n"))}
	e, err := r.expr(re, true, true)
	if err != nil {
		return nil, fmt.Errorf("grammar: regular expression %q: %w", pattern, err)
	}
	return compile(e)
}

func parseRegex(pattern, notSpace string) (*syntax.Regexp, error) {
	re, err := syntax.Parse(rewrite(pattern, notSpace), syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %s", pattern, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return re, nil
}

// regexReader turns a parsed pattern into an expression.
type regexReader struct {
	char func(c class) expr // one character of the text out of c
	dot  class              // what . stands for
	any  expr               // not nil: what may stand before the pattern where it has no ^, and behind it where it has no $
}

// rewrite writes escapes of JavaScript's patterns, which JSON schemas have, for package syntax: \uHHHH is \x{HHHH}, and
// \S outside of brackets is notSpace.
func rewrite(pattern, notSpace string) string {
	var out strings.Builder
	inClass := false
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		if c != '\\' || i+1 == len(pattern) {
			inClass = c == '[' || inClass && c != ']'
			out.WriteByte(c)
			continue
		}
		i++
		switch c := pattern[i]; {
		case c == 'u' && i+5 <= len(pattern) && isHex(pattern[i+1:i+5]):
			out.WriteString(`\x{` + pattern[i+1:i+5] + `}`)
			i += 4
		case c == 'S' && !inClass:
			out.WriteString(notSpace)
		default:
			out.WriteByte('\\')
			out.WriteByte(c)
		}
	}
	return out.String()
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// expr reads re. first and last say whether it stands at the beginning and at the end of the pattern: there the anchors
// may stand, and there the text may go on where they are missing.
func (r *regexReader) expr(re *syntax.Regexp, first, last bool) (expr, error) {
	switch re.Op {
	case syntax.OpCapture:
		return r.expr(re.Sub[0], first, last)
	case syntax.OpAlternate:
		var out choice
		for _, sub := range re.Sub {
			e, err := r.expr(sub, first, last)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	case syntax.OpConcat:
		subs := re.Sub
		var out sequence
		openStart, openEnd := first, last
		for first && len(subs) > 0 && isStart(subs[0]) {
			subs, openStart = subs[1:], false
		}
		for last && len(subs) > 0 && isEnd(subs[len(subs)-1]) {
			subs, openEnd = subs[:len(subs)-1], false
		}
		if len(subs) == 0 {
			return r.around(out, openStart, openEnd), nil
		}
		for i, sub := range subs {
			e, err := r.expr(sub, openStart && i == 0, openEnd && i == len(subs)-1)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	case syntax.OpBeginText, syntax.OpBeginLine:
		if first {
			return r.around(sequence{}, false, last), nil
		}
		return nil, fmt.Errorf("want ^ only at the beginning")
	case syntax.OpEndText, syntax.OpEndLine:
		if last {
			return r.around(sequence{}, first, false), nil
		}
		return nil, fmt.Errorf("want $ only at the end")
	}
	e, err := r.plain(re)
	if err != nil {
		return nil, err
	}
	return r.around(e, first, last), nil
}

// around lets the text go on on the open sides.
func (r *regexReader) around(e expr, first, last bool) expr {
	if r.any == nil {
		return e
	}
	out := sequence{e}
	if first {
		out = sequence{r.any, e}
	}
	if last {
		out = append(out, r.any)
	}
	return out
}

func isStart(re *syntax.Regexp) bool {
	return re.Op == syntax.OpBeginText || re.Op == syntax.OpBeginLine
}
func isEnd(re *syntax.Regexp) bool { return re.Op == syntax.OpEndText || re.Op == syntax.OpEndLine }

// plain reads what has no anchors.
func (r *regexReader) plain(re *syntax.Regexp) (expr, error) {
	var subs sequence
	switch re.Op {
	case syntax.OpCapture, syntax.OpConcat, syntax.OpAlternate, syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		for _, sub := range re.Sub {
			e, err := r.plain(sub)
			if err != nil {
				return nil, err
			}
			subs = append(subs, e)
		}
	}
	switch re.Op {
	case syntax.OpNoMatch:
		return choice{}, nil
	case syntax.OpEmptyMatch:
		return sequence{}, nil
	case syntax.OpLiteral:
		var out sequence
		for _, c := range re.Rune {
			out = append(out, r.char(folded(c, re.Flags)))
		}
		return out, nil
	case syntax.OpCharClass:
		var spans []span
		for i := 0; i+1 < len(re.Rune); i += 2 {
			spans = append(spans, span{re.Rune[i], re.Rune[i+1]})
		}
		return r.char(newClass(spans).within(anyChar)), nil
	case syntax.OpAnyChar:
		return r.char(anyChar), nil
	case syntax.OpAnyCharNotNL:
		return r.char(r.dot), nil
	case syntax.OpCapture:
		return subs[0], nil
	case syntax.OpConcat:
		return subs, nil
	case syntax.OpAlternate:
		return choice(subs), nil
	case syntax.OpStar:
		return star(subs[0]), nil
	case syntax.OpPlus:
		return repeat{subs[0], 1, -1}, nil
	case syntax.OpQuest:
		return optional(subs[0]), nil
	case syntax.OpRepeat:
		return repeat{subs[0], re.Min, re.Max}, nil
	case syntax.OpBeginText, syntax.OpBeginLine:
		return nil, fmt.Errorf("want ^ only at the beginning")
	case syntax.OpEndText, syntax.OpEndLine:
		return nil, fmt.Errorf("want $ only at the end")
	}
	return nil, fmt.Errorf("word boundaries are not supported")
}

// folded is the class of a character, with its other cases under (?i).
func folded(c rune, flags syntax.Flags) class {
	spans := []span{{c, c}}
	if flags&syntax.FoldCase != 0 {
		for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
			spans = append(spans, span{f, f})
		}
	}
	return newClass(spans)
}
