// Command gen writes the assembly of package simd with avo, in a module of its own so that chulengo does not depend on
// avo. Run it through go generate in the folder above.
//
// Every routine comes in two widths, AVX-512 and AVX2 with FMA. Both keep the same order of additions: a sum along K has
// 16 lanes, which are one register of the former and two of the latter.
package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa is an instruction set.
type isa struct {
	name  string
	lanes int // floats in a register
}

var (
	avx512 = isa{"AVX512", 16}
	avx2   = isa{"AVX2", 8}
)

// halves is the number of registers that hold 16 lanes.
func (s isa) halves() int { return 16 / s.lanes }

func (s isa) bytes() int { return 4 * s.lanes }

func (s isa) vec() reg.VecVirtual {
	if s.lanes == 16 {
		return ZMM()
	}
	return YMM()
}

func (s isa) zero(v reg.VecVirtual) {
	if s.lanes == 16 {
		VPXORD(v, v, v)
	} else {
		VXORPS(v, v, v)
	}
}

// widen loads s.lanes bfloat16 and makes them float32: they are its upper halves.
func (s isa) widen(m Mem, v reg.VecVirtual) {
	VPMOVZXWD(m, v)
	VPSLLD(Imm(16), v, v)
}

// shift loads pairs of bfloat16 and makes the first of each a float32.
func (s isa) shift(m Mem, v reg.VecVirtual) {
	if s.lanes == 16 {
		VPSLLD(Imm(16), m, v)
		return
	}
	VMOVDQU(m, v)
	VPSLLD(Imm(16), v, v)
}

// and loads pairs of bfloat16 and makes the second of each a float32; mask has its bits set.
func (s isa) and(m Mem, mask, v reg.VecVirtual) {
	if s.lanes == 16 {
		VPANDD(m, mask, v)
	} else {
		VPAND(m, mask, v)
	}
}

// sum16 adds the 16 lanes of acc: lanes 8 apart, then 4 apart, then neighbours twice.
func (s isa) sum16(acc []reg.VecVirtual) reg.VecVirtual {
	var y reg.VecVirtual
	if s.lanes == 16 {
		high := YMM()
		VEXTRACTF64X4(Imm(1), acc[0], high)
		y = YMM()
		VADDPS(high, acc[0].AsY(), y)
	} else {
		y = YMM()
		VADDPS(acc[1], acc[0], y)
	}
	x, swapped := XMM(), XMM()
	if s.lanes == 16 {
		VEXTRACTF32X4(Imm(1), y, x)
	} else {
		VEXTRACTF128(Imm(1), y, x)
	}
	VADDPS(x, y.AsX(), x)
	VPERMILPS(Imm(0b10110001), x, swapped) // neighbours
	VADDPS(swapped, x, x)
	VPERMILPS(Imm(0b01001110), x, swapped) // pairs
	VADDPS(swapped, x, x)
	return x
}

// dot: y[t*ldy+r] = Σ x[t, k]·w[r*ldw+k] for rows weight rows and tokens tokens; n is a multiple of 32, strides are in
// elements. A float32 of w holds an even and an odd weight, which a shift and a mask take apart, so x comes as spread
// leaves it: even terms, odd terms, and so on, groups of 16 of every token beside each other, the next groups step on. That
// makes x one stream from the second-level cache instead of many.
func dot(s isa, rows, tokens int) {
	TEXT(fmt.Sprintf("dot%dx%d%s", rows, tokens, s.name), NOSPLIT, "func(y *float32, ldy int, x *float32, step int, w *byte, ldw int, n int)")
	Pragma("noescape")
	w, ldw := Load(Param("w"), GP64()).(reg.GPVirtual), Load(Param("ldw"), GP64()).(reg.GPVirtual)
	x, step := Load(Param("x"), GP64()), Load(Param("step"), GP64())
	n := Load(Param("n"), GP64())
	SHLQ(Imm(1), ldw)
	SHLQ(Imm(2), step)
	wp := strided(w, ldw, rows)
	high, bits := s.vec(), GP32()
	MOVL(U32(0xffff0000), bits)
	VMOVD(bits, high.AsX())
	VPBROADCASTD(high.AsX(), high)
	acc := make([][]reg.VecVirtual, rows*tokens)
	for i := range acc {
		for range s.halves() {
			v := s.vec()
			s.zero(v)
			acc[i] = append(acc[i], v)
		}
	}
	Label("loop")
	for odd := range 2 {
		for h := range s.halves() {
			var wv []reg.VecVirtual
			for r := range rows {
				v := s.vec()
				if m := wp[r].Offset(h * s.bytes()); odd == 1 {
					s.and(m, high, v)
				} else {
					s.shift(m, v)
				}
				wv = append(wv, v)
			}
			for t := range tokens {
				m := Mem{Base: x, Disp: 64*t + h*s.bytes()}
				if rows == 1 {
					VFMADD231PS(m, wv[0], acc[t][h])
					continue
				}
				xv := s.vec()
				VMOVUPS(m, xv)
				for r := range rows {
					VFMADD231PS(xv, wv[r], acc[r*tokens+t][h])
				}
			}
		}
		ADDQ(step, x)
	}
	advance(wp, 64)
	SUBQ(U32(32), n)
	JNE(LabelRef("loop"))
	y, ldy := Load(Param("y"), GP64()).(reg.GPVirtual), Load(Param("ldy"), GP64()).(reg.GPVirtual)
	SHLQ(Imm(2), ldy)
	for t := range tokens {
		for r := range rows {
			VMOVSS(s.sum16(acc[r*tokens+t]), Mem{Base: y, Disp: 4 * r})
		}
		if t+1 < tokens {
			ADDQ(ldy, y)
		}
	}
	VZEROUPPER()
	RET()
}

// spread puts the even terms of every 32 of src into dst, 16 together, the odd ones step on, and so on; n is a multiple of
// 32.
func spread() {
	TEXT("spread", NOSPLIT, "func(dst *float32, step int, src *float32, n int)")
	Pragma("noescape")
	dst, step := Load(Param("dst"), GP64()), Load(Param("step"), GP64())
	src, n := Load(Param("src"), GP64()), Load(Param("n"), GP64())
	SHLQ(Imm(2), step)
	Label("loop")
	for _, pick := range []uint8{0b10001000, 0b11011101} { // even, odd
		for h := range 2 {
			v := YMM()
			VMOVUPS(Mem{Base: src, Disp: 64 * h}, v)
			VSHUFPS(Imm(uint64(pick)), Mem{Base: src, Disp: 64*h + 32}, v, v)
			VPERMPD(Imm(0b11011000), v, v) // the middle two pairs change places
			VMOVUPS(v, Mem{Base: dst, Disp: 32 * h})
		}
		ADDQ(step, dst)
	}
	ADDQ(U32(128), src)
	SUBQ(U32(32), n)
	JNE(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// strided gives the addresses of n rows: base, base+stride, base+2·stride, and so on, with few registers: scaled indexing
// reaches three from one pointer.
func strided(base, stride reg.GPVirtual, n int) []Mem {
	var out []Mem
	p := base
	for i := range n {
		switch i % 3 {
		case 0:
			if i > 0 {
				next := GP64()
				LEAQ(Mem{Base: p, Index: stride, Scale: 2}, next)
				ADDQ(stride, next)
				p = next
			}
			out = append(out, Mem{Base: p})
		case 1:
			out = append(out, Mem{Base: p, Index: stride, Scale: 1})
		case 2:
			out = append(out, Mem{Base: p, Index: stride, Scale: 2})
		}
	}
	return out
}

// advance moves every pointer of strided on.
func advance(rows []Mem, bytes uint64) {
	for i := 0; i < len(rows); i += 3 {
		ADDQ(U32(uint32(bytes)), rows[i].Base)
	}
}

// mulTile: y[t*ldy+c] (+)= Σ x[t*ldx+k]·w[k*ldw+c], k ascending, for tokens tokens and vectors registers of columns. w is
// float32 (a packed block). With resume the sums go on from y.
func mulTile(s isa, tokens, vectors int) {
	TEXT(fmt.Sprintf("mul%dx%d%s", tokens, vectors*s.lanes, s.name), NOSPLIT, "func(y *float32, ldy int, x *float32, ldx int, w *float32, ldw int, n int, resume bool)")
	Pragma("noescape")
	w, ldw := Load(Param("w"), GP64()).(reg.GPVirtual), Load(Param("ldw"), GP64()).(reg.GPVirtual)
	x, ldx := Load(Param("x"), GP64()).(reg.GPVirtual), Load(Param("ldx"), GP64()).(reg.GPVirtual)
	y, ldy := Load(Param("y"), GP64()).(reg.GPVirtual), Load(Param("ldy"), GP64()).(reg.GPVirtual)
	n := Load(Param("n"), GP64())
	for _, stride := range []reg.GPVirtual{ldw, ldx, ldy} {
		SHLQ(Imm(2), stride)
	}
	xp, yp := strided(x, ldx, tokens), strided(y, ldy, tokens)
	acc := make([]reg.VecVirtual, tokens*vectors)
	for i := range acc {
		acc[i] = s.vec()
		s.zero(acc[i])
	}
	resume := Load(Param("resume"), GP8())
	TESTB(resume, resume)
	JEQ(LabelRef("loop"))
	for t := range tokens {
		for v := range vectors {
			VMOVUPS(yp[t].Offset(v*s.bytes()), acc[t*vectors+v])
		}
	}
	Label("loop")
	var wv []reg.VecVirtual
	for v := range vectors {
		r := s.vec()
		VMOVUPS(Mem{Base: w, Disp: v * s.bytes()}, r)
		wv = append(wv, r)
	}
	for t := range tokens {
		xv := s.vec()
		VBROADCASTSS(xp[t], xv)
		for v := range vectors {
			VFMADD231PS(xv, wv[v], acc[t*vectors+v])
		}
	}
	ADDQ(ldw, w)
	advance(xp, 4)
	DECQ(n)
	JNE(LabelRef("loop"))
	for t := range tokens {
		for v := range vectors {
			VMOVUPS(acc[t*vectors+v], yp[t].Offset(v*s.bytes()))
		}
	}
	VZEROUPPER()
	RET()
}

// axpy: y[c] += x[0]·w[c], then x[1]·w[ldw+c], and so on for rows rows of n columns. bf16 says what w holds.
func axpy(s isa, rows int, bf16 bool) {
	kind, width := "F32", 4
	if bf16 {
		kind, width = "BF16", 2
	}
	TEXT(fmt.Sprintf("axpy%d%s%s", rows, kind, s.name), NOSPLIT, "func(y *float32, x *float32, w *byte, ldw int, n int)")
	Pragma("noescape")
	x, w, ldw := Load(Param("x"), GP64()), Load(Param("w"), GP64()).(reg.GPVirtual), Load(Param("ldw"), GP64()).(reg.GPVirtual)
	if width == 2 {
		SHLQ(Imm(1), ldw)
	} else {
		SHLQ(Imm(2), ldw)
	}
	wp := strided(w, ldw, rows)
	var xv []reg.VecVirtual
	for r := range rows {
		v := s.vec()
		VBROADCASTSS(Mem{Base: x, Disp: 4 * r}, v)
		xv = append(xv, v)
	}
	y, n := Load(Param("y"), GP64()), Load(Param("n"), GP64())
	load := func(m Mem, v reg.VecVirtual) {
		if bf16 {
			s.widen(m, v)
		} else {
			VMOVUPS(m, v)
		}
	}
	for _, vectors := range []int{4, 1} {
		loop, done := fmt.Sprintf("loop%d", vectors), fmt.Sprintf("done%d", vectors)
		columns := vectors * s.lanes
		Label(loop)
		CMPQ(n, U32(columns))
		JLT(LabelRef(done))
		var acc []reg.VecVirtual
		for v := range vectors {
			a := s.vec()
			VMOVUPS(Mem{Base: y, Disp: v * s.bytes()}, a)
			acc = append(acc, a)
		}
		for r := range rows {
			for v := range vectors {
				t := s.vec()
				load(wp[r].Offset(v*s.lanes*width), t)
				VFMADD231PS(t, xv[r], acc[v])
			}
		}
		for v := range vectors {
			VMOVUPS(acc[v], Mem{Base: y, Disp: v * s.bytes()})
		}
		ADDQ(U32(4*columns), y)
		advance(wp, uint64(width*columns))
		SUBQ(U32(columns), n)
		JMP(LabelRef(loop))
		Label(done)
	}
	Label("tail")
	TESTQ(n, n)
	JEQ(LabelRef("end"))
	a := XMM()
	VMOVSS(Mem{Base: y}, a)
	for r := range rows {
		t := XMM()
		if bf16 {
			g := GP32()
			MOVWLZX(wp[r], g)
			SHLL(Imm(16), g)
			VMOVD(g, t)
		} else {
			VMOVSS(wp[r], t)
		}
		VFMADD231SS(t, xv[r].AsX(), a)
	}
	VMOVSS(a, Mem{Base: y})
	ADDQ(U32(4), y)
	advance(wp, uint64(width))
	DECQ(n)
	JMP(LabelRef("tail"))
	Label("end")
	VZEROUPPER()
	RET()
}

// dotF32: Σ a[k]·b[k] in 16 lanes; n is a multiple of 16.
func dotF32(s isa) {
	TEXT("dotF32"+s.name, NOSPLIT, "func(a, b *float32, n int) float32")
	Pragma("noescape")
	a, b, n := Load(Param("a"), GP64()), Load(Param("b"), GP64()), Load(Param("n"), GP64())
	var acc []reg.VecVirtual
	for range s.halves() {
		v := s.vec()
		s.zero(v)
		acc = append(acc, v)
	}
	Label("loop")
	for h := range s.halves() {
		v := s.vec()
		VMOVUPS(Mem{Base: a, Disp: h * s.bytes()}, v)
		VFMADD231PS(Mem{Base: b, Disp: h * s.bytes()}, v, acc[h])
	}
	ADDQ(U32(64), a)
	ADDQ(U32(64), b)
	SUBQ(U32(16), n)
	JNE(LabelRef("loop"))
	Store(s.sum16(acc), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// dotRowsF32: y[r] = Σ x[k]·w[r*ldw+k] for rows rows, each as dotF32 adds; n is a multiple of 16, ldw in elements.
func dotRowsF32(s isa, rows int) {
	TEXT(fmt.Sprintf("dot%dF32%s", rows, s.name), NOSPLIT, "func(y *float32, x *float32, w *float32, ldw int, n int)")
	Pragma("noescape")
	x, w, ldw := Load(Param("x"), GP64()), Load(Param("w"), GP64()).(reg.GPVirtual), Load(Param("ldw"), GP64()).(reg.GPVirtual)
	n := Load(Param("n"), GP64())
	SHLQ(Imm(2), ldw)
	wp := strided(w, ldw, rows)
	acc := make([][]reg.VecVirtual, rows)
	for r := range acc {
		for range s.halves() {
			v := s.vec()
			s.zero(v)
			acc[r] = append(acc[r], v)
		}
	}
	Label("loop")
	for h := range s.halves() {
		v := s.vec()
		VMOVUPS(Mem{Base: x, Disp: h * s.bytes()}, v)
		for r := range rows {
			VFMADD231PS(wp[r].Offset(h*s.bytes()), v, acc[r][h])
		}
	}
	ADDQ(U32(64), x)
	advance(wp, 64)
	SUBQ(U32(16), n)
	JNE(LabelRef("loop"))
	y := Load(Param("y"), GP64())
	for r := range rows {
		VMOVSS(s.sum16(acc[r]), Mem{Base: y, Disp: 4 * r})
	}
	VZEROUPPER()
	RET()
}

// widenRow: dst[i] = src[i] for n bfloat16.
func widenRow(s isa) {
	TEXT("widen"+s.name, NOSPLIT, "func(dst *float32, src *byte, n int)")
	Pragma("noescape")
	dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
	Label("loop")
	CMPQ(n, U32(s.lanes))
	JLT(LabelRef("tail"))
	v := s.vec()
	s.widen(Mem{Base: src}, v)
	VMOVUPS(v, Mem{Base: dst})
	ADDQ(U32(2*s.lanes), src)
	ADDQ(U32(4*s.lanes), dst)
	SUBQ(U32(s.lanes), n)
	JMP(LabelRef("loop"))
	Label("tail")
	TESTQ(n, n)
	JEQ(LabelRef("end"))
	g := GP32()
	MOVWLZX(Mem{Base: src}, g)
	SHLL(Imm(16), g)
	MOVL(g, Mem{Base: dst})
	ADDQ(U32(2), src)
	ADDQ(U32(4), dst)
	DECQ(n)
	JMP(LabelRef("tail"))
	Label("end")
	VZEROUPPER()
	RET()
}

// readSum reads n bytes, a multiple of 256, and gives something that depends on all of them.
func readSum(s isa) {
	TEXT("readSum"+s.name, NOSPLIT, "func(p *byte, n int) uint64")
	Pragma("noescape")
	p, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	var acc []reg.VecVirtual
	for range 4 {
		v := s.vec()
		s.zero(v)
		acc = append(acc, v)
	}
	Label("loop")
	for i := range 256 / s.bytes() {
		if s.lanes == 16 {
			VPXORD(Mem{Base: p, Disp: i * s.bytes()}, acc[i%4], acc[i%4])
		} else {
			VXORPS(Mem{Base: p, Disp: i * s.bytes()}, acc[i%4], acc[i%4])
		}
	}
	ADDQ(U32(256), p)
	SUBQ(U32(256), n)
	JNE(LabelRef("loop"))
	for i := 1; i < 4; i++ {
		if s.lanes == 16 {
			VPXORD(acc[i], acc[0], acc[0])
		} else {
			VXORPS(acc[i], acc[0], acc[0])
		}
	}
	r := GP64()
	VMOVQ(acc[0].AsX(), r)
	Store(r, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// constants of swiGLU, each as often as a register has lanes.
type constants struct {
	at   Mem
	size int
}

func newConstants(name string) *constants { return &constants{at: GLOBL(name, RODATA|NOPTR)} }

func (c *constants) bits(v uint32) Mem {
	m := c.at.Offset(c.size)
	for range 16 {
		DATA(c.size, U32(v))
		c.size += 4
	}
	return m
}

func (c *constants) float(v float64) Mem { return c.bits(math.Float32bits(float32(v))) }

// swiGLU: gate[i] = gate[i]/(1+exp(-gate[i]))·up[i] for n values, a multiple of 16. exp(z) is 2ⁿ·exp(r) with
// n = round(z/ln 2) and Taylor's polynomial of degree 7 for exp(r): |r| ≤ ln 2/2, so it is off by at most 5e-9.
func swiGLU(sets ...isa) {
	c := newConstants("swiGLUConstants")
	limit, floor := c.float(104), c.float(-104) // exp is infinite and 0 there; n stays small
	perLn2 := c.float(math.Log2E)
	magic := c.float(3 << 22) // added to a small number it rounds it, and leaves it in the lowest bits
	ln2High := c.float(0.693359375)
	ln2Low := c.float(math.Ln2 - 0.693359375)
	bias, one := c.bits(127), c.float(1)
	var coefficients []Mem // of rising powers
	for f, i := 1.0, 0.0; i <= 7; i++ {
		f *= max(i, 1)
		coefficients = append(coefficients, c.float(1/f))
	}
	for _, s := range sets {
		TEXT("swiGLU"+s.name, NOSPLIT, "func(gate, up *float32, n int)")
		Pragma("noescape")
		gate, up, n := Load(Param("gate"), GP64()), Load(Param("up"), GP64()), Load(Param("n"), GP64())
		zero := s.vec()
		s.zero(zero)
		Label("loop")
		for h := range s.halves() {
			g, z, rounded, e := s.vec(), s.vec(), s.vec(), s.vec()
			exponent, half := s.vec(), s.vec()
			VMOVUPS(Mem{Base: gate, Disp: h * s.bytes()}, g)
			VSUBPS(g, zero, z)
			for _, edge := range []Mem{limit, floor} { // z is the second operand: a NaN stays
				VMOVUPS(edge, e)
				if edge == limit {
					VMINPS(z, e, z)
				} else {
					VMAXPS(z, e, z)
				}
			}
			VMOVUPS(perLn2, rounded)
			VFMADD213PS(magic, z, rounded)
			VPSUBD(magic, rounded, exponent)
			VSUBPS(magic, rounded, rounded)
			VFNMADD231PS(ln2High, rounded, z)
			VFNMADD231PS(ln2Low, rounded, z)
			VMOVUPS(coefficients[7], e)
			for i := 6; i >= 0; i-- {
				VFMADD213PS(coefficients[i], z, e)
			}
			// 2ⁿ in two factors: one alone could not become infinite or 0.
			VPSRAD(Imm(1), exponent, half)
			VPSUBD(half, exponent, exponent)
			for _, v := range []reg.VecVirtual{half, exponent} {
				VPADDD(bias, v, v)
				VPSLLD(Imm(23), v, v)
				VMULPS(v, e, e)
			}
			VADDPS(one, e, e)
			VDIVPS(e, g, g)
			VMULPS(Mem{Base: up, Disp: h * s.bytes()}, g, g)
			VMOVUPS(g, Mem{Base: gate, Disp: h * s.bytes()})
		}
		ADDQ(U32(64), gate)
		ADDQ(U32(64), up)
		SUBQ(U32(16), n)
		JNE(LabelRef("loop"))
		VZEROUPPER()
		RET()
	}
}

// fmaChains are the independent multiply-adds of one round of fmaLoop: latency times ports, and some.
const fmaChains = 12

// fmaLoop does n rounds of fmaChains multiply-adds in registers.
func fmaLoop(s isa) {
	TEXT("fmaLoop"+s.name, NOSPLIT, "func(n int)")
	Pragma("noescape")
	n := Load(Param("n"), GP64())
	a := s.vec()
	s.zero(a)
	var acc []reg.VecVirtual
	for range fmaChains {
		v := s.vec()
		s.zero(v)
		acc = append(acc, v)
	}
	Label("loop")
	for _, v := range acc {
		VFMADD231PS(a, a, v)
	}
	DECQ(n)
	JNE(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func main() {
	ConstraintExpr("amd64")
	for tokens := 1; tokens <= 6; tokens++ {
		dot(avx512, 4, tokens)
		dot(avx512, 1, tokens)
		mulTile(avx512, tokens, 4)
	}
	for tokens := 1; tokens <= 3; tokens++ {
		dot(avx2, 2, tokens)
		dot(avx2, 1, tokens)
	}
	dot(avx2, 4, 1)
	for tokens := 1; tokens <= 6; tokens++ {
		mulTile(avx2, tokens, 2)
	}
	spread()
	swiGLU(avx512, avx2)
	decodeE4M3() // in AVX2 only: what they write is the limit
	decode4(false)
	decode4(true)
	dotCodes("dotHalfAVX512", true, false)
	dotCodes("dotHalfZerosAVX512", true, true)
	dotCodes("dotE4M3AVX512", false, false)
	for _, s := range []isa{avx512, avx2} {
		axpy(s, 8, true)
		axpy(s, 1, true)
		axpy(s, 1, false)
		axpy(s, 8, false)
		dotF32(s)
		dotRowsF32(s, 4)
		widenRow(s)
		readSum(s)
		fmaLoop(s)
	}
	Generate()
}
