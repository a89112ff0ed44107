package completion

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"chulengo/engine"
	"chulengo/internal/grammar"
	"chulengo/tokenizer"
)

// Model is what the core needs of a loaded model; serve.Backend is one. Its methods are called concurrently.
type Model interface {
	// Tokenizer turns texts into ids and back.
	Tokenizer() Tokenizer
	// Template renders chats.
	Template() tokenizer.ChatTemplate
	// GenerateChoices continues a prompt as engine.Engine does.
	GenerateChoices(ctx context.Context, r engine.Request, emit func(engine.Event) error) ([]*engine.Result, error)
	// Stats are the engine's counters.
	Stats() engine.Stats
}

// Tokenizer is what the core needs of a tokenizer.Tokenizer.
type Tokenizer interface {
	VocabSize() int
	BOS() int32
	Encode(text string) []int32
	EncodeAllowing(text string, special func(name string, id int32) bool) []int32
	Decode(ids []int32) string
	DecodeText(ids []int32) string
	Bytes(id int32) []byte
	IsSpecial(id int32) bool
	Name(id int32) string
}

// Options describe a model to the core.
type Options struct {
	Name     string   // by which clients ask for it
	Aliases  []string // other names that clients may use
	Root     string   // where it came from: a hub's id or a folder's name
	Created  time.Time
	Context  int // tokens of prompt and answer together
	Sampling engine.Sampling
	StopIDs  []int32 // the checkpoint's
	Meta     Meta

	Sequences    int    // answers that are generated at a time
	ChatTemplate string // source of the chat template; "": none

	Pictures   *engine.PictureReader                                     // nil: the model takes none
	NoPictures string                                                    // why, " (…)", for clients; "": no reason is known
	Fetch      func(ctx context.Context, address string) ([]byte, error) // gets pictures from the net; nil: it is not allowed
}

// Meta are sizes that clients show.
type Meta struct {
	TrainContext int   // tokens
	Dim          int   // model width
	Params       int64 // weights
	Bytes        int64 // of the checkpoint
}

// Core answers requests with one model.
type Core struct {
	model   Model
	options Options
	stops   map[int32]bool // Options.StopIDs

	vocabulary func() *grammar.Vocabulary // made when the first answer is held to a grammar
	grammars   grammars
}

// New gives a core for a loaded model.
func New(m Model, o Options) *Core {
	return &Core{model: m, options: o, stops: set(o.StopIDs), vocabulary: sync.OnceValue(func() *grammar.Vocabulary {
		t := m.Tokenizer()
		return grammar.NewVocabulary(t.VocabSize(), t.Bytes, o.StopIDs)
	})}
}

func set(ids []int32) map[int32]bool {
	s := make(map[int32]bool, len(ids))
	for _, id := range ids {
		s[id] = true
	}
	return s
}

// Named gives a KindNotFound error unless a client's name for the model is one of this model's. "" is any model.
func (c *Core) Named(model string) error {
	o := &c.options
	if model == "" || model == o.Name || model == o.Root || slices.ContainsFunc(o.Aliases, func(a string) bool { return strings.EqualFold(a, model) }) {
		return nil
	}
	return &Error{Kind: KindNotFound, Param: "model", ZH: fmt.Sprintf("没有名为 %q 的模型，这里只有 %q", model, o.Name),
		EN: fmt.Sprintf("there is no model %q here, only %q", model, o.Name)}
}

// Options are those given to New.
func (c *Core) Options() Options { return c.options }

// Model is the one given to New.
func (c *Core) Model() Model { return c.model }

// Host is what the server lends to the protocols.
type Host struct {
	// Begin counts an answer in, which a graceful end of the server waits for until done is called. The context that
	// it gives is the request's, and ends as well when the server must not wait any longer. Errors are *Error:
	// KindLoading, KindDraining, KindInternal.
	Begin func(ctx context.Context) (core *Core, answer context.Context, done func(), err error)
	// Ready gives the model for questions that need no answer from it (lists, counting tokens). Errors are *Error.
	Ready func() (*Core, error)
	// Log is a request's own logger; contents of messages do not belong there.
	Log func(r *http.Request) *slog.Logger

	BodyLimit int64         // bytes
	KeepAlive time.Duration // silence on a stream before a comment line
	Version   string        // of the program
}
