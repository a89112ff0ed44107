package engine

import (
	"slices"

	"chulengo/kernels"
)

// Every admitted sequence is either guaranteed or not. The worst case of the guaranteed ones is reserved, all together
// no more than there is: they always get pages, if need be those of the others, and never give way. What the others
// hold always fits into HostKVBytes, so that they can give way at any time. As a guaranteed sequence ends the oldest of
// the others becomes one; so each of them comes to its end.

// worst is the number of pages that s may hold at a time in a group.
func (e *Engine) worst(s *sequence, group int) int {
	tokens := len(s.call.prompt) + s.call.maxTokens - 1 // the last token is never read
	return worstPages(groupChunk(&e.spec, group), e.options.PageTokens, min(e.options.StepTokens, len(s.call.prompt)), tokens)
}

// guarantee reserves the worst case of s, in both groups or in none.
func (e *Engine) guarantee(s *sequence) bool {
	for g, p := range e.pools {
		if s.promised[g] = e.worst(s, g); !p.reserve(s.promised[g]) {
			for h := range g {
				e.pools[h].reserved -= s.promised[h]
			}
			s.promised = [kernels.Groups]int{}
			return false
		}
	}
	s.guaranteed = true
	e.loose--
	return true
}

// promote guarantees the oldest sequences that are not yet, as far as the reservations reach.
func (e *Engine) promote() {
	i, j := 0, 0
	for e.loose > 0 && (i < len(e.running) || j < len(e.away)) {
		var s *sequence
		if j == len(e.away) || i < len(e.running) && e.running[i].order < e.away[j].order {
			s = e.running[i]
			i++
		} else {
			s = e.away[j]
			j++
		}
		if !s.guaranteed && !e.guarantee(s) {
			return
		}
	}
}

// hostBytes is the memory that the sequences without a guarantee need when all of them give way.
func (e *Engine) hostBytes() int64 {
	var sum int64
	for _, list := range [][]*sequence{e.running, e.away} {
		for _, s := range list {
			if !s.guaranteed {
				sum += e.bytes(s)
			}
		}
	}
	return sum
}

// bytes is the size of the pages that s holds, or held when it gave way.
func (e *Engine) bytes(s *sequence) (sum int64) {
	for g := range s.tables {
		sum += int64(s.tables[g].held()) * int64(e.stats.Pages[g].Bytes)
	}
	return sum
}

// grow gives s the pages that its next n rows write: new ones, and a copy of the one it is in the middle of if others
// see that. With force, younger sequences give way where no page is left (all but the guaranteed if s is guaranteed).
// Nothing is taken if it does not suffice.
func (e *Engine) grow(s *sequence, n int, force bool) (ok bool, err error) {
	for {
		short := false
		var copies [kernels.Groups]bool
		var more int64
		for g := range s.tables {
			t := &s.tables[g]
			fresh := t.missing(s.pos, n)
			more += int64(fresh) * int64(e.stats.Pages[g].Bytes)
			if copies[g] = t.shared(s.pos); copies[g] {
				fresh++
			}
			if fresh == t.pool.available()+1 && copies[g] && t.pool.pages[*t.at(s.pos)].holds == 1 {
				continue // the copy would push the original out of the cache: see own
			}
			short = short || fresh > t.pool.available()
		}
		if !s.guaranteed && more > 0 && e.hostBytes()+more > e.options.HostKVBytes {
			return false, nil
		}
		if !short {
			for g := range s.tables {
				t := &s.tables[g]
				if copies[g] {
					if err := e.own(t, s.pos, t.missing(s.pos, n)); err != nil {
						return false, err
					}
				}
				t.extend(s.pos, n)
			}
			return true, nil
		}
		v := e.victim(s)
		if !force || v == nil {
			return false, nil
		}
		e.preempt(v)
		if s.call.over {
			return false, nil // it had another choice of the same call as its victim, which failed
		}
	}
}

// own gives a table a page of its own at pos, with the same content; fresh more pages will be taken after it.
func (e *Engine) own(t *tables, pos, fresh int) error {
	n := t.at(pos)
	if x := t.pool.pages[*n]; x.holds == 1 && t.pool.available() <= fresh {
		t.pool.forget(x.entry)
		return nil
	}
	own := t.pool.take()
	if err := e.batch.KV.Copy(t.pool.group, own, *n); err != nil {
		t.pool.give(own)
		return err
	}
	t.pool.give(*n)
	*n = own
	return nil
}

// victim is the youngest sequence that may give way to s; nil: none.
func (e *Engine) victim(s *sequence) *sequence {
	for i := len(e.running) - 1; i >= 0; i-- {
		v := e.running[i]
		if !s.guaranteed && v.order <= s.order {
			return nil
		}
		if v != s && !v.guaranteed && !v.planned && (e.bytes(v) > 0 || len(e.running) >= e.options.MaxSequences) {
			return v // one without pages leaves its place at least
		}
	}
	return nil
}

// preempt saves the pages of s in the host's memory and gives them back.
func (e *Engine) preempt(s *sequence) {
	e.running = slices.DeleteFunc(e.running, func(r *sequence) bool { return r == s })
	e.away = insert(e.away, s)
	e.preempted++
	for g := range s.tables {
		for _, l := range s.tables[g].live {
			for _, n := range l.pages {
				buf := make([]byte, e.stats.Pages[g].Bytes)
				if err := e.batch.KV.Save(g, n, buf); err != nil {
					e.fail(s.call, &StepError{Err: err})
					return
				}
				s.saved[g] = append(s.saved[g], buf)
			}
		}
	}
	for g := range s.tables {
		t := &s.tables[g]
		for i := len(t.live) - 1; i >= 0; i-- {
			t.giveBack(t.live[i].pages)
		}
	}
	s.rows, s.parked = 0, true
	s.letGo(true)
}

// restore is the inverse of preempt. Pages of the prompt that the cache still has are taken from it. There must be pages
// for all.
func (e *Engine) restore(s *sequence) error {
	s.parked = false
	for g := range s.tables {
		t := &s.tables[g]
		saved := 0
		for i := range t.live {
			l := &t.live[i]
			pages := l.pages
			l.pages = pages[:0]
			for j := range pages {
				buf := s.saved[g][saved]
				saved++
				from := l.base + j*t.pageTokens
				number := t.number(from)
				cached := number < t.entered && number < len(s.call.keys[g])
				if cached {
					if x := t.pool.entries[s.call.keys[g][number]]; x != nil {
						t.pool.hold(x.page)
						l.pages = append(l.pages, x.page)
						continue
					}
				}
				l.pages = append(l.pages, t.pool.take())
				if err := e.batch.KV.Load(g, l.pages[j], buf); err != nil {
					t.live = t.live[:i+1] // the tables behind it have no pages yet
					e.abandon(s, g+1)
					return err
				}
				if cached {
					t.register(&l.pages[j], s.call.keys[g][number], from)
				}
			}
		}
	}
	s.saved = [kernels.Groups][][]byte{}
	return nil
}

// abandon empties the tables of the groups from g on, which have no pages.
func (e *Engine) abandon(s *sequence, g int) {
	for ; g < len(s.tables); g++ {
		s.tables[g].live = nil
	}
}

// comeBack lets sequences that gave way run again, the oldest first.
func (e *Engine) comeBack() {
	for len(e.away) > 0 {
		s := e.away[0]
		for _, a := range e.away { // a guaranteed one may be younger
			if a.guaranteed {
				s = a
				break
			}
		}
		for !e.room(s) {
			v := e.victim(s)
			if !s.guaranteed || v == nil {
				return
			}
			e.preempt(v)
			if s.call.over {
				break
			}
		}
		if s.call.over {
			continue
		}
		e.away = slices.DeleteFunc(e.away, func(a *sequence) bool { return a == s })
		e.running = insert(e.running, s)
		if !s.parked { // a choice that could not begin with the others reads the prompt itself
			e.reuse(s)
			continue
		}
		if err := e.restore(s); err != nil {
			e.fail(s.call, &StepError{Err: err})
		}
	}
}

// room says whether there are a place and pages for s, which has none, without anybody giving way: for all of its prompt
// and what it had, beside what other prompts will need; and, unless it is guaranteed, one more for each that runs.
func (e *Engine) room(s *sequence) bool {
	if len(e.running) >= e.options.MaxSequences {
		return false
	}
	if s.guaranteed && !s.parked {
		return true
	}
	if !s.parked { // what it will hold must fit beside what the others do
		bytes := e.hostBytes()
		for g := range s.tables {
			bytes += int64(e.promptPages(g, s)) * int64(e.stats.Pages[g].Bytes)
		}
		if bytes > e.options.HostKVBytes {
			return false
		}
	}
	for g, p := range e.pools {
		need := s.tables[g].held()
		if !s.guaranteed {
			need = max(need, e.promptPages(g, s)) + len(e.running)
			for _, r := range e.running {
				if !r.decoding() {
					need += max(0, e.promptPages(g, r)-r.tables[g].held())
				}
			}
		}
		if need > p.available() {
			return false
		}
	}
	return true
}

// promptPages is what reading the prompt of s takes in a group at most.
func (e *Engine) promptPages(g int, s *sequence) int {
	n := len(s.call.prompt)
	return worstPages(groupChunk(&e.spec, g), e.options.PageTokens, min(e.options.StepTokens, n), n)
}

// insert keeps a list in order of age.
func insert(list []*sequence, s *sequence) []*sequence {
	i := len(list)
	for i > 0 && list[i-1].order > s.order {
		i--
	}
	return slices.Insert(list, i, s)
}
