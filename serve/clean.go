package serve

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// eotMark is what the tutorial strips from answers: <|eot|>, <eot>, </eot> and their mixtures. Special tokens never
// become text in the first place; this is for models that spell the mark out.
var eotMark = regexp.MustCompile(`<[|/]?eot[|]?>`)

// eotPartial matches the end of a text that may grow into an eotMark.
var eotPartial = regexp.MustCompile(`<(?:[|/]?(?:e(?:o(?:t[|]?)?)?)?)?$`)

// cleaner cleans an answer while it streams: what Write and Close return, put together, is the whole text with every
// eotMark taken out in one pass from the left (whatever the pieces are), without white space around it, in valid UTF-8.
// It holds back only what may yet have to go.
type cleaner struct {
	raw     string // read, but a mark or a UTF-8 sequence may be beginning in it
	space   string // white space that is dropped if nothing follows
	started bool   // something other than white space was returned
}

// Write takes the next piece of the raw answer and returns the text that became certain.
func (c *cleaner) Write(piece string) string {
	c.raw += piece
	var out strings.Builder
	for {
		mark := eotMark.FindStringIndex(c.raw)
		if mark == nil {
			break
		}
		out.WriteString(c.release(c.raw[:mark[0]]))
		c.raw = c.raw[mark[1]:]
	}
	certain := len(c.raw)
	if at := eotPartial.FindStringIndex(c.raw); at != nil {
		certain = at[0]
	}
	certain = wholeRunes(c.raw[:certain])
	out.WriteString(c.release(c.raw[:certain]))
	c.raw = c.raw[certain:]
	return out.String()
}

// Close returns the rest.
func (c *cleaner) Close() string {
	out := c.release(c.raw)
	c.raw, c.space = "", ""
	return out
}

// release passes text on, except for white space that may turn out to surround the answer.
func (c *cleaner) release(text string) string {
	text = string([]rune(text)) // a replacement character for each byte that belongs to none
	if !c.started {
		text = strings.TrimLeftFunc(text, unicode.IsSpace)
		c.started = text != ""
	}
	body := strings.TrimRightFunc(text, unicode.IsSpace)
	if body == "" {
		c.space += text
		return ""
	}
	out := c.space + body
	c.space = text[len(body):]
	return out
}

// wholeRunes is the length of the longest prefix of s that does not end within a UTF-8 sequence.
func wholeRunes(s string) int {
	for i := 1; i < utf8.UTFMax && i <= len(s); i++ {
		if utf8.RuneStart(s[len(s)-i]) {
			if !utf8.FullRuneInString(s[len(s)-i:]) {
				return len(s) - i
			}
			break
		}
	}
	return len(s)
}
