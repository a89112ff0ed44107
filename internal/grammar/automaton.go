package grammar

import (
	"fmt"
	"math"
	"slices"
)

// mostStates bounds an automaton, and with it the memory and time that a source can cost.
const mostStates = 1 << 16

// shortToken is the length in bytes of the tokens for which the copies of a long repetition are alike: a token of so
// many bytes passes at most so many copies, so one that has more copies before it than that need not know how many.
const shortToken = 32

type op uint8

const (
	opRead  op = iota // reads one byte along one of the edges
	opSplit           // goes on at each of to
	opCall            // reads a rule, then goes on at next
	opEnd             // ends its rule
)

type state struct {
	op    op
	tail  bool // opCall: next only ends the rule, so there is nothing to come back for
	edges []edge
	to    []int32
	rule  int32
	next  int32
}

// edge leads on with the bytes lo..hi.
type edge struct {
	lo, hi byte
	to     int32
}

// automaton is a compiled grammar.
type automaton struct {
	states []state
	alias  []int32  // a state that the tokens up to shortToken cannot tell from this one
	starts []int32  // of each rule; rule 0 is the grammar itself
	names  []string // of each rule

	empty []bool  // states from which the rule can end without a byte
	order []int32 // of states: a move without a byte, other than the end of a rule, leads to the same or a lower order

	classOf [256]uint8 // bytes that no edge tells apart
	classes []byte     // one byte of each
}

// builder makes states from expressions, backwards: an expression is compiled to what follows it.
type builder struct {
	automaton
	rules    map[*rule]int32
	todo     []*rule
	consumes map[*rule]bool // false also while it is being found out
	err      error
}

func buildAutomaton(root expr) (*automaton, error) {
	b := &builder{rules: map[*rule]int32{}, consumes: map[*rule]bool{}}
	b.ruleOf(&rule{"", root})
	for i := 0; i < len(b.todo) && b.err == nil; i++ {
		r := b.todo[i]
		if r.body == nil {
			return nil, fmt.Errorf("grammar: rule %q is not defined", r.name)
		}
		b.starts[i] = b.expr(r.body, b.add(state{op: opEnd}))
	}
	if b.err != nil {
		return nil, b.err
	}
	a := &b.automaton
	if err := a.sort(); err != nil {
		return nil, err
	}
	if err := a.prune(); err != nil {
		return nil, err
	}
	for i := range a.states {
		if s := &a.states[i]; s.op == opCall {
			s.tail = a.states[s.next].op == opEnd
		}
	}
	a.classify()
	return a, nil
}

// ruleOf numbers a rule, and notes it to be compiled.
func (b *builder) ruleOf(r *rule) int32 {
	i, ok := b.rules[r]
	if !ok {
		i = int32(len(b.todo))
		b.rules[r] = i
		b.todo = append(b.todo, r)
		b.starts = append(b.starts, 0)
		b.names = append(b.names, r.name)
	}
	return i
}

func (b *builder) add(s state) int32 {
	if len(b.states) >= mostStates {
		if b.err == nil {
			b.err = fmt.Errorf("grammar: too large: want at most %d states of its automaton (are there large repetitions?)", mostStates)
		}
		return 0
	}
	i := int32(len(b.states))
	b.states = append(b.states, s)
	b.alias = append(b.alias, i)
	return i
}

// expr compiles e to be followed by next, and returns where it begins.
func (b *builder) expr(e expr, next int32) int32 {
	if b.err != nil {
		return 0
	}
	switch e := e.(type) {
	case literal:
		for i := len(e) - 1; i >= 0; i-- {
			next = b.add(state{op: opRead, edges: []edge{{e[i], e[i], next}}})
		}
		return next
	case class:
		return b.class(e, next)
	case sequence:
		for i := len(e) - 1; i >= 0; i-- {
			next = b.expr(e[i], next)
		}
		return next
	case choice:
		s := state{op: opSplit}
		var texts []string
		for _, of := range e {
			if text, ok := of.(literal); ok {
				texts = append(texts, string(text))
			} else {
				s.to = append(s.to, b.expr(of, next))
			}
		}
		if len(texts) > 0 {
			slices.Sort(texts)
			s.to = append(s.to, b.texts(slices.Compact(texts), 0, next))
		}
		if len(s.to) == 1 {
			return s.to[0]
		}
		return b.add(s)
	case repeat:
		return b.repeat(e, next)
	case call:
		return b.add(state{op: opCall, rule: b.ruleOf(e.rule), next: next})
	}
	panic(fmt.Sprintf("grammar: unknown expression %T", e))
}

// texts compiles a choice of literals as a trie, so that there is one way to read each. They are sorted, and alike up to
// from.
func (b *builder) texts(texts []string, from int, next int32) int32 {
	if len(texts) == 1 {
		return b.expr(literal(texts[0][from:]), next)
	}
	read := state{op: opRead}
	ends := len(texts[0]) == from
	if ends {
		texts = texts[1:]
	}
	for len(texts) > 0 && b.err == nil {
		first, n := texts[0][from], 1
		for n < len(texts) && texts[n][from] == first {
			n++
		}
		read.edges = append(read.edges, edge{first, first, b.texts(texts[:n], from+1, next)})
		texts = texts[n:]
	}
	at := b.add(read)
	if ends {
		at = b.add(state{op: opSplit, to: []int32{at, next}})
	}
	return at
}

// repeat compiles min copies of e.of and then max - min that may be left out, or any number.
func (b *builder) repeat(e repeat, next int32) int32 {
	if e.max == 0 {
		return next
	}
	of := e.of
	if e.min > 1 || e.max > 1 {
		if _, isClass := of.(class); isClass && !ascii(of.(class)) || cost(of, 4) > 4 {
			of = named("", of) // one state for each copy
		}
	}
	if e.max < 0 {
		loop := b.add(state{op: opSplit})
		body := b.expr(of, loop)
		if b.err == nil {
			b.states[loop].to = []int32{body, next}
		}
		next = loop
	} else {
		after := next
		next = b.copies(e.max-e.min, of, next, func(next int32) int32 {
			return b.add(state{op: opSplit, to: []int32{b.expr(of, next), after}})
		})
	}
	return b.copies(e.min, of, next, func(next int32) int32 { return b.expr(of, next) })
}

// copies makes n copies of one expression. Those far from the last get the alias of one that is nearer.
func (b *builder) copies(n int, of expr, next int32, one func(next int32) int32) int32 {
	alike := n > shortToken && b.consuming(of)
	for i := 1; i <= n && b.err == nil; i++ {
		before := len(b.states)
		after := next
		if next = one(after); next == after {
			break // it matches the empty text only, and costs no states that would end this loop
		}
		if size := len(b.states) - before; alike && i > shortToken {
			for s := before; s < len(b.states); s++ {
				b.alias[s] = b.alias[s-size]
			}
		}
	}
	return next
}

func ascii(c class) bool { return len(c) == 0 || c[len(c)-1].hi < 0x80 }

// cost is about the number of states of an expression, not looked at further than limit.
func cost(e expr, limit int) int {
	n := 0
	parts := func(of []expr) {
		for _, e := range of {
			if n <= limit {
				n += cost(e, limit-n)
			}
		}
	}
	switch e := e.(type) {
	case literal:
		return len(e)
	case sequence:
		parts(e)
	case choice:
		n = 1
		parts(e)
	case repeat:
		if n = cost(e.of, limit); max(e.min, e.max) > 1 {
			n = limit + 1
		}
	case class:
		if n = 1; !ascii(e) {
			n = 8
		}
	default:
		n = 1
	}
	return n
}

// consuming says whether e cannot match the empty text; false where that is not easily known.
func (b *builder) consuming(e expr) bool {
	switch e := e.(type) {
	case literal:
		return len(e) > 0
	case class:
		return true
	case sequence:
		for _, of := range e {
			if b.consuming(of) {
				return true
			}
		}
		return false
	case choice:
		for _, of := range e {
			if !b.consuming(of) {
				return false
			}
		}
		return true
	case repeat:
		return e.min > 0 && b.consuming(e.of)
	case call:
		known, ok := b.consumes[e.rule]
		if !ok {
			b.consumes[e.rule] = false
			known = e.body != nil && b.consuming(e.body)
			b.consumes[e.rule] = known
		}
		return known
	}
	return false
}

// sort finds the order of states and the empty ones. It refuses rules that call themselves before they have read
// anything: their stacks would never end. (Tarjan's algorithm: components are complete in reverse order of the moves.)
func (a *automaton) sort() error {
	a.empty = a.fixpoint(func(s *state, known []bool) bool {
		switch s.op {
		case opEnd:
			return true
		case opSplit:
			for _, to := range s.to {
				if known[to] {
					return true
				}
			}
		case opCall:
			return known[a.starts[s.rule]] && known[s.next]
		}
		return false
	})
	moves := func(s *state) []int32 {
		switch s.op {
		case opSplit:
			return s.to
		case opCall:
			if a.empty[a.starts[s.rule]] {
				return []int32{a.starts[s.rule], s.next}
			}
			return []int32{a.starts[s.rule]}
		}
		return nil
	}
	const unseen, done = 0, math.MaxInt32
	found := make([]int32, len(a.states)) // when, from 1; done when the component is complete
	low := make([]int32, len(a.states))
	a.order = make([]int32, len(a.states))
	var open []int32
	var count, groups int32
	var visit func(i int32)
	visit = func(i int32) {
		count++
		found[i], low[i] = count, count
		open = append(open, i)
		for _, to := range moves(&a.states[i]) {
			if found[to] == unseen {
				visit(to)
				low[i] = min(low[i], low[to])
			} else if found[to] != done {
				low[i] = min(low[i], found[to])
			}
		}
		if low[i] == found[i] {
			groups++
			for {
				last := open[len(open)-1]
				open = open[:len(open)-1]
				found[last], a.order[last] = done, groups
				if last == i {
					break
				}
			}
		}
	}
	for i := range a.states {
		if found[i] == unseen {
			visit(int32(i))
		}
	}
	for i := range a.states {
		if s := &a.states[i]; s.op == opCall && a.order[i] == a.order[a.starts[s.rule]] {
			return fmt.Errorf("grammar: rule %q is left-recursive: it calls itself before it has read a character", a.names[s.rule])
		}
	}
	return nil
}

// fixpoint is the least set of states that contains those for which rule says so.
func (a *automaton) fixpoint(rule func(s *state, known []bool) bool) []bool {
	users := make([][]int32, len(a.states)) // the states that look at a state
	for i := range a.states {
		use := func(of int32) { users[of] = append(users[of], int32(i)) }
		switch s := &a.states[i]; s.op {
		case opRead:
			for _, e := range s.edges {
				use(e.to)
			}
		case opSplit:
			for _, to := range s.to {
				use(to)
			}
		case opCall:
			use(a.starts[s.rule])
			use(s.next)
		}
	}
	known := make([]bool, len(a.states))
	todo := make([]int32, len(a.states))
	for i := range todo {
		todo[i] = int32(i)
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !known[i] && rule(&a.states[i], known) {
			known[i] = true
			todo = append(todo, users[i]...)
		}
	}
	return known
}

// prune cuts off what can never be finished, so that every text that is allowed so far can be completed.
func (a *automaton) prune() error {
	live := a.fixpoint(func(s *state, known []bool) bool {
		switch s.op {
		case opEnd:
			return true
		case opRead:
			for _, e := range s.edges {
				if known[e.to] {
					return true
				}
			}
		case opSplit:
			for _, to := range s.to {
				if known[to] {
					return true
				}
			}
		case opCall:
			return known[a.starts[s.rule]] && known[s.next]
		}
		return false
	})
	if !live[a.starts[0]] {
		return fmt.Errorf("grammar: no text follows it: every way through it is endless or impossible")
	}
	for i := range a.states {
		s := &a.states[i]
		if !live[i] {
			*s = state{op: opSplit} // nothing reads on from here
			continue
		}
		var edges []edge
		for _, e := range s.edges {
			if live[e.to] {
				edges = append(edges, e)
			}
		}
		s.edges = edges
	}
	return nil
}

// classify finds the bytes that no edge tells apart.
func (a *automaton) classify() {
	var cut [257]bool
	for _, s := range a.states {
		for _, e := range s.edges {
			cut[e.lo], cut[int(e.hi)+1] = true, true
		}
	}
	for b := range 256 {
		if b == 0 || cut[b] {
			a.classes = append(a.classes, byte(b))
		}
		a.classOf[b] = uint8(len(a.classes) - 1)
	}
}
