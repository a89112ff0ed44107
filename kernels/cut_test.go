package kernels

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// Parts of ranks meet, and together are all.
func TestCutAxis(t *testing.T) {
	for _, c := range []struct {
		n, unit, ranks int
		want           []int // where each begins, and the end; nil: an error
	}{
		{8, 0, 2, []int{0, 4, 8}}, {5 * 32, 32, 2, []int{0, 96, 160}}, {1024, 128, 8, []int{0, 128, 256, 384, 512, 640, 768, 896, 1024}},
		{7, 1, 3, []int{0, 3, 5, 7}}, {100, 32, 2, []int{0, 64, 100}}, {32, 32, 2, nil}, {96, 32, 4, nil}, {1, 0, 2, nil},
	} {
		for rank := range c.ranks {
			got, err := CutAxis(c.n, c.unit, c.ranks, rank)
			switch {
			case c.want == nil:
				if err == nil {
					t.Errorf("%+v rank %d: want an error, got %v", c, rank, got)
				}
			case err != nil || got != (Cut{c.want[rank], c.want[rank+1]}):
				t.Errorf("%+v rank %d: got %v, %v", c, rank, got, err)
			}
		}
	}
	// A key/value head that is the only one is on every rank; feed-forwards are cut where scales begin.
	s := WeightSpec{Parts: []int{160, 32, 32}, K: 8, Experts: 1, Split: Outputs, Whole: 32}
	if parts, k, err := s.Cuts(2, 1); err != nil || !slices.Equal(parts, []Cut{{96, 160}, {0, 32}, {0, 32}}) || k != (Cut{0, 8}) {
		t.Errorf("heads: got %v, %v, %v", parts, k, err)
	}
	s = WeightSpec{Parts: []int{8}, K: 192, Experts: 1, Split: Inputs, Coding: Coding{Format: Int4, Rows: 1, Cols: 128}}
	if _, k, err := s.Cuts(2, 0); err != nil || k != (Cut{0, 128}) {
		t.Errorf("groups of 128 of 192: got %v, %v", k, err)
	}
	s.Coding.Cols, s.Whole = 48, 128
	if _, _, err := s.Cuts(2, 0); err == nil {
		t.Error("want an error for scales that begin within a head")
	}
}

// A view of a part of a matrix is worth what that part is.
func TestMatrixCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.IntN(0x70))
		}
		return b
	}
	const n, k = 24, 64
	for _, coding := range []Coding{
		{Format: F8E4M3, Scale: F32}, {Format: F8E4M3, Rows: 1, Scale: F32}, {Format: F8E4M3, Rows: 4, Cols: 16, Scale: F32},
		{Format: Int4, Rows: 1, Cols: 16, Scale: BF16}, {Format: Int4, Rows: 1, Cols: 16, Scale: BF16, Zeros: true},
	} {
		m := Matrix{Format: coding.Format, Coding: coding, N: n, K: k, Stride: k + 2, Data: random(coding.Format.Bytes(n * (k + 2)))}
		rows, cols := coding.Grid(n, k)
		for range rows * cols {
			m.Scales = append(m.Scales, r.Float32())
		}
		if coding.Zeros {
			m.Zeros = random(rows * cols)
			for i := range m.Zeros {
				m.Zeros[i] %= 17
			}
		}
		outputs, inputs := Cut{8, 20}, Cut{16, 48}
		part := m.Cut(outputs, inputs)
		if err := part.Check(WeightSpec{Parts: []int{12}, K: 32, Experts: 1, Coding: coding}, 0, 0); err != nil {
			t.Fatalf("%v: %v", coding, err)
		}
		whole, cut := make([]float32, k), make([]float32, 32)
		for i := range part.N {
			m.Decode(whole, outputs.From+i)
			part.Decode(cut, i)
			if !slices.Equal(cut, whole[inputs.From:inputs.To]) {
				t.Errorf("%v: row %d: want %v, got %v", coding, i, whole[inputs.From:inputs.To], cut)
			}
		}
	}
	for _, inOut := range []bool{false, true} {
		m := Matrix{Format: BF16, N: n, K: k, InOut: inOut, Data: random(2 * n * k)}
		part := m.Cut(Cut{8, 20}, Cut{16, 48})
		if err := part.Check(WeightSpec{Parts: []int{12}, K: 32, Experts: 1}, 0, 0); err != nil {
			t.Fatal(err)
		}
		at := func(m Matrix, n, k int) []byte {
			if m.InOut {
				n, k = k, n
			}
			return m.Data[2*(n*m.RowStride()+k):][:2]
		}
		for i := range part.N {
			for j := range part.K {
				if !bytes.Equal(at(part, i, j), at(m, 8+i, 16+j)) {
					t.Fatalf("stored in-out %v: [%d, %d] is another value", inOut, i, j)
				}
			}
		}
	}
	f := Fill{Seed: 3, Index: 100, NStep: 64, KStep: 1, Std: 1}
	if part := f.Cut(Cut{8, 20}, Cut{16, 48}, 64); part.Value(2, 5) != f.Value(10, 21) || part.Before != 16 || part.Behind != 16 {
		t.Errorf("random values: %+v", part)
	}
}
