package tokenizer

import (
	"sync"
	"unicode/utf8"
)

// A class is the set of the split pattern's character classes that a code point belongs to. Go's own unicode tables
// are those of another Unicode version than the reference's and differ from it on some 5,000 code points, so the
// runs of code points in classes_table.go are generated from the reference.
type class uint8

const (
	upper   class = 1 << iota // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]: what may begin a word
	lower                     // [\p{Ll}\p{Lm}\p{Lo}\p{M}]: what may end it
	number                    // \p{N}
	space                     // \s
	newline                   // [\r\n], which are spaces too
	letter                    // \p{L}
)

const word = upper | lower

// classRun says that the code points lo to hi (inclusive) have these classes.
type classRun struct {
	lo, hi rune
	class  class
}

// classTable looks up classes in two steps, by page of 256 code points; equal pages are stored once.
type classTable struct {
	page  [0x1100]uint8
	pages [][256]class
}

// classes is built on first use, in about 2 ms.
var classes = sync.OnceValue(func() *classTable {
	flat := make([]class, 0x110000)
	for _, run := range classRuns {
		for c := run.lo; c <= run.hi; c++ {
			flat[c] = run.class
		}
	}
	t := new(classTable)
	seen := map[[256]class]uint8{}
	for p := range t.page {
		page := [256]class(flat[p<<8:])
		n, ok := seen[page]
		if !ok {
			n = uint8(len(t.pages)) // fewer than 256 different pages: a test pins it
			t.pages = append(t.pages, page)
			seen[page] = n
		}
		t.page[p] = n
	}
	return t
})

// at returns the class and the length in bytes of the character at s[i:]; 0, 0 at the end. A byte that is not part of
// valid UTF-8 is a character of its own, of the class of U+FFFD (a symbol).
func (t *classTable) at(s string, i int) (class, int) {
	if i >= len(s) {
		return 0, 0
	}
	if b := s[i]; b < utf8.RuneSelf {
		return t.pages[0][b], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return t.pages[t.page[r>>8]][r&0xff], n
}
