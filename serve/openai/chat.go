package openai

import (
	"context"
	"errors"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
	"chulengo/serve/internal/sse"
)

// chatRequest is a chat with what only its translation needs.
type chatRequest struct {
	completion.Request
	model  string
	stream streaming
	ids    bool // return_token_ids
}

// chatFields reads what a chat's prompt is made of; /tokenize and /apply-template take the same.
func chatFields(v body.Value, r *completion.Request) {
	r.Messages = messages(v)
	tools(v, r)
	r.ContinueFinal = v.Get("continue_final_message").Bool(false)
	generation := v.Get("add_generation_prompt")
	if r.ContinueFinal && generation.Bool(false) {
		generation.Fail("与 continue_final_message 不能同时使用", "cannot be combined with continue_final_message")
	}
	r.NoGenerationPrompt = !generation.Bool(true)
}

func readChat(v body.Value) (*chatRequest, error) {
	r := &chatRequest{model: v.Get("model").Text(""), stream: stream(v), ids: v.Get("return_token_ids").Bool(false)}
	chatFields(v, &r.Request)
	sampling(v, &r.Request, 1)
	format(v, &r.Request)
	probs, top := v.Get("logprobs"), v.Get("top_logprobs")
	r.LogProbs = probs.Bool(false)
	r.Top = top.Int(0, 0, mostTop)
	if r.Top > 0 && !r.LogProbs {
		top.Fail("需要 logprobs 为 true", "needs logprobs to be true")
	}
	if n := v.Get("n_probs").Int(0, 0, mostTop); n > 0 && !r.LogProbs { // llama-server's
		r.LogProbs, r.Top = true, n
	}
	return r, v.Err()
}

// chat is POST /v1/chat/completions.
func (a *api) chat(c echo.Context) error {
	v, err := a.read(c)
	if err != nil {
		return a.fail(c, err)
	}
	r, err := readChat(v)
	if err != nil {
		return a.fail(c, err)
	}
	a.note(c, v.Unknown())
	core, ctx, done, err := a.host.Begin(c.Request().Context())
	if err != nil {
		return a.fail(c, err)
	}
	defer done()
	if err := core.Named(r.model); err != nil {
		return a.fail(c, err)
	}
	job, err := core.Prepare(ctx, &r.Request)
	if err != nil {
		return a.fail(c, err)
	}
	h := head{newID("chatcmpl-"), "chat.completion", time.Now().Unix(), core.Options().Name, a.fingerprint(core)}
	if r.stream.on {
		return a.streamChat(c, ctx, h, r, job)
	}
	answer, err := job.Run(ctx, nil)
	if err != nil {
		return a.fail(c, err)
	}
	return c.JSON(200, chatAnswer(h, r, job, answer))
}

// chatObject is a chat's whole answer.
type chatObject struct {
	head
	Choices   []chatChoice             `json:"choices"`
	Usage     *usage                   `json:"usage"`
	Timings   *timings                 `json:"timings"`
	Prompt    []map[string]promptToken `json:"prompt_logprobs,omitempty"`
	PromptIDs []int32                  `json:"prompt_token_ids,omitempty"`
}

type chatChoice struct {
	Index      int           `json:"index"`
	Message    chatMessage   `json:"message"`
	LogProbs   *chatLogProbs `json:"logprobs"`
	Finish     string        `json:"finish_reason"`
	StopReason any           `json:"stop_reason"`
	IDs        []int32       `json:"token_ids,omitempty"`
}

type chatMessage struct {
	Role    string           `json:"role"`
	Content *string          `json:"content"`
	Refusal *string          `json:"refusal"`
	Calls   []toolCallObject `json:"tool_calls,omitempty"`
}

func chatAnswer(h head, r *chatRequest, job *completion.Job, answer *completion.Answer) chatObject {
	out := chatObject{head: h, Usage: usageOf(answer.Usage), Timings: timingsOf(answer)}
	for i := range answer.Choices {
		from := &answer.Choices[i]
		choice := chatChoice{Index: i, Message: chatMessage{Role: "assistant"}, Finish: string(from.Finish), StopReason: stopReason(&from.End, &r.Request)}
		if from.Text != "" || len(from.Calls) == 0 {
			choice.Message.Content = &from.Text
		}
		for _, call := range from.Calls {
			choice.Message.Calls = append(choice.Message.Calls,
				toolCallObject{ID: call.ID, Type: "function", Function: functionCall{call.Name, call.Arguments}})
		}
		if r.LogProbs {
			choice.LogProbs = chatTokens(from.Tokens)
		}
		if r.ids {
			choice.IDs = from.IDs
		}
		out.Choices = append(out.Choices, choice)
	}
	if r.PromptLogProbs {
		out.Prompt = promptTokens(answer.Prompt)
	}
	if r.ids {
		out.PromptIDs = job.Prompt()
	}
	return out
}

// chatChunk is one frame of a chat's stream.
type chatChunk struct {
	head
	Choices   []chunkChoice   `json:"choices"`
	Usage     *usage          `json:"usage,omitempty"`
	Timings   *timings        `json:"timings,omitempty"`
	Progress  *promptProgress `json:"prompt_progress,omitempty"`
	PromptIDs []int32         `json:"prompt_token_ids,omitempty"`
}

type chunkChoice struct {
	Index      int           `json:"index"`
	Delta      delta         `json:"delta"`
	LogProbs   *chatLogProbs `json:"logprobs"`
	Finish     *string       `json:"finish_reason"`
	StopReason any           `json:"stop_reason,omitempty"`
	IDs        []int32       `json:"token_ids,omitempty"`
}

type delta struct {
	Role    string           `json:"role,omitempty"`
	Content *string          `json:"content,omitempty"`
	Calls   []toolCallObject `json:"tool_calls,omitempty"`
}

// promptProgress is llama-server's, with the place in the queue.
type promptProgress struct {
	Total     int     `json:"total"`
	Cache     int     `json:"cache"`
	Processed int     `json:"processed"`
	TimeMS    float64 `json:"time_ms"`
	Queue     int     `json:"queue"`
}

func progressOf(p *completion.Progress) *promptProgress {
	return &promptProgress{p.Prompt, p.Cached, p.Read, milliseconds(p.Elapsed), p.Queue}
}

// chatStream writes a chat's chunks.
type chatStream struct {
	*sse.Writer
	head    head
	request *chatRequest
	prompt  []int32
	begun   []bool // the choice's role was sent
	tokens  []int  // generated by each choice
	ended   int    // choices
}

func (a *api) streamChat(c echo.Context, ctx context.Context, h head, r *chatRequest, job *completion.Job) error {
	h.Object = "chat.completion.chunk"
	s := &chatStream{Writer: sse.New(c, a.host.KeepAlive), head: h, request: r, prompt: job.Prompt(),
		begun: make([]bool, r.Choices), tokens: make([]int, r.Choices)}
	defer s.Close()
	var last completion.Event // the end of the last choice waits for the timings
	answer, err := job.Run(ctx, func(e completion.Event) error {
		if e.End != nil {
			if s.ended++; s.ended == r.Choices {
				last = e
				return nil
			}
		}
		return s.event(e, nil)
	})
	if err != nil {
		return a.breakOff(c, s.Writer, err)
	}
	if s.event(last, timingsOf(answer)) == nil && r.stream.usage {
		_ = s.Send("", chatChunk{head: h, Choices: []chunkChoice{}, Usage: usageOf(answer.Usage), Timings: timingsOf(answer)})
	}
	_ = s.Raw("[DONE]") // a client that is gone misses nothing
	return nil
}

// breakOff ends a stream with an error: as a frame where the stream has begun, else as a response.
func (a *api) breakOff(c echo.Context, w *sse.Writer, err error) error {
	if !w.Quiet() {
		return a.fail(c, err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(c.Request().Context().Err(), context.Canceled) {
		return nil // nobody is there
	}
	e := completion.Public(err)
	if e.Kind == completion.KindInternal {
		a.host.Log(c.Request()).Error("an answer failed", "route", c.Path(), "error", e.Cause)
	}
	if w.Send("", describe(e, completion.Chinese(c.Request()))) == nil {
		_ = w.Raw("[DONE]")
	}
	return nil
}

// event sends what one event has to say, if anything.
func (s *chatStream) event(e completion.Event, t *timings) error {
	if e.Progress != nil {
		return s.Send("", chatChunk{head: s.head, Choices: []chunkChoice{}, Progress: progressOf(e.Progress)})
	}
	s.tokens[e.Choice] = e.Generated
	choice := chunkChoice{Index: e.Choice}
	for _, call := range e.Calls {
		piece := toolCallObject{Index: &call.Index, ID: call.ID, Function: functionCall{call.Name, call.Arguments}}
		if call.ID != "" {
			piece.Type = "function"
		}
		choice.Delta.Calls = append(choice.Delta.Calls, piece)
	}
	if s.request.LogProbs && len(e.Tokens) > 0 {
		choice.LogProbs = chatTokens(e.Tokens)
	}
	if s.request.ids {
		choice.IDs = e.IDs
	}
	speaks := e.Text != "" || choice.Delta.Calls != nil || choice.LogProbs != nil || choice.IDs != nil ||
		s.request.stream.continuous && e.End == nil || e.End != nil && !s.begun[e.Choice]
	if speaks {
		if e.Text != "" || choice.Delta.Calls == nil {
			choice.Delta.Content = &e.Text
		}
		if err := s.chunk(choice, nil); err != nil {
			return err
		}
	}
	if e.End == nil {
		return nil
	}
	finish := string(e.End.Finish)
	return s.chunk(chunkChoice{Index: e.Choice, Finish: &finish, StopReason: stopReason(e.End, &s.request.Request)}, t)
}

// chunk sends a chunk of one choice.
func (s *chatStream) chunk(choice chunkChoice, t *timings) error {
	chunk := chatChunk{head: s.head, Timings: t}
	if !s.begun[choice.Index] {
		s.begun[choice.Index] = true
		choice.Delta.Role = "assistant"
		if s.request.ids {
			chunk.PromptIDs = s.prompt
		}
	}
	chunk.Choices = []chunkChoice{choice}
	if s.request.stream.continuous {
		chunk.Usage = running(len(s.prompt), s.tokens)
	}
	return s.Send("", chunk)
}

// running is the usage so far. What came from the cache is told at the end.
func running(prompt int, tokens []int) *usage {
	u := usage{Prompt: prompt}
	for _, n := range tokens {
		u.Completion += n
	}
	u.Total = u.Prompt + u.Completion
	return &u
}
