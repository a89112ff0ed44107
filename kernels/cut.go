package kernels

import "fmt"

// Cut is the part of an axis that one rank of several has: elements [From, To).
type Cut struct{ From, To int }

// Len is the number of elements.
func (c Cut) Len() int { return c.To - c.From }

// CutAxis shares n elements, which stay together in runs of unit (0: 1), among ranks. The first ranks get a run more where they do not
// come out even; the last run may be short.
func CutAxis(n, unit, ranks, rank int) (Cut, error) {
	unit = max(unit, 1)
	runs := (n + unit - 1) / unit
	if runs < ranks {
		return Cut{}, fmt.Errorf("want at least %d runs of %d for %d ranks, got %d elements", ranks, unit, ranks, n)
	}
	at := func(r int) int { return min((r*(runs/ranks)+min(r, runs%ranks))*unit, n) }
	return Cut{at(rank), at(rank + 1)}, nil
}

// CutHeads shares n heads of width elements. One head alone is everybody's: the key/value head that all query heads share.
func CutHeads(n, width, ranks, rank int) (Cut, error) {
	if n == 1 {
		return Cut{0, width}, nil
	}
	return CutAxis(n*width, width, ranks, rank)
}

// Cuts are what a rank has of a weight: of the outputs of each part, and of the inputs.
func (s WeightSpec) Cuts(ranks, rank int) (parts []Cut, k Cut, err error) {
	cut := func(n, scale int) (Cut, error) {
		unit := max(s.Whole, 1)
		switch {
		case scale >= n: // one for all of them, which parts may share
			scale = 0
		case scale > unit:
			unit = scale
		}
		if unit%max(s.Whole, 1) != 0 || scale > 0 && unit%scale != 0 {
			return Cut{}, fmt.Errorf("want scales for multiples or divisors of %d, got some for %d", s.Whole, scale)
		}
		if n == s.Whole && s.Split == Outputs {
			return CutHeads(1, n, ranks, rank)
		}
		return CutAxis(n, unit, ranks, rank)
	}
	k = Cut{0, s.K}
	for _, n := range s.Parts {
		parts = append(parts, Cut{0, n})
	}
	switch s.Split {
	case Outputs:
		for p, n := range s.Parts {
			if parts[p], err = cut(n, s.Coding.Rows); err != nil {
				return nil, k, fmt.Errorf("kernels: %s: outputs: %w", s.Tensor(p), err)
			}
		}
	case Inputs:
		if k, err = cut(s.K, s.Coding.Cols); err != nil {
			return nil, k, fmt.Errorf("kernels: %s: inputs: %w", s.Tensor(0), err)
		}
	}
	return parts, k, nil
}

// Rank is the specification of a rank's part of a weight.
func (s WeightSpec) Rank(ranks, rank int) (WeightSpec, error) {
	parts, k, err := s.Cuts(ranks, rank)
	if err != nil {
		return s, err
	}
	s.Parts, s.K = make([]int, len(parts)), k.Len()
	for p, c := range parts {
		s.Parts[p] = c.Len()
	}
	return s, nil
}

// Cut is a view of outputs n and inputs k of a matrix. Of a quantised one, they must begin where scales begin.
func (m Matrix) Cut(n, k Cut) Matrix {
	stride, rows, cols := m.RowStride(), n, k
	if m.InOut {
		rows, cols = k, n
	}
	out := m
	out.N, out.K, out.Stride = n.Len(), k.Len(), stride
	out.Data = m.Data[m.Format.Bytes(rows.From*stride+cols.From):]
	if !m.Format.Quantised() {
		return out
	}
	_, grid := m.Coding.Grid(m.N, m.K)
	out.Scales, out.Zeros = nil, nil
	scaleRows, scaleCols := m.Coding.Grid(out.N, out.K)
	first := func(at, each int) int {
		if each == 0 {
			return 0
		}
		return at / each
	}
	for r := range scaleRows {
		at := (first(n.From, m.Coding.Rows)+r)*grid + first(k.From, m.Coding.Cols)
		out.Scales = append(out.Scales, m.Scales[at:at+scaleCols]...)
		if m.Zeros != nil {
			out.Zeros = append(out.Zeros, m.Zeros[at:at+scaleCols]...)
		}
	}
	return out
}

// Cut describes the values of outputs from n and of inputs k of a matrix with so many inputs.
func (f Fill) Cut(n, k Cut, inputs int) Fill {
	f.Index += uint64(n.From)*f.NStep + uint64(k.From)*f.KStep
	f.Before, f.Behind = k.From, inputs-k.To
	return f
}
