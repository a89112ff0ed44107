package grammar

import (
	"errors"
	"fmt"
)

// Matcher follows one answer. It is used by one goroutine at a time; matchers of one grammar share what they learn.
type Matcher struct {
	grammar *Grammar
	machine *machine
	at      int32
	ended   bool     // a stop id was accepted
	own     []uint32 // a mask that is not kept by the machine
	current []uint32 // the mask of the present situation; nil: not made yet
}

// Matcher begins an answer in the tokens of v.
func (g *Grammar) Matcher(v *Vocabulary) *Matcher {
	m := g.machine(v, nil)
	return &Matcher{grammar: g, machine: m, at: m.first}
}

// Mask gives the ids that may come next, bit i%32 of word i/32; (size+31)/32 words. It is not to be changed, and valid
// until Accept. Stop ids are allowed exactly where the answer may end. Every token that is allowed leads to a text that
// can be completed by bytes; where the vocabulary has no tokens to do so, or the grammar is so ambiguous that the
// mask takes too long, the mask is empty.
func (m *Matcher) Mask() []uint32 {
	if m.current == nil {
		m.machine.mu.Lock()
		defer m.machine.mu.Unlock()
		if m.ended {
			m.current = make([]uint32, m.machine.v.words())
		} else {
			m.current, m.own = m.machine.mask(m.at, m.own)
		}
	}
	return m.current
}

// Accept takes the id that was drawn. An id that Mask does not allow is an error and changes nothing.
func (m *Matcher) Accept(id int32) error {
	if m.ended {
		return errors.New("grammar: the answer has ended")
	}
	v := m.machine.v
	m.machine.mu.Lock()
	defer m.machine.mu.Unlock()
	if id < 0 || int(id) >= v.size {
		return fmt.Errorf("grammar: token %d: want an id below %d", id, v.size)
	}
	text := v.bytes[id]
	if text == nil {
		for _, stop := range v.stops {
			if id == stop {
				if !m.machine.situations[m.at].accept {
					return fmt.Errorf("grammar: token %d: the answer cannot end here", id)
				}
				m.ended, m.current = true, nil
				return nil
			}
		}
		return fmt.Errorf("grammar: token %d is no text", id)
	}
	m.machine.work = 0
	at := m.at
	for i, b := range text {
		if at = m.machine.step(at, b); at == overflow {
			return fmt.Errorf("grammar: token %d (%q): the grammar is too ambiguous: more than %d ways to read the text", id, text, mostWays)
		} else if at == dead {
			return fmt.Errorf("grammar: token %d (%q) is not allowed here: its byte %d (%q)", id, text, i, text[i:i+1])
		}
	}
	m.at, m.current = at, nil
	if old := m.machine; old.bytes > mostBytes {
		m.machine = m.grammar.machine(v, old)
		m.machine.mu.Lock()
		m.at = m.machine.carry(old, m.at)
		m.machine.mu.Unlock()
	}
	return nil
}

// MayEnd says whether the answer may end here.
func (m *Matcher) MayEnd() bool {
	m.machine.mu.Lock()
	defer m.machine.mu.Unlock()
	return m.ended || m.machine.situations[m.at].accept
}

// Clone gives a matcher in the same situation.
func (m *Matcher) Clone() *Matcher {
	return &Matcher{grammar: m.grammar, machine: m.machine, at: m.at, ended: m.ended}
}
