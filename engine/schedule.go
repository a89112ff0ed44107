package engine

import (
	"math"
	"slices"
)

// schedule drops calls whose callers went away, lets sequences return that gave way, and admits new ones. stop says that
// the engine is to end.
func (e *Engine) schedule() (stop bool) {
	for _, list := range [][]*sequence{e.running, e.away} {
		for i := 0; i < len(list); i++ {
			if s := list[i]; s.call.left.Load() {
				e.dismiss(s.call)
				return e.schedule() // the lists changed
			}
		}
	}
	e.mu.Lock()
	if e.cancel {
		for _, c := range append(e.calls(), e.queue...) {
			e.dismiss(c)
			c.finish(ErrClosed)
		}
		e.queue = nil
	}
	e.mu.Unlock()

	e.promote()
	e.comeBack()

	e.mu.Lock()
	defer e.mu.Unlock()
	before := len(e.queue)
	for len(e.queue) > 0 && len(e.away) == 0 && e.admit(e.queue[0]) {
		e.queue = slices.Delete(e.queue, 0, 1)
	}
	e.gauge()
	if len(e.queue) != before {
		e.moved()
	}
	return e.closing && len(e.running)+len(e.away)+len(e.queue) == 0
}

// admit lets the first choice of a call run, if there is room. The others join when the prompt was read.
func (e *Engine) admit(c *call) bool {
	s := c.choices[0]
	if len(e.running) >= e.options.MaxSequences {
		return false
	}
	e.loose++
	if e.loose > 1 || !e.guarantee(s) {
		if !e.room(s) {
			e.loose--
			return false
		}
	}
	e.ages += 1 << orderBits
	for i, s := range c.choices {
		s.order = e.ages + uint64(i)
		for g := range s.tables {
			s.tables[g] = e.newTables(g)
		}
	}
	e.running = append(e.running, s)
	if c.reads {
		e.reuse(s)
		e.queries += int64(len(c.prompt))
		e.hits += int64(s.cached)
		c.cached = s.cached
	}
	c.advanced(s)
	return true
}

// drop takes one sequence out and gives back its pages and its promise.
func (e *Engine) drop(s *sequence) {
	is := func(r *sequence) bool { return r == s }
	n := len(e.running) + len(e.away)
	e.running, e.away = slices.DeleteFunc(e.running, is), slices.DeleteFunc(e.away, is)
	if len(e.running)+len(e.away) == n {
		return
	}
	for g := range s.tables {
		if s.parked { // its pages are in the host's memory
			s.tables[g].live = nil
		}
		s.tables[g].release()
		e.pools[g].reserved -= s.promised[g]
	}
	s.saved = [len(s.saved)][][]byte{}
	s.letGo(true)
	if !s.guaranteed {
		e.loose--
	}
	s.rows = 0
}

// dismiss drops every choice of a call.
func (e *Engine) dismiss(c *call) {
	c.over = true
	for _, s := range c.choices {
		e.drop(s)
	}
}

// fail ends a call with an error.
func (e *Engine) fail(c *call, err error) {
	if !c.over {
		e.dismiss(c)
		c.finish(err)
		e.failed = true
	}
}

// minPiece is the share of a step, in rows, that a waiting prompt gets when its turn comes: few enough for several
// prompts to have a turn in one step, enough for a product of matrices to be worth its while.
const minPiece = 64

// plan fills the batch of the next step: a decode row for every sequence whose prompt was read, then pieces of prompts,
// up to StepTokens rows. It reports whether there is anything to do.
func (e *Engine) plan() bool {
	b := &e.batch
	b.Token, b.Pos, b.Want, b.Taps, b.Decode = b.Token[:0], b.Pos[:0], b.Want[:0], b.Taps[:0], 0
	clear(b.Pictures)
	b.Pictures = b.Pictures[:0]
	for g := range b.Spans {
		b.Spans[g] = b.Spans[g][:0]
	}
	e.parts, e.prompts, e.failed = e.parts[:0], e.prompts[:0], false
	decode := 0
	for _, s := range e.running {
		s.rows, s.planned = 0, false
		switch {
		case s.call.waits():
		case s.decoding():
			s.rows = 1
			decode++
		default:
			e.prompts = append(e.prompts, s)
		}
	}
	e.see()
	e.share(max(1, e.options.StepTokens-decode)) // a prompt moves on, however many decode
	e.provide()
	e.constrain()
	for _, s := range e.running {
		if s.rows > 0 && s.decoding() {
			e.join(s)
		}
	}
	b.Decode = len(b.Token)
	for _, s := range e.running {
		if s.rows > 0 && !s.decoding() {
			e.join(s)
		}
	}
	if len(e.parts) > 0 {
		e.experts.tap(b)
	}
	return len(e.parts) > 0
}

// share deals rows out to the prompts. Half of them go round in small pieces, so that a short prompt does not wait for
// the end of a long one; the rest to the oldest first, so that prompts come to their ends one after the other rather
// than all late.
func (e *Engine) share(room int) {
	prompts := e.prompts
	left := func(s *sequence) int {
		return min(s.call.mostRows(), s.until-s.pos) - s.rows
	}
	if len(prompts) > 1 {
		half := (room + 1) / 2
		first := 0
		for first < len(prompts) && prompts[first].order <= e.turnOf {
			first++
		}
		for i := range prompts {
			s := prompts[(first+i)%len(prompts)]
			if half == 0 {
				break
			}
			n := min(minPiece, half, left(s))
			if n == 0 {
				continue
			}
			s.rows = n
			half, room = half-n, room-n
			e.turnOf = s.order
		}
	}
	for _, s := range prompts {
		n := min(room, left(s))
		s.rows += n
		room -= n
	}
}

// provide takes the pages that the planned rows need: first for the guaranteed, then by age, so that it is always the
// younger that give way. Rows without pages wait for a later step.
func (e *Engine) provide() {
	e.scratch = append(e.scratch[:0], e.running...)
	for _, s := range e.scratch {
		if s.guaranteed {
			e.provideFor(s)
		}
	}
	for _, s := range e.scratch {
		if !s.guaranteed {
			e.provideFor(s)
		}
	}
	for _, s := range e.scratch {
		if s.draws() && s.choice == 0 && len(s.call.choices) > 1 && !s.decoding() {
			e.branch(s)
		}
	}
	clear(e.scratch)
}

func (e *Engine) provideFor(s *sequence) {
	for s.rows > 0 {
		// A prompt without a guarantee makes nobody give way but for its last row's sake.
		ok, err := e.grow(s, s.rows, s.guaranteed || s.rows == 1)
		if err != nil {
			e.fail(s.call, &StepError{Err: err})
			return
		}
		if ok {
			s.planned = true
			return
		}
		s.rows /= 2
	}
}

// branch gives places to the other choices of a call whose prompt ends in the planned step: they draw from the same
// logits and share its pages. Those that find no place, or whose pages could not be saved if they had to give way, wait
// among the sequences that gave way and read the prompt themselves, with the same result.
func (e *Engine) branch(s *sequence) {
	siblings := s.call.choices[1:]
	each, pending := e.bytes(s), int64(0)
	for i, b := range siblings {
		e.loose++
		fits := len(e.running) < e.options.MaxSequences
		if fits && !(s.guaranteed && e.guarantee(b)) {
			pending += each
			if fits = e.hostBytes()+pending <= e.options.HostKVBytes; !fits {
				pending -= each
			}
		}
		if fits {
			e.running = insert(e.running, b)
			s.joins = append(s.joins, b)
			continue
		}
		for _, b := range siblings[i:] {
			e.away = insert(e.away, b)
		}
		e.loose += len(siblings) - i - 1
		return
	}
}

// mostRows is the largest piece whose captured values stay within maxTapBytes.
func (c *call) mostRows() int {
	columns := 0
	for _, t := range c.taps {
		columns += t.columns
	}
	if columns == 0 {
		return math.MaxInt32
	}
	return max(1, maxTapBytes/4/columns)
}

// waits says that the caller has not taken yet what its taps captured.
func (c *call) waits() bool { return len(c.taps) > 0 && c.mail.unread() }
