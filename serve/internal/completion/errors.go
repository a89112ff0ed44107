package completion

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Kind says whose fault an error is; protocols turn it into a status and a type of their own.
type Kind int

const (
	KindInternal     Kind = iota // 500: ours
	KindInvalid                  // 400: a field
	KindContext                  // 400: prompt and answer do not fit; Sizes says by how much
	KindNotFound                 // 404: no such model or address
	KindMethod                   // 405
	KindTooLarge                 // 413: the body
	KindMediaType                // 415: the body is not said to be JSON
	KindNotSupported             // 501: what this build or configuration does not do
	KindBusy                     // 503 + Retry-After: the queue is full
	KindLoading                  // 503 + Retry-After: the model is not there yet
	KindDraining                 // 503 + Retry-After: the server ends
	KindTimeout                  // 504: the answer took longer than the server allows
	KindAuth                     // 401: no key, or a wrong one
	KindForbidden                // 403: not from there
	KindRate                     // 429 + Retry-After: too many requests of this client
)

// Error is a failure that a client may read.
type Error struct {
	Kind   Kind
	Param  string // path of the field, as messages[1].content; "": none
	ZH, EN string // what is wrong, for people
	Sizes  *Sizes // for KindContext

	RetryAfter time.Duration // for 503
	Cause      error         // for the log
}

// Sizes are those of a request that does not fit.
type Sizes struct {
	Prompt    int // tokens
	MaxTokens int // asked for
	Context   int // that prompt and answer may have together
}

func (e *Error) Error() string {
	if e.Param != "" {
		return e.Param + ": " + e.EN
	}
	return e.EN
}

func (e *Error) Unwrap() error { return e.Cause }

// Text is the sentence for people in a language, zh or en, with the field's name.
func (e *Error) Text(zh bool) string {
	text, colon := e.EN, ": "
	if zh {
		text, colon = e.ZH, "："
	}
	if e.Param != "" {
		return e.Param + colon + text
	}
	return text
}

// Status is the HTTP status that all protocols share.
func (e *Error) Status() int {
	switch e.Kind {
	case KindInvalid, KindContext:
		return 400
	case KindNotFound:
		return 404
	case KindMethod:
		return 405
	case KindTooLarge:
		return 413
	case KindMediaType:
		return 415
	case KindNotSupported:
		return 501
	case KindBusy, KindLoading, KindDraining:
		return 503
	case KindTimeout:
		return 504
	case KindAuth:
		return 401
	case KindForbidden:
		return 403
	case KindRate:
		return 429
	}
	return 500
}

// Invalid says that a field cannot be served: what was wanted and what came.
func Invalid(param, zh, en string, args ...any) *Error {
	return &Error{Kind: KindInvalid, Param: param, ZH: fmt.Sprintf(zh, args...), EN: fmt.Sprintf(en, args...)}
}

// Public gives an error as clients may read it: those that are no *Error are the server's own.
func Public(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: KindInternal, ZH: "服务器内部错误", EN: "internal server error", Cause: err}
}

// Chinese says whether a client wants to read Chinese: its lang parameter, or the first of the languages it accepts. Programs,
// which say nothing, get English: it is what their users search for.
func Chinese(r *http.Request) bool {
	tag := r.URL.Query().Get("lang")
	if tag == "" {
		tag = strings.TrimSpace(r.Header.Get("Accept-Language"))
	}
	return len(tag) >= 2 && strings.EqualFold(tag[:2], "zh")
}
