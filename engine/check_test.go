package engine

import (
	"cmp"
	"fmt"
	"slices"

	"chulengo/kernels"
)

// Check walks every invariant of the engine between two steps: each page is free, idle or held, and held exactly as often
// as tables have it; promises cover what the guaranteed hold; what the others hold fits into the host's memory; tables
// hold exactly what the position needs; the cache knows what it should; and the last batch was well formed.
func (e *Engine) Check() error {
	loose := 0
	for _, s := range append(slices.Clone(e.running), e.away...) {
		if !s.guaranteed {
			loose++
		}
		if s.call.over {
			return fmt.Errorf("a sequence of a call that is over")
		}
	}
	if loose != e.loose {
		return fmt.Errorf("%d sequences without a guarantee, %d counted", loose, e.loose)
	}
	if n := e.hostBytes(); n > e.options.HostKVBytes {
		return fmt.Errorf("%d bytes would have to be saved into %d", n, e.options.HostKVBytes)
	}
	for _, list := range [][]*sequence{e.running, e.away} {
		if !slices.IsSortedFunc(list, func(a, b *sequence) int { return cmp.Compare(a.order, b.order) }) {
			return fmt.Errorf("sequences are not in order of age")
		}
	}
	if len(e.running) > e.options.MaxSequences {
		return fmt.Errorf("%d sequences run", len(e.running))
	}
	for g, p := range e.pools {
		if err := e.checkPool(g, p); err != nil {
			return fmt.Errorf("group %d: %w", g, err)
		}
	}
	if err := e.checkPictures(); err != nil {
		return err
	}
	return checkBatch(&e.batch, e.options.StepTokens)
}

// checkPictures counts the pictures that sequences hold, and the memory of all.
func (e *Engine) checkPictures() error {
	holds, bytes, largest := map[*seen]int{}, int64(0), int64(0)
	for _, s := range append(slices.Clone(e.running), e.away...) {
		for _, x := range s.holding {
			if holds[x]++; e.pictures.known[x.hash] != x || x.picture == nil {
				return fmt.Errorf("a sequence holds a picture that is not there")
			}
		}
		if s.parked && len(s.holding) > 0 {
			return fmt.Errorf("a sequence that gave way holds %d pictures", len(s.holding))
		}
	}
	for _, x := range e.pictures.known {
		if holds[x] != x.holds {
			return fmt.Errorf("%d sequences hold a picture that counts %d", holds[x], x.holds)
		}
		bytes, largest = bytes+x.bytes, max(largest, x.bytes)
	}
	if bytes != e.pictures.bytes || bytes > max(e.options.PictureBytes, largest) {
		return fmt.Errorf("pictures have %d bytes, %d counted, of %d allowed, the largest has %d", bytes, e.pictures.bytes, e.options.PictureBytes, largest)
	}
	return nil
}

func (e *Engine) checkPool(g int, p *pool) error {
	holds := make([]int, len(p.pages))
	promised := 0
	for i, s := range append(slices.Clone(e.running), e.away...) {
		t := &s.tables[g]
		promised += s.promised[g]
		if s.guaranteed && t.held() > s.promised[g] {
			return fmt.Errorf("sequence %d holds %d pages and reserved %d", i, t.held(), s.promised[g])
		}
		if err := t.check(s.pos); err != nil {
			return fmt.Errorf("sequence %d: %w", i, err)
		}
		if s.parked {
			if len(s.saved[g]) != t.held() {
				return fmt.Errorf("sequence %d saved %d of %d pages", i, len(s.saved[g]), t.held())
			}
			continue
		}
		for _, l := range t.live {
			for j, n := range l.pages {
				holds[n]++
				number := t.number(l.base + j*t.pageTokens)
				if x := p.pages[n].entry; number < t.entered && number < len(s.call.keys[g]) && (x == nil || x.key != s.call.keys[g][number]) {
					return fmt.Errorf("sequence %d: the cache does not know its page %d", i, number)
				}
			}
		}
	}
	if promised != p.reserved || promised > len(p.pages) {
		return fmt.Errorf("%d pages promised, %d counted, %d there", promised, p.reserved, len(p.pages))
	}
	free := make([]bool, len(p.pages))
	for _, n := range p.free {
		if free[n] || p.pages[n].holds > 0 || p.pages[n].entry != nil {
			return fmt.Errorf("page %d is free twice, or held or cached as well", n)
		}
		free[n] = true
	}
	idle := 0
	for x := p.idle.next; x != &p.idle; x = x.next {
		if idle++; p.pages[x.page].holds > 0 || p.pages[x.page].entry != x || x.next.prev != x {
			return fmt.Errorf("page %d is idle and held, or its entry is wrong", x.page)
		}
	}
	if idle != p.idles {
		return fmt.Errorf("%d pages idle, %d counted", idle, p.idles)
	}
	for n, x := range p.pages {
		if x.holds != holds[n] {
			return fmt.Errorf("page %d is in %d tables and counts %d", n, holds[n], x.holds)
		}
		if x.holds == 0 && x.entry == nil && !free[n] {
			return fmt.Errorf("page %d is lost", n)
		}
	}
	for key, x := range p.entries {
		if x.key != key || p.pages[x.page].entry != x {
			return fmt.Errorf("entry of page %d is wrong", x.page)
		}
		if x.parent != nil && p.entries[x.parent.key] == nil {
			return fmt.Errorf("page %d is cached, the one that it continues is not", x.page)
		}
	}
	return nil
}

// check compares the live tables with what the next row, at pos, needs of the past.
func (t *tables) check(pos int) error {
	for _, l := range t.live {
		want := ceil(pos-l.base, t.pageTokens)
		if t.chunk > 0 && (l.base%t.chunk != 0 || l.base+t.chunk <= pos || l.base >= pos) {
			return fmt.Errorf("chunk at %d is live at position %d", l.base, pos)
		}
		if len(l.pages) != want {
			return fmt.Errorf("table at %d has %d pages at position %d, want %d", l.base, len(l.pages), pos, want)
		}
	}
	if len(t.live) > 1 {
		return fmt.Errorf("%d tables between steps", len(t.live))
	}
	return nil
}

func checkBatch(b *kernels.Batch, stepTokens int) error {
	if n := len(b.Token); n > max(stepTokens, b.Decode+1) || len(b.Pos) != n {
		return fmt.Errorf("a step of %d rows, %d positions, %d decoding; at most %d wanted", n, len(b.Pos), b.Decode, stepTokens)
	}
	for g, spans := range b.Spans {
		row := int32(0)
		for _, s := range spans {
			if s.Row != row || s.Rows < 1 {
				return fmt.Errorf("group %d: span of rows %d+%d where row %d was to come", g, s.Row, s.Rows, row)
			}
			for i := int32(1); i < s.Rows; i++ {
				if b.Pos[s.Row+i] != b.Pos[s.Row+i-1]+1 {
					return fmt.Errorf("positions %v of a span do not ascend", b.Pos[s.Row:s.Row+s.Rows])
				}
			}
			row += s.Rows
		}
		if int(row) != len(b.Token) {
			return fmt.Errorf("group %d: spans cover %d of %d rows", g, row, len(b.Token))
		}
	}
	for i, w := range b.Want {
		if w.Row < 0 || int(w.Row) >= len(b.Token) || i > 0 && w.Row < b.Want[i-1].Row {
			return fmt.Errorf("wanted rows %v do not ascend within %d", b.Want, len(b.Token))
		}
	}
	return nil
}

// forget empties the slots of free pages, so that the fake device notices a slot that is written twice while its page
// is owned.
func (e *Engine) forget(k *fakeKV) {
	for g, p := range e.pools {
		for _, page := range p.free {
			clear(k.slots[g][page])
		}
	}
}
