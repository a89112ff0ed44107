package grammar_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/internal/grammar"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
	"chulengo/tokenizer"
)

// constraint is the adapter of the package comment.
type constraint struct{ *grammar.Matcher }

func (c constraint) Clone() engine.Constraint { return constraint{c.Matcher.Clone()} }

// TestDemoAnswers lets the demo checkpoint answer under schemas, several requests and several choices at a time, hot and
// greedy: every answer that comes to its end follows its schema, and every one that is cut begins one that does.
func TestDemoAnswers(t *testing.T) {
	dir := demo.FS()
	cfg, err := model.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	gen, err := model.LoadGeneration(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := safetensors.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer checkpoint.Close()
	tok, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	device := cpu.New(cpu.Options{})
	defer device.Close()
	m, err := model.Load(context.Background(), checkpoint, cfg, device, model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	runs := engine.ForModel(m, gen)
	e, err := engine.New(runs, engine.ForTokenizer(tok), device, engine.Options{Context: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	v := grammar.NewVocabulary(tok.VocabSize(), tok.Bytes, runs.Spec().StopIDs)

	ended := 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, schema := range []string{
		`{"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer","minimum":0,"maximum":150}},"required":["name","age"],"additionalProperties":false}`,
		`{"type":"object","properties":{"color":{"enum":["red","green","blue"]},"when":{"type":"string","format":"date"}},"required":["color","when"]}`,
		`{"type":"array","items":{"type":"number","minimum":-1,"maximum":1},"minItems":1,"maxItems":3}`,
		`{"anyOf":[{"type":"string","pattern":"^[A-Z][a-z]{2,8}$"},{"type":"boolean"}]}`,
	} {
		compiler := jsonschema.NewCompiler()
		compiler.AssertFormat()
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("schema.json", doc); err != nil {
			t.Fatal(err)
		}
		judge, err := compiler.Compile("schema.json")
		if err != nil {
			t.Fatal(err)
		}
		g, err := grammar.JSONSchema(json.RawMessage(schema))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			results, err := e.GenerateChoices(context.Background(), engine.Request{
				Prompt: tok.Encode("The answer is "), MaxTokens: 60, Choices: 3, Constraint: constraint{g.Matcher(v)},
				Sampling: engine.Sampling{Temperature: float32(i%2) * 1.2, Seed: uint64(i)},
			}, func(engine.Event) error { return nil })
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range results {
				if r.Finish == engine.FinishLength {
					if !g.Begins(r.Text) {
						t.Errorf("%s: cut answer %q begins none", schema, r.Text)
					}
					continue
				}
				value, err := jsonschema.UnmarshalJSON(strings.NewReader(r.Text))
				if err == nil {
					err = judge.Validate(value)
				}
				if err != nil || r.Finish != engine.FinishStop || !g.Matches(r.Text) {
					t.Errorf("%s: answer %q (%s): %v", schema, r.Text, r.Finish, err)
				}
				mu.Lock()
				ended++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if ended < 6 {
		t.Errorf("only %d of 12 answers came to an end", ended)
	}
}
