package grammar

// localMask is what short tokens do while the stack below the rule being read is hidden.
type localMask struct {
	allowed []uint32 // tokens that go well before the stack matters
	exits   []int32  // nodes of the trie after which the rule may have ended, and that have tokens below
}

// walkTrie goes through nodes[from:to], which begin at the given depth, from situation start, and sets the bits of the
// tokens that are not dead. Where escapes is not nil it gets the nodes at which the hidden stack is reached.
func (m *machine) walkTrie(nodes []trieNode, from, to int32, depth uint16, start int32, bits []uint32, escapes *[]int32) {
	if need := m.v.depth + 1; len(m.walk) < need {
		m.walk = make([]int32, need)
	}
	path := m.walk
	path[depth] = start
	classes := len(m.classes)
	visited := 0
	defer func() { m.work += visited / 4 }()
	for i := from; i < to; {
		visited++
		n := &nodes[i]
		before := path[n.depth]
		at := m.next[int(before)*classes+int(m.classOf[n.b])]
		if at == unknown {
			at = m.step(before, n.b)
		}
		if at < 0 {
			i = n.end
			continue
		}
		if id := n.id; id >= 0 {
			bits[id>>5] |= 1 << (id & 31)
			if n.same {
				for _, id := range m.v.same[id] {
					bits[id>>5] |= 1 << (id & 31)
				}
			}
		}
		i++
		if i < n.end {
			path[n.depth+1] = at
			if escapes != nil && m.escapes[at] {
				*escapes = append(*escapes, i-1)
			}
		}
	}
}

// localOf gives the local mask of configurations that share a stack.
func (m *machine) localOf(group []config) *localMask {
	hiddenGroup := situation{}
	for _, c := range group {
		hiddenGroup.configs = append(hiddenGroup.configs, config{c.state, hidden})
	}
	n := m.number(&hiddenGroup)
	if l := m.situations[n].local; l != nil {
		return l
	}
	l := &localMask{allowed: make([]uint32, m.v.words())}
	m.walkTrie(m.v.short, 0, int32(len(m.v.short)), 0, n, l.allowed, &l.exits)
	if m.exhausted() {
		return l
	}
	m.situations[n].local = l
	m.bytes += 4 * (len(l.allowed) + len(l.exits))
	return l
}

// ownMask makes the mask of a situation, or finds it.
func (m *machine) ownMask(n int32) []uint32 {
	if mask := m.situations[n].mask; mask != nil {
		return mask
	}
	mask := make([]uint32, m.v.words())
	if m.situations[n].accept {
		for _, id := range m.v.stops {
			mask[id>>5] |= 1 << (id & 31)
		}
	}
	m.walkTrie(m.v.long, 0, int32(len(m.v.long)), 0, n, mask, nil)
	configs := m.situations[n].configs
	for len(configs) > 0 {
		size := 1
		for size < len(configs) && configs[size].stack == configs[0].stack {
			size++
		}
		group := configs[:size]
		configs = configs[size:]
		l := m.localOf(group)
		for i, w := range l.allowed {
			mask[i] |= w
		}
		stack := group[0].stack
		if stack == bottom || len(l.exits) == 0 {
			continue
		}
		after := m.after(stack)
		if after < 0 {
			continue
		}
		for _, i := range l.exits {
			if m.exhausted() {
				break
			}
			at := &m.v.short[i]
			m.walkTrie(m.v.short, i+1, at.end, at.depth+1, after, mask, nil)
		}
	}
	if m.exhausted() {
		return mask
	}
	m.situations[n].mask = mask
	m.bytes += 4 * len(mask)
	return mask
}

// mask gives the mask of a situation, not to be changed. It is the one of the situation that short tokens cannot tell from
// it, which the machine keeps; where long tokens may tell them apart it is written to buf, and own is what to give as buf
// the next time. A mask that takes too long is empty.
func (m *machine) mask(n int32, buf []uint32) (mask, own []uint32) {
	m.work = 0
	alike := m.alikeTo(n)
	mask = m.ownMask(alike)
	if alike != n && len(m.v.long) > 0 {
		if buf == nil {
			buf = make([]uint32, m.v.words())
		}
		for i, w := range mask {
			buf[i] = w &^ m.v.longIDs[i]
		}
		m.walkTrie(m.v.long, 0, int32(len(m.v.long)), 0, n, buf, nil)
		mask = buf
	}
	if m.exhausted() {
		mask = make([]uint32, m.v.words())
	}
	return mask, buf
}
