package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"chulengo/kernels"
)

// sequence is a request on its way through the engine. Its caller's goroutine reads mail and sets left; everything else
// belongs to the engine's goroutine once it was submitted.
type sequence struct {
	prompt    []int32
	maxTokens int
	stopIDs   map[int32]bool
	top       int32
	taps      []tapped
	everyRow  bool // a tap needs the logits of every row
	draw      *drawer
	text      answerText

	pos    int   // tokens that the model has read
	last   int32 // the token drawn last, read by the next step
	drawn  int   // tokens drawn
	tables [kernels.Groups]tables

	left atomic.Bool // the caller went away
	mail mailbox
}

// tapped is a tap with the width of its value.
type tapped struct {
	Tap
	columns int
}

// worst is the number of pages that s may hold at a time in a group.
func (e *Engine) worst(s *sequence, group int) int {
	tokens := len(s.prompt) + s.maxTokens - 1 // the last token is never read
	return worstPages(groupChunk(&e.spec, group), e.options.PageTokens, min(e.options.StepTokens, len(s.prompt)), tokens)
}

// admit reserves the pages of s, in both groups or in none.
func (e *Engine) admit(s *sequence) bool {
	for g, p := range e.pools {
		n := e.worst(s, g)
		if !p.reserve(n) {
			for h := range g {
				s.tables[h].release()
			}
			return false
		}
		s.tables[g] = tables{pool: p, chunk: groupChunk(&e.spec, g), pageTokens: e.options.PageTokens, promised: n}
	}
	return true
}

func (s *sequence) release() {
	for g := range s.tables {
		s.tables[g].release()
	}
}

// decoding says that the prompt was read and every step continues the answer by one token.
func (s *sequence) decoding() bool { return s.pos >= len(s.prompt) }

// letter is one delivery to the caller: the rows that taps captured in a step, then the token that it drew, then the
// end.
type letter struct {
	at    time.Time
	rows  []captured
	event *Event
	end   FinishReason // "": more will come
	err   error        // with end
}

// captured is what one tap saw of consecutive tokens.
type captured struct {
	row     func(pos int, value []float32)
	pos     int
	columns int
	values  []float32 // [tokens, columns]
}

// mailbox hands letters from the engine to the caller without ever making the engine wait.
type mailbox struct {
	mu      sync.Mutex
	letters []letter
	rows    int           // letters with rows that the caller has not finished with
	started time.Time     // begin of the first step
	ready   chan struct{} // capacity 1
}

func (m *mailbox) put(l letter) {
	m.mu.Lock()
	m.letters = append(m.letters, l)
	if len(l.rows) > 0 {
		m.rows++
	}
	m.mu.Unlock()
	poke(m.ready)
}

// get takes everything that has come.
func (m *mailbox) get() []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.letters
	m.letters = nil
	return l
}

// read says that the caller is done with a letter that had rows.
func (m *mailbox) read() {
	m.mu.Lock()
	m.rows--
	m.mu.Unlock()
}

func (m *mailbox) unread() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rows > 0
}

func (m *mailbox) start(t time.Time) {
	m.mu.Lock()
	if m.started.IsZero() {
		m.started = t
	}
	m.mu.Unlock()
}

func (m *mailbox) startTime() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.started
}

// poke wakes the reader of a channel of capacity 1; several pokes may become one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
