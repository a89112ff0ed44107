package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Message is one turn of a conversation.
type Message struct {
	Role    string // "system", "user", "assistant", "tool" or "ipython"
	Content []Part
	// Result is a tool's result that is not text: any JSON value. It stands in place of Content.
	Result json.RawMessage
	// ToolCalls are the calls that an assistant's turn makes. HasToolCalls says that the key was there even if the list
	// is empty; Llama 4's template leaves such a turn out.
	ToolCalls    []ToolCall
	HasToolCalls bool
}

// Part is a piece of a message.
type Part struct {
	Type string // "text" or "image"
	Text string
}

// ToolCall is an assistant's call of a tool.
type ToolCall struct {
	Name      string
	Arguments json.RawMessage // any JSON value, usually an object
}

// Text returns a message of text alone.
func Text(role, text string) Message {
	return Message{Role: role, Content: []Part{{Type: "text", Text: text}}}
}

// UnmarshalJSON reads a message as the chat APIs write it: content is a string, a list of parts, or null; for a tool's
// result any value. Calls are objects with a function inside.
func (m *Message) UnmarshalJSON(text []byte) error {
	var in struct {
		Role      string          `json:"role"`
		Content   json.RawMessage `json:"content"`
		ToolCalls *[]struct {
			Function struct {
				Name      string          `json:"name"`
				Arguments json.RawMessage `json:"arguments"`
			} `json:"function"`
		} `json:"tool_calls"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	*m = Message{Role: in.Role, HasToolCalls: in.ToolCalls != nil}
	if m.HasToolCalls {
		for _, call := range *in.ToolCalls {
			m.ToolCalls = append(m.ToolCalls, ToolCall{call.Function.Name, call.Function.Arguments})
		}
	}
	content := bytes.TrimSpace(in.Content)
	switch {
	case len(content) == 0 || string(content) == "null":
		return nil
	case content[0] == '"':
		m.Content = []Part{{Type: "text"}}
		return json.Unmarshal(content, &m.Content[0].Text)
	case m.Role == "tool" || m.Role == "ipython":
		m.Result = content
		return nil
	case content[0] == '[':
		return json.Unmarshal(content, &m.Content)
	}
	return fmt.Errorf("the content of a message must be a string or a list of parts, got %.80s", content)
}

// Chat is what a template renders.
type Chat struct {
	Messages           []Message
	Tools              []json.RawMessage // JSON values, one for each tool; none: the prompt says nothing of tools
	NoGenerationPrompt bool              // do not begin the assistant's answer
}

// ChatTemplate turns a conversation into a prompt.
type ChatTemplate interface {
	// Render returns the prompt's ids, beginning with exactly one begin-of-text. Only the template itself makes special
	// tokens; what stands in messages is text.
	Render(c Chat) (ids []int32, err error)
	// Text returns the prompt as text, special tokens by their names.
	Text(c Chat) (string, error)
}

// prompt is a rendered conversation: special tokens and the text between them.
type prompt []promptPart

type promptPart struct {
	special bool
	text    string // or the special token's name
}

func (p *prompt) special(name string) { *p = append(*p, promptPart{true, name}) }

// write joins text to what stands before it: tokens reach over the seams.
func (p *prompt) write(text string) {
	if n := len(*p); n > 0 && !(*p)[n-1].special {
		(*p)[n-1].text += text
	} else if text != "" {
		*p = append(*p, promptPart{false, text})
	}
}

func (p prompt) String() string {
	var out strings.Builder
	for _, part := range p {
		out.WriteString(part.text)
	}
	return out.String()
}

// ids encodes the prompt.
func (p prompt) ids(t *Tokenizer) ([]int32, error) {
	var ids []int32
	for _, part := range p {
		if !part.special {
			ids = t.AppendEncode(ids, part.text)
			continue
		}
		id, ok := t.Special(part.text)
		if !ok {
			return nil, fmt.Errorf("tokenizer: chat: the vocabulary has no special token %s", part.text)
		}
		ids = append(ids, id)
	}
	return ids, nil
}
