// Package engine turns prompts into tokens: it keeps the sequences that are being generated, their key/value pages, and
// the rules by which a token is drawn and an answer ends. One goroutine owns the device; requests reach it through
// Generate and get their tokens through a callback.
//
// # Words
//
// A request is what a caller asks for; a sequence is a request that has pages, and its position is the number of its
// tokens that the model has read. A step is one forward pass over one batch: first a decode row for each sequence whose
// prompt was read, then pieces of prompts. A page is the unit of key/value memory; pages come in two groups, global and
// chunked (package kernels says which layers use which), and pages of a chunk that a sequence has left are freed after
// the step.
//
// # Order
//
// Requests are admitted first come, first served, each as soon as its worst case of pages (prompt and MaxTokens) is
// free, so that a sequence once admitted always runs to its end. All admitted sequences decode together. A request's
// tokens depend on its own fields only, never on what else runs.
package engine

import (
	"time"

	"chulengo/kernels"
)

// Request is one prompt to continue.
type Request struct {
	Prompt    []int32 // token ids, begin-of-text included
	Sampling  Sampling
	MaxTokens int      // tokens to generate at most; 0: as many as the context holds
	Stop      []string // the answer ends before the first of these to be complete; it is never part of the text
	StopIDs   []int32  // ids that end the answer; nil: the checkpoint's
	IgnoreEOS bool     // the checkpoint's stop ids do not end the answer (StopIDs and Stop still do)
	LogProbs  bool     // report the log-probability of every chosen token
	Top       int      // and of this many alternatives
	Taps      []Tap    // values to capture
}

// Sampling is how tokens are drawn. The zero value is greedy.
type Sampling struct {
	Temperature       float32 // 0: greedy
	TopK              int     // 0: all
	TopP              float32 // 0 or 1: all
	MinP              float32 // 0: all
	RepetitionPenalty float32 // divides positive, multiplies negative logits of tokens in prompt or answer; 0 or 1: none
	PresencePenalty   float32 // subtracted from the logits of tokens in the answer
	FrequencyPenalty  float32 // the same, times their count
	LogitBias         map[int32]float32
	Seed              uint64 // the same request with the same seed draws the same tokens, whatever else runs
}

// Event is one generated token.
type Event struct {
	ID      int32
	Text    string // text that became certain with this token: complete UTF-8, and no beginning of a stop string; may be ""
	LogProb float32
	Top     []kernels.TokenLogProb
}

// FinishReason says why an answer ended.
type FinishReason string

const (
	FinishStop      FinishReason = "stop"      // a stop id or a stop string
	FinishLength    FinishReason = "length"    // MaxTokens, or the context is full
	FinishCancelled FinishReason = "cancelled" // the context of the request was cancelled, or emit gave an error
	FinishError     FinishReason = "error"     // the device failed, or the engine was closed
)

// Result is a whole answer.
type Result struct {
	IDs       []int32 // generated ids, the stop id included if there was one
	Text      string  // the texts of the events: without special tokens and the stop id, cut before a stop string
	LogProbs  []float32
	Finish    FinishReason
	Prompt    int // tokens in the prompt
	Generated int // len(IDs)
	Timings   Timings
}

// Timings of one request, on one monotonic clock.
type Timings struct {
	Queue   time.Duration // before its first step
	Prefill time.Duration // to the first token
	Decode  time.Duration // from the first token to the last
}

// Tap captures one value of the forward pass for every token of a request. Row is called in order of position, once for
// each token that the model read, with the value of that token; it must not keep the slice.
type Tap struct {
	At  kernels.Point
	Row func(pos int, value []float32) // value [columns]
}
