package engine

import (
	"errors"
	"fmt"
)

var (
	// ErrBusy says that too many requests wait already.
	ErrBusy = errors.New("engine: busy: the queue is full")
	// ErrClosed says that the engine takes no more requests, or was closed while the request ran.
	ErrClosed = errors.New("engine: closed")
)

// ParamError says that a field of a request has a value that cannot be served. Nothing was enqueued.
type ParamError struct {
	Field string // in the spelling of the HTTP API: "temperature", "top_p", "prompt"
	Want  string
	Got   string
}

func (e *ParamError) Error() string {
	return fmt.Sprintf("engine: %s: want %s, got %s", e.Field, e.Want, e.Got)
}

// ContextError says that a prompt does not fit.
type ContextError struct{ Prompt, MaxTokens, Context int }

func (e *ContextError) Error() string {
	return fmt.Sprintf("engine: the prompt has %d tokens; with at most %d more it exceeds the context of %d", e.Prompt, e.MaxTokens, e.Context)
}

// ConstraintError says that the constraint of a request failed: it allowed no token, refused one that it had allowed, or
// panicked.
type ConstraintError struct{ Err error }

func (e *ConstraintError) Error() string { return fmt.Sprintf("engine: constraint: %v", e.Err) }
func (e *ConstraintError) Unwrap() error { return e.Err }

// PictureError says that a picture of a request cannot be read: its file is damaged, say.
type PictureError struct {
	Index int // among the request's Media
	Err   error
}

func (e *PictureError) Error() string { return fmt.Sprintf("engine: picture %d: %v", e.Index, e.Err) }
func (e *PictureError) Unwrap() error { return e.Err }

// StepError says that the device or the model failed while the request ran.
type StepError struct {
	Err   error
	Stack []byte // of a panic; for logs, not for users
}

func (e *StepError) Error() string { return fmt.Sprintf("engine: step failed: %v", e.Err) }
func (e *StepError) Unwrap() error { return e.Err }
