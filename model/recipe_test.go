package model_test

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
)

// formatOf is what a recipe makes of a module, by its name.
func formatOf(r model.Recipe, name string) kernels.Format {
	switch {
	case strings.Contains(name, "router") || strings.Contains(name, "embed"):
	case strings.Contains(name, "feed_forward") && r == model.RecipeFP8:
		return kernels.F8E4M3
	case strings.Contains(name, "feed_forward"):
		return kernels.Int4
	case r != model.RecipeINT4:
		return kernels.F8E4M3
	}
	return kernels.BF16
}

// A checkpoint that is quantised while it is loaded holds the quantised form of each matrix that the recipe names, and the others as
// they are; dummy weights likewise.
func TestRecipes(t *testing.T) {
	w := newWritten(t, nil)
	w.fill(func(string) pack { return nil })
	dir := w.dir(t)
	cfg, err := model.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := safetensors.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	dev := cpu.New(cpu.Options{})
	t.Cleanup(func() { dev.Close() })
	load := func(dummy bool, r model.Recipe) map[string]place {
		t.Helper()
		var m *model.Model
		if dummy {
			m, err = model.LoadDummy(context.Background(), cfg, dev, 7, model.LoadOptions{Recipe: r})
		} else {
			m, err = model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{Recipe: r})
		}
		if err != nil {
			t.Fatal(err)
		}
		return places(m)
	}
	for _, dummy := range []bool{false, true} {
		plain := load(dummy, "")
		for _, r := range model.Recipes {
			for name, p := range load(dummy, r) {
				got, want := p.matrix(t), plain[name].matrix(t)
				f := formatOf(r, name)
				if f.Quantised() {
					c := kernels.Coding{Format: f, Rows: 1, Scale: kernels.BF16}
					if f == kernels.Int4 {
						c.Cols = 128
					}
					if want, err = kernels.Quantise(want, c); err != nil {
						t.Fatal(err)
					}
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%s, dummy %v: %s is not what the recipe says: %v", r, dummy, name, got.Coding)
				}
			}
		}
	}
	if _, err := model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{Recipe: "int3"}); err == nil || !strings.Contains(err.Error(), "int3") {
		t.Errorf("an unknown recipe: got %v", err)
	}
}

// What cannot be quantised says why.
func TestRecipeErrors(t *testing.T) {
	quantised := newWritten(t, nil)
	quantised.fill(only(packFP8(1, 0, safetensors.BF16, ".weight_scale", false), experts))
	odd := newWritten(t, nil)
	odd.config["intermediate_size"] = 96
	dev := cpu.New(cpu.Options{})
	t.Cleanup(func() { dev.Close() })
	dir := quantised.dir(t)
	cfg, err := model.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := safetensors.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{Recipe: model.RecipeINT4})
	if err == nil || !strings.Contains(err.Error(), ".experts.") || !strings.Contains(err.Error(), "quantised already") {
		t.Errorf("a quantised checkpoint: got %v", err)
	}
	if cfg, err = model.LoadConfig(odd.dir(t)); err != nil {
		t.Fatal(err)
	}
	_, err = model.LoadDummy(context.Background(), cfg, dev, 1, model.LoadOptions{Recipe: model.RecipeINT4})
	if err == nil || !strings.Contains(err.Error(), "experts.down_proj") || !strings.Contains(err.Error(), "96") {
		t.Errorf("inputs that groups do not divide: got %v", err)
	}
}
