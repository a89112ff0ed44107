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
// Requests are admitted first come, first served. A sequence takes pages as it grows. The oldest ones are guaranteed: their
// worst case (prompt and MaxTokens) is reserved, so they always come to their end. The others run on what is left, and
// give way when it runs out, the youngest first: their pages go to the host's memory (Options.HostKVBytes, which always
// has room for them) and come back unchanged before anybody new is admitted. Sequences whose prompts were read decode
// together in every step, before any prompt; half of the rows left go round the prompts in small pieces, the rest to the
// oldest. A request's tokens depend on its own fields only, never on what else runs, runs out, or is cached.
//
// # Prefix cache
//
// Pages that a prompt filled are kept when their sequence ends, until their memory is needed: the longest unused go
// first, and none before those that continue it. A later prompt with the same beginning takes them in place of reading
// it. A page is known by all that its content depends on: every id before and in it, the pictures among them, the
// request's CacheSalt, and the format of keys and values. To begin at a position takes the global pages before it and
// the chunked ones from the start of its chunk; without the latter reading begins at the chunk's start. The last token of
// a prompt is always read. Pages that rows of an answer wrote are never kept, because decode kernels may round
// differently: the next turn of a chat reads the last answer once more, and gives the same tokens as with an empty cache.
// Requests with taps or PromptLogProbs read their whole prompt.
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
	Taps      []Tap    // values to capture; with one choice only

	Choices        int            // answers to draw from the prompt, which is read once; 0: 1 (more: GenerateChoices only)
	MinTokens      int            // no stop id or stop string ends the answer before so many tokens (stop ids are masked)
	PromptLogProbs bool           // report the log-probability of every prompt token (the prompt is then read whole, no cached pages)
	PromptTop      int            // and of so many alternatives
	CacheSalt      string         // requests share cached pages only with requests of the same salt
	NoCache        bool           // neither reads nor feeds the prefix cache
	Media          []Media        // pictures in the prompt, in order: they are part of what names a cached page
	Constraint     Constraint     // restricts what may be drawn; nil: nothing. With several choices each has a clone
	Progress       func(Progress) // called on the caller's goroutine when the place in the queue or the prompt moved; slow ones miss steps in between
}

// Media is a picture in the prompt: tokens Pos..Pos+Len-1 stand for it, and Hash names its content.
type Media struct {
	Pos, Len int
	Hash     [32]byte

	// Pixels makes the picture's pixels, whose rows take the places of the patch tokens. It is called when the prompt
	// comes to them, from a goroutine of the engine's, and not at all if the engine has the picture. nil: the tokens are
	// read as they are.
	Pixels func() (*kernels.Pixels, error)
}

// Constraint restricts the ids of one answer, step by step. It is asked from the engine's goroutines, never from two at
// a time; what it panics with ends its own request.
type Constraint interface {
	// Mask gives the ids that may be drawn next, bit i%32 of word i/32, for the whole vocabulary; nil: all. It stays
	// valid until Accept. Stop ids are allowed exactly where the answer may end.
	Mask() []uint32
	// Accept takes the id that was drawn. A stop id that ends the answer is not told.
	Accept(id int32) error
	// Clone gives a copy in the same state.
	Clone() Constraint
}

// Progress is how far a request is before its first token.
type Progress struct {
	Queue  int // requests ahead; 0 once it runs
	Prompt int // tokens of the prompt
	Cached int // of these, taken from the prefix cache
	Read   int // of these, read so far, Cached included
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
	Choice  int
	ID      int32
	Text    string // text that became certain with this token: complete UTF-8, and no beginning of a stop string; may be ""
	Bytes   []byte // the exact bytes of the token, not to be changed; nil for special tokens and without a tokenizer
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
	Choice    int
	IDs       []int32 // generated ids, the stop id included if there was one
	Text      string  // the texts of the events: without special tokens and the stop id, cut before a stop string
	LogProbs  []float32
	Finish    FinishReason
	StopID    int32  // the stop id that ended the answer; -1: none
	StopText  string // the stop string that ended it; "": none
	Prompt    int    // tokens in the prompt
	Cached    int    // of these, taken from the prefix cache
	Generated int    // len(IDs)
	Timings   Timings

	PromptLogProbs []PromptToken // one for each prompt token where they were asked for; the same slice for every choice
}

// PromptToken is a token of the prompt with its log-probability after those before it; the first has NaN and no Top.
type PromptToken struct {
	ID      int32
	LogProb float32
	Top     []kernels.TokenLogProb
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
