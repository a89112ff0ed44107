package simd

import "math"

// Codes of quantised weights become numbers: number(code)·scale, rounded once, the same bits in every set.

// decodeStep is how many codes the routines take at a time.
const decodeStep = 16

// DecodeE4M3 writes what 8-bit floats (4 bits of exponent, 3 of mantissa) are worth; len(codes) is len(dst).
func DecodeE4M3(dst []float32, codes []byte, scale float32) {
	_ = codes[:len(dst)]
	n := 0
	if bound := scale * 256; active != nil && !math.IsInf(float64(bound), 0) {
		if n = len(dst) &^ (decodeStep - 1); n > 0 {
			active.decodeE4M3(&dst[0], &codes[0], bound, n)
		}
	}
	for i := n; i < len(dst); i++ {
		code := uint32(codes[i])
		// The code's fields lie where a float32 has its own, but for the bias: 2¹²⁰ makes up for it, exactly.
		dst[i] = math.Float32frombits(code>>7<<31|code&0x7f<<20) * 0x1p120 * scale
	}
}

// DecodeInt4 writes code - zero, times scale, for codes of half a byte, the even one in the low half.
func DecodeInt4(dst []float32, codes []byte, zero int, scale float32) {
	_ = codes[:(len(dst)+1)/2]
	n := 0
	if active != nil {
		if n = len(dst) &^ (decodeStep - 1); n > 0 {
			active.decodeInt4(&dst[0], &codes[0], float32(zero), scale, n)
		}
	}
	for i := n; i < len(dst); i++ {
		dst[i] = float32(int(codes[i/2]>>(i%2*4)&15)-zero) * scale
	}
}

// DecodeTable4 writes table[code], times scale, for codes as those of DecodeInt4.
func DecodeTable4(dst []float32, codes []byte, table *[16]float32, scale float32) {
	_ = codes[:(len(dst)+1)/2]
	n := 0
	if active != nil {
		if n = len(dst) &^ (decodeStep - 1); n > 0 {
			active.decodeTable4(&dst[0], &codes[0], &table[0], scale, n)
		}
	}
	for i := n; i < len(dst); i++ {
		dst[i] = table[codes[i/2]>>(i%2*4)&15] * scale
	}
}

// Codes are CodeRows rows of a quantised weight.
type Codes struct {
	Bytes  []byte       // of the first row on
	Stride int          // bytes from row to row
	Table  *[16]float32 // what codes of half a byte are worth; nil: E4M3 bytes
	Scales []float32    // of the first row on: one for each group
	Zeros  []uint8      // subtracted from the table's numbers; nil: none
	Grid   int          // scales from row to row; 0: the rows have the same
	Group  int          // inputs that share a scale
}

// CodeRows is the number of rows that DotCodes takes.
const CodeRows = 4

// DotCodes sets y[r] to the dot product of x with row r, for CodeRows rows: the bits of decoding a row and of Dot. It reports false, and
// does nothing, where there is no routine for it.
func DotCodes(y, x []float32, c *Codes) bool {
	n := len(x)
	if active == nil || active.dotHalf == nil || n == 0 || c.Group%decodeStep != 0 || n%c.Group != 0 {
		return false
	}
	groups, width := n/c.Group, n
	if c.Table != nil {
		width = n / 2
	}
	_, _, _ = y[CodeRows-1], c.Bytes[(CodeRows-1)*c.Stride+width-1], c.Scales[(CodeRows-1)*c.Grid+groups-1]
	switch {
	case c.Table == nil:
		active.dotE4M3(&y[0], &x[0], &c.Bytes[0], c.Stride, &c.Scales[0], c.Grid, c.Group, groups)
	case c.Zeros != nil:
		_ = c.Zeros[(CodeRows-1)*c.Grid+groups-1]
		active.dotHalfZeros(&y[0], &x[0], &c.Bytes[0], c.Stride, &c.Table[0], &c.Scales[0], &c.Zeros[0], c.Grid, c.Group, groups)
	default:
		active.dotHalf(&y[0], &x[0], &c.Bytes[0], c.Stride, &c.Table[0], &c.Scales[0], c.Grid, c.Group, groups)
	}
	return true
}
