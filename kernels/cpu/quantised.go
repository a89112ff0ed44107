package cpu

import (
	"chulengo/kernels"
	"chulengo/kernels/cpu/simd"
)

// readRow writes row n of a matrix [N, K] in any format as numbers, dst [K].
func readRow(dst []float32, m *kernels.Matrix, n int) {
	line := m.Data[m.Format.Bytes(n*m.RowStride()):]
	if m.Format.Quantised() {
		decodeRow(dst, m, line, n)
	} else {
		convert(dst, m.Format, line)
	}
}

// decodeRow is kernels.Matrix.Decode, a run of inputs that share a scale at a time.
func decodeRow(dst []float32, m *kernels.Matrix, line []byte, n int) {
	rows, cols := m.Coding.Rows, m.Coding.Cols
	if rows == 0 {
		rows = m.N
	}
	if cols == 0 {
		cols = m.K
	}
	_, grid := m.Coding.Grid(m.N, m.K)
	at := n / rows * grid
	for k := 0; k < len(dst); k, at = k+cols, at+1 {
		run, codes := dst[k:min(k+cols, len(dst))], line[m.Format.Bytes(k):]
		switch m.Format {
		case kernels.F8E4M3:
			simd.DecodeE4M3(run, codes, m.Scales[at])
		case kernels.Table4:
			simd.DecodeTable4(run, codes, m.Coding.Table, m.Scales[at])
		default:
			zero := 8
			if m.Zeros != nil {
				zero = int(m.Zeros[at])
			}
			simd.DecodeInt4(run, codes, zero, m.Scales[at])
		}
	}
}

// int4Table and int4Codes are what Int4 codes are worth before their scale: less the zero of symmetric ones, and less none.
var int4Table, int4Codes = func() (signed, plain [16]float32) {
	for i := range signed {
		signed[i], plain[i] = float32(i-8), float32(i)
	}
	return signed, plain
}()

// dotRows is the product of x [K] with simd.CodeRows rows of a matrix from row n on, straight from their codes. It reports whether there is
// a routine for it.
func dotRows(y, x []float32, m *kernels.Matrix, n int) bool {
	if !m.Format.Quantised() {
		return false
	}
	rows, cols := m.Coding.Rows, m.Coding.Cols
	if rows == 0 {
		rows = m.N
	}
	if cols == 0 {
		cols = m.K
	}
	_, grid := m.Coding.Grid(m.N, m.K)
	first := n / rows * grid
	c := simd.Codes{Bytes: m.Data[m.Format.Bytes(n*m.RowStride()):], Stride: m.Format.Bytes(m.RowStride()), Scales: m.Scales[first:], Group: cols}
	switch {
	case rows == 1:
		c.Grid = grid
	case n/rows != (n+simd.CodeRows-1)/rows:
		return false
	}
	switch {
	case m.Format == kernels.Table4:
		c.Table = m.Coding.Table
	case m.Format == kernels.Int4 && m.Zeros != nil:
		c.Table, c.Zeros = &int4Codes, m.Zeros[first:]
	case m.Format == kernels.Int4:
		c.Table = &int4Table
	}
	return simd.DotCodes(y, x, &c)
}
