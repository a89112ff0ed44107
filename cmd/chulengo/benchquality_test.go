package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chulengo/bench"
	"chulengo/demo"
)

// bench quality compares a recipe, and a checkpoint that was written with one: the same numbers.
func TestBenchQuality(t *testing.T) {
	dir := t.TempDir()
	prompts := filepath.Join(dir, "prompts.jsonl")
	if err := os.WriteFile(prompts, []byte(`{"prompt": "<|begin_of_text|><|header_start|>user<|header_end|>\n\n3乘5等于多少？<|eot|><|header_start|>assistant<|header_end|>\n\n"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	written := filepath.Join(dir, "fp8")
	command(t, "", nil, "quantize", "--quant", "fp8", demo.Name, written).wants(t, exitOK, written+"\n", "")
	out := command(t, "", nil, "bench", "quality", "--prompts", prompts, "--quant", "fp8", "--against", written, "--format", "json")
	var r bench.QualityReport
	if err := json.Unmarshal([]byte(out.out), &r); err != nil || out.code != exitOK || len(r.Results) != 2 {
		t.Fatalf("%v: %+v", err, out)
	}
	first, second := *r.Results[0], *r.Results[1]
	second.Name = first.Name
	if first != second || first.Tokens == 0 || first.Answers != 1 || first.SameAnswers != 1 || first.KLMean == 0 {
		t.Errorf("got %+v and %+v", *r.Results[0], *r.Results[1])
	}
	// Of a checkpoint that has FP8 weights, --activations fp8 alone is compared; of another, with the recipe.
	for model, name := range map[string]string{written: "activations fp8", demo.Name: "fp8, activations fp8"} {
		out = command(t, "", nil, "bench", "quality", "--prompts", prompts, "--activations", "fp8", "--model", model, "--format", "json")
		var r bench.QualityReport
		if err := json.Unmarshal([]byte(out.out), &r); err != nil || out.code != exitOK || len(r.Results) != 1 || r.Results[0].Name != name || r.Results[0].KLMean == 0 || r.Results[0].KLMean == first.KLMean {
			t.Errorf("%s: %v: %+v", name, err, out)
		}
	}
	text := filepath.Join(dir, "text.txt")
	if err := os.WriteFile(text, []byte("The capital of France is Paris."), 0o600); err != nil {
		t.Fatal(err)
	}
	out = command(t, "", nil, "bench", "quality", "--lang", "zh", "--prompts", text, "--quant", "int4")
	if out.code != exitOK || !strings.Contains(out.out, "困惑度") || !strings.Contains(out.out, "int4") {
		t.Errorf("a text: %+v", out)
	}
	if err := os.WriteFile(prompts, []byte("{\"prompt\": 3}"), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "", nil, "bench", "quality", "--prompts", prompts).wants(t, exitUsage, "", "--prompts")
	command(t, "", nil, "bench", "quality", "--prompts", filepath.Join(dir, "none")).wants(t, exitUsage, "", "cannot be read")
	command(t, "", nil, "bench", "quality", "--format", "go").wants(t, exitUsage, "", "table or json")
	command(t, "", nil, "bench", "quality", "--prompts", text, "--quant", "int4", "--against", "../../model/testdata/micro-scout").wants(t, exitModel, "", "not the same model")
}
