package engine

import (
	"fmt"

	"chulengo/kernels"
)

// pool keeps the pages of one group. Sequences reserve their worst case when they are admitted, and take pages as they
// grow, so that taking never fails.
type pool struct {
	free     []kernels.Page // the last one is taken first: memory that was touched is used again
	taken    []bool
	reserved int
}

func newPool(pages int) *pool {
	p := &pool{free: make([]kernels.Page, pages), taken: make([]bool, pages)}
	for i := range p.free {
		p.free[i] = kernels.Page(pages - 1 - i)
	}
	return p
}

// reserve promises n pages, if so many are not promised yet.
func (p *pool) reserve(n int) bool {
	if p.reserved+n > len(p.taken) {
		return false
	}
	p.reserved += n
	return true
}

func (p *pool) take() kernels.Page {
	if len(p.free) == 0 {
		panic("engine: a sequence took more pages than it reserved")
	}
	page := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.taken[page] = true
	return page
}

func (p *pool) give(pages []kernels.Page) {
	for i := len(pages) - 1; i >= 0; i-- {
		if !p.taken[pages[i]] {
			panic(fmt.Sprintf("engine: page %d freed twice", pages[i]))
		}
		p.taken[pages[i]] = false
		p.free = append(p.free, pages[i])
	}
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
	promised   int // pages reserved
	live       []table
}

// spans takes pages for positions [pos, pos+rows) and appends the spans that batch rows row.. have on them.
func (t *tables) spans(to []kernels.Span, row, pos, rows int) []kernels.Span {
	for rows > 0 {
		base, n := 0, rows
		if t.chunk > 0 {
			base = pos / t.chunk * t.chunk
			n = min(rows, base+t.chunk-pos)
		}
		if last := len(t.live) - 1; last < 0 || t.live[last].base != base {
			t.live = append(t.live, table{base: base})
		}
		cur := &t.live[len(t.live)-1]
		for len(cur.pages)*t.pageTokens < pos+n-base {
			cur.pages = append(cur.pages, t.pool.take())
		}
		to = append(to, kernels.Span{Row: int32(row), Rows: int32(n), Base: int32(base), Pages: cur.pages})
		row, pos, rows = row+n, pos+n, rows-n
	}
	return to
}

// leave frees the chunks that end at or before pos, the position of the next row.
func (t *tables) leave(pos int) {
	if t.chunk == 0 {
		return
	}
	n := 0
	for n < len(t.live) && t.live[n].base+t.chunk <= pos {
		t.pool.give(t.live[n].pages)
		n++
	}
	if n > 0 {
		t.live = append(t.live[:0], t.live[n:]...)
	}
}

// release frees everything and the promise. Tables of a sequence that was never admitted have nothing.
func (t *tables) release() {
	if t.pool == nil {
		return
	}
	for _, l := range t.live {
		t.pool.give(l.pages)
	}
	t.live = nil
	t.pool.reserved -= t.promised
	t.promised = 0
}
