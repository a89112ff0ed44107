package main

import (
	"os"
	"testing"

	"chulengo/engine"
	"chulengo/model"
	"chulengo/safetensors"
)

// Everything that is named to people has a Chinese name too.
func TestTerms(t *testing.T) {
	for _, name := range []string{"micro-scout", "micro-maverick"} {
		dir := os.DirFS("../../model/testdata/" + name)
		cfg, err := model.LoadConfig(dir)
		if err != nil {
			t.Fatal(err)
		}
		ckpt, err := safetensors.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer ckpt.Close()
		var words []string
		for _, h := range model.Hooks(cfg) {
			words = append(words, h.Means)
		}
		for _, h := range model.VisionHooks(cfg) {
			words = append(words, h.Means)
		}
		inv, err := model.Inspect(ckpt, cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range inv.Tensors {
			words = append(words, row.Module)
		}
		for _, f := range []engine.FinishReason{engine.FinishStop, engine.FinishLength, engine.FinishCancelled, engine.FinishError} {
			words = append(words, string(f))
		}
		for _, w := range words {
			if terms[w] == "" {
				t.Errorf("%q has no Chinese term", w)
			}
		}
	}
}
