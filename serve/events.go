package serve

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
)

// events writes server-sent events. The response's status is committed by the first of them, so that errors before it
// can still be told as such.
type events struct {
	response *echo.Response
	control  *http.ResponseController
}

// stuckAfter is how long one event may take to leave; a client that does not read is taken for gone.
const stuckAfter = 30 * time.Second

func newEvents(c echo.Context) *events {
	return &events{c.Response(), http.NewResponseController(c.Response())}
}

// open sends the header.
func (e *events) open() error {
	if e.response.Committed {
		return nil
	}
	h := e.response.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache, no-store")
	h.Set("X-Accel-Buffering", "no") // nginx
	e.response.WriteHeader(http.StatusOK)
	return e.control.Flush()
}

// send writes one event, whose data is v.
func (e *events) send(v any) error {
	var data bytes.Buffer
	data.WriteString("data: ")
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil { // ends with a newline
		return err
	}
	data.WriteByte('\n')
	return e.write(data.Bytes())
}

// ping writes a comment, which keeps proxies from giving up.
func (e *events) ping() error { return e.write([]byte(": ping\n\n")) }

func (e *events) write(data []byte) error {
	if err := e.open(); err != nil {
		return err
	}
	// Not every ResponseWriter has deadlines; without one the write may block until the client goes.
	_ = e.control.SetWriteDeadline(time.Now().Add(stuckAfter))
	if _, err := e.response.Write(data); err != nil {
		return err
	}
	return e.control.Flush()
}

type deltaEvent struct {
	Delta string `json:"delta"`
}

type doneEvent struct {
	Done bool `json:"done"`
	reply
	Finish string `json:"finish_reason"`
}

// placedEvent is the end for readers that asked for more than the tutorial's clients know.
type placedEvent struct {
	doneEvent
	Parent   *int64  `json:"parent"`
	Question *int64  `json:"question_id"`
	Message  *int64  `json:"message_id"`
	Numbers  Numbers `json:"numbers"`
}

type progressEvent struct {
	Progress progress `json:"progress"`
}

type numbersEvent struct {
	Numbers Numbers `json:"numbers"`
}

// numbersEvery is how often a reader that asked for them gets numbers.
const numbersEvery = 500 * time.Millisecond

// reader is one that follows an answer.
type reader struct {
	from     int  // bytes of the text that it has
	tied     bool // the answer ends when it goes
	atOnce   bool // the header is sent before there is anything to say
	progress bool // it wants to hear of the queue, the prompt, and numbers
}

// orNull is an id as clients know it.
func orNull(id int64) *int64 {
	if id == 0 {
		return nil
	}
	return &id
}

// follow streams an answer to a reader until it ends.
func (s *Server) follow(c echo.Context, a *answer, r reader) error {
	e := newEvents(c)
	gone := func() error {
		if r.tied {
			a.end(errGone)
		}
		return nil
	}
	if r.atOnce && e.open() != nil {
		return gone()
	}
	// The connection outlives the stream.
	defer func() { _ = e.control.SetWriteDeadline(time.Time{}) }()
	ping := time.NewTicker(s.options.KeepAlive)
	defer ping.Stop()
	from := r.from
	var told progress
	var toldNumbers time.Time
	for {
		state := a.state()
		if r.progress && state.text == "" && !state.ended && state.before != told {
			if told = state.before; e.send(progressEvent{told}) != nil {
				return gone()
			}
			ping.Reset(s.options.KeepAlive)
		}
		for from > 0 && from < len(state.text) && !utf8.RuneStart(state.text[from]) {
			from-- // half a character cannot be sent
		}
		if from < len(state.text) {
			if e.send(deltaEvent{state.text[from:]}) != nil {
				return gone()
			}
			from = len(state.text)
			if r.progress && !state.ended && time.Since(toldNumbers) >= numbersEvery {
				if toldNumbers = time.Now(); e.send(numbersEvent{state.numbers}) != nil {
					return gone()
				}
			}
			ping.Reset(s.options.KeepAlive)
		}
		switch {
		case state.failure != nil && !e.response.Committed:
			return state.failure
		case state.failure != nil:
			if e.send(state.failure.body(language(c))) != nil {
				return gone()
			}
			return nil
		case state.ended:
			var end any = doneEvent{true, a.reply(state.text), state.finish}
			if r.progress {
				end = placedEvent{end.(doneEvent), orNull(state.round.Parent), orNull(state.round.Question),
					orNull(state.round.Answer), state.numbers}
			}
			if e.send(end) != nil {
				return gone()
			}
			return nil
		}
		var err error
		select {
		case <-state.more:
		case <-ping.C:
			err = e.ping()
		case <-c.Request().Context().Done():
			return gone()
		}
		if err != nil {
			return gone()
		}
	}
}
