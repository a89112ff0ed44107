package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Decode returns the text of ids, special tokens by their names. Bytes that are not UTF-8 become U+FFFD, one for each
// longest beginning of a character (as Rust and browsers do). Ids that do not exist stand for nothing.
func (t *Tokenizer) Decode(ids []int32) string { return t.decode(ids, true) }

// DecodeText is Decode without special tokens.
func (t *Tokenizer) DecodeText(ids []int32) string { return t.decode(ids, false) }

func (t *Tokenizer) decode(ids []int32, names bool) string {
	var text strings.Builder
	d := t.NewDecoder()
	for _, id := range ids {
		text.WriteString(d.Next(id))
		if names && t.IsSpecial(id) {
			text.WriteString(t.added[id].Content)
		}
	}
	text.WriteString(d.Flush())
	return text.String()
}

// Decoder turns a stream of ids into text. What it returns is always complete UTF-8.
type Decoder struct {
	t       *Tokenizer
	pending []byte // beginning of a character that later tokens may complete
}

// NewDecoder returns a decoder at the beginning of a stream.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Next returns the text that is certain once id has come. A special token has no text of its own; a character cannot go
// on across it.
func (d *Decoder) Next(id int32) string {
	if d.t.IsSpecial(id) {
		return d.Flush()
	}
	text := d.t.text(id)
	if len(d.pending) > 0 {
		text = string(append(d.pending, text...))
		d.pending = d.pending[:0]
	}
	if utf8.ValidString(text) {
		return text
	}
	var out strings.Builder
	for len(text) > 0 {
		n, ok := character(text)
		if !ok && n == len(text) && incomplete(text) {
			d.pending = append(d.pending, text...)
			break
		}
		if ok {
			out.WriteString(text[:n])
		} else {
			out.WriteRune(utf8.RuneError)
		}
		text = text[n:]
	}
	return out.String()
}

// Flush returns U+FFFD if the stream has ended inside a character, and begins a new stream.
func (d *Decoder) Flush() string {
	if len(d.pending) == 0 {
		return ""
	}
	d.pending = d.pending[:0]
	return string(utf8.RuneError)
}

// character returns the length of the first character of s (not empty), or, with ok false, of the longest beginning of
// a character, at least 1.
func character(s string) (n int, ok bool) {
	if r, n := utf8.DecodeRuneInString(s); r != utf8.RuneError || n > 1 {
		return n, true
	}
	n = 1
	for n < min(len(s), utf8.UTFMax) && incomplete(s[:n+1]) {
		n++
	}
	return n, false
}

// incomplete says whether s is the beginning of a character that more bytes could complete.
func incomplete(s string) bool { return !utf8.FullRuneInString(s) }
