package completion

import (
	"bytes"
	"encoding/json"
	"time"
)

// Event is what became known with one token of one choice, at its end, or (Progress) before the first token. Events
// arrive one after the other on the goroutine that called Run.
type Event struct {
	Choice    int
	Text      string      // of the answer: complete UTF-8; "" where a token's text is not certain yet
	Calls     []CallDelta // pieces of tool calls
	Tokens    []Token     // with Request.LogProbs: the tokens that Text does not show yet or shows now
	IDs       []int32     // the tokens' ids, stop id excluded
	Generated int         // tokens of the choice so far, stop id included
	End       *End        // this is the choice's last event
	Progress  *Progress   // this is no token: how far the prompt is; Choice is 0
}

// CallDelta is a piece of a tool call: first its id and name, then its arguments in pieces.
type CallDelta struct {
	Index     int    // of the call in its answer
	ID, Name  string // in the call's first delta
	Arguments string // JSON text that follows what came before
}

// Token is one token with its probability, before temperature and filters.
type Token struct {
	ID      int32
	Text    string // as text; a special token's name; bytes that are no UTF-8 as U+FFFD
	Bytes   []byte // nil for special tokens
	LogProb float64
	Top     []Token // the most likely ones, best first; their Top is nil
}

// Progress is where a request stands before its first token.
type Progress struct {
	Queue   int           // requests ahead; 0 once it runs
	Prompt  int           // tokens of the prompt,
	Cached  int           // of them taken from the cache
	Read    int           // and read so far, Cached included
	Elapsed time.Duration // since Run was called
}

// Finish says why an answer ended.
type Finish string

const (
	FinishStop      Finish = "stop"       // the model's end, or a stop string
	FinishLength    Finish = "length"     // MaxTokens, or the context is full
	FinishToolCalls Finish = "tool_calls" // it ends in calls
)

// End is how a choice ended.
type End struct {
	Finish   Finish
	StopText string // the stop string that ended it
	StopID   int32  // the stop id that ended it; -1: none
}

// Answer is a whole answer.
type Answer struct {
	Choices []Choice // in order of their index
	Usage   Usage
	Timings Timings
	Prompt  []PromptToken // with Request.PromptLogProbs
}

// Choice is one of the answers drawn from a prompt.
type Choice struct {
	Text   string
	Calls  []Call
	Tokens []Token // with Request.LogProbs
	IDs    []int32 // stop id excluded
	End
}

// Usage counts tokens.
type Usage struct {
	Prompt    int
	Cached    int // of Prompt, not read again
	Generated int // of all choices, stop ids included
}

// PromptToken is a token of the prompt. Of the first nothing is known: LogProb is NaN.
type PromptToken = Token

// Timings are a request's, on one monotonic clock.
type Timings struct {
	Queue   time.Duration // before its first step
	Prefill time.Duration // to the first token
	Decode  time.Duration // from the first token to the last, of the choice that took longest
}

// NewTool gives a tool with the definition that OpenAI's clients send.
func NewTool(name, description string, parameters json.RawMessage) Tool {
	type function struct {
		Name        string          `json:"name"`
		Description string          `json:"description,omitempty"`
		Parameters  json.RawMessage `json:"parameters,omitempty"`
	}
	var definition bytes.Buffer
	encoder := json.NewEncoder(&definition)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(struct {
		Type     string   `json:"type"`
		Function function `json:"function"`
	}{"function", function{name, description, parameters}}); err != nil {
		panic("completion: parameters of a tool are no JSON: " + err.Error())
	}
	return Tool{Name: name, Parameters: parameters, Definition: bytes.TrimSpace(definition.Bytes())}
}
