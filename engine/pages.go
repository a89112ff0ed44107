package engine

import (
	"fmt"

	"chulengo/kernels"
)

// pool keeps the pages of one group. A page is free, or held by sequences (several may share it), or idle: held by
// nobody, but the prefix cache knows it. Idle pages are given up when no free one is left, the longest idle first.
type pool struct {
	group    int
	free     []kernels.Page // the last one is taken first: memory that was touched is used again
	pages    []page
	entries  map[pageKey]*entry
	idle     entry // ring of the entries whose pages nobody holds; idle.next is the oldest
	idles    int
	reserved int // pages promised to guaranteed sequences
}

// page is the state of one page.
type page struct {
	holds int    // tables that have it
	entry *entry // how the prefix cache knows it; nil: not at all
}

func newPool(group, pages int) *pool {
	p := &pool{group: group, free: make([]kernels.Page, pages), pages: make([]page, pages), entries: map[pageKey]*entry{}}
	p.idle.next, p.idle.prev = &p.idle, &p.idle
	for i := range p.free {
		p.free[i] = kernels.Page(pages - 1 - i)
	}
	return p
}

// available is the number of pages that take can give.
func (p *pool) available() int { return len(p.free) + p.idles }

// reserve promises n pages, if so many are not promised yet.
func (p *pool) reserve(n int) bool {
	if p.reserved+n > len(p.pages) {
		return false
	}
	p.reserved += n
	return true
}

// take gives a page that nobody else has. There must be one.
func (p *pool) take() kernels.Page {
	if len(p.free) == 0 {
		if p.idles == 0 {
			panic(fmt.Sprintf("engine: group %d: a page was taken where none was left", p.group))
		}
		oldest := p.idle.next
		p.forget(oldest)
		p.free = append(p.free, oldest.page)
	}
	n := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.pages[n].holds = 1
	return n
}

// hold shares a page that is held or idle.
func (p *pool) hold(n kernels.Page) {
	if p.pages[n].holds == 0 {
		p.pages[n].entry.unlink() // nil only if the page is free, a mistake of the caller
		p.idles--
	}
	p.pages[n].holds++
}

// give ends one hold.
func (p *pool) give(n kernels.Page) {
	x := &p.pages[n]
	if x.holds == 0 {
		panic(fmt.Sprintf("engine: group %d: page %d given back twice", p.group, n))
	}
	if x.holds--; x.holds > 0 {
		return
	}
	if x.entry == nil {
		p.free = append(p.free, n)
		return
	}
	x.entry.link(&p.idle)
	p.idles++
}

// table is a list of pages whose slot 0 is position base.
type table struct {
	base  int
	pages []kernels.Page
}

// tables are the pages of one sequence in one group: one table from position 0 on, or, where the group is chunked, one
// for each chunk in use, in order.
type tables struct {
	pool       *pool
	chunk      int // tokens of a chunk; 0: one table
	pageTokens int
	live       []table
	entered    int // pages of the prompt that the prefix cache was offered, or that came from it
}

func (e *Engine) newTables(g int) tables {
	return tables{pool: e.pools[g], chunk: groupChunk(&e.spec, g), pageTokens: e.options.PageTokens}
}

// base is the position of slot 0 of the table that holds pos.
func (t *tables) base(pos int) int {
	if t.chunk == 0 {
		return 0
	}
	return pos / t.chunk * t.chunk
}

// number counts pages from the text's start: it is the number of the page that holds pos.
func (t *tables) number(pos int) int {
	if t.chunk == 0 {
		return pos / t.pageTokens
	}
	return pos/t.chunk*ceil(t.chunk, t.pageTokens) + pos%t.chunk/t.pageTokens
}

// bounds are the positions that the numbered page holds.
func (t *tables) bounds(number int) (from, to int) {
	if t.chunk == 0 {
		return number * t.pageTokens, (number + 1) * t.pageTokens
	}
	each := ceil(t.chunk, t.pageTokens)
	base, at := number/each*t.chunk, number%each*t.pageTokens
	return base + at, base + min(at+t.pageTokens, t.chunk)
}

// at is the held page of a position, nil if there is none.
func (t *tables) at(pos int) *kernels.Page {
	base := t.base(pos)
	for i := range t.live {
		if l := &t.live[i]; l.base == base {
			if n := (pos - base) / t.pageTokens; n < len(l.pages) {
				return &l.pages[n]
			}
		}
	}
	return nil
}

// shared says that writing at pos would change a page that others see.
func (t *tables) shared(pos int) bool {
	n := t.at(pos)
	return n != nil && (t.pool.pages[*n].holds > 1 || t.pool.pages[*n].entry != nil)
}

// each calls f for the pieces of [pos, pos+rows) that lie in one table each.
func (t *tables) each(pos, rows int, f func(base, pos, rows int)) {
	for rows > 0 {
		base, n := t.base(pos), rows
		if t.chunk > 0 {
			n = min(rows, base+t.chunk-pos)
		}
		f(base, pos, n)
		pos, rows = pos+n, rows-n
	}
}

// missing is the number of pages that positions [pos, pos+rows) still need.
func (t *tables) missing(pos, rows int) int {
	missing := 0
	t.each(pos, rows, func(base, pos, rows int) {
		have := 0
		if last := len(t.live) - 1; last >= 0 && t.live[last].base == base {
			have = len(t.live[last].pages)
		}
		missing += max(0, ceil(pos+rows-base, t.pageTokens)-have)
	})
	return missing
}

// extend takes what missing counts.
func (t *tables) extend(pos, rows int) {
	t.each(pos, rows, func(base, pos, rows int) {
		if last := len(t.live) - 1; last < 0 || t.live[last].base != base {
			t.live = append(t.live, table{base: base})
		}
		cur := &t.live[len(t.live)-1]
		for len(cur.pages)*t.pageTokens < pos+rows-base {
			cur.pages = append(cur.pages, t.pool.take())
		}
	})
}

// spans appends the spans that batch rows row.. have on positions [pos, pos+rows), whose pages are there.
func (t *tables) spans(to []kernels.Span, row, pos, rows int) []kernels.Span {
	next := 0
	t.each(pos, rows, func(base, pos, rows int) {
		for t.live[next].base != base {
			next++
		}
		to = append(to, kernels.Span{Row: int32(row), Rows: int32(rows), Base: int32(base), Pages: t.live[next].pages})
		row += rows
	})
	return to
}

// held is the number of pages in the tables.
func (t *tables) held() int {
	n := 0
	for _, l := range t.live {
		n += len(l.pages)
	}
	return n
}

// leave gives back the chunks that end at or before pos, the position of the next row.
func (t *tables) leave(pos int) {
	if t.chunk == 0 {
		return
	}
	n := 0
	for n < len(t.live) && t.live[n].base+t.chunk <= pos {
		t.giveBack(t.live[n].pages)
		n++
	}
	if n > 0 {
		t.live = append(t.live[:0], t.live[n:]...)
	}
}

// giveBack gives pages back from the last to the first, so that a page becomes idle before the one it continues and
// the cache gives up leaves first.
func (t *tables) giveBack(pages []kernels.Page) {
	for i := len(pages) - 1; i >= 0; i-- {
		t.pool.give(pages[i])
	}
}

// release gives everything back.
func (t *tables) release() {
	for i := len(t.live) - 1; i >= 0; i-- {
		t.giveBack(t.live[i].pages)
	}
	t.live = nil
}

// share gives tables with the same pages, for another sequence.
func (t *tables) share() tables {
	c := *t
	c.live = nil
	for _, l := range t.live {
		for _, n := range l.pages {
			t.pool.hold(n)
		}
		c.live = append(c.live, table{l.base, append([]kernels.Page(nil), l.pages...)})
	}
	return c
}
