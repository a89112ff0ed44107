package grammar

import (
	"fmt"
	"regexp/syntax"
)

// formats are the patterns of the formats that can be enforced. Days go up to the 28th in February; seconds to 59.
var formats = map[string]string{
	"date":      `^` + datePattern + `$`,
	"time":      `^` + timePattern + `$`,
	"date-time": `^` + datePattern + `T` + timePattern + `$`,
	"duration":  `^P([0-9]{1,4}W|([0-9]{1,4}Y([0-9]{1,4}M([0-9]{1,4}D)?)?|[0-9]{1,4}M([0-9]{1,4}D)?|[0-9]{1,4}D)(T` + clockPattern + `)?|T` + clockPattern + `)$`,
	"uuid":      `^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`,
	"uuid4":     `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`,
	"email":     `^[A-Za-z0-9_+-]{1,20}(\.[A-Za-z0-9_+-]{1,20}){0,2}@` + labelPattern + `(\.` + labelPattern + `){1,4}$`,
	"hostname":  `^` + labelPattern + `(\.` + labelPattern + `){0,6}$`,
	"ipv4":      `^` + ipv4Pattern + `$`,
	"ipv6":      `^` + ipv6Pattern() + `$`,
	"uri": `^[a-z][a-z0-9+.\-]{0,15}://` + labelPattern + `(\.` + labelPattern + `){0,6}(:[1-9][0-9]{0,3})?(/` + uriChar + `*)*(\?(` + uriChar +
		`|[/?])*)?(#(` + uriChar + `|[/?])*)?$`,
}

const (
	datePattern  = `[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))`
	timePattern  = `([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])`
	clockPattern = `([0-9]{1,4}H([0-9]{1,4}M([0-9]{1,4}S)?)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S)`
	labelPattern = `[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?`
	ipv4Pattern  = `((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])`
	uriChar      = `([A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})`
)

// ipv6Pattern is eight groups, or fewer with one :: for at least one group of zeros.
func ipv6Pattern() string {
	const group = `[0-9a-fA-F]{1,4}`
	out := `((` + group + `:){7}` + group + `|::`
	for before := 1; before <= 7; before++ { // groups before the ::
		out += fmt.Sprintf(`|(%s:){%d}:`, group, before)
	}
	for before := range 7 {
		after := 7 - before // groups after it, at most
		start := `:`
		if before > 0 {
			start = fmt.Sprintf(`(%s:){%d}`, group, before)
		}
		out += fmt.Sprintf(`|%s(:%s){1,%d}`, start, group, after)
	}
	return out + `)`
}

// patternIn reads pattern and format.
func (r *schemaReader) patternIn(n *node, at schemaAt, keyword string, v *jsonValue) {
	if v.kind != '"' {
		r.fail(at, keyword, "want a string, got %s", v.what())
		return
	}
	pattern := v.text
	if keyword == "format" {
		switch v.text {
		case "password", "path", "file-path", "directory-path", "binary": // notes for people and programs
			return
		case "int32", "int64", "float", "double": // of OpenAPI; the first two bound integers
			n.limits |= numberType
			bits := map[string]uint{"int32": 31, "int64": 63}[v.text]
			if bits > 0 {
				for _, bound := range []struct{ keyword, text string }{{"minimum", fmt.Sprint(int64(-1) << bits)}, {"maximum", fmt.Sprint(uint64(1)<<bits - 1)}} {
					r.limit(n, at, bound.keyword, &jsonValue{kind: '0', text: bound.text})
				}
			}
			return
		}
		known := false
		if pattern, known = formats[v.text]; !known {
			r.fail(at, keyword, "%q is not supported", v.text)
			return
		}
	}
	n.limits |= stringType
	if n.pattern != "" && n.pattern != pattern {
		r.fail(at, keyword, "cannot be enforced together with another pattern or format")
		return
	}
	n.pattern, n.patternKeyword, n.patternAt = pattern, keyword, at
}

// stringKey is what a text has to be like. Schemas often say the same of many members, which then share states and masks.
type stringKey struct {
	least, most int
	pattern     string
}

func (r *schemaReader) string(n *node) expr {
	key := stringKey{n.minLength, n.maxLength, n.pattern}
	e := r.strings[key]
	if e == nil {
		e = named("string", r.newString(n))
		r.strings[key] = e
	}
	return e
}

func (r *schemaReader) newString(n *node) expr {
	if n.maxLength >= 0 && n.maxLength < n.minLength {
		return never
	}
	if n.pattern == "" {
		if n.minLength == 0 && n.maxLength < 0 {
			return anyString
		}
		return sequence{literal(`"`), repeat{named("character", stringChar), n.minLength, n.maxLength}, literal(`"`)}
	}
	keyword := n.patternKeyword
	// These are JavaScript's patterns: \S is no space of Unicode either, and . is no line end of any kind.
	re, err := parseRegex(n.pattern, `[^\s\v\p{Z}\x{feff}]`)
	if err != nil {
		r.fail(n.patternAt, keyword, "%v", err)
		return never
	}
	if (n.minLength > 0 || n.maxLength >= 0) && !clamp(re, n.minLength, n.maxLength) {
		r.fail(n.patternAt, keyword, "cannot be enforced together with minLength and maxLength: want ^ and $, and at most one repetition of a character between them")
		return never
	}
	reader := &regexReader{char: jsonChar, dot: anyChar.without(chars("\n\r\u2028\u2029")), any: star(named("character", stringChar))}
	e, err := reader.expr(re, true, true)
	if err != nil {
		r.fail(n.patternAt, keyword, "%q: %v", n.pattern, err)
		return never
	}
	return sequence{literal(`"`), e, literal(`"`)}
}

// jsonChar is one character of a class as JSON strings have it: escaped only where it must be.
func jsonChar(c class) expr {
	bare := c.within(bareChar)
	out := choice{bare}
	for _, s := range c.without(bareChar) {
		for r := s.lo; r <= s.hi; r++ {
			text := quoted(string(r))
			out = append(out, literal(text[1:len(text)-1]))
		}
	}
	if len(out) == 1 {
		return bare
	}
	return out
}

// clamp changes a pattern to match only texts of least to most characters (most < 0: no bound), by the bounds of its one
// repetition of a character; false where it cannot.
func clamp(re *syntax.Regexp, least, most int) bool {
	if re.Op != syntax.OpConcat || !isStart(re.Sub[0]) || !isEnd(re.Sub[len(re.Sub)-1]) {
		return false
	}
	if lo, hi := lengths(re); lo >= least && (most < 0 || hi >= 0 && hi <= most) {
		return true
	}
	var varies *syntax.Regexp
	fixed := 0
	for _, sub := range re.Sub {
		lo, hi := lengths(sub)
		if lo == hi {
			fixed += lo
			continue
		}
		if varies != nil {
			return false
		}
		for varies = sub; varies.Op == syntax.OpCapture; {
			varies = varies.Sub[0]
		}
	}
	if varies == nil {
		re.Sub = []*syntax.Regexp{{Op: syntax.OpNoMatch}} // it has one length, and not the one wanted
		return true
	}
	if len(varies.Sub) != 1 {
		return false
	}
	if lo, hi := lengths(varies.Sub[0]); lo != 1 || hi != 1 {
		return false
	}
	from, to := repetitions(varies)
	from = max(from, least-fixed)
	if most >= 0 && (to < 0 || to > most-fixed) {
		to = most - fixed
	}
	if to >= 0 && to < from {
		re.Sub = []*syntax.Regexp{{Op: syntax.OpNoMatch}}
		return true
	}
	varies.Op, varies.Min, varies.Max = syntax.OpRepeat, from, to
	return true
}

// repetitions are the bounds of a repetition; to < 0: none.
func repetitions(re *syntax.Regexp) (from, to int) {
	switch re.Op {
	case syntax.OpStar:
		return 0, -1
	case syntax.OpPlus:
		return 1, -1
	case syntax.OpQuest:
		return 0, 1
	}
	return re.Min, re.Max
}

// lengths are the fewest and most characters that a pattern matches; most < 0: no bound.
func lengths(re *syntax.Regexp) (least, most int) {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune), len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, 1
	case syntax.OpCapture:
		return lengths(re.Sub[0])
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		from, to := repetitions(re)
		lo, hi := lengths(re.Sub[0])
		if hi == 0 || to == 0 {
			return 0, 0
		}
		if hi < 0 || to < 0 {
			return lo * from, -1
		}
		return lo * from, hi * to
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			lo, hi := lengths(sub)
			if least += lo; hi < 0 || most < 0 {
				most = -1
			} else {
				most += hi
			}
		}
		return least, most
	case syntax.OpAlternate:
		for i, sub := range re.Sub {
			lo, hi := lengths(sub)
			if i == 0 {
				least, most = lo, hi
				continue
			}
			least = min(least, lo)
			if hi < 0 || most < 0 {
				most = -1
			} else {
				most = max(most, hi)
			}
		}
		return least, most
	}
	return 0, 0
}
