package grammar

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// expr is a part of a grammar: a literal, class, sequence, choice, repeat or call. Expressions are never changed once
// built, and may be shared; only the body of a rule is set later, so that rules can call themselves.
type expr interface{ isExpr() }

type (
	literal  string // exact bytes; "" matches nothing but the empty text
	class    []span // one character out of sorted, disjoint ranges
	sequence []expr
	choice   []expr
	repeat   struct {
		of       expr
		min, max int // max < 0: no bound
	}
	call struct{ *rule }
)

// rule is a named part that is compiled once, wherever it is called from.
type rule struct {
	name string
	body expr
}

// span is a range of code points, both ends included.
type span struct{ lo, hi rune }

func (literal) isExpr()  {}
func (class) isExpr()    {}
func (sequence) isExpr() {}
func (choice) isExpr()   {}
func (repeat) isExpr()   {}
func (call) isExpr()     {}

// named makes a rule of an expression, so that its copies share states and masks.
func named(name string, body expr) expr { return call{&rule{name, body}} }

func optional(e expr) expr { return repeat{e, 0, 1} }
func star(e expr) expr     { return repeat{e, 0, -1} }

// anyChar is every code point that UTF-8 can hold.
var anyChar = class{{0, 0xD7FF}, {0xE000, utf8.MaxRune}}

// newClass sorts and merges ranges.
func newClass(spans []span) class {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return int(a.lo - b.lo) })
	var out class
	for _, s := range spans {
		if s.lo > s.hi {
			continue
		}
		if n := len(out); n > 0 && s.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, s.hi)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// without gives the code points of c that are not in d.
func (c class) without(d class) class {
	var out []span
	for _, s := range c {
		for _, t := range d {
			if t.hi < s.lo || t.lo > s.hi {
				continue
			}
			if t.lo > s.lo {
				out = append(out, span{s.lo, t.lo - 1})
			}
			s.lo = t.hi + 1
		}
		if s.lo <= s.hi {
			out = append(out, s)
		}
	}
	return newClass(out)
}

// within gives the code points that are in both.
func (c class) within(d class) class { return c.without(anyChar.without(d)) }

// chars is the class of the characters of a string.
func chars(s string) class {
	var spans []span
	for _, r := range s {
		spans = append(spans, span{r, r})
	}
	return newClass(spans)
}

// between is the class of one range.
func between(lo, hi rune) class { return class{{lo, hi}} }

// union is the class of the characters of any of classes.
func union(classes ...class) class { return newClass(slices.Concat(classes...)) }

// Literal is the grammar of exactly one text. It may have any bytes, up to the limit of states.
func Literal(text string) (*Grammar, error) { return compile(literal(text)) }

// Sequence is one grammar after the other.
func Sequence(parts ...*Grammar) (*Grammar, error) { return compile(sequence(roots(parts))) }

// Choice is any one of the grammars, at least one.
func Choice(of ...*Grammar) (*Grammar, error) {
	if len(of) == 0 {
		return nil, fmt.Errorf("grammar: choice: want at least one grammar, got none")
	}
	return compile(choice(roots(of)))
}

// Repeat is a grammar min to max times; max < 0 sets no bound.
func Repeat(of *Grammar, min, max int) (*Grammar, error) {
	if min < 0 || max >= 0 && max < min {
		return nil, fmt.Errorf("grammar: repeat: want 0 <= min <= max, got %d and %d", min, max)
	}
	return compile(repeat{of.root, min, max})
}

func roots(gs []*Grammar) []expr {
	out := make([]expr, len(gs))
	for i, g := range gs {
		out[i] = g.root
	}
	return out
}
