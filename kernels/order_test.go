package kernels

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// A matrix in orders has the numbers of the matrix, each at its place; what it came from is not touched.
func TestArranged(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const n, k, stride = 6, 32, 40
	order := func(n int) (list []int32) {
		for _, i := range r.Perm(n) {
			list = append(list, int32(i))
		}
		return list
	}
	at := func(order []int32, i int) int {
		if order == nil {
			return i
		}
		return int(order[i])
	}
	table := &[16]float32{}
	for i := range table {
		table[i] = float32(i*i) - 50
	}
	type kind struct {
		m     Matrix
		along bool // inputs may move: none has a scale to itself
	}
	var kinds []kind
	for _, f := range []Format{BF16, F16, F32} {
		kinds = append(kinds, kind{Matrix{Format: f, N: n, K: k, Stride: stride}, true}, kind{Matrix{Format: f, N: n, K: k, InOut: true}, true},
			kind{Matrix{Format: f, N: n, K: k, InOut: true, Stride: n + 3}, true})
	}
	for _, c := range []Coding{{Format: F8E4M3}, {Format: F8E4M3, Rows: 1}, {Format: Int4, Rows: 1, Zeros: true}, {Format: Table4, Table: table},
		{Format: F8E4M3, Rows: 1, Cols: 8}, {Format: Int4, Rows: 1, Cols: 8, Zeros: true}, {Format: Table4, Rows: 1, Cols: 16, Table: table}} {
		m := Matrix{Format: c.Format, N: n, K: k, Stride: stride, Coding: c}
		rows, cols := c.Grid(n, k)
		for range rows * cols {
			m.Scales = append(m.Scales, r.Float32())
			if c.Zeros {
				m.Zeros = append(m.Zeros, uint8(r.IntN(16)))
			}
		}
		kinds = append(kinds, kind{m, c.Cols == 0})
	}
	for _, x := range kinds {
		m := x.m
		m.Data = make([]byte, m.Format.Bytes((k+n)*m.RowStride()))
		for i := range m.Data {
			m.Data[i] = byte(r.IntN(0x70))
		}
		before := numbersOf(m)
		for _, rows := range [][]int32{nil, order(n)} {
			for _, cols := range [][]int32{nil, order(k)} {
				if cols != nil && !x.along {
					continue
				}
				got := numbersOf(m.Arranged(rows, cols))
				for i := range n {
					for j := range k {
						if want := before[at(rows, i)*k+at(cols, j)]; got[i*k+j] != want {
							t.Fatalf("%v %+v rows %v cols %v: [%d, %d]: got %v, want %v", m.Format, m.Coding, rows, cols, i, j, got[i*k+j], want)
						}
					}
				}
			}
		}
	}
}

// Inputs of scattered groups come to the places of their scales.
func TestArrangedGroups(t *testing.T) {
	m := Matrix{Format: Int4, N: 1, K: 8, Coding: Coding{Format: Int4, Rows: 1, Cols: 4}, Data: []byte{0x10, 0x32, 0x54, 0x76}, Scales: []float32{1, 100}}
	got := numbersOf(m.Arranged(nil, []int32{1, 2, 4, 7, 0, 3, 5, 6})) // groups 1 0 0 1 0 1 1 0
	for i, want := range []float32{1 - 8, 2 - 8, 4 - 8, 7 - 8, -800, 100 * (3 - 8), 100 * (5 - 8), 100 * (6 - 8)} {
		if got[i] != want {
			t.Errorf("%d: got %v, want %v", i, got[i], want)
		}
	}
}

// numbersOf is what a matrix is worth, [N, K]: of plain formats, the bits.
func numbersOf(m Matrix) []float32 {
	out := make([]float32, m.N*m.K)
	for n := range m.N {
		if m.Format.Quantised() {
			m.Decode(out[n*m.K:][:m.K], n)
			continue
		}
		for k := range m.K {
			at := n*m.RowStride() + k
			if m.InOut {
				at = k*m.RowStride() + n
			}
			var b [4]byte
			copy(b[:], m.Data[at*m.Format.Size():][:m.Format.Size()])
			out[n*m.K+k] = math.Float32frombits(binary.LittleEndian.Uint32(b[:]))
		}
	}
	return out
}
