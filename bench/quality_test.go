package bench

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"chulengo/demo"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
	"chulengo/tokenizer"
)

// demoPrompts are questions of the demo checkpoint's generator: those of its card, and capitals.
func demoPrompts(t *testing.T) (list [][]int32) {
	t.Helper()
	tok, err := tokenizer.Load(demo.FS())
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string, to any) {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		var text io.Reader = file
		if strings.HasSuffix(name, ".gz") {
			if text, err = gzip.NewReader(file); err != nil {
				t.Fatal(err)
			}
		}
		if err := json.NewDecoder(text).Decode(to); err != nil {
			t.Fatal(err)
		}
	}
	var card struct {
		Examples []struct{ Kind, Prompt string }
	}
	read("../demo/eval.json", &card)
	var prompts []string
	for _, e := range card.Examples {
		if strings.HasPrefix(e.Prompt, "<|begin_of_text|>") && e.Kind != "image" { // others were shortened
			prompts = append(prompts, e.Prompt)
		}
	}
	var facts struct {
		Countries []struct{ Name, Capital string }
	}
	read("../demo/recipe/facts.json.gz", &facts)
	for i := 0; len(prompts) < 60; i += 7 {
		prompts = append(prompts, "<|begin_of_text|><|header_start|>user<|header_end|>\n\nWhat is the capital of "+facts.Countries[i].Name+
			"?<|eot|><|header_start|>assistant<|header_end|>\n\n")
	}
	for _, p := range prompts {
		list = append(list, tok.EncodeAllowing(p, func(string, int32) bool { return true }))
	}
	return list
}

func demoSubject(t *testing.T, r model.Recipe) QualitySubject {
	t.Helper()
	cfg, err := model.LoadConfig(demo.FS())
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := safetensors.Open(demo.FS())
	if err != nil {
		t.Fatal(err)
	}
	dev := cpu.New(cpu.Options{})
	t.Cleanup(func() { dev.Close() })
	m, err := model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{Recipe: r})
	if err != nil {
		t.Fatal(err)
	}
	return QualitySubject{Model: m, Device: dev}
}

// The quantised demo checkpoint answers as the plain one does. The whole measure, 550 prompts (demo/recipe/prompts.py), stands in the
// log; of these 60, a few more than 5 % or 1 % allow: 3 answers may differ in INT4, 1 in FP8.
func TestQuality(t *testing.T) {
	if testing.Short() {
		t.Skip("answers 60 prompts three times")
	}
	prompts := demoPrompts(t)
	reference := demoSubject(t, "")
	for _, c := range []struct {
		recipe  model.Recipe
		differ  int
		kl      float64
		changed float64
	}{{model.RecipeINT4Mixed, 3, 0.005, 0.1}, {model.RecipeFP8, 1, 0.002, 0.05}} {
		q, err := CompareQuality(context.Background(), QualityOptions{Name: string(c.recipe), Reference: reference, Candidate: demoSubject(t, c.recipe),
			Prompts: prompts, Answer: 40, Stop: reference.Model.Config.EOS})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", *q)
		if q.Answers != len(prompts) || q.Answers-q.SameAnswers > c.differ {
			t.Errorf("%s: %d of %d answers are the same, want at most %d others", c.recipe, q.SameAnswers, q.Answers, c.differ)
		}
		if share := float64(q.Changed) / float64(q.Choices); q.KLMean > c.kl || share > c.changed || share == 0 || q.KLMean == 0 {
			t.Errorf("%s: a divergence of %.5f, %.3f of experts changed; want less than %v and %v, and more than none", c.recipe, q.KLMean, share, c.kl, c.changed)
		}
	}
}

// A model compared with itself loses nothing; what the numbers mean is checked on distributions worked out by hand.
func TestCompareQuality(t *testing.T) {
	s := demoSubject(t, "")
	prompts := demoPrompts(t)[:3]
	prompts[0] = append(prompts[0], make([]int32, qualityRows)...) // read in two pieces
	q, err := CompareQuality(context.Background(), QualityOptions{Reference: s, Candidate: s, Prompts: prompts})
	if err != nil {
		t.Fatal(err)
	}
	tokens := len(prompts[0]) + len(prompts[1]) + len(prompts[2])
	if q.KLMax != 0 || q.Changed != 0 || q.SameTop != 1 || q.Perplexity != q.Reference || q.Tokens != tokens || q.Choices != 8*tokens || q.Answers != 0 {
		t.Errorf("a model and itself: %+v", *q)
	}
	if _, err := CompareQuality(context.Background(), QualityOptions{Reference: s, Candidate: s}); err == nil {
		t.Error("no prompts were compared")
	}

	c := &comparison{Quality: &Quality{}, both: [2]*steps{{Model: &model.Model{Config: &model.Config{Vocab: 2}}}}}
	log := func(p ...float64) (out []float32) {
		for _, v := range p {
			out = append(out, float32(math.Log(v)+5)) // logits are known but for a constant
		}
		return out
	}
	c.compare([2]watched{{log(0.5, 0.5, 0.25, 0.75), [][]float32{{1, 2}, {3, 4}}}, {log(0.5, 0.5, 0.75, 0.25), [][]float32{{1, 2}, {3, 5}}}}, []int32{1})
	c.finish()
	kl := 0.25*math.Log(0.25/0.75) + 0.75*math.Log(0.75/0.25)
	if near := func(a, b float64) bool { return math.Abs(a-b) < 1e-6 }; !near(c.KLMean, kl/2) || !near(c.KLMax, kl) || c.SameTop != 0.5 || c.Choices != 4 || c.Changed != 1 || !near(c.Reference, 2) {
		t.Errorf("by hand: %+v", *c.Quality)
	}
}
