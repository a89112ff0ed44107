package serve

import (
	"context"
	"errors"
	"sync"

	"chulengo/engine"
)

// Why an answer is ended before the model ends it.
var (
	errStopped  = errors.New("serve: stopped by request")
	errGone     = errors.New("serve: the client is gone")
	errCleared  = errors.New("serve: the conversation was cleared")
	errShutdown = errors.New("serve: the server ends")
)

// answer is one answer while it is generated. The model's goroutine appends to it; any number of readers follow, each
// from where it likes and as fast as it can, so that no reader holds up the model.
type answer struct {
	chatID   string
	question StoredMessage // ID 0: it joins the history with its answer
	settings settings
	detached bool   // goes on without its client
	free     func() // gives the conversation back to other servers
	end      context.CancelCauseFunc
	done     chan struct{} // closed when finish is set, after the history was written

	mu      sync.Mutex
	text    string        // cleaned; only grows, by whole characters
	more    chan struct{} // closed and replaced when something changes
	ended   bool
	finish  string     // why it ended, or
	failure *httpError // why it failed
	before  progress   // to the first token
	numbers Numbers
	round   Round // where it is in the history
}

// settings are a request's, after clamping.
type settings struct {
	NewTokens int
	Rounds    int
	System    *string                // in place of the server's; nil: that
	Sampling  func(*engine.Sampling) // changes what the request names; nil: nothing
}

func newAnswer(q ask, question StoredMessage, free func(), end context.CancelCauseFunc) *answer {
	return &answer{chatID: q.chatID, question: question, settings: q.settings, detached: q.detach, free: free, end: end,
		done: make(chan struct{}), more: make(chan struct{})}
}

// report says how far the answer is before its first token.
func (a *answer) report(p progress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.before = p
	close(a.more)
	a.more = make(chan struct{})
}

// count takes the numbers so far; readers see them with the text.
func (a *answer) count(n Numbers) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.numbers = n
}

// append adds text and wakes the readers.
func (a *answer) append(text string) {
	if text == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text += text
	close(a.more)
	a.more = make(chan struct{})
}

// close ends the answer, well (failure nil) or not.
func (a *answer) close(finish string, failure *httpError, round Round) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended, a.finish, a.failure, a.round = true, finish, failure, round
	close(a.more)
	close(a.done)
}

// answerState is what a reader sees of an answer at one moment.
type answerState struct {
	text    string
	ended   bool
	finish  string
	failure *httpError
	before  progress
	numbers Numbers
	round   Round
	more    <-chan struct{} // closed at the next change
}

func (a *answer) state() answerState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return answerState{a.text, a.ended, a.finish, a.failure, a.before, a.numbers, a.round, a.more}
}

// conversations keeps what is going on in them: at most one answer in each, requests waiting for their turn behind it.
type conversations struct {
	mu   sync.Mutex
	busy map[string]*turn
}

// turn is the right to answer in one conversation, passed from request to request in order of arrival.
type turn struct {
	holders int           // requests that have it or wait for it
	token   chan struct{} // capacity 1; holding it is holding the turn
	answer  *answer       // the running one; nil before it starts
}

// acquire waits for the turn in a conversation; without wait, it gives errBusy instead. The turn must be released.
func (c *conversations) acquire(ctx context.Context, id string, wait bool) error {
	c.mu.Lock()
	t := c.busy[id]
	if t == nil {
		if c.busy == nil {
			c.busy = map[string]*turn{}
		}
		t = &turn{token: make(chan struct{}, 1)}
		c.busy[id] = t
	} else if !wait {
		c.mu.Unlock()
		return errBusy
	}
	t.holders++
	c.mu.Unlock()
	select {
	case t.token <- struct{}{}:
		if ctx.Err() == nil {
			return nil
		}
		// Both at once, and select takes either: whoever has left gets no answer.
		c.drop(id, t)
		<-t.token
	case <-ctx.Done():
		c.drop(id, t)
	}
	return context.Cause(ctx)
}

// release passes the turn on.
func (c *conversations) release(id string) {
	c.mu.Lock()
	t := c.busy[id]
	t.answer = nil
	c.mu.Unlock()
	c.drop(id, t) // first: whoever asks from here on finds the conversation free
	<-t.token
}

// drop forgets a holder.
func (c *conversations) drop(id string, t *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.holders--; t.holders == 0 {
		delete(c.busy, id)
	}
}

// start shows the answer of the turn's holder to others.
func (c *conversations) start(a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[a.chatID].answer = a
}

// running is the answer that is being generated in a conversation, or nil.
func (c *conversations) running(id string) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.busy[id]; t != nil {
		return t.answer
	}
	return nil
}
