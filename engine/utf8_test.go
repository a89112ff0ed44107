package engine

import "unicode/utf8"

// completeUTF8 is the length of the longest prefix of b that does not end within a character.
func completeUTF8(b []byte) int {
	for i := 1; i <= min(3, len(b)); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}
