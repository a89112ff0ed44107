package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"chulengo/kernels"
)

// call is a request on its way through the engine, with a sequence for each of its choices. Its caller's goroutine reads
// mail and sets left; everything else belongs to the engine's goroutine once it was submitted.
type call struct {
	prompt    []int32
	keys      [kernels.Groups][]pageKey // of the prompt's pages; nil: they do not enter the prefix cache
	reads     bool                      // pages may come from the prefix cache
	maxTokens int
	minTokens int
	stopIDs   map[int32]bool
	top       int32
	scores    bool  // the prompt's log-probabilities are wanted
	scoreTop  int32 // and so many alternatives
	taps      []tapped
	everyRow  bool // the logits of every row are needed
	progress  bool // the caller wants to know
	media     []Media
	places    []place // of the media in the prompt
	choices   []*sequence
	cached    int  // prompt tokens from the prefix cache
	over      bool // every choice has ended

	gauge  uint64 // number of the gauge that counted its sequences last; of the engine's mutex
	gauged int    // how many they were

	left atomic.Bool // the caller went away
	mail mailbox
}

// sequence is one choice of a call.
type sequence struct {
	call       *call
	choice     int
	order      uint64 // by admission, then choice
	draw       *drawer
	text       answerText
	constraint Constraint // nil: none
	mask       []uint32   // scratch of constrain

	pos     int       // tokens that the model has read
	cached  int       // of these, taken from the prefix cache
	last    int32     // the token drawn last, read by the next step
	drawn   int       // tokens drawn
	drawnAt time.Time // the last of them
	tables  [kernels.Groups]tables

	guaranteed bool                     // always gets its pages, and keeps them
	promised   [kernels.Groups]int      // pages reserved for that
	parked     bool                     // gave way: saved has what was in the pages of tables, whose numbers mean nothing
	saved      [kernels.Groups][][]byte // in order of the tables
	until      int                      // the prompt may be read so far: a picture that is not there yet begins there
	holding    []*seen                  // pictures that it is in the midst of
	rows       int                      // in the step that is planned
	planned    bool                     // they have their pages
	joins      []*sequence              // s and its siblings that begin with the planned step; nil: s alone
}

// orderBits of a sequence's order are its choice.
const orderBits = 20

// tapped is a tap with the width of its value.
type tapped struct {
	Tap
	columns int
}

// decoding says that the prompt was read and every step continues the answer by one token.
func (s *sequence) decoding() bool { return s.pos >= len(s.call.prompt) }

// draws says whether the planned rows end with a draw.
func (s *sequence) draws() bool { return s.rows > 0 && s.pos+s.rows >= len(s.call.prompt) }

// finish tells the caller that the call ended with an error.
func (c *call) finish(err error) {
	c.over = true
	c.mail.put(letter{at: time.Now(), end: FinishError, err: err})
}

// advanced tells the caller how much of the prompt was read.
func (c *call) advanced(s *sequence) {
	if c.progress && s.choice == 0 && !s.decoding() || c.progress && s.choice == 0 && s.drawn == 0 {
		c.mail.move(Progress{Prompt: len(c.prompt), Cached: c.cached, Read: s.pos})
	}
}

// letter is one delivery to the caller: the rows that taps captured in a step and what was found out about the prompt,
// then the token that was drawn, then the end of a choice, or, with err, of the call.
type letter struct {
	at     time.Time
	choice int
	rows   []captured
	prompt []PromptToken
	event  *Event
	end    FinishReason // "": more will come
	stopID int32        // with FinishStop: the id, or -1
	stop   string       // or the string
	err    error        // with end
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
	spare   []letter  // the letters that the caller is done with, for their memory
	rows    int       // letters with rows that the caller has not finished with
	started time.Time // the first step began
	cached  int       // tokens from the prefix cache, known by then
	moved   bool      // progress is news
	at      Progress
	ready   chan struct{} // capacity 1
}

func (m *mailbox) put(l letter) {
	m.mu.Lock()
	if m.letters == nil {
		m.letters, m.spare = m.spare, nil
	}
	m.letters = append(m.letters, l)
	if len(l.rows) > 0 {
		m.rows++
	}
	m.mu.Unlock()
	poke(m.ready)
}

// get takes everything that has come; the letters are valid until the next get.
func (m *mailbox) get() []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.letters
	m.letters = nil
	return l
}

// done gives the memory of letters back that get gave.
func (m *mailbox) done(l []letter) {
	clear(l)
	m.mu.Lock()
	m.spare = l[:0]
	m.mu.Unlock()
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

// start notes the beginning of the first step.
func (m *mailbox) start(t time.Time, cached int) {
	m.mu.Lock()
	if m.started.IsZero() {
		m.started, m.cached = t, cached
	}
	m.mu.Unlock()
}

// begin gives the time of that and the number of tokens from the prefix cache.
func (m *mailbox) begin() (time.Time, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.started, m.cached
}

// move leaves word of the latest progress.
func (m *mailbox) move(p Progress) {
	m.mu.Lock()
	m.moved = m.moved || p != m.at
	m.at = p
	m.mu.Unlock()
	poke(m.ready)
}

// news gives the progress if the caller has not seen it.
func (m *mailbox) news() (p Progress, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ok, m.moved = m.moved, false
	return m.at, ok
}

// poke wakes the reader of a channel of capacity 1; several pokes may become one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
