package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
)

// How weights are quantised, once for every device, every command and the writer of checkpoints.
//
// A scale is max|w| of its numbers divided by 8 for Int4, by 448 for F8E4M3, rounded to the format of scales; where all are 0 it is 1.
// A code is w/scale, divided in float32, rounded to the nearest code (ties to even) and bounded by the largest one.
//
// Int4 codes reach from -8 to 7: dividing by 8 bounds a largest weight above 0 at 7/8, and is still better than dividing by 7. On
// the matrices of the demo checkpoint, in groups of 128, the root of the mean square error is 0.105 of the weights' with 8, 0.117
// with 7, 0.111 with 7.5, and 0.101 with the best of 16 divisors for each group, which takes 16 times as long.
const (
	int4Divisor = 8
	e4m3Divisor = 448 // its largest number
)

// Quantise gives the codes of a plain matrix, in new memory. c is F8E4M3 or Int4, with a scale for each output or for groups of its inputs
// (Rows 1), and no zeros. A value that is not finite is an error that says where it is.
func Quantise(m Matrix, c Coding) (Matrix, error) {
	switch {
	case m.Format.Quantised():
		return Matrix{}, fmt.Errorf("want a plain matrix to quantise, got %v", m.Format)
	case c.Format != F8E4M3 && c.Format != Int4 || c.Rows != 1 || c.Zeros || c.Scale != BF16 && c.Scale != F32:
		return Matrix{}, fmt.Errorf("want F8_E4M3 or INT4 with a BF16 or F32 scale for each output or for groups of its inputs, got %v", c)
	case c.Cols > 0 && m.K%c.Cols != 0 || c.Format == Int4 && (m.K%2 != 0 || c.Cols%2 != 0):
		return Matrix{}, fmt.Errorf("want a number of inputs that groups of %d divide, got %d", max(c.Cols, 2), m.K)
	}
	cols := c.Cols
	if cols == 0 {
		cols = m.K
	}
	_, grid := c.Grid(m.N, m.K)
	out := Matrix{Format: c.Format, N: m.N, K: m.K, Coding: c, Data: make([]byte, c.Format.Bytes(m.N*m.K)), Scales: make([]float32, m.N*grid)}
	some := 32 // rows at a time
	if m.InOut {
		some = 128 // of a stored row of [K, N], a few lines of the cache at a time
	}
	values := make([]float32, min(some, m.N)*m.K)
	for first := 0; first < m.N; first += some {
		count := min(some, m.N-first)
		m.Rows(values, first, count)
		for r := range count {
			n := first + r
			row := values[r*m.K:][:m.K]
			for g := range grid {
				group := row[g*cols:][:cols]
				largest, finite := largest(group)
				if !finite {
					return Matrix{}, fmt.Errorf("want finite values, got another at output %d, inputs %d to %d", n, g*cols, (g+1)*cols-1)
				}
				at := n*m.K + g*cols
				if c.Format == F8E4M3 {
					s := scale(largest, e4m3Divisor, c.Scale)
					out.Scales[n*grid+g] = s
					for i, v := range group {
						out.Data[at+i] = E4M3(v / s)
					}
					continue
				}
				s := scale(largest, int4Divisor, c.Scale)
				out.Scales[n*grid+g] = s
				for i := 0; i < cols; i += 2 {
					out.Data[(at+i)/2] = int4(group[i]/s) | int4(group[i+1]/s)<<4
				}
			}
		}
	}
	return out, nil
}

// largest is the largest absolute value, and whether all are finite.
func largest(values []float32) (float32, bool) {
	bits := uint32(0) // the bits of numbers above 0 are ordered as they are
	for _, v := range values {
		bits = max(bits, math.Float32bits(v)&^(1<<31))
	}
	return math.Float32frombits(bits), bits < 0x7f800000
}

// scale is the scale of numbers up to largest, a value of a format. It never makes codes of numbers by dividing by less than the
// smallest normal number.
func scale(largest, divisor float32, f Format) float32 {
	s := largest / divisor
	if f == BF16 {
		s = toBF16(s)
	}
	switch {
	case largest == 0:
		return 1
	case s < 0x1p-126:
		return 0x1p-126
	}
	return s
}

// toBF16 rounds to bfloat16, ties to even. What is no number stays none.
func toBF16(v float32) float32 {
	if v != v {
		return v
	}
	b := math.Float32bits(v)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}

// half rounds a number of at most 2²² to an integer, ties to even: added to it, the fraction falls off the mantissa.
const half = 3 << 22

// RoundRow makes of a row of activations what its F8E4M3 codes are worth: rounded to bfloat16, as the tools that make checkpoints have
// activations, with one scale for the row, as Quantise has it in float32. Of a row that is not finite, nothing is: codes would hide it.
func RoundRow(x []float32) {
	for i, v := range x {
		x[i] = toBF16(v)
	}
	most, finite := largest(x)
	s := scale(most, e4m3Divisor, F32)
	if !finite {
		s = float32(math.NaN())
	}
	for i, v := range x {
		x[i] = e4m3[E4M3(v/s)] * s
	}
}

// int4 is the code of a number in units of its scale, the code of 0 being 8.
func int4(v float32) byte {
	v = max(-8, min(7, v))
	return byte(math.Float32bits(v+half)-math.Float32bits(half)) + 8
}

// E4M3 is the F8E4M3 code nearest to v, ties to even; the largest one beyond 448, and for what is no number.
func E4M3(v float32) byte {
	bits := math.Float32bits(v)
	sign := byte(bits >> 31 << 7)
	bits &^= 1 << 31
	switch a := math.Float32frombits(bits); {
	case !(a < 448):
		return sign | 0x7e
	case a < 0x1p-6: // multiples of 2⁻⁹; 8 of them are the code of 2⁻⁶
		return sign | byte(math.Float32bits(a*512+half)-math.Float32bits(half))
	}
	const drop, bias = 20, (127 - 7) << 3 // bits of mantissa that go; the difference of exponents
	return sign | byte((bits+1<<(drop-1)-1+bits>>drop&1)>>drop-bias)
}

// Rows writes count rows of a matrix in any format, from row first on, as numbers, dst [count, K].
func (m Matrix) Rows(dst []float32, first, count int) {
	if m.Format.Quantised() {
		for r := range count {
			m.Decode(dst[r*m.K:][:m.K], first+r)
		}
		return
	}
	stride, size := m.RowStride(), m.Format.Size()
	if !m.InOut {
		for r := range count {
			numbers(dst[r*m.K:][:m.K], 1, m.Format, m.Data[(first+r)*stride*size:])
		}
		return
	}
	for k := range m.K {
		numbers(dst[k:][:(count-1)*m.K+1], m.K, m.Format, m.Data[(k*stride+first)*size:])
	}
}

// numbers reads adjacent numbers of a plain format to places that are step apart.
func numbers(dst []float32, step int, f Format, b []byte) {
	switch at := 0; f {
	case BF16:
		for i := 0; i < len(dst); i, at = i+step, at+2 {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[at:])) << 16)
		}
	case F16:
		for i := 0; i < len(dst); i, at = i+step, at+2 {
			h := uint32(binary.LittleEndian.Uint16(b[at:]))
			v := math.Float32frombits(h&0x7fff<<13) * 0x1p112 // the difference of the formats' exponents
			if h&0x7c00 == 0x7c00 {
				v = math.Float32frombits(0x7f800000 | h&0x3ff<<13)
			}
			dst[i] = math.Float32frombits(math.Float32bits(v) | h>>15<<31)
		}
	default:
		for i := 0; i < len(dst); i, at = i+step, at+4 {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[at:]))
		}
	}
}

// Filled is the matrix that f describes, [N, K], in the layout of its checkpoint; with a coding, its quantised form, which has the rule
// above and so is the same on every device.
func (f Fill) Filled(n, k int, c Coding) (Matrix, error) {
	m := Matrix{Format: BF16, N: n, K: k, InOut: f.KStep != 1, Data: make([]byte, 2*n*k)}
	rows, cols := n, k
	if m.InOut {
		rows, cols = cols, rows
	}
	for r := range rows {
		for c := range cols {
			n, k := r, c
			if m.InOut {
				n, k = c, r
			}
			binary.LittleEndian.PutUint16(m.Data[2*(r*cols+c):], uint16(math.Float32bits(f.Value(n, k))>>16))
		}
	}
	if !c.Format.Quantised() {
		return m, nil
	}
	return Quantise(m, c)
}
