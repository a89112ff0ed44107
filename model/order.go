package model

import (
	"slices"

	"chulengo/kernels"
)

// Act-order: a quantiser that takes inputs by the size of their activations has scales for groups of scattered inputs, and says of every
// input whose it is. Sorted by their groups, the codes are like all others. The row that they are multiplied with must have that order, too:
//
//   - a normalised row is written so by its norm, where all quantised matrices that read it have one order (q, k and v always do: their
//     inputs are the same, and so is what a quantiser sees of them). What is not quantised in groups of inputs takes any order;
//   - the input of a down projection has the order of the outputs of gate and up, which may lie in any. Every expert has its own.
//
// Elsewhere (heads, before the output projection; experts with orders of their own, behind one norm) such a module becomes numbers.

// sortedInputs is the order in which inputs of one group are neighbours, stable; nil if the groups differ in size, which no scale
// for runs of inputs describes.
func sortedInputs(group []int32, groups int) []int32 {
	size := len(group) / groups
	next := make([]int, groups)
	order := make([]int32, len(group))
	for i, g := range group {
		if next[g] == size {
			return nil
		}
		order[int(g)*size+next[g]] = int32(i)
		next[g]++
	}
	return order
}

// arrange sorts the weights whose groups are scattered, and has those become numbers that cannot be.
func (r *reader) arrange(rows []weight) {
	readers := map[*[]int32][]*weight{}
	for i := range rows {
		if at := rows[i].columns; at != nil {
			readers[at] = append(readers[at], &rows[i])
		}
	}
	for at, list := range readers {
		*at = common(list)
	}
	for i := range rows {
		w := &rows[i]
		if !w.scattered() {
			continue
		}
		sorted := w.columns != nil && *w.columns != nil
		if up := max(i-1, 0); !sorted && rows[up].spec.Pairs {
			sorted = w.sortedBehind(&rows[up])
		}
		if !sorted {
			r.widen(w)
			continue
		}
		for s := range w.each() { // there are many, and long ones
			if s.group = nil; w.columns != nil {
				s.order = *w.columns
			}
		}
	}
}

// common is the order of inputs that all weights of a list can have; nil: the model's own.
func common(list []*weight) (order []int32) {
	for _, w := range list {
		if c := w.spec.Coding; !c.Format.Quantised() || c.Cols == 0 {
			continue // a scale is for all inputs
		}
		for s := range w.each() {
			switch {
			case s.order == nil || order != nil && !slices.Equal(s.order, order):
				return nil
			case order == nil:
				order = s.order
			}
		}
	}
	return order
}

// sortedBehind gives the outputs of gate and up the order of a down projection's inputs, if they can have it and all of it can be sorted.
func (w *weight) sortedBehind(up *weight) bool {
	if up.spec.Coding.Format.Quantised() && up.spec.Coding.Rows > 1 {
		return false // a scale is for neighbouring outputs
	}
	var orders [][]int32
	for s := range w.each() {
		if s.group != nil && s.order == nil {
			return false
		}
		orders = append(orders, s.order)
	}
	up.outputs = orders
	return true
}

// widen has a weight become numbers because of its scattered groups.
func (r *reader) widen(w *weight) {
	w.spec.Coding = kernels.Coding{}
	for s := range w.each() {
		why := MixedParts
		if s.group != nil {
			why = ActivationOrder
		}
		s.order = nil
		r.note(why, s.module)
	}
}

// scattered says that a weight is quantised, and scales of some of its matrices are for scattered inputs.
func (w *weight) scattered() bool {
	if !w.spec.Coding.Format.Quantised() {
		return false
	}
	for s := range w.each() {
		if s.group != nil {
			return true
		}
	}
	return false
}

// each gives the matrices of a weight, part by part.
func (w *weight) each() func(yield func(*source) bool) {
	return func(yield func(*source) bool) {
		for _, experts := range w.sources {
			for e := range experts {
				if !yield(&experts[e]) {
					return
				}
			}
		}
	}
}

// orders are those of the outputs and of the inputs of an expert's matrices; nil: as stored.
func (w *weight) orders(expert int) (rows, cols []int32) {
	if w.outputs != nil {
		rows = w.outputs[expert]
	}
	if w.columns != nil {
		cols = *w.columns
	}
	return rows, cols
}
