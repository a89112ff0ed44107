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
