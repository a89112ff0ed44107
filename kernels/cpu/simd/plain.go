package simd

import "math"

// The twins in plain Go: the same order of additions, without fused multiply-adds.

func plainDotBF16(y []float32, ldy int, x []float32, ldx int, w []byte, ldw int, t, n, k int) {
	for j := range n {
		row := w[2*j*ldw:][:2*k]
		for i := range t {
			v := x[i*ldx:][:k]
			var lanes [16]float32
			for at := range k {
				lanes[at%32/2] += v[at] * widenOne(row, at)
			}
			y[i*ldy+j] = sum16(&lanes)
		}
	}
}

func plainMulBF16(y []float32, ldy int, x []float32, ldx int, w []byte, ldw int, t, n, k int) {
	for at := range k {
		row := w[2*at*ldw:][:2*n]
		for i := range t {
			v, out := x[i*ldx+at], y[i*ldy:][:n]
			for j := range out {
				out[j] += v * widenOne(row, j)
			}
		}
	}
}

func plainDot(a, b []float32) float32 {
	var lanes [16]float32
	at := 0
	for ; at+16 <= len(a); at += 16 {
		p, q := a[at:at+16], b[at:at+16]
		for l := range lanes {
			lanes[l] += p[l] * q[l]
		}
	}
	for l := range len(a) - at {
		lanes[l] += a[at+l] * b[at+l]
	}
	return sum16(&lanes)
}

func plainAddScaled(y []float32, a float32, x []float32) {
	for i, v := range x {
		y[i] += a * v
	}
}

func plainSwiGLU(gate, up []float32) {
	for i, g := range gate {
		gate[i] = float32(float64(g)/(1+math.Exp(-float64(g)))) * up[i]
	}
}

// sum16 adds lanes 8 apart, then 4 apart, then neighbours twice.
func sum16(l *[16]float32) float32 {
	var s [4]float32
	for i := range s {
		s[i] = (l[i] + l[i+8]) + (l[i+4] + l[i+12])
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}
