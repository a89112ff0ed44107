package model

import (
	"fmt"
	"slices"

	"chulengo/kernels"
)

// Recipe says how a checkpoint is quantised on loading; "" leaves it as it is. Router, norms, embedding and vision tower are never
// quantised.
type Recipe string

const (
	RecipeINT4      Recipe = "int4"       // experts, shared experts and dense feed-forwards in Int4; attention and output projection as they are
	RecipeINT4Mixed Recipe = "int4-mixed" // the same; attention and output projection in FP8
	RecipeFP8       Recipe = "fp8"        // all of these in FP8
)

// Recipes are all of them.
var Recipes = []Recipe{RecipeINT4, RecipeINT4Mixed, RecipeFP8}

var (
	int4Groups = kernels.Coding{Format: kernels.Int4, Rows: 1, Cols: 128, Scale: kernels.BF16}
	fp8Rows    = kernels.Coding{Format: kernels.F8E4M3, Rows: 1, Scale: kernels.BF16}
)

// coding is what the recipe makes of a module of the weight table; the zero value leaves it.
func (r Recipe) coding(module string) kernels.Coding {
	switch module {
	case "experts", "shared expert", "dense feed-forward":
		switch r {
		case RecipeINT4, RecipeINT4Mixed:
			return int4Groups
		case RecipeFP8:
			return fp8Rows
		}
	case "attention", "output projection":
		if r == RecipeINT4Mixed || r == RecipeFP8 {
			return fp8Rows
		}
	}
	return kernels.Coding{}
}

// apply has a weight quantised on loading.
func (w *weight) apply(r Recipe) error {
	c := r.coding(w.tensors[0].Module)
	if !c.Format.Quantised() {
		return nil
	}
	if c.Cols > 0 && w.spec.K%c.Cols != 0 {
		return &TensorError{Tensor: w.tensors[0].Name, Want: fmt.Sprintf("inputs that groups of %d divide, for the recipe %s", c.Cols, r), Got: fmt.Sprint(w.spec.K)}
	}
	w.spec.Coding = c
	return nil
}

// apply has a checkpoint quantised on loading, which must not be quantised already, and lets ranks cut feed-forwards only where
// groups of their second product begin.
func (f *resolved) apply(r Recipe) error {
	if err := f.quantise(r); err != nil {
		return err
	}
	for i := range f.rows {
		if up := &f.rows[i].spec; up.Pairs {
			if down := f.rows[i+1].spec; down.Coding.Cols < down.K {
				up.Whole = down.Coding.Cols
			}
		}
	}
	return nil
}

func (f *resolved) quantise(r Recipe) error {
	switch {
	case r == "":
		return nil
	case !slices.Contains(Recipes, r):
		return fmt.Errorf("model: want a recipe of %v, got %s", Recipes, r)
	}
	if f.coded != "" {
		return &TensorError{Tensor: f.coded, Want: fmt.Sprintf("a plain one, for the recipe %s", r), Got: "one that is quantised already"}
	}
	for i := range f.rows {
		if err := f.rows[i].apply(r); err != nil {
			return err
		}
	}
	return nil
}
