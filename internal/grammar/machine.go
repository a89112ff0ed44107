package grammar

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
)

const (
	mostWays  = 1024     // configurations of a situation that are followed
	mostMoves = 1 << 16  // and moves without a byte that it may take to find them
	mostWork  = 1 << 20  // moves for one mask or token, a quarter for each node of a trie
	mostBytes = 16 << 20 // of the tables of a machine, before they are thrown away
)

// Situations that are no rows of the table.
const (
	unknown  int32 = 0 // in the table of steps: not yet known
	dead     int32 = -1
	overflow int32 = -2 // more ways than are followed
)

// Stacks that are not made of others.
const (
	bottom int32 = 0 // nothing to return to: the end of the text
	hidden int32 = 1 // whatever comes after the rule being read
)

// config is one way to read the text so far: a state that reads a byte, and the stack below it. As a member of a frame it
// is a state to go on at when the rule above has ended; the state is nowhere if there is nothing to do there.
type config struct{ state, stack int32 }

const nowhere int32 = -1

func compareConfigs(a, b config) int {
	return cmp.Or(cmp.Compare(a.stack, b.stack), cmp.Compare(a.state, b.state))
}

// situation is all the ways to read the text so far.
type situation struct {
	configs []config // sorted
	accept  bool     // the text may end here
	escape  bool     // the hidden stack is reached
	alike   int32    // a situation that short tokens cannot tell from this one; unknown: not asked yet
	mask    []uint32 // made where alike is the situation itself; nil: not made yet
	local   *localMask
}

// frame is a stack, or several whose difference does not matter yet: all the places that called one rule at one point of
// the text. Thus an ambiguous grammar does not double its stacks with every level.
type frame struct {
	members []config // sorted
	alike   int32    // the stack that short tokens cannot tell from this one
	after   int32    // the situation when the rule above has ended; unknown: not asked yet
}

// entry is a rule that is called without a byte, from all of its callers.
type entry struct {
	rule    int32
	callers []config
}

// machine numbers situations and stacks as they are met. Its lock guards all but the automaton.
type machine struct {
	*automaton
	v *Vocabulary

	mu         sync.Mutex
	frames     []frame
	frameOf    map[string]int32 // by members
	situations []situation
	escapes    []bool  // [situations]: escape, where a walk finds it quickly
	next       []int32 // [situations][classes]: where a byte of the class leads
	numberOf   map[string]int32
	first      int32
	bytes      int // about what the tables hold

	work int // moves taken for the present mask or token

	// Scratch.
	now     situation // being made
	seen    map[config]struct{}
	todo    []config
	entries []entry // by order of the rules' starts, the last to be entered first
	key     []byte
	walk    []int32 // situations on the path through the trie, by depth
}

func newMachine(a *automaton, v *Vocabulary) *machine {
	m := &machine{automaton: a, v: v, frameOf: map[string]int32{}, numberOf: map[string]int32{}, seen: map[config]struct{}{}}
	m.frames = []frame{{alike: bottom}, {alike: hidden}}
	m.situations = make([]situation, 1) // number 0 is unknown
	m.escapes = make([]bool, 1)
	m.next = make([]int32, len(a.classes))
	m.begin()
	m.push(config{a.starts[0], bottom})
	m.first = m.finish()
	return m
}

// begin, push and finish make a situation: the configurations that are pushed and all that they lead to without a byte.
func (m *machine) begin() {
	clear(m.seen)
	m.todo = m.todo[:0]
	m.now = situation{configs: m.now.configs[:0]}
}

func (m *machine) push(c config) { m.todo = append(m.todo, c) }

func (m *machine) finish() int32 {
	m.follow(true)
	// Rules are entered when all their callers are known: no rule calls, without a byte, one that comes before it in order.
	for len(m.entries) > 0 && len(m.seen) <= mostMoves {
		e := m.entries[len(m.entries)-1]
		m.entries = m.entries[:len(m.entries)-1]
		m.push(config{m.starts[e.rule], m.frame(e.callers)})
		m.follow(false)
	}
	s := &m.now
	m.work += len(m.seen)
	if len(s.configs) > mostWays || len(m.seen) > mostMoves {
		m.entries = m.entries[:0]
		return overflow
	}
	if len(s.configs) == 0 && !s.accept && !s.escape {
		return dead
	}
	slices.SortFunc(s.configs, compareConfigs)
	return m.number(s)
}

// follow takes the moves without a byte, and notes which rules are called. Only where a byte has been read does the end of
// a rule lead back to its callers: a rule that ends without one has been passed where it is called.
func (m *machine) follow(returns bool) {
	s := &m.now
	for len(m.todo) > 0 && len(m.seen) <= mostMoves {
		c := m.todo[len(m.todo)-1]
		m.todo = m.todo[:len(m.todo)-1]
		if _, ok := m.seen[c]; ok {
			continue
		}
		m.seen[c] = struct{}{}
		if c.state == nowhere {
			s.accept = s.accept || c.stack == bottom
			s.escape = s.escape || c.stack == hidden
			continue
		}
		switch at := &m.states[c.state]; at.op {
		case opRead:
			s.configs = append(s.configs, c)
		case opSplit:
			for _, to := range at.to {
				m.push(config{to, c.stack})
			}
		case opCall:
			if m.empty[m.starts[at.rule]] {
				m.push(config{at.next, c.stack})
			}
			if at.tail {
				m.call(at.rule, m.callers(c.stack)...)
			} else {
				m.call(at.rule, config{at.next, c.stack})
			}
		case opEnd:
			if returns {
				m.todo = append(m.todo, m.callers(c.stack)...)
			}
		}
	}
}

// callers are the places to go on at when a rule ends over a stack.
func (m *machine) callers(stack int32) []config {
	if stack == bottom || stack == hidden {
		return []config{{nowhere, stack}}
	}
	return m.frames[stack].members
}

// call notes that a rule is to be entered.
func (m *machine) call(rule int32, callers ...config) {
	i, ok := slices.BinarySearchFunc(m.entries, rule, func(e entry, rule int32) int {
		return cmp.Or(cmp.Compare(m.order[m.starts[e.rule]], m.order[m.starts[rule]]), cmp.Compare(e.rule, rule))
	})
	if !ok {
		m.entries = slices.Insert(m.entries, i, entry{rule: rule})
	}
	m.entries[i].callers = append(m.entries[i].callers, callers...)
}

// appendKey writes configurations as the key of a map.
func appendKey(key []byte, configs []config) []byte {
	for _, c := range configs {
		key = binary.LittleEndian.AppendUint32(key, uint32(c.state))
		key = binary.LittleEndian.AppendUint32(key, uint32(c.stack))
	}
	return key
}

// number gives the number of a situation, a new one if it has not been met.
func (m *machine) number(s *situation) int32 {
	var flags byte
	if s.accept {
		flags |= 1
	}
	if s.escape {
		flags |= 2
	}
	key := append(appendKey(m.key[:0], s.configs), flags)
	m.key = key
	if n, ok := m.numberOf[string(key)]; ok {
		return n
	}
	n := int32(len(m.situations))
	m.numberOf[string(key)] = n
	m.situations = append(m.situations, situation{configs: slices.Clone(s.configs), accept: s.accept, escape: s.escape})
	m.escapes = append(m.escapes, s.escape)
	m.next = append(m.next, make([]int32, len(m.classes))...)
	m.bytes += 2*len(key) + 4*len(m.classes) + 200
	return n
}

// frame gives the number of the stack that returns to any of members, which it sorts.
func (m *machine) frame(members []config) int32 {
	slices.SortFunc(members, compareConfigs)
	members = slices.Compact(members)
	if len(members) == 1 && members[0].state == nowhere {
		return members[0].stack
	}
	m.key = appendKey(m.key[:0], members)
	if n, ok := m.frameOf[string(m.key)]; ok {
		return n
	}
	n := int32(len(m.frames))
	m.frameOf[string(m.key)] = n
	m.frames = append(m.frames, frame{members: members, alike: n})
	m.bytes += 3*len(m.key) + 100
	if alike := m.alikes(members); !slices.Equal(alike, members) {
		m.frames[n].alike = m.frame(alike) // which is alike to itself
	}
	return n
}

// alikes puts the states and stacks that short tokens cannot tell apart in place of configurations; the result is sorted.
func (m *machine) alikes(configs []config) []config {
	out := make([]config, len(configs))
	for i, c := range configs {
		if out[i] = (config{c.state, m.frames[c.stack].alike}); c.state != nowhere {
			out[i].state = m.alias[c.state]
		}
	}
	slices.SortFunc(out, compareConfigs)
	return slices.Compact(out)
}

// exhausted says that a mask takes too long. What was found up to then is not kept.
func (m *machine) exhausted() bool { return m.work > mostWork }

// step gives the situation after one byte more, dead, or overflow.
func (m *machine) step(from int32, b byte) int32 {
	class := int(m.classOf[b])
	at := int(from)*len(m.classes) + class
	if to := m.next[at]; to != unknown {
		return to
	}
	if m.exhausted() {
		return overflow
	}
	b = m.classes[class]
	m.begin()
	for _, c := range m.situations[from].configs {
		for _, e := range m.states[c.state].edges {
			if e.lo <= b && b <= e.hi {
				m.push(config{e.to, c.stack})
			}
		}
	}
	to := m.finish()
	m.next[at] = to
	return to
}

// after is the situation when the rule above a stack has ended.
func (m *machine) after(stack int32) int32 {
	if n := m.frames[stack].after; n != unknown {
		return n
	}
	m.begin()
	m.todo = append(m.todo, m.callers(stack)...)
	n := m.finish()
	m.frames[stack].after = n
	return n
}

// alikeTo is a situation that no token up to shortToken can tell from n.
func (m *machine) alikeTo(n int32) int32 {
	if a := m.situations[n].alike; a != unknown {
		return a
	}
	s := m.situations[n]
	a := m.number(&situation{configs: m.alikes(s.configs), accept: s.accept, escape: s.escape})
	m.situations[n].alike = a
	m.situations[a].alike = a
	return a
}

// carry brings a situation over from another machine of the same automaton.
func (m *machine) carry(from *machine, n int32) int32 {
	stacks := map[int32]int32{bottom: bottom, hidden: hidden}
	over := func(configs []config) []config {
		out := make([]config, len(configs))
		for i, c := range configs {
			out[i] = config{c.state, stacks[c.stack]}
		}
		slices.SortFunc(out, compareConfigs)
		return out
	}
	// The stacks that are needed; those below have lower numbers.
	need := map[int32]bool{}
	todo := slices.Clone(from.situations[n].configs)
	for len(todo) > 0 {
		stack := todo[len(todo)-1].stack
		todo = todo[:len(todo)-1]
		if stack != bottom && !need[stack] {
			need[stack] = true
			todo = append(todo, from.frames[stack].members...)
		}
	}
	for _, stack := range slices.Sorted(maps.Keys(need)) {
		stacks[stack] = m.frame(over(from.frames[stack].members))
	}
	return m.number(&situation{configs: over(from.situations[n].configs), accept: from.situations[n].accept})
}
