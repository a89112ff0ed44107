package tokenizer

import "fmt"

// Byte-level vocabularies write each byte as a printable character: printable ones of Latin-1 as themselves, the other
// 68 as U+0100 and up, in order.
var byteChars, charBytes = func() (chars [256]rune, bytes [0x144]int16) {
	for i := range bytes {
		bytes[i] = -1
	}
	next := rune(0x100)
	for b := range rune(256) {
		c := b
		if b < '!' || b > '~' && b < 0xA1 || b == 0xAD {
			c = next
			next++
		}
		chars[b], bytes[c] = c, int16(b)
	}
	return chars, bytes
}()

// byteLevel writes the bytes of s as characters.
func byteLevel(s string) string {
	chars := make([]rune, len(s))
	for i := range len(s) {
		chars[i] = byteChars[s[i]]
	}
	return string(chars)
}

// appendBytes appends the bytes that the characters of s stand for.
func appendBytes(out, s []byte) ([]byte, error) {
	for i, c := range string(s) {
		if c >= rune(len(charBytes)) || charBytes[c] < 0 {
			return out, fmt.Errorf("%q has %q at byte %d, which stands for no byte in a byte-level vocabulary", s, c, i)
		}
		out = append(out, byte(charBytes[c]))
	}
	return out, nil
}
