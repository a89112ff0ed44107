package kernels

import "fmt"

// Checkpoints whose scales belong to scattered inputs (act-order) are sorted when they are read: the inputs of a matrix by their
// groups, and with them what makes or reads the row. An order is a permutation: element j of what is ordered is element order[j] of what it
// was; nil leaves everything where it is.

// Arranged is a copy of a matrix with its outputs and inputs in orders, rows [N] and cols [K]. Scales move with the outputs that they
// cover. Along K only codes move: inputs change places within what a scale covers, or come to the places of their scales.
func (m Matrix) Arranged(rows, cols []int32) Matrix {
	if rows == nil && cols == nil {
		return m
	}
	if rows != nil && m.Format.Quantised() && m.Coding.Rows > 1 {
		panic(fmt.Sprintf("kernels: want scales that outputs do not share in part, to move outputs, got %v", m.Coding))
	}
	out := m
	out.Stride, out.Data = 0, make([]byte, m.Format.Bytes(m.N*m.K))
	if m.Format.Quantised() && m.Coding.Rows == 1 && rows != nil {
		_, grid := m.Coding.Grid(m.N, m.K)
		out.Scales, out.Zeros = inOrder(m.Scales, rows, grid), inOrder(m.Zeros, rows, grid)
	}
	lines, along, length := rows, cols, m.K
	if m.InOut {
		lines, along, length = cols, rows, m.N
	}
	stored := m.N * m.K / max(length, 1)
	bytes, stride := m.Format.Bytes(length), m.Format.Bytes(m.RowStride())
	for i := range stored {
		from := i
		if lines != nil {
			from = int(lines[i])
		}
		m.Format.gather(out.Data[i*bytes:][:bytes], m.Data[from*stride:], along)
	}
	return out
}

// inOrder copies rows of width elements in an order; nil stays nil.
func inOrder[T any](from []T, order []int32, width int) []T {
	if from == nil {
		return nil
	}
	to := make([]T, 0, len(from))
	for _, row := range order {
		to = append(to, from[int(row)*width:][:width]...)
	}
	return to
}

// gather copies elements of a row in an order.
func (f Format) gather(to, from []byte, order []int32) {
	switch {
	case order == nil:
		copy(to, from)
	case f == Int4 || f == Table4:
		code := func(k int32) byte { return from[k>>1] >> (k & 1 * 4) & 15 }
		for j := range to {
			if to[j] = code(order[2*j]); 2*j+1 < len(order) {
				to[j] |= code(order[2*j+1]) << 4
			}
		}
	case f.Size() == 1:
		for j, k := range order {
			to[j] = from[k]
		}
	default:
		size := f.Size()
		for j, k := range order {
			copy(to[j*size:][:size], from[int(k)*size:])
		}
	}
}
