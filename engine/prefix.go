package engine

import (
	"crypto/sha256"
	"encoding/binary"

	"chulengo/kernels"
)

// pageKey names the content of a page: everything that its keys and values depend on. It is a hash of the key of the page
// before it (so of the whole prefix: a chunk's pages too, whose hidden states depend on all that the global layers see),
// the ids in the page and the pictures that lie in it; the first page of a text continues a hash of the group, the sizes
// and format of pages, and the request's salt. 256 bits of SHA-2: that two texts have one key does not happen, not even
// if somebody looks for them.
type pageKey [sha256.Size]byte

// entry is a page that the prefix cache knows.
type entry struct {
	key        pageKey
	parent     *entry // of the page that it continues in its table; nil: the first
	page       kernels.Page
	next, prev *entry // in the ring of idle entries
}

func (x *entry) link(ring *entry) {
	x.prev, x.next = ring.prev, ring
	x.prev.next, ring.prev = x, x
}

func (x *entry) unlink() {
	x.prev.next, x.next.prev = x.next, x.prev
	x.next, x.prev = nil, nil
}

// forget takes an entry out of the cache. Its page keeps its holds.
func (p *pool) forget(x *entry) {
	if p.pages[x.page].holds == 0 {
		x.unlink()
		p.idles--
	}
	p.pages[x.page].entry = nil
	delete(p.entries, x.key)
}

// promptKeys are the keys of the pages of one group that the prompt fills.
func (e *Engine) promptKeys(g int, prompt []int32, salt string, media []Media) []pageKey {
	t := e.newTables(g)
	b := []byte("chulengo keys and values")
	for _, n := range []int{g, t.chunk, t.pageTokens, int(e.spec.KV.Format), len(salt)} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	key := pageKey(sha256.Sum256(append(b, salt...)))
	keys := make([]pageKey, 0, t.number(len(prompt)))
	for {
		from, to := t.bounds(len(keys))
		if to > len(prompt) {
			return keys
		}
		b = append(b[:0], key[:]...)
		b = binary.LittleEndian.AppendUint32(b, uint32(to-from))
		for _, id := range prompt[from:to] {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
		for _, m := range media {
			if m.Pos < to && m.Pos+m.Len > from {
				b = binary.LittleEndian.AppendUint64(b, uint64(int64(m.Pos-from)))
				b = binary.LittleEndian.AppendUint64(b, uint64(m.Len))
				b = append(b, m.Hash[:]...)
			}
		}
		key = sha256.Sum256(b)
		keys = append(keys, key)
	}
}

// reuse gives a sequence without pages those of its prompt that the cache has, and moves it past them. The last token
// is always read again, for its logits. A position can be reached if all global pages before it are there and the
// chunked pages of its chunk from the chunk's start on; the chunk's start itself needs none of the latter. Where it lies
// within a page the sequence gets a copy before it writes.
func (e *Engine) reuse(s *sequence) {
	c := s.call
	if !c.reads {
		return
	}
	found := func(g, number int) bool {
		return number < len(c.keys[g]) && e.pools[g].entries[c.keys[g][number]] != nil
	}
	global, chunked := &s.tables[kernels.GroupGlobal], &s.tables[kernels.GroupChunked]
	n := 0
	for found(kernels.GroupGlobal, n) {
		n++
	}
	pos := min(n*e.options.PageTokens, len(c.prompt)-1)
	start := chunked.base(pos) // of the chunk that the next row lies in
	reach := start
	for n = chunked.number(start); reach < pos && found(kernels.GroupChunked, n); n++ {
		_, reach = chunked.bounds(n)
	}
	if pos = min(pos, reach); pos == 0 {
		return
	}
	for _, t := range []*tables{global, chunked} {
		base := t.base(pos)
		l := table{base: base}
		for n := t.number(base); ; n++ {
			if from, _ := t.bounds(n); from >= pos {
				break
			}
			l.pages = append(l.pages, t.pool.entries[c.keys[t.pool.group][n]].page)
			t.pool.hold(l.pages[len(l.pages)-1])
		}
		if len(l.pages) > 0 {
			t.live = append(t.live, l)
		}
		t.entered = t.number(pos)
	}
	s.pos, s.cached = pos, pos
}

// enter offers the cache the pages that prompt rows have filled. Pages that rows of an answer wrote are not offered:
// decode kernels may round differently, and a request's tokens must not depend on what happens to be cached. If the
// cache knows such a page already the sequence takes that one, which has the same content, in place of its own.
func (s *sequence) enter() {
	for g := range s.tables {
		t := &s.tables[g]
		for t.entered < len(s.call.keys[g]) {
			from, to := t.bounds(t.entered)
			if to > s.pos {
				break
			}
			own := t.at(from)
			if x := t.pool.entries[s.call.keys[g][t.entered]]; x == nil {
				t.register(own, s.call.keys[g][t.entered], from)
			} else if x.page != *own {
				t.pool.hold(x.page)
				t.pool.give(*own)
				*own = x.page
			}
			t.entered++
		}
	}
}

// register makes a held page, which begins at position from, known by a key.
func (t *tables) register(n *kernels.Page, key pageKey, from int) {
	x := &entry{key: key, page: *n}
	if from > t.base(from) {
		x.parent = t.pool.pages[*t.at(from - 1)].entry
	}
	t.pool.pages[*n].entry = x
	t.pool.entries[key] = x
}
