package openai_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	openaigo "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"chulengo/engine"
	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// attempts counts the requests that a client makes.
type attempts struct{ n atomic.Int32 }

func (a *attempts) RoundTrip(r *http.Request) (*http.Response, error) {
	a.n.Add(1)
	return http.DefaultTransport.RoundTrip(r)
}

// sdk is OpenAI's own client, unchanged.
func sdk(s *site) (openaigo.Client, *attempts) {
	a := &attempts{}
	return openaigo.NewClient(option.WithBaseURL(s.url+"/v1"), option.WithAPIKey("none"), option.WithHTTPClient(&http.Client{Transport: a})), a
}

// TestSDK: what OpenAI's client for Go makes of the demo checkpoint's answers.
func TestSDK(t *testing.T) {
	backend, _, _ := demoModel(t)
	s := launch(t, serve.Options{})
	s.server.SetReady(backend)
	client, _ := sdk(s)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	params := openaigo.ChatCompletionNewParams{
		Model:       "chulengo-demo",
		Messages:    []openaigo.ChatCompletionMessageParamUnion{openaigo.SystemMessage("Be brief."), openaigo.UserMessage("What is the capital of France?")},
		MaxTokens:   openaigo.Int(30),
		Temperature: openaigo.Float(0),
		Logprobs:    openaigo.Bool(true),
		TopLogprobs: openaigo.Int(3),
	}
	whole, err := client.Chat.Completions.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	choice := whole.Choices[0]
	var tokens strings.Builder
	for _, token := range choice.Logprobs.Content {
		tokens.WriteString(token.Token)
		if len(token.TopLogprobs) != 3 {
			t.Errorf("token %q: %d alternatives", token.Token, len(token.TopLogprobs))
		}
	}
	if choice.Message.Content == "" || tokens.String() != choice.Message.Content || choice.FinishReason != "stop" || whole.Usage.TotalTokens != whole.Usage.PromptTokens+whole.Usage.CompletionTokens {
		t.Errorf("got %s", whole.RawJSON())
	}

	params.StreamOptions = openaigo.ChatCompletionStreamOptionsParam{IncludeUsage: openaigo.Bool(true)}
	stream := client.Chat.Completions.NewStreaming(ctx, params)
	var all openaigo.ChatCompletionAccumulator
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Errorf("a chunk does not fit: %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if all.Choices[0].Message.Content != choice.Message.Content || all.Usage.TotalTokens != whole.Usage.TotalTokens {
		t.Errorf("streamed %+v, whole %s", all.ChatCompletion, whole.RawJSON())
	}

	text, err := client.Completions.New(ctx, openaigo.CompletionNewParams{
		Model: "chulengo-demo", Prompt: openaigo.CompletionNewParamsPromptUnion{OfString: openaigo.String("Once upon")}, MaxTokens: openaigo.Int(5)})
	if err != nil || text.Choices[0].Text == "" {
		t.Errorf("completion: %v %v", text, err)
	}
	model, err := client.Models.Get(ctx, "chulengo-demo")
	if err != nil || model.ID != "chulengo-demo" {
		t.Errorf("model: %v %v", model, err)
	}
	list, err := client.Models.List(ctx)
	if err != nil || len(list.Data) != 1 {
		t.Errorf("models: %v %v", list, err)
	}

	params.Temperature = openaigo.Float(-1)
	_, err = client.Chat.Completions.New(ctx, params)
	var refused *openaigo.Error
	if !errors.As(err, &refused) || refused.StatusCode != 400 || refused.Param != "temperature" || refused.Type != "invalid_request_error" {
		t.Errorf("got %v", err)
	}
}

// TestRetries: clients try again what may succeed later, and nothing else.
func TestRetries(t *testing.T) {
	busy := with(t, &fake.Backend{Refuse: engine.ErrBusy})
	ask := func(s *site, params openaigo.ChatCompletionNewParams, options ...option.RequestOption) (*openaigo.Error, int32) {
		t.Helper()
		client, count := sdk(s)
		params.Messages = []openaigo.ChatCompletionMessageParamUnion{openaigo.UserMessage("Hi")}
		_, err := client.Chat.Completions.New(context.Background(), params, options...)
		var refused *openaigo.Error
		if !errors.As(err, &refused) {
			t.Fatalf("got %v", err)
		}
		return refused, count.n.Load()
	}
	if err, n := ask(busy, openaigo.ChatCompletionNewParams{}, option.WithMaxRetries(1)); err.StatusCode != 503 || n != 2 {
		t.Errorf("busy: %d after %d attempts", err.StatusCode, n)
	}
	if err, n := ask(busy, openaigo.ChatCompletionNewParams{N: openaigo.Int(0)}); err.StatusCode != 400 || n != 1 {
		t.Errorf("wrong: %d after %d attempts", err.StatusCode, n)
	}
}

// TestStreamError: a failure in the midst of a stream reaches the client as an error, after what was said.
func TestStreamError(t *testing.T) {
	s := with(t, &fake.Backend{Script: func(string) ([]string, error) { return []string{"Hel"}, errors.New("it broke") }})
	client, _ := sdk(s)
	stream := client.Chat.Completions.NewStreaming(context.Background(), openaigo.ChatCompletionNewParams{
		Messages: []openaigo.ChatCompletionMessageParamUnion{openaigo.UserMessage("Hi")}})
	said := ""
	for stream.Next() {
		said += stream.Current().Choices[0].Delta.Content
	}
	if err := stream.Err(); said != "Hel" || err == nil || !strings.Contains(err.Error(), "internal server error") {
		t.Errorf("said %q, then %v", said, err)
	}
}

// TestNode: OpenAI's client for Node, where it is installed (npm install --no-package-lock in testdata/sdk).
func TestNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node")
	}
	if _, err := os.Stat("testdata/sdk/node_modules/openai"); err != nil {
		t.Skip("OpenAI's client for Node is not installed")
	}
	backend, _, _ := demoModel(t)
	s := launch(t, serve.Options{})
	s.server.SetReady(backend)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	run := exec.CommandContext(ctx, node, "openai.mjs", s.url)
	run.Dir = "testdata/sdk"
	if out, err := run.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
