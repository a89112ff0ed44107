package tokenizer

// SplitPattern is Llama 4's split pattern: text is cut into the pieces that match it before byte pairs are merged, and
// no token crosses a piece's border. The scanner in this file is this regular expression written by hand.
const SplitPattern = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
	`|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
	`|\p{N}{1,3}` +
	`| ?[^\s\p{L}\p{N}]+[\r\n/]*` +
	`|\s*[\r\n]+` +
	`|\s+(?!\S)` +
	`|\s+`

// next returns the end of the piece that begins at s[i:], i < len(s). Pieces cover the text without gaps: every
// character is a letter, a number, a space or else a symbol, and each of these begins some alternative.
//
// It reads every character of the piece at most twice, plus one beyond it, except in a run of spaces.
func (t *classTable) next(s string, i int) int {
	first, n := t.at(s, i)
	if end := t.word(s, i, first, n); end > 0 {
		return end
	}
	switch {
	case first&number != 0: // \p{N}{1,3}
		k := i + n
		for range 2 {
			c, size := t.at(s, k)
			if c&number == 0 {
				break
			}
			k += size
		}
		return k
	case first&(space|letter) == 0:
		return t.symbols(s, i)
	case s[i] == ' ':
		if c, size := t.at(s, i+1); size > 0 && c&(space|letter|number) == 0 {
			return t.symbols(s, i+1)
		}
	}
	return t.spaces(s, i)
}

// word matches the first two alternatives at s[i:], whose first character has class first and n bytes: an optional
// character before the word, upper*lower+ or else upper+lower*, and a contraction. It returns 0 where neither matches.
func (t *classTable) word(s string, i int, first class, n int) int {
	j, c, size := i, first, n
	prefix := first&(letter|number|newline) == 0 // a mark can be the prefix or the word's first character
	if prefix {
		j = i + n
		c, size = t.at(s, j)
	}
	if c&word == 0 {
		if prefix && first&lower != 0 { // a mark alone is a word
			return contraction(s, j)
		}
		return 0
	}
	k := j
	both := 0 // end of the last character of upper* that lower+ can take back
	for c&upper != 0 {
		k += size
		if c&lower != 0 {
			both = k
		}
		c, size = t.at(s, k)
	}
	if c&lower != 0 {
		for c&lower != 0 {
			k += size
			c, size = t.at(s, k)
		}
		return contraction(s, k)
	}
	if both > 0 {
		return contraction(s, both)
	}
	if prefix && first&lower != 0 { // backtracking gives the mark back before the second alternative is tried
		return contraction(s, j)
	}
	return contraction(s, k) // second alternative; k > j, for c was in word
}

// contraction returns the end of (?i:'s|'t|'re|'ve|'m|'ll|'d)? at s[i:]. Case folding makes U+017F (long s) an s.
func contraction(s string, i int) int {
	if i+1 >= len(s) || s[i] != '\'' {
		return i
	}
	third := byte(0)
	if i+2 < len(s) {
		third = s[i+2]
	}
	switch s[i+1] | 0x20 {
	case 's', 't', 'm', 'd':
		return i + 2
	case 'r', 'v':
		if third|0x20 == 'e' {
			return i + 3
		}
	case 'l':
		if third|0x20 == 'l' {
			return i + 3
		}
	}
	if s[i+1] == 0xC5 && third == 0xBF {
		return i + 3
	}
	return i
}

// symbols matches [^\s\p{L}\p{N}]+[\r\n/]* at s[i:], where a symbol stands.
func (t *classTable) symbols(s string, i int) int {
	for {
		c, size := t.at(s, i)
		if size == 0 || c&(space|letter|number) != 0 {
			break
		}
		i += size
	}
	for i < len(s) && (s[i] == '\r' || s[i] == '\n' || s[i] == '/') {
		i++
	}
	return i
}

// spaces matches the last three alternatives at s[i:], where a space stands: up to the last line break of the run of
// spaces; else the run without its last space, which goes to the word behind it; else the run.
func (t *classTable) spaces(s string, i int) int {
	end, last, afterBreak := i, i, 0
	for {
		c, size := t.at(s, end)
		if c&space == 0 {
			break
		}
		last = end
		end += size
		if c&newline != 0 {
			afterBreak = end
		}
	}
	switch {
	case afterBreak > 0:
		return afterBreak
	case end == len(s) || last == i:
		return end
	}
	return last
}
