// Package fake is a backend that knows what it will say. The tests of serve and of its page talk to it.
package fake

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"chulengo/engine"
	"chulengo/serve"
	"chulengo/serve/internal/completion"
	"chulengo/tokenizer"
)

// Backend answers from Script. Its tokens are characters: the prompt of messages has one id for every rune of
// "role: content\n" lines.
type Backend struct {
	Model serve.ModelInfo
	Delay time.Duration // before every piece of an answer

	// Script gives the pieces of the answer to a prompt, or the error that follows them. nil: Canned.
	Script func(prompt string) ([]string, error)

	// Refuse, if not nil, is what every request gets instead of an answer.
	Refuse error

	// Hold, if not nil, is received from before every piece: tests decide when the model speaks.
	Hold chan struct{}

	mu       sync.Mutex
	requests []engine.Request
	running  int
	most     int
	ended    int
	words    vocabulary
}

func (b *Backend) Info() serve.ModelInfo { return b.Model }

// Prompt renders messages as lines.
func (b *Backend) Prompt(messages []serve.Message) ([]int32, error) {
	var ids []int32
	for _, m := range messages {
		ids = append(ids, []rune(m.Role+": "+m.Content+"\n")...)
	}
	return ids, nil
}

// Text is the text of a prompt.
func Text(prompt []int32) string {
	return string(prompt) // an id is a rune
}

// Generate says the script's pieces, one token each, at most r.MaxTokens.
func (b *Backend) Generate(ctx context.Context, r engine.Request, emit func(engine.Event) error) (*engine.Result, error) {
	r.Choices = 1
	results, err := b.GenerateChoices(ctx, r, emit)
	if len(results) == 0 {
		return nil, err
	}
	return results[0], err
}

// GenerateChoices says the script's pieces in every choice, token by token in turn, and EOT after them. With
// log-probabilities the i-th token of an answer or prompt has -(i+1)/8, and so do the alternatives '?', '!', ….
func (b *Backend) GenerateChoices(ctx context.Context, r engine.Request, emit func(engine.Event) error) ([]*engine.Result, error) {
	b.mu.Lock()
	b.requests = append(b.requests, r)
	b.running++
	b.most = max(b.most, b.running)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.running--
		b.ended++
		b.mu.Unlock()
	}()
	if b.Refuse != nil {
		return nil, b.Refuse
	}
	script := b.Script
	if script == nil {
		script = Canned
	}
	pieces, failure := script(Text(r.Prompt))
	results := make([]*engine.Result, max(1, r.Choices))
	for c := range results {
		results[c] = &engine.Result{Choice: c, Prompt: len(r.Prompt), Finish: engine.FinishCancelled, StopID: -1}
	}
	if r.Progress != nil {
		r.Progress(engine.Progress{Prompt: len(r.Prompt)})
		r.Progress(engine.Progress{Prompt: len(r.Prompt), Read: len(r.Prompt)})
	}
	if r.PromptLogProbs {
		for i, id := range r.Prompt {
			t := engine.PromptToken{ID: id, LogProb: logProb(i)}
			if i == 0 {
				t.LogProb = float32(math.NaN())
			}
			results[0].PromptLogProbs = append(results[0].PromptLogProbs, t)
		}
	}
	for i := 0; ; i++ {
		if i == r.MaxTokens && i > 0 {
			finish(results, engine.FinishLength)
			return results, nil
		}
		if i == len(pieces) && failure != nil {
			finish(results, engine.FinishError)
			return results, failure
		}
		if i < len(pieces) {
			if err := b.pause(ctx); err != nil {
				return results, err
			}
		}
		for _, result := range results {
			e := engine.Event{Choice: result.Choice, ID: EOT}
			if i < len(pieces) {
				e.Text, e.Bytes = pieces[i], []byte(pieces[i])
				e.ID = b.words.id(pieces[i])
			}
			if r.LogProbs {
				e.LogProb = logProb(i)
			}
			e = withTop(e, r.Top)
			result.IDs = append(result.IDs, e.ID)
			result.Text += e.Text
			result.Generated++
			if err := emit(e); err != nil {
				return results, err
			}
			if e.ID == EOT {
				result.Finish, result.StopID = engine.FinishStop, EOT
			}
		}
		if i == len(pieces) {
			return results, nil
		}
	}
}

func finish(results []*engine.Result, why engine.FinishReason) {
	for _, result := range results {
		result.Finish = why
	}
}

func logProb(i int) float32 { return -float32(i+1) / 8 }

// withTop gives an event its alternatives.
func withTop(e engine.Event, n int) engine.Event {
	e.Top = slices.Grow(e.Top, n)[:n]
	for k := range e.Top {
		e.Top[k].ID, e.Top[k].LogProb = int32('?'-30*k), e.LogProb-float32(k)
	}
	return e
}

// pause is what passes before each token.
func (b *Backend) pause(ctx context.Context) error {
	if b.Delay > 0 {
		select {
		case <-time.After(b.Delay):
		case <-ctx.Done():
		}
	}
	if b.Hold != nil {
		select {
		case <-b.Hold:
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// Stats counts what runs.
func (b *Backend) Stats() engine.Stats {
	running, _, _ := b.Counts()
	return engine.Stats{Running: running}
}

// Tokenizer has the backend's words.
func (b *Backend) Tokenizer() completion.Tokenizer { return &b.words }

// Template renders as Prompt does. Tools come first, one line of JSON each; calls are lines "call: name arguments".
func (b *Backend) Template() tokenizer.ChatTemplate { return template{} }

// Requests are those that came so far.
func (b *Backend) Requests() []engine.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]engine.Request(nil), b.requests...)
}

// Counts says how many answers run, how many ran at once at most, and how many ended.
func (b *Backend) Counts() (running, most, ended int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.running, b.most, b.ended
}

// Canned answers the last line of a prompt with something worth rendering. Words in the question choose: "fail" gives
// an error after a few words, "long" four hundred lines, "markdown" a sample of everything, "empty" nothing.
func Canned(prompt string) ([]string, error) {
	lines := strings.Split(strings.TrimSuffix(prompt, "\n"), "\nuser: ")
	question := strings.TrimPrefix(lines[len(lines)-1], "user: ")
	var text string
	switch lower := strings.ToLower(question); {
	case strings.Contains(lower, "fail"):
		return pieces("这个回答会失败。"), fmt.Errorf("the fake backend fails as asked")
	case strings.Contains(lower, "empty"):
		return nil, nil
	case strings.Contains(lower, "long"):
		for i := range 400 {
			text += fmt.Sprintf("%d. 第 %d 行:the quick brown guanaco 🦙 jumps.\n", i+1, i+1)
		}
	case strings.Contains(lower, "markdown"):
		text = markdown
	default:
		text = fmt.Sprintf("你问的是:“%s”。\n\n我是一个**假的**模型,只会慢慢地说这几句话。🦙 I only speak *slowly*.<|eot|>", question)
	}
	return pieces(text), nil
}

// pieces cuts a text as a tokenizer might: into runs of up to three characters.
func pieces(text string) []string {
	var list []string
	runes := []rune(text)
	for i := 0; i < len(runes); {
		n := min(1+i%3, len(runes)-i)
		list = append(list, string(runes[i:i+n]))
		i += n
	}
	return list
}

const markdown = "# 标题 Heading\n\nA paragraph with **bold**, *italic*, `code`, a [link](https://example.com) and " +
	"<script>alert('no')</script> <img src=x onerror=alert(1)>.\n\n" +
	"- one\n- two\n  - nested\n\n1. first\n2. second\n\n> a quotation\n\n" +
	"| a | b |\n|---|---|\n| 1 | 2 |\n\n" +
	"```go\npackage main\n\nfunc main() {\n\tprintln(\"你好, llama\") // <b>not bold</b>\n}\n```\n\n" +
	"[bad](javascript:alert(1)) and the end."
