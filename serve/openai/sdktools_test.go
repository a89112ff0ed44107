package openai_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"unicode/utf8"

	openaigo "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
	"golang.org/x/sync/errgroup"

	"chulengo/serve"
)

// TestSDKTools: OpenAI's client for Go calls tools and gets answers of a schema from the demo checkpoint.
func TestSDKTools(t *testing.T) {
	backend, _, _ := demoModel(t)
	s := launch(t, serve.Options{})
	s.server.SetReady(backend)
	client, _ := sdk(s)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	question := []openaigo.ChatCompletionMessageParamUnion{openaigo.UserMessage("What is the weather in Paris?")}
	schema := map[string]any{"type": "object", "required": []string{"city", "days"}, "additionalProperties": false, "properties": object{
		"city": object{"enum": []string{"Paris", "Rome"}}, "days": object{"type": "integer", "minimum": 1, "maximum": 7}}}
	params := openaigo.ChatCompletionNewParams{
		Model: "chulengo-demo", Messages: question, MaxTokens: openaigo.Int(100), Temperature: openaigo.Float(0), ParallelToolCalls: openaigo.Bool(false),
		Tools:      []openaigo.ChatCompletionToolUnionParam{openaigo.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "weather", Parameters: schema})},
		ToolChoice: openaigo.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openaigo.String("required")},
	}
	fits := func(text string) {
		t.Helper()
		var v struct {
			City string
			Days int
		}
		if err := json.Unmarshal([]byte(text), &v); err != nil || !slices.Contains([]string{"Paris", "Rome"}, v.City) || v.Days < 1 || v.Days > 7 {
			t.Errorf("got %q: %v", text, err)
		}
	}
	whole, err := client.Chat.Completions.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	choice := whole.Choices[0]
	if choice.FinishReason != "tool_calls" || len(choice.Message.ToolCalls) != 1 || choice.Message.ToolCalls[0].Function.Name != "weather" {
		t.Fatalf("got %s", whole.RawJSON())
	}
	fits(choice.Message.ToolCalls[0].Function.Arguments)

	stream := client.Chat.Completions.NewStreaming(ctx, params)
	var all openaigo.ChatCompletionAccumulator
	finished := 0
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Errorf("a chunk does not fit: %s", stream.Current().RawJSON())
		}
		if call, ok := all.JustFinishedToolCall(); ok {
			finished++
			if call.Name != "weather" || call.Arguments != choice.Message.ToolCalls[0].Function.Arguments {
				t.Errorf("streamed %+v, whole %s", call, choice.RawJSON())
			}
		}
	}
	if err := stream.Err(); err != nil || finished != 1 || all.Choices[0].FinishReason != "tool_calls" {
		t.Errorf("%d calls, %v: %+v", finished, err, all.Choices)
	}

	params.ToolChoice = openaigo.ChatCompletionToolChoiceOptionUnionParam{}
	params.MaxTokens = openaigo.Int(20)
	params.Messages = append(question, choice.Message.ToParam(), openaigo.ToolMessage("sunny", choice.Message.ToolCalls[0].ID))
	if _, err := client.Chat.Completions.New(ctx, params); err != nil {
		t.Errorf("the result of a tool: %v", err)
	}

	for seed := range int64(6) {
		answer, err := client.Chat.Completions.New(ctx, openaigo.ChatCompletionNewParams{
			Model: "chulengo-demo", Messages: question, MaxTokens: openaigo.Int(100), Temperature: openaigo.Float(1.5), Seed: openaigo.Int(seed),
			ResponseFormat: openaigo.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &shared.ResponseFormatJSONSchemaParam{
				JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "weather", Strict: openaigo.Bool(true), Schema: schema}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if answer.Choices[0].FinishReason != "stop" {
			t.Errorf("got %s", answer.RawJSON())
		}
		fits(answer.Choices[0].Message.Content)
	}
}

// TestNodeTools is the same for OpenAI's client for Node, with regular expressions, grammars and errors besides.
func TestNodeTools(t *testing.T) { script(t, "tools.mjs") }

// TestNodeResponses: the Responses API, as OpenAI's client for Node knows it.
func TestNodeResponses(t *testing.T) { script(t, "responses.mjs") }

// script runs a script with OpenAI's client for Node, where it is installed, against the demo checkpoint.
func script(t *testing.T, name string) {
	t.Helper()
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
	run := exec.CommandContext(ctx, node, name, s.url)
	run.Dir = "testdata/sdk"
	if out, err := run.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSDKResponses: the Responses API, as OpenAI's client for Go knows it.
func TestSDKResponses(t *testing.T) {
	backend, _, _ := demoModel(t)
	s := launch(t, serve.Options{})
	s.server.SetReady(backend)
	client, _ := sdk(s)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	params := responses.ResponseNewParams{
		Model: "chulengo-demo", Instructions: openaigo.String("Be brief."), MaxOutputTokens: openaigo.Int(60), Temperature: openaigo.Float(0), Store: openaigo.Bool(false),
		Input: responses.ResponseNewParamsInputUnion{OfString: openaigo.String("What is the capital of France?")},
	}
	whole, err := client.Responses.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Status != "completed" || whole.OutputText() == "" || whole.Usage.TotalTokens != whole.Usage.InputTokens+whole.Usage.OutputTokens {
		t.Errorf("got %s", whole.RawJSON())
	}
	stream := client.Responses.NewStreaming(ctx, params)
	said, completed := "", ""
	for stream.Next() {
		switch event := stream.Current().AsAny().(type) {
		case responses.ResponseTextDeltaEvent:
			said += event.Delta
		case responses.ResponseCompletedEvent:
			completed = event.Response.OutputText()
		}
	}
	if err := stream.Err(); err != nil || said != whole.OutputText() || completed != said {
		t.Errorf("streamed %q, completed %q, whole %q: %v", said, completed, whole.OutputText(), err)
	}

	params.Tools = []responses.ToolUnionParam{responses.ToolParamOfFunction("weather", map[string]any{"type": "object", "required": []string{"city"},
		"additionalProperties": false, "properties": object{"city": object{"enum": []string{"Paris", "Rome"}}}}, true)}
	params.ToolChoice = responses.ResponseNewParamsToolChoiceUnion{OfToolChoiceMode: openaigo.Opt(responses.ToolChoiceOptionsRequired)}
	params.ParallelToolCalls = openaigo.Bool(false)
	called, err := client.Responses.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ City string }
	if call := called.Output[0].AsFunctionCall(); call.Name != "weather" || json.Unmarshal([]byte(call.Arguments), &v) != nil || v.City != "Paris" && v.City != "Rome" {
		t.Errorf("got %s", called.RawJSON())
	}

	params.Store = openaigo.Bool(true)
	_, err = client.Responses.New(ctx, params)
	var refused *openaigo.Error
	if !errors.As(err, &refused) || refused.StatusCode != 400 || refused.Param != "store" {
		t.Errorf("got %v", err)
	}
}

// TestManyFormats: answers of different schemas are drawn in the same steps; each follows its own, and is what it is alone.
func TestManyFormats(t *testing.T) {
	backend, _, _ := demoModel(t)
	s := launch(t, serve.Options{})
	s.server.SetReady(backend)
	ask := func(i int) (string, error) {
		schema := object{"type": "object", "required": []string{"kind", "text"}, "additionalProperties": false, "properties": object{
			"kind": object{"const": i % 4}, "text": object{"type": "string", "maxLength": 5}}}
		_, got := s.post("/v1/chat/completions", object{"messages": []object{{"role": "user", "content": "Tell me a story."}}, "temperature": 1.2, "seed": i, "max_tokens": 100,
			"response_format": object{"type": "json_schema", "json_schema": object{"name": "x", "schema": schema}}})
		text, _ := at(got, "choices", 0, "message", "content").(string)
		var v struct {
			Kind int
			Text string
		}
		if err := json.Unmarshal([]byte(text), &v); err != nil || v.Kind != i%4 || utf8.RuneCountInString(v.Text) > 5 {
			return text, fmt.Errorf("request %d: %v: %v", i, err, got)
		}
		return text, nil
	}
	const n = 24
	together := make([]string, n)
	var group errgroup.Group
	for i := range n {
		group.Go(func() (err error) {
			together[i], err = ask(i)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if alone, err := ask(i); err != nil || alone != together[i] {
			t.Errorf("request %d: alone %q, together %q: %v", i, alone, together[i], err)
		}
	}
}
