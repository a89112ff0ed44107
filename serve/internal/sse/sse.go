// Package sse writes server-sent events: one line of JSON each, comment lines in longer silences.
package sse

import (
	"bytes"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
)

// stuckAfter is how long one event may take to leave; a client that does not read is taken for gone.
const stuckAfter = 30 * time.Second

// Writer writes the events of one response. The first of them commits its status and header, so that errors before it
// can still be told as such. Its methods may be called concurrently.
type Writer struct {
	response *echo.Response
	control  *http.ResponseController
	silence  time.Duration
	ping     *time.Timer

	mu    sync.Mutex
	err   error // of the connection
	quiet bool  // no more comments
}

// New gives the writer of a response. After every silence of the given length it writes a comment, the first one
// included: where a model is silent for so long before its first token, the comment commits the response. Close ends
// that; it must be called.
func New(c echo.Context, silence time.Duration) *Writer {
	w := &Writer{response: c.Response(), control: http.NewResponseController(c.Response()), silence: silence}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ping = time.AfterFunc(silence, w.comment)
	return w
}

// Send writes one event with a name ("": none) and v as its data, in one line.
func (w *Writer) Send(event string, v any) error {
	var frame bytes.Buffer
	if event != "" {
		frame.WriteString("event: " + event + "\n")
	}
	frame.WriteString("data: ")
	encoder := json.NewEncoder(&frame)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil { // ends with a newline
		return err
	}
	frame.WriteByte('\n')
	return w.write(frame.Bytes())
}

// Raw writes one event whose data is a line of text.
func (w *Writer) Raw(line string) error { return w.write([]byte("data: " + line + "\n\n")) }

// Quiet ends the comments and says whether the status has been sent. If not, the response is the caller's to use
// otherwise.
func (w *Writer) Quiet() (committed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiet = true
	w.ping.Stop()
	return w.response.Committed
}

// Close ends the stream.
func (w *Writer) Close() {
	w.Quiet()
	_ = w.control.SetWriteDeadline(time.Time{}) // the connection outlives the stream
}

// comment is what keeps proxies from giving up.
func (w *Writer) comment() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.quiet {
		w.frame([]byte(": ping\n\n"))
	}
}

func (w *Writer) write(frame []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frame(frame)
}

// frame writes a frame, or gives the error of an earlier one; w.mu is held.
func (w *Writer) frame(frame []byte) error {
	if w.err != nil {
		return w.err
	}
	if !w.response.Committed {
		h := w.response.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache, no-store")
		h.Set("X-Accel-Buffering", "no") // nginx
		w.response.WriteHeader(http.StatusOK)
	}
	// Not every ResponseWriter has deadlines; without one the write may block until the client goes.
	_ = w.control.SetWriteDeadline(time.Now().Add(stuckAfter))
	if _, err := w.response.Write(frame); err != nil {
		w.err = err
	} else {
		w.err = w.control.Flush()
	}
	if !w.quiet {
		w.ping.Reset(w.silence)
	}
	return w.err
}
