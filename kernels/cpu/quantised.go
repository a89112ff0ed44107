package cpu

import (
	"encoding/binary"
	"fmt"
	"math"

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

// largestCode is the largest number of any code: that of F8_E4M3.
const largestCode = 448

// checkCodes looks for codes that are no numbers, scales that are not finite, and zeros that no code could have.
func checkCodes(m kernels.Matrix) error {
	rows, cols := m.Coding.Grid(m.N, m.K)
	for i, s := range m.Scales[:rows*cols] {
		if worth := s * largestCode; worth != worth || math.IsInf(float64(worth), 0) {
			return fmt.Errorf("want finite scales and values, got the scale %v at [%d, %d]", s, i/cols, i%cols)
		}
	}
	for i, z := range m.Zeros {
		if z > 16 {
			return fmt.Errorf("want zeros of 0 to 16, got %d at [%d, %d]", z, i/cols, i%cols)
		}
	}
	if m.Format == kernels.Table4 {
		for i, v := range m.Coding.Table {
			if v != v || math.IsInf(float64(v), 0) {
				return fmt.Errorf("want a table of finite numbers, got %v at %d", v, i)
			}
		}
	}
	if m.Format == kernels.F8E4M3 {
		for r := range m.N {
			line := m.Data[r*m.RowStride():][:m.K]
			if k := firstE4M3NaN(line); k >= 0 {
				return fmt.Errorf("want numbers, got the F8_E4M3 code %#x, which is none, at [%d, %d]", line[k], r, k)
			}
		}
	}
	return nil
}

// firstE4M3NaN is the index of the first code 0x7f or 0xff, -1 if there is none.
func firstE4M3NaN(b []byte) int {
	const all, lowest, highest = 0x7f7f7f7f7f7f7f7f, 0x0101010101010101, 0x8080808080808080
	at := 0
	for ; at+8 <= len(b); at += 8 {
		x := binary.LittleEndian.Uint64(b[at:])&all ^ all // zero bytes are codes 0x7f and 0xff
		if (x-lowest)&^x&highest != 0 {
			break
		}
	}
	for ; at < len(b); at++ {
		if b[at]&0x7f == 0x7f {
			return at
		}
	}
	return -1
}
