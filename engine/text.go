package engine

import "strings"

// answerText turns the ids of one answer into text that may be shown: complete UTF-8, cut before a stop string, and
// nothing that may yet turn out to be the beginning of one.
type answerText struct {
	decoder Decoder // nil: no text
	stops   []string
	held    string // the longest end of the text so far that begins a stop string
	deaf    bool   // stop strings that are complete now do not count
	matched string // the stop string that was complete
}

// next adds an id and gives the text that became certain. hit says that a stop string is complete; there is no text
// after it.
func (a *answerText) next(id int32) (certain string, hit bool) {
	if a.decoder == nil {
		return "", false
	}
	return a.add(a.decoder.Next(id))
}

// flush ends the text: what was held back is certain now.
func (a *answerText) flush() string {
	if a.decoder == nil {
		return ""
	}
	certain, hit := a.add(a.decoder.Flush())
	if !hit {
		certain += a.held
	}
	a.held = ""
	return certain
}

// add scans as if the text came byte by byte, so that the cut does not depend on where tokens end: the stop string that
// is complete first wins, and of several that end together the longest.
func (a *answerText) add(s string) (certain string, hit bool) {
	if len(a.stops) == 0 {
		return s, false
	}
	text := a.held + s
	end, start := len(text)+1, 0
	for _, stop := range a.stops {
		if a.deaf {
			break
		}
		from := max(0, len(a.held)+1-len(stop)) // what was complete before did not count
		if i := strings.Index(text[min(from, len(text)):], stop); i >= 0 {
			i += from
			if e := i + len(stop); e < end || e == end && i < start {
				end, start = e, i
				a.matched = stop
			}
		}
	}
	if end <= len(text) {
		a.held = ""
		return text[:start], true
	}
	keep := 0
	for _, stop := range a.stops {
		for n := min(len(stop)-1, len(text)); n > keep; n-- {
			if strings.HasSuffix(text, stop[:n]) {
				keep = n
			}
		}
	}
	a.held = text[len(text)-keep:]
	return text[:len(text)-keep], false
}
