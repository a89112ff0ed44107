package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chulengo/safetensors"
)

func generateJSON(t *testing.T, args ...string) generated {
	t.Helper()
	o := command(t, "", nil, append([]string{"generate", "--json", "--greedy"}, args...)...)
	var g generated
	d := json.NewDecoder(bytes.NewReader([]byte(o.out)))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil || o.code != 0 || d.More() {
		t.Fatalf("%v: %+v", err, o)
	}
	return g
}

func TestGenerateJSON(t *testing.T) {
	g := generateJSON(t, "--max-tokens", "3", "The capital of France is")
	if len(g.IDs) != 3 || len(g.LogProbs) != 3 || g.PromptIDs[0] != 6125 || g.Text == "" {
		t.Errorf("got %+v", g)
	}
	for _, p := range g.LogProbs {
		if p > 0 || math.IsNaN(float64(p)) {
			t.Errorf("log-probability %g", p)
		}
	}
	again := generateJSON(t, "--max-tokens", "3", "--prompt-ids", joinIDs(g.PromptIDs))
	if !slices.Equal(again.IDs, g.IDs) || !slices.Equal(again.LogProbs, g.LogProbs) || again.Text != g.Text {
		t.Errorf("by ids %+v, by text %+v", again, g)
	}
}

func TestGenerateBOS(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []int32
	}{
		{[]string{"The"}, []int32{6125, 371}},
		{[]string{"<|begin_of_text|>The"}, []int32{6125, 371}},
		{[]string{"--no-bos", "The"}, []int32{371}},
		{[]string{"--no-bos", "<|begin_of_text|>The"}, []int32{6125, 371}},
		{[]string{"--special", "--no-bos", "The<|eot|>"}, []int32{371, 6133}},
		{[]string{"--prompt-ids", "371, 318"}, []int32{371, 318}},
	} {
		if got := generateJSON(t, append(c.args, "--max-tokens", "1")...).PromptIDs; !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.args, got, c.want)
		}
	}
	if got := generateJSON(t, "--max-tokens", "1", "--no-bos", "a<|eot|>").PromptIDs; slices.Contains(got, 6133) || len(got) < 3 {
		t.Errorf("text that spells a special token: got %v", got)
	}
}

func TestGenerateWithoutTokenizer(t *testing.T) {
	dir := copyDemo(t, func(dir string) {
		if err := os.Remove(filepath.Join(dir, "tokenizer.json")); err != nil {
			t.Fatal(err)
		}
	})
	want := generateJSON(t, "--max-tokens", "6", "--prompt-ids", "6125,371,375")
	got := generateJSON(t, "--max-tokens", "6", "--prompt-ids", "6125,371,375", "--model", dir)
	if !slices.Equal(got.IDs, want.IDs) || got.Text != "" {
		t.Errorf("got %+v, want ids %v", got, want.IDs)
	}
	command(t, "", nil, "generate", "--greedy", "--max-tokens", "6", "--prompt-ids", "6125,371,375", "--model", dir).wants(t, 0, joinIDs(want.IDs)+"\n", "")
}

func TestGenerateIgnoreEOS(t *testing.T) {
	const hello = "6125,6130,280,256,6131,270,1127,6133,6130,396,279,283,6131,270"
	stopped, on := generateJSON(t, "--prompt-ids", hello), generateJSON(t, "--prompt-ids", hello, "--ignore-eos", "--max-tokens", "40")
	if len(stopped.IDs) >= 40 || len(on.IDs) != 40 || !slices.Equal(on.IDs[:len(stopped.IDs)], stopped.IDs) {
		t.Errorf("stopped %v, on %v", stopped.IDs, on.IDs)
	}
}

// TestTrace captures everything at once and then parts: the parts are equal to the whole, bit for bit, and the answer
// does not change.
func TestTrace(t *testing.T) {
	args := []string{"--max-tokens", "8", "What is the capital of France?"}
	plain := generateJSON(t, args...)
	capture := func(globs ...string) *safetensors.File {
		path := filepath.Join(t.TempDir(), "trace.safetensors")
		all := append([]string{"--trace", path}, args...)
		for _, g := range globs {
			all = append(all, "--capture", g)
		}
		traced := generateJSON(t, all...)
		if !slices.Equal(traced.IDs, plain.IDs) || !slices.Equal(traced.LogProbs, plain.LogProbs) || traced.Text != plain.Text {
			t.Errorf("%q changes the answer: got %+v, want %+v", globs, traced, plain)
		}
		f, err := safetensors.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	whole := capture("*")
	tokens := len(plain.PromptIDs) + len(plain.IDs) - 1
	var run traceRun
	if err := json.Unmarshal([]byte(whole.Metadata()["chulengo"]), &run); err != nil || !slices.Equal(run.PromptIDs, plain.PromptIDs) ||
		!slices.Equal(run.IDs, plain.IDs) || run.Manifest != 1 || run.Model != "chulengo-demo" || run.Text != plain.Text {
		t.Errorf("metadata %q (%v)", whole.Metadata(), err)
	}
	for _, globs := range [][]string{{"blocks.{2..4}.hook_resid_post"}, {"blocks.*.mlp.hook_expert_indices", "logits"}, {"embed", "blocks.7.attn.*"}} {
		part := capture(globs...)
		if len(part.Names()) == 0 {
			t.Errorf("%q: nothing", globs)
		}
		for _, name := range part.Names() {
			p, err := part.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			w, err := whole.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p.Data, w.Data) || !slices.Equal(p.Shape, w.Shape) || p.Shape[0] != tokens {
				t.Errorf("%s: shapes %v and %v, want %d rows; equal %v", name, p.Shape, w.Shape, tokens, bytes.Equal(p.Data, w.Data))
			}
		}
	}
	ids, err := whole.Tensor("blocks.0.mlp.hook_expert_indices")
	if err != nil || ids.DType != safetensors.I32 || !slices.Equal(ids.Shape, []int{tokens}) {
		t.Errorf("expert ids: %+v (%v)", ids, err)
	}
	logits, err := whole.Tensor("logits")
	if err != nil {
		t.Fatal(err)
	}
	values, err := logits.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range plain.IDs {
		row := values[(len(plain.PromptIDs)-1+i)*6144:][:6144]
		if best := slices.Max(row); row[id] != best {
			t.Errorf("token %d: logit %g of the drawn id, %g is the largest", i, row[id], best)
		}
	}
	command(t, "", nil, "generate", "--trace", filepath.Join(t.TempDir(), "no", "x"), "--capture", "embed", "hi").wants(t, exitUsage, "", "there is no folder")
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "500MB": 500e6, "4GiB": 4 << 30, "1.5 kB": 1500, "2kib": 2048, "7B": 7} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1GB", "4GiBB", "1e30TB", "NaN"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}
