package simd

import (
	"encoding/binary"
	"math"
)

func bf(w []byte, i int) float32 {
	return math.Float32frombits(uint32(binary.LittleEndian.Uint16(w[2*i:])) << 16)
}
func Dot(a, b []float32) float32 {
	var s [16]float32
	for i := range a {
		s[i%16] += a[i] * b[i]
	}
	for n := 8; n > 0; n /= 2 {
		for i := 0; i < n; i++ {
			s[i] += s[i+n]
		}
	}
	return s[0]
}
func AddScaled(y []float32, a float32, x []float32) {
	for i := range y {
		y[i] += a * x[i]
	}
}
func DotBF16(y []float32, ldy int, x []float32, ldx int, w []byte, ldw int, t, n, k int) {
	row := make([]float32, k)
	for j := 0; j < n; j++ {
		for i := range row {
			row[i] = bf(w, j*ldw+i)
		}
		for i := 0; i < t; i++ {
			y[i*ldy+j] = Dot(row, x[i*ldx:][:k])
		}
	}
}
func MulBF16(y []float32, ldy int, x []float32, ldx int, w []byte, ldw int, t, n, k int) {
	row := make([]float32, n)
	for i := 0; i < t; i++ {
		clear(y[i*ldy:][:n])
	}
	for j := 0; j < k; j++ {
		for i := range row {
			row[i] = bf(w, j*ldw+i)
		}
		for i := 0; i < t; i++ {
			AddScaled(y[i*ldy:][:n], x[i*ldx+j], row)
		}
	}
}
func Name() string { return "go" }
