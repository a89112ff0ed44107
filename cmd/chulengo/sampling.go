package main

import (
	"math/rand/v2"

	"chulengo/engine"
	"chulengo/model"
)

// sampling is how tokens are drawn: as the checkpoint's makers do, but for the options that are set. Without --seed
// every call has another.
func (a *app) sampling(g *model.Generation) (engine.Sampling, error) {
	o := &a.opts
	s := engine.Defaults(g)
	for _, check := range []struct {
		name     string
		value    float64
		min, max float64
		open     bool // above min
		set      bool
	}{
		{"temperature", o.Temperature.value, 0, 100, false, o.Temperature.set},
		{"top-p", o.TopP.value, 0, 1, true, o.TopP.set},
		{"min-p", o.MinP.value, 0, 1, false, o.MinP.set},
		{"top-k", float64(o.TopK.value), 0, 1 << 30, false, o.TopK.set},
		{"repetition-penalty", o.Repetition.value, 0, 100, true, o.Repetition.set},
	} {
		v := check.value
		if check.set && !(v >= check.min && v <= check.max && (v > check.min || !check.open)) {
			if check.open {
				return s, usage("--%s: want a number above %g and at most %g, got %g", "--%s 的值 %[4]g 不合适：应大于 %[2]g 且不超过 %[3]g", check.name, check.min, check.max, v)
			}
			return s, usage("--%s: want a number from %g to %g, got %g", "--%s 的值 %[4]g 不合适：应在 %[2]g 与 %[3]g 之间", check.name, check.min, check.max, v)
		}
	}
	if o.MaxTokens < 0 {
		return s, usage("--max-tokens: want 0 or more, got %d", "--max-tokens 的值 %d 不合适：应不小于 0", o.MaxTokens)
	}
	s.Temperature = float32(o.Temperature.or(float64(s.Temperature)))
	s.TopP = float32(o.TopP.or(float64(s.TopP)))
	s.TopK = o.TopK.or(s.TopK)
	s.MinP = float32(o.MinP.value)
	s.RepetitionPenalty = float32(o.Repetition.value)
	if o.Greedy {
		s.Temperature = 0
	}
	s.Seed = o.Seed.or(rand.Uint64())
	return s, nil
}
