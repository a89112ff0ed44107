package engine

import (
	"slices"

	"chulengo/kernels"
)

// experts counts the tokens that every expert was given, through taps on the choice of expert.
type experts struct {
	layers []int      // those with experts
	counts [][]uint64 // [layer][expert]; nil: nobody wants to know
	rows   []int32    // every row of the step
	values [][]float32
}

// find looks for the layers with experts.
func (x *experts) find(s *Spec) {
	layers := 0
	for _, n := range s.KV.Layers {
		layers += n
	}
	x.counts = make([][]uint64, layers)
	for l := range layers {
		if s.Columns == nil || s.Experts == 0 {
			continue
		}
		if _, err := s.Columns(kernels.Point{Layer: l, Hook: kernels.HookExpertIndex}); err == nil {
			x.layers = append(x.layers, l)
			x.counts[l] = make([]uint64, s.Experts)
		}
	}
	x.values = make([][]float32, len(x.layers))
}

// tap appends the taps of a step.
func (x *experts) tap(b *kernels.Batch) {
	if len(x.layers) == 0 {
		return
	}
	n := len(b.Token)
	for len(x.rows) < n {
		x.rows = append(x.rows, int32(len(x.rows)))
	}
	for i, l := range x.layers {
		if cap(x.values[i]) < n {
			x.values[i] = make([]float32, n)
		}
		x.values[i] = x.values[i][:n]
		b.Taps = append(b.Taps, kernels.Tap{At: kernels.Point{Layer: l, Hook: kernels.HookExpertIndex}, Rows: x.rows[:n], Op: kernels.Capture, Buf: x.values[i]})
	}
}

// count adds what the taps saw; the engine's lock is held.
func (x *experts) count() {
	for i, l := range x.layers {
		for _, v := range x.values[i] {
			if e := int(v); e >= 0 && e < len(x.counts[l]) {
				x.counts[l][e]++
			}
		}
	}
}

// snapshot copies the counts; the engine's lock is held.
func (x *experts) snapshot() [][]uint64 {
	if x.counts == nil {
		return nil
	}
	c := make([][]uint64, len(x.counts))
	for l, n := range x.counts {
		c[l] = slices.Clone(n)
	}
	return c
}
