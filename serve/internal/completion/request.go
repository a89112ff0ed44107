package completion

import (
	"encoding/json"

	"chulengo/engine"
)

// Roles of messages. OpenAI's "developer" is RoleSystem.
const (
	RoleSystem    = "system"
	RoleUser      = "user"
	RoleAssistant = "assistant"
	RoleTool      = "tool"
)

// Request is what a client wants. The zero value of every field but the prompt means that the client said nothing.
type Request struct {
	// The prompt is a chat, or else ids, or else a text.
	Messages []Message
	IDs      []int32
	Text     string
	// NoBOS leaves out the begin-of-text that Text otherwise gets. In Text special tokens are known by their names:
	// it is a whole prompt, not a user's words.
	NoBOS bool

	Tools              []Tool
	ToolChoice         ToolChoice
	NoParallelCalls    bool // at most one call in an answer
	NoGenerationPrompt bool // do not begin the assistant's answer
	ContinueFinal      bool // go on with the last message, which is the assistant's, instead of beginning another

	Sampling  Sampling
	MaxTokens int  // tokens of an answer at most; 0: as many as the context holds
	Clamp     bool // MaxTokens beyond the context is cut to it; otherwise that is a KindContext error
	MinTokens int
	Stop      []string
	StopIDs   []int32 // besides the model's own
	IgnoreEOS bool
	KeepStop  bool // the stop string that ended the answer is part of its text
	Specials  bool // special tokens are part of the text, by their names
	Choices   int  // 0: one
	// OnlyPrompt asks for the prompt's log-probabilities and no answer.
	OnlyPrompt bool

	Format Format

	LogProbs       bool // report every token of the answer
	Top            int  // with so many alternatives
	PromptLogProbs bool // report every token of the prompt
	PromptTop      int  // with so many alternatives

	CacheSalt string // only requests of the same salt share what the model remembers of prompts
	NoCache   bool
	Progress  bool // report the place in the queue and how much of the prompt was read
}

// Message is one turn of a chat.
type Message struct {
	Role  string
	Parts []Part
	Calls []Call // of tools, by the assistant
	// CallID is which call a tool's message answers. Llama 4's template does not show it to the model, which takes
	// results in order.
	CallID string
}

// Text gives a message of one text.
func Text(role, text string) Message { return Message{Role: role, Parts: []Part{{Text: text}}} }

// Part is a text or a picture.
type Part struct {
	Text  string
	Image *Image // nil: a text
}

// Image is a picture as the client sent it.
type Image struct {
	URL  string // data:image/png;base64,… or https://…; "": Data
	Data []byte // the file
}

// Call is a call of a tool.
type Call struct {
	ID, Name  string
	Arguments string // JSON, usually an object
}

// Tool is a function that the model may call.
type Tool struct {
	Name       string
	Parameters json.RawMessage // JSON schema of the arguments; nil: any object
	Definition json.RawMessage // what the prompt says of it, as the template prints it; nil: made of the other two
}

// ToolChoice says whether tools are called.
type ToolChoice struct {
	Mode ToolMode
	Name string // for ToolNamed
}

// ToolMode is one way to choose among tools.
type ToolMode int

const (
	ToolAuto     ToolMode = iota // as the model likes
	ToolNone                     // the model does not hear of tools
	ToolRequired                 // at least one call, of any
	ToolNamed                    // a call of ToolChoice.Name
)

// Format restricts what an answer may be; at most one field is set.
type Format struct {
	JSON   bool            // any JSON object
	Schema json.RawMessage // JSON of this schema
	Regex  string          // text that matches as a whole
	EBNF   string          // text of this grammar, in llama.cpp's syntax
	// Param is the field of the request that asked for it, for errors: "response_format.json_schema.schema".
	Param string
}

func (f *Format) any() bool { return f.JSON || len(f.Schema) > 0 || f.Regex != "" || f.EBNF != "" }

// Sampling changes the model's own way to draw tokens; nil: as the model does.
type Sampling struct {
	Temperature       *float64
	TopK              *int // 0 or -1: all
	TopP              *float64
	MinP              *float64
	RepetitionPenalty *float64
	PresencePenalty   *float64
	FrequencyPenalty  *float64
	LogitBias         map[int32]float32
	Seed              *int64 // nil: the server's, else a fresh one
}

// over gives the sampling of a request over the model's.
func (s *Sampling) over(model engine.Sampling) engine.Sampling {
	out := model
	set := func(v *float64, to *float32) {
		if v != nil {
			*to = float32(*v)
		}
	}
	set(s.Temperature, &out.Temperature)
	set(s.TopP, &out.TopP)
	set(s.MinP, &out.MinP)
	set(s.RepetitionPenalty, &out.RepetitionPenalty)
	set(s.PresencePenalty, &out.PresencePenalty)
	set(s.FrequencyPenalty, &out.FrequencyPenalty)
	if s.TopK != nil {
		out.TopK = max(*s.TopK, 0)
	}
	if s.TopP != nil && *s.TopP == 0 {
		out.TopK, out.TopP = 1, 1 // the smallest set of tokens that has probability 0 and is not empty
	}
	if s.LogitBias != nil {
		out.LogitBias = s.LogitBias
	}
	return out
}
