package grammar

import "unicode/utf8"

// class compiles one character of c: its UTF-8 bytes, followed by next.
func (b *builder) class(c class, next int32) int32 {
	tails := map[[2]byte]int32{} // states that read the last byte, by its range
	start := state{op: opRead}
	for _, s := range c {
		for _, part := range splitUTF8(s) {
			to := next
			for i := len(part) - 1; i > 0; i-- {
				r := part[i]
				shared := i == len(part)-1
				if at, ok := tails[r]; shared && ok {
					to = at
					continue
				}
				to = b.add(state{op: opRead, edges: []edge{{r[0], r[1], to}}})
				if shared {
					tails[r] = to
				}
			}
			start.edges = append(start.edges, edge{part[0][0], part[0][1], to})
		}
	}
	return b.add(start)
}

// splitUTF8 cuts a range of code points into ranges whose UTF-8 forms are ranges of bytes, place by place: [2]byte{lo,
// hi} for each place. Surrogates have no UTF-8 form and are left out.
func splitUTF8(s span) [][][2]byte {
	var out [][][2]byte
	var split func(lo, hi rune)
	split = func(lo, hi rune) {
		if lo > hi {
			return
		}
		for _, last := range []rune{0x7F, 0x7FF, 0xD7FF, 0xDFFF, 0xFFFF} { // lengths differ on the two sides
			if lo <= last && last < hi {
				split(lo, last)
				split(last+1, hi)
				return
			}
		}
		if lo >= 0xD800 && hi <= 0xDFFF {
			return
		}
		n := utf8.RuneLen(lo)
		for shift := 6; shift <= 6*(n-1); shift += 6 { // all places after the first that differs have to be whole
			m := rune(1)<<shift - 1
			if lo&^m != hi&^m {
				if lo&m != 0 {
					split(lo, lo|m)
					split(lo|m+1, hi)
					return
				}
				if hi&m != m {
					split(lo, hi&^m-1)
					split(hi&^m, hi)
					return
				}
			}
		}
		var from, to [utf8.UTFMax]byte
		utf8.EncodeRune(from[:], lo)
		utf8.EncodeRune(to[:], hi)
		part := make([][2]byte, n)
		for i := range part {
			part[i] = [2]byte{from[i], to[i]}
		}
		out = append(out, part)
	}
	split(s.lo, min(s.hi, utf8.MaxRune))
	return out
}
