package tokenizer

import (
	"fmt"
	"sync"
)

// none is no rank, or no node.
const none = ^uint32(0)

// maxTokenBytes bounds a token's length; Llama 4's longest has 128 bytes.
const maxTokenBytes = 1024

// bpe merges byte pairs in linear time. Its tokens are numbered by rank: first the 256 bytes, then every token in the
// order in which merges make it. Encoding means: as long as two neighbours together are a token, merge the pair whose
// result has the lowest rank, the leftmost first.
//
// The same result is reached from left to right (the method of GitHub's Rust crate bpe). A token that can be made at
// all is made by one pair only, its split: what its bytes are just before its own rank comes into play. Two tokens may
// stand side by side in a result exactly if no merge across their border would have come before those inside them,
// which undoing the merges at the border tells (fits). So the encoder takes the longest token that fits behind the
// last one, tries shorter ones if the text cannot go on, and remembers the positions that failed: every position is
// left at most once.
type bpe struct {
	bytes  string      // all tokens' bytes, by rank
	start  []uint32    // [tokens+1] where each begins
	split  [][2]uint32 // [tokens] the pair that makes it; itself twice: a byte, or a token that no merges make
	prefix []uint32    // [tokens] longest token that is a proper prefix of it and can be made, or none
	pairs  []pair      // hash table of all splits
	whole  []entry     // hash table of all tokens
	trie   trie        // of those that can be made
	pieces bool        // a piece that is a token becomes it even if merges do not make it

	scratches sync.Pool // of *scratch: what fits is true of this vocabulary only
}

type pair struct{ left, right, rank uint32 } // rank 0 (a byte): free slot

type entry struct{ hash, rank uint32 } // rank none: free slot

// newBPE builds the tables. tokens begins with the bytes 0 to 255 in any order and has no duplicates; only the first
// merged of them can be made by merges, the others stand only for whole pieces, if pieces is true.
func newBPE(tokens tokenList, merged int, pieces bool) (*bpe, error) {
	n := tokens.len()
	t := &bpe{bytes: string(tokens.bytes), start: tokens.start,
		split: make([][2]uint32, n), prefix: make([]uint32, n), pieces: pieces}
	t.pairs = make([]pair, powerOfTwo(2*n))
	if err := t.trie.build(t); err != nil {
		return nil, err
	}
	for u := range uint32(n) {
		t.split[u] = [2]uint32{u, u}
		t.prefix[u] = t.trie.properPrefix(t.token(u))
	}
	for u := uint32(256); int(u) < merged; u++ {
		s := t.token(u)
		for p := t.prefix[u]; p != none; p = t.prefix[p] {
			r := t.trie.find(s[t.length(p):])
			if r != none && p < u && r < u && t.made(p) && t.made(r) && t.fits(p, r) {
				t.addPair(p, r, u)
				t.split[u] = [2]uint32{p, r}
				break
			}
		}
	}
	for u := range uint32(n) {
		p := t.prefix[u]
		for p != none && !t.made(p) {
			p = t.prefix[p]
		}
		t.prefix[u] = p
	}
	t.whole = make([]entry, powerOfTwo(2*n))
	for i := range t.whole {
		t.whole[i].rank = none
	}
	for u := range uint32(n) {
		t.addWhole(u)
		if !t.made(u) {
			t.trie.remove(t.token(u))
		}
	}
	t.trie.buildRoots()
	return t, nil
}

func powerOfTwo(atLeast int) int {
	n := 1
	for n < atLeast {
		n *= 2
	}
	return n
}

func (t *bpe) token(rank uint32) string  { return t.bytes[t.start[rank]:t.start[rank+1]] }
func (t *bpe) length(rank uint32) uint32 { return t.start[rank+1] - t.start[rank] }

// made says whether merges can make the token.
func (t *bpe) made(rank uint32) bool { return rank < 256 || t.split[rank][0] != rank }

func hash64(k uint64) uint64 {
	k *= 0x9E3779B97F4A7C15
	return k ^ k>>29
}

func (t *bpe) addPair(left, right, rank uint32) {
	mask := uint64(len(t.pairs) - 1)
	i := hash64(uint64(left)<<32|uint64(right)) & mask
	for t.pairs[i].rank != 0 {
		i = (i + 1) & mask
	}
	t.pairs[i] = pair{left, right, rank}
}

// merge returns the token whose split the pair is, or none.
func (t *bpe) merge(left, right uint32) uint32 {
	mask := uint64(len(t.pairs) - 1)
	i := hash64(uint64(left)<<32|uint64(right)) & mask
	for {
		p := &t.pairs[i]
		if p.left == left && p.right == right && p.rank != 0 {
			return p.rank
		}
		if p.rank == 0 {
			return none
		}
		i = (i + 1) & mask
	}
}

// fits says whether left and right may stand side by side in an encoding: it undoes the later of the two merges at the
// border again and again and looks whether a merge across the border would have come first.
func (t *bpe) fits(left, right uint32) bool {
	limit := none // merges of this rank or later had not happened yet
	for {
		if t.merge(left, right) < limit {
			return false
		}
		undoLeft := left > right
		for tries := 0; ; tries++ {
			if tries == 2 {
				return true // two bytes: nothing left to undo
			}
			if undoLeft {
				limit = left
				if left = t.split[left][1]; left != limit {
					break
				}
			} else {
				limit = right + 1 // of equal ranks the leftmost merge comes first
				if right = t.split[right][0]; right+1 != limit {
					break
				}
			}
			undoLeft = !undoLeft
		}
	}
}

func hashBytes(s string) uint64 {
	h := uint64(len(s)) * 0x9E3779B97F4A7C15
	for ; len(s) >= 8; s = s[8:] {
		v := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		h = (h ^ v) * 0xff51afd7ed558ccd
		h ^= h >> 32
	}
	var v uint64
	for i := range len(s) {
		v = v<<8 | uint64(s[i])
	}
	h = (h ^ v) * 0xc4ceb9fe1a85ec53
	return h ^ h>>29
}

func (t *bpe) addWhole(rank uint32) {
	mask := uint64(len(t.whole) - 1)
	h := hashBytes(t.token(rank))
	i := h & mask
	for t.whole[i].rank != none {
		i = (i + 1) & mask
	}
	t.whole[i] = entry{uint32(h >> 32), rank}
}

// find returns the token s, or none.
func (t *bpe) find(s string) uint32 {
	if len(s) > maxTokenBytes {
		return none
	}
	mask := uint64(len(t.whole) - 1)
	h := hashBytes(s)
	for i := h & mask; ; i = (i + 1) & mask {
		e := t.whole[i]
		if e.rank == none {
			return none
		}
		if e.hash == uint32(h>>32) && t.token(e.rank) == s {
			return e.rank
		}
	}
}

// scratch is what one goroutine needs to encode: a memory of which token fits behind which, and the failed positions.
type scratch struct {
	fit    [1 << 14]fitEntry
	failed []uint64
}

func (t *bpe) scratch() *scratch {
	if w, ok := t.scratches.Get().(*scratch); ok {
		return w
	}
	return new(scratch)
}

// fitEntry: fit is the longest prefix of the token (token-1 is its rank) that fits behind last.
type fitEntry struct{ last, token, fit uint32 }

// fit returns the longest prefix of token, token itself included, that fits behind last, or none.
func (t *bpe) fit(w *scratch, last, token uint32) uint32 {
	e := &w.fit[hash64(uint64(last)<<32|uint64(token))>>50]
	if e.last == last && e.token == token+1 {
		return e.fit
	}
	v := token
	for v != none && !t.fits(last, v) {
		v = t.prefix[v]
	}
	*e = fitEntry{last, token + 1, v}
	return v
}

// append encodes one piece (not empty) and appends its ranks to out.
func (t *bpe) append(out []int32, piece string, w *scratch) []int32 {
	if rank := t.find(piece); rank != none && (t.pieces || t.made(rank)) {
		return append(out, int32(rank))
	}
	first := len(out)
	words := len(piece)/64 + 1
	if cap(w.failed) < words {
		w.failed = make([]uint64, words)
	}
	failed := w.failed[:words]
	clear(failed)
	pos := uint32(0)
	candidate := t.trie.longest(piece)
	for {
		last := none
		if len(out) > first {
			last = uint32(out[len(out)-1])
			candidate = t.fit(w, last, candidate)
		}
		for candidate != none {
			end := pos + t.length(candidate)
			if failed[end/64]>>(end%64)&1 == 0 {
				break
			}
			if candidate = t.prefix[candidate]; candidate != none && last != none {
				candidate = t.fit(w, last, candidate)
			}
		}
		if candidate == none { // the text cannot go on from here: shorten the last token
			failed[pos/64] |= 1 << (pos % 64)
			out = out[:len(out)-1]
			pos -= t.length(last)
			// last itself leads to the position that has just failed, so the loop above takes its prefixes
			candidate = last
			continue
		}
		out = append(out, int32(candidate))
		pos += t.length(candidate)
		if int(pos) == len(piece) {
			return out
		}
		candidate = t.trie.longest(piece[pos:])
	}
}

// tokenList is a list of byte strings in one block of memory.
type tokenList struct {
	bytes []byte
	start []uint32 // [len+1]
}

func (l *tokenList) len() int { return max(0, len(l.start)-1) }

func (l *tokenList) at(i int) []byte { return l.bytes[l.start[i]:l.start[i+1]] }

func (l *tokenList) add(token []byte) {
	if len(l.start) == 0 {
		l.start = append(l.start, 0)
	}
	l.bytes = append(l.bytes, token...)
	l.start = append(l.start, uint32(len(l.bytes)))
}

// checkBytes reports a byte that is not a token, a duplicate, or a token of no or too many bytes.
func (l *tokenList) checkBytes() error {
	var seen [256]bool
	for i := range l.len() {
		switch b := l.at(i); {
		case len(b) == 0:
			return fmt.Errorf("token number %d is empty", i)
		case len(b) > maxTokenBytes:
			return fmt.Errorf("token number %d has %d bytes, at most %d are supported", i, len(b), maxTokenBytes)
		case len(b) == 1:
			seen[b[0]] = true
		}
	}
	for b, ok := range seen {
		if !ok {
			return fmt.Errorf("byte %#02x is not a token: a byte-level vocabulary has all 256", b)
		}
	}
	return nil
}
