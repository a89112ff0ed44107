package kernels

import "fmt"

// Cut is the part of an axis that one rank of several has: elements [From, To).
type Cut struct{ From, To int }

// Len is the number of elements.
func (c Cut) Len() int { return c.To - c.From }

// CutAxis shares n elements, which stay together in runs of unit (0: 1), among ranks. The first ranks get a run more where they do not
// come out even. One run alone is everybody's: the key/value head that all query heads share.
func CutAxis(n, unit, ranks, rank int) (Cut, error) {
	unit = max(unit, 1)
	runs := n / unit
	switch {
	case n%unit != 0:
		return Cut{}, fmt.Errorf("want a multiple of %d, got %d", unit, n)
	case unit > 1 && runs == 1:
		return Cut{0, n}, nil
	case runs < ranks:
		return Cut{}, fmt.Errorf("want at least %d runs of %d for %d ranks, got %d", ranks, unit, ranks, runs)
	}
	at := func(r int) int { return (r*(runs/ranks) + min(r, runs%ranks)) * unit }
	return Cut{at(rank), at(rank + 1)}, nil
}

// Cuts are what a rank has of a weight: of the outputs of each part, and of the inputs.
func (s WeightSpec) Cuts(ranks, rank int) (parts []Cut, k Cut, err error) {
	unit := func(n, scale int) int {
		if scale >= n { // one for all of them, which parts may share
			return s.Whole
		}
		return max(s.Whole, scale)
	}
	k = Cut{0, s.K}
	for _, n := range s.Parts {
		parts = append(parts, Cut{0, n})
	}
	switch s.Split {
	case Outputs:
		for p, n := range s.Parts {
			if parts[p], err = CutAxis(n, unit(n, s.Coding.Rows), ranks, rank); err != nil {
				return nil, k, fmt.Errorf("kernels: %s: outputs: %w", s.Tensor(p), err)
			}
		}
	case Inputs:
		if k, err = CutAxis(s.K, unit(s.K, s.Coding.Cols), ranks, rank); err != nil {
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
