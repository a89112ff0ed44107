package bench

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
)

// The demo checkpoint's greedy answer to "What is the capital of France?", in its own chat format.
var (
	capitalOfFrance = []int32{6125, 6130, 280, 256, 6131, 270, 324, 292, 301, 375, 318, 3995, 30, 6133, 6130, 396, 279, 283, 6131, 270}
	isParis         = []int32{371, 375, 318, 3995, 292, 5413, 289, 13, 6133}
)

// model measures prefill and decode of the checkpoint.
func (r *Report) model(ctx context.Context, o *Options) error {
	dir := o.Checkpoint
	r.Checkpoint = o.Name
	if dir == nil {
		dir, r.Checkpoint = demo.FS(), demo.Name
	}
	if o.Load.Recipe != "" {
		r.Checkpoint += ", " + string(o.Load.Recipe)
	}
	o.Progress("load " + r.Checkpoint)
	cfg, err := model.LoadConfig(dir)
	if err != nil {
		return err
	}
	gen, err := model.LoadGeneration(dir, cfg)
	if err != nil {
		return err
	}
	ckpt, err := safetensors.Open(dir)
	if err != nil {
		return err
	}
	defer ckpt.Close()
	dev := cpu.New(cpu.Options{Threads: o.Threads})
	defer dev.Close()
	m, err := model.Load(ctx, ckpt, cfg, dev, o.Load)
	if err != nil {
		return err
	}
	e, err := engine.New(engine.ForModel(m, gen), nil, dev, engine.Options{MaxSequences: 2})
	if err != nil {
		return err
	}
	defer e.Close()

	o.Progress("verify the answers")
	if err := verify(ctx, e, cfg.Vocab, isDemo(dir)); err != nil {
		return err
	}
	for _, n := range o.Prefill {
		o.Progress(fmt.Sprintf("prefill of %d tokens", n))
		samples, err := repeat(ctx, o.Repeat, func() (time.Duration, error) {
			res, err := generate(ctx, e, prompt(n, cfg.Vocab), 1)
			return res.Timings.Prefill, err
		})
		if err != nil {
			return err
		}
		r.Results = append(r.Results, newResult(Result{Name: fmt.Sprintf("Prefill/tokens=%d", n), Tokens: n}, samples))
	}
	for _, d := range o.Depths {
		o.Progress(fmt.Sprintf("decode after %d tokens", d))
		samples, err := repeat(ctx, o.Repeat, func() (time.Duration, error) {
			res, err := generate(ctx, e, prompt(d, cfg.Vocab), o.Decode)
			return res.Timings.Decode / time.Duration(o.Decode-1), err
		})
		if err != nil {
			return err
		}
		r.Results = append(r.Results, newResult(Result{Name: fmt.Sprintf("Decode/depth=%d", d), Tokens: 1}, samples))
	}
	return nil
}

// isDemo says whether a folder holds the demo checkpoint, wherever it came from, packed or not.
func isDemo(dir fs.FS) bool {
	var embeddings [2][]byte // weights: others may share the index and the tokenizer
	for i, from := range []fs.FS{dir, demo.FS()} {
		got, err := fs.ReadFile(from, safetensors.IndexName)
		want, errDemo := fs.ReadFile(demo.FS(), safetensors.IndexName)
		if err != nil || errDemo != nil || !bytes.Equal(got, want) {
			return false
		}
		c, err := safetensors.Open(from)
		if err != nil {
			return false
		}
		defer c.Close()
		t, err := c.Tensor("language_model.model.embed_tokens.weight")
		if err != nil {
			return false
		}
		embeddings[i] = t.Data
	}
	return bytes.Equal(embeddings[0], embeddings[1])
}

// generate runs one greedy request to its full length. The result is never nil.
func generate(ctx context.Context, e *engine.Engine, prompt []int32, n int) (*engine.Result, error) {
	res, err := e.Generate(ctx, engine.Request{Prompt: prompt, MaxTokens: n, IgnoreEOS: true}, nil)
	if res == nil {
		res = &engine.Result{}
	}
	if err == nil && res.Generated != n {
		err = fmt.Errorf("bench: want %d tokens, got %d", n, res.Generated)
	}
	return res, err
}

// prompt makes n ids that look like nothing in particular, the same in every run. They are spread over the vocabulary,
// so that routing meets every expert.
func prompt(n, vocab int) []int32 {
	ids := make([]int32, n)
	state := uint32(1)
	for i := range ids {
		state = state*1664525 + 1013904223
		ids[i] = int32(uint64(state) * uint64(vocab) >> 32)
	}
	return ids
}

// verify refuses to time a wrong program: the demo checkpoint must give its known answer, and every checkpoint must give
// a prompt the same continuation whether the answer's first half was generated or read.
func verify(ctx context.Context, e *engine.Engine, vocab int, isDemo bool) error {
	if isDemo {
		res, err := e.Generate(ctx, engine.Request{Prompt: capitalOfFrance, MaxTokens: 2 * len(isParis)}, nil)
		if err != nil {
			return err
		}
		if !slices.Equal(res.IDs, isParis) {
			return fmt.Errorf("bench: the demo checkpoint's answer is wrong, nothing is timed: want %v, got %v", isParis, res.IDs)
		}
	}
	p := prompt(50, vocab)
	whole, err := generate(ctx, e, p, 16)
	if err != nil {
		return err
	}
	rest, err := generate(ctx, e, slices.Concat(p, whole.IDs[:8]), 8)
	if err != nil {
		return err
	}
	if !slices.Equal(whole.IDs[8:], rest.IDs) {
		return fmt.Errorf("bench: tokens that were read continue otherwise than tokens that were generated, nothing is timed: %v, %v", whole.IDs[8:], rest.IDs)
	}
	return nil
}
