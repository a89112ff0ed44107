package kernels

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Format is how numbers are stored.
type Format uint8

const (
	BF16 Format = iota
	F16
	F32

	// Quantised formats: codes that a scale makes numbers of.
	F8E4M3 // a byte: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, 0x7f and 0xff are not numbers
	Int4   // half a byte, the even element in the low half: code 0 to 15, worth code - zero
	Table4 // half a byte, likewise: a place in a table of 16 numbers (nf4)
)

// Quantised says that the format's codes need scales.
func (f Format) Quantised() bool { return f >= F8E4M3 }

// Size is the number of bytes of one element of a format whose elements are whole bytes.
func (f Format) Size() int {
	switch f {
	case F32:
		return 4
	case F8E4M3:
		return 1
	case Int4, Table4:
		panic("kernels: elements of half a byte have no size: see Format.Bytes")
	}
	return 2
}

// Bytes is the number of bytes of n adjacent elements.
func (f Format) Bytes(n int) int {
	if f == Int4 || f == Table4 {
		return (n + 1) / 2
	}
	return n * f.Size()
}

func (f Format) String() string {
	names := []string{BF16: "BF16", F16: "F16", F32: "F32", F8E4M3: "F8_E4M3", Int4: "INT4", Table4: "TABLE4"}
	if int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}

// Coding says how a weight is quantised.
type Coding struct {
	Format     Format // BF16: it is not; its matrices may have any plain format
	Rows, Cols int    // outputs and inputs that share a scale; 0: all of a matrix
	Scale      Format // of the scales: BF16, F16 or F32
	Zeros      bool   // Int4: every scale has a zero of its own
	Table      *[16]float32
}

// Grid is the number of scales along N and along K of a matrix [n, k].
func (c Coding) Grid(n, k int) (rows, cols int) {
	along := func(n, each int) int {
		if each == 0 {
			return 1
		}
		return (n + each - 1) / each
	}
	return along(n, c.Rows), along(k, c.Cols)
}

func (c Coding) String() string {
	if !c.Format.Quantised() {
		return "not quantised"
	}
	return fmt.Sprintf("%v, a %v", c.Format, c.Geometry())
}

// Geometry says what the scales are and what they cover.
func (c Coding) Geometry() string {
	each := func(n int, all string) string {
		if n == 0 {
			return all
		}
		return fmt.Sprint(n)
	}
	zeros := ""
	if c.Zeros {
		zeros = ", with zeros"
	}
	return fmt.Sprintf("%v scale for %s x %s%s", c.Scale, each(c.Rows, "all outputs"), each(c.Cols, "all inputs"), zeros)
}

// checkCoding compares a matrix's coding with its weight's, and its scales with its size.
func (m Matrix) checkCoding(s WeightSpec) error {
	if !s.Coding.Format.Quantised() {
		if m.Format.Quantised() {
			return fmt.Errorf("want a plain format, got %v", m.Format)
		}
		return nil
	}
	if m.Format != m.Coding.Format || m.Coding != s.Coding {
		return fmt.Errorf("want %v, got %v", s.Coding, m.Coding)
	}
	if m.InOut || m.Format != F8E4M3 && (m.RowStride()%2 != 0 || m.Coding.Cols%2 != 0) {
		return errors.New("want quantised rows [N, K], and scales for whole bytes of them")
	}
	rows, cols := m.Coding.Grid(m.N, m.K)
	if len(m.Scales) != rows*cols {
		return fmt.Errorf("want [%d, %d] scales, got %d", rows, cols, len(m.Scales))
	}
	if m.Coding.Zeros && (m.Format != Int4 || len(m.Zeros) != rows*cols) || !m.Coding.Zeros && m.Zeros != nil {
		return fmt.Errorf("want zeros for %d scales of %v, got %d", rows*cols, m.Coding, len(m.Zeros))
	}
	if (m.Format == Table4) != (m.Coding.Table != nil) {
		return fmt.Errorf("%v: want a table for TABLE4, and for nothing else", m.Coding)
	}
	return nil
}

// Decode writes row n of a quantised matrix as the numbers that its codes are worth, dst [K]. Every device computes with
// these: number(code) · scale, in float32.
func (m Matrix) Decode(dst []float32, n int) {
	rows, cols := m.Coding.Rows, m.Coding.Cols
	if rows == 0 {
		rows = m.N
	}
	if cols == 0 {
		cols = m.K
	}
	_, grid := m.Coding.Grid(m.N, m.K)
	line := m.Data[m.Format.Bytes(n*m.RowStride()):]
	for k := range dst {
		at := n/rows*grid + k/cols
		dst[k] = m.number(line, k, at) * m.Scales[at]
	}
}

// number is what the code at element k of a row is worth before its scale, the one at index `at`.
func (m Matrix) number(line []byte, k, at int) float32 {
	if m.Format == F8E4M3 {
		return e4m3[line[k]]
	}
	code := line[k/2] >> (k % 2 * 4) & 15
	if m.Format == Table4 {
		return m.Coding.Table[code]
	}
	zero := 8
	if m.Zeros != nil {
		zero = int(m.Zeros[at])
	}
	return float32(int(code) - zero)
}

// largestCode is the largest number of any code: that of F8_E4M3.
const largestCode = 448

// CheckCodes looks for codes that are no numbers, scales that are not finite, and zeros that no code could have, in a quantised
// matrix of the right size (Check).
func (m Matrix) CheckCodes() error {
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
	if m.Format == Table4 {
		for i, v := range m.Coding.Table {
			if v != v || math.IsInf(float64(v), 0) {
				return fmt.Errorf("want a table of finite numbers, got %v at %d", v, i)
			}
		}
	}
	if m.Format == F8E4M3 {
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

// e4m3 is every number of F8E4M3.
var e4m3 = func() (t [256]float32) {
	for code := range t {
		exponent, mantissa := code>>3&15, float64(code&7)
		v := math.Ldexp(8+mantissa, exponent-10)
		if exponent == 0 {
			v = math.Ldexp(mantissa, -9)
		}
		if code&0x7f == 0x7f {
			v = math.NaN()
		}
		if code > 127 {
			v = -v
		}
		t[code] = float32(v)
	}
	return t
}()
