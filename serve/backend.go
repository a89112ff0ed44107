package serve

import (
	"context"

	"chulengo/engine"
	"chulengo/serve/internal/completion"
	"chulengo/tokenizer"
)

// Roles of messages.
const (
	RoleSystem    = "system"
	RoleUser      = "user"
	RoleAssistant = "assistant"
)

// Message is one message of a chat, as the chat template takes it.
type Message struct {
	Role    string
	Content string

	Pictures []*engine.PictureFile // shown before the content
}

// Backend is a loaded model as the server sees it. Its methods are called concurrently.
type Backend interface {
	// Info describes the model; it does not change.
	Info() ModelInfo

	// Prompt renders messages through the chat template, up to where the assistant's answer begins, with one <|image|>
	// for each picture. Special tokens come from the template alone: text of messages that spells one stays text.
	Prompt(messages []Message) ([]int32, error)

	Generator

	// Tokenizer and Template are the checkpoint's.
	Tokenizer() completion.Tokenizer
	Template() tokenizer.ChatTemplate
}

// ModelInfo is what the page tells about a model.
type ModelInfo struct {
	Name     string          // short, as in a path: chulengo-demo
	Display  string          // as people write it
	Llama    bool            // Llama weights: the page shows "Built with Llama"
	Scout    bool            // Llama-4-Scout: the page uses the tutorial's own texts
	Demo     bool            // the embedded demo checkpoint
	Context  int             // tokens of prompt and answer together
	Sampling engine.Sampling // for requests that say nothing; Seed 0: a fresh seed for every answer

	// What programs hear of it besides.
	Root         string  // where it came from; "": Name
	StopIDs      []int32 // ids that end an answer
	Dim          int     // model width
	TrainContext int     // tokens that its makers provided for
	Params       int64   // weights of the text model
	Bytes        int64   // that they take
	Sequences    int     // answers that are generated at a time; 0: not known
	ChatTemplate string  // source of the checkpoint's chat template; "": none

	Pictures   *engine.PictureReader // nil: it takes none
	NoPictures string                // why, for people; "": no reason is known
}

// Generator is what the server needs of an engine.Engine.
type Generator interface {
	// Generate continues a prompt: emit is called for every token, in order; an error that it returns ends the answer.
	// When ctx is cancelled, Generate returns soon, with what it has or with ctx's error.
	Generate(ctx context.Context, r engine.Request, emit func(engine.Event) error) (*engine.Result, error)
	// GenerateChoices draws several answers from one prompt.
	GenerateChoices(ctx context.Context, r engine.Request, emit func(engine.Event) error) ([]*engine.Result, error)
	// Stats are counters and gauges.
	Stats() engine.Stats
}

// NewBackend joins a loaded checkpoint's tokenizer and chat template to the engine that runs it.
func NewBackend(info ModelInfo, t completion.Tokenizer, template tokenizer.ChatTemplate, g Generator) Backend {
	return chat{g, info, t, template}
}

type chat struct {
	Generator
	info      ModelInfo
	tokenizer completion.Tokenizer
	template  tokenizer.ChatTemplate
}

func (c chat) Info() ModelInfo                  { return c.info }
func (c chat) Tokenizer() completion.Tokenizer  { return c.tokenizer }
func (c chat) Template() tokenizer.ChatTemplate { return c.template }

func (c chat) Prompt(messages []Message) ([]int32, error) {
	var all tokenizer.Chat
	for _, m := range messages {
		one := tokenizer.Message{Role: m.Role}
		for range m.Pictures {
			one.Content = append(one.Content, tokenizer.Part{Type: "image"})
		}
		one.Content = append(one.Content, tokenizer.Part{Type: "text", Text: m.Content})
		all.Messages = append(all.Messages, one)
	}
	return c.template.Render(all)
}
