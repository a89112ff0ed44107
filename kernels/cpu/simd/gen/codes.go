package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Codes of quantised weights.

// widenE4M3 makes float16 of 16 codes, divided by 256: exponent and mantissa go where a float16 has its own; subnormal ones too, and the
// conversion of those costs nothing. An arithmetic shift moves them past the sign, whose copy the mask 0xbfff removes.
func widenE4M3(codes Mem, mask, v reg.VecVirtual) {
	VPMOVZXBW(codes, v)
	VPSLLW(Imm(8), v, v)
	VPSRAW(Imm(1), v, v)
	VPAND(mask, v, v)
}

// decodeE4M3: dst[i] = number(codes[i])·scale for n codes, a multiple of 16.
func decodeE4M3() {
	c := newConstants("decodeE4M3Constants")
	bits := c.bits(0xbfffbfff)
	TEXT("decodeE4M3", NOSPLIT, "func(dst *float32, codes *byte, scale256 float32, n int)")
	Pragma("noescape")
	dst, codes, n := Load(Param("dst"), GP64()), Load(Param("codes"), GP64()), Load(Param("n"), GP64())
	factor := YMM()
	VBROADCASTSS(NewParamAddr("scale256", 16), factor)
	mask := YMM()
	VMOVDQU(bits, mask)
	Label("loop")
	v, upper := YMM(), XMM()
	widenE4M3(Mem{Base: codes}, mask, v)
	VEXTRACTI128(Imm(1), v, upper)
	for h, half := range []reg.VecVirtual{v.AsX().(reg.VecVirtual), upper} {
		f := YMM()
		VCVTPH2PS(half, f)
		VMULPS(factor, f, f)
		VMOVUPS(f, Mem{Base: dst, Disp: 32 * h})
	}
	ADDQ(U32(16), codes)
	ADDQ(U32(64), dst)
	SUBQ(U32(16), n)
	JNE(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// decode4: dst[i] = number(code i)·scale for n codes of half a byte, a multiple of 16. The number is the code less zero, or
// a place in a table.
func decode4(table bool) {
	name, arg := "decodeInt4", "zero float32"
	if table {
		name, arg = "decodeTable4", "table *float32"
	}
	c := newConstants(name + "Constants")
	low := c.bits(0x0f0f0f0f)
	TEXT(name, NOSPLIT, "func(dst *float32, codes *byte, "+arg+", scale float32, n int)")
	Pragma("noescape")
	dst, codes, n := Load(Param("dst"), GP64()), Load(Param("codes"), GP64()), Load(Param("n"), GP64())
	factor, zero, first, second := YMM(), YMM(), YMM(), YMM()
	if table {
		VBROADCASTSS(NewParamAddr("scale", 24), factor)
		numbers := Load(Param("table"), GP64())
		VMOVUPS(Mem{Base: numbers}, first)
		VMOVUPS(Mem{Base: numbers, Disp: 32}, second)
	} else {
		VBROADCASTSS(NewParamAddr("scale", 20), factor)
		VBROADCASTSS(NewParamAddr("zero", 16), zero)
	}
	Label("loop")
	even, odd := XMM(), XMM()
	VMOVQ(Mem{Base: codes}, even)
	VPSRLW(Imm(4), even, odd)
	VPAND(low, even, even)
	VPAND(low, odd, odd)
	VPUNPCKLBW(odd, even, even)
	for h := range 2 {
		v := YMM()
		VPMOVZXBD(even, v)
		if h == 0 {
			VPSRLDQ(Imm(8), even, even)
		}
		if table {
			a, b := YMM(), YMM()
			VPERMPS(first, v, a)
			VPERMPS(second, v, b)
			VPSLLD(Imm(28), v, v) // the fourth bit chooses the half of the table
			VBLENDVPS(v, b, a, v)
		} else {
			VCVTDQ2PS(v, v)
			VSUBPS(zero, v, v)
		}
		VMULPS(factor, v, v)
		VMOVUPS(v, Mem{Base: dst, Disp: 32 * h})
	}
	ADDQ(U32(8), codes)
	ADDQ(U32(64), dst)
	SUBQ(U32(16), n)
	JNE(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// codeRows is how many weight rows the routines below take.
const codeRows = 4

// dotCodes: y[r] = Σ x[k]·number(codes[r*ldc+k])·scale for codeRows rows of quantised weights, for groups runs of `group` inputs, a multiple
// of 16, with a scale each: scales[r*lds] and those after it. A number times its scale is rounded as decoding rounds it, and the sums have
// the order of dotF32. Codes of half a byte are places in a table of 16 numbers, which is multiplied by the scale once a group, zeros
// subtracted before; ldc is in bytes. AVX-512 only.
func dotCodes(name string, half, zeros bool) {
	args := "codes *byte, ldc int, scales *float32, lds int, group int, groups int"
	if half {
		args = "codes *byte, ldc int, table *float32, scales *float32, lds int, group int, groups int"
	}
	if zeros {
		args = "codes *byte, ldc int, table *float32, scales *float32, zeros *byte, lds int, group int, groups int"
	}
	c := newConstants(name + "Constants")
	var shifts Mem
	var bits, factor Mem
	if half {
		shifts = c.at
		for i := range 16 {
			DATA(c.size, U32(uint32(i%8*4)))
			c.size += 4
		}
	} else {
		bits, factor = c.bits(0xbfffbfff), c.float(256)
	}
	TEXT(name, NOSPLIT, "func(y *float32, x *float32, "+args+")")
	Pragma("noescape")
	x, groups := Load(Param("x"), GP64()), Load(Param("groups"), GP64())
	codes := strided(Load(Param("codes"), GP64()).(reg.GPVirtual), Load(Param("ldc"), GP64()).(reg.GPVirtual), codeRows)
	lds := Load(Param("lds"), GP64()).(reg.GPVirtual)
	var zp []Mem
	if zeros {
		zp = strided(Load(Param("zeros"), GP64()).(reg.GPVirtual), lds, codeRows)
	}
	var sp []Mem
	wide := lds
	if zeros {
		wide = GP64()
		MOVQ(lds, wide)
	}
	SHLQ(Imm(2), wide)
	sp = strided(Load(Param("scales"), GP64()).(reg.GPVirtual), wide, codeRows)

	table, shift, upper, mask := ZMM(), ZMM(), K(), YMM()
	if half {
		numbers := Load(Param("table"), GP64())
		VMOVUPS(Mem{Base: numbers}, table)
		VMOVDQU32(shifts, shift)
		lanes := GP32()
		MOVL(U32(0xff00), lanes)
		KMOVW(lanes, upper)
	} else {
		VMOVDQU(bits, mask)
	}
	var acc, scaled []reg.VecVirtual
	for range codeRows {
		v := ZMM()
		VPXORD(v, v, v)
		acc, scaled = append(acc, v), append(scaled, ZMM())
	}
	Label("group")
	for r := range codeRows {
		switch {
		case zeros:
			g, z := GP32(), ZMM()
			MOVBLZX(zp[r], g)
			VPBROADCASTD(g, z)
			VCVTDQ2PS(z, z)
			VSUBPS(z, table, z)
			VMULPS_BCST(sp[r], z, scaled[r])
		case half:
			VMULPS_BCST(sp[r], table, scaled[r])
		default:
			VBROADCASTSS(sp[r], scaled[r])
			VMULPS(factor, scaled[r], scaled[r]) // see decodeE4M3
		}
	}
	left := Load(Param("group"), GP64())
	Label("loop")
	v := ZMM()
	VMOVUPS(Mem{Base: x}, v)
	for r := range codeRows {
		w := ZMM()
		if half {
			VPBROADCASTD(codes[r], w)
			VPBROADCASTD(codes[r].Offset(4), upper, w)
			VPSRLVD(shift, w, w)
			VPERMPS(scaled[r], w, w) // the lowest 4 bits of a lane are its place
		} else {
			halves := YMM()
			widenE4M3(codes[r], mask, halves)
			VCVTPH2PS(halves, w)
			VMULPS(scaled[r], w, w)
		}
		VFMADD231PS(w, v, acc[r])
	}
	ADDQ(U32(64), x)
	if half {
		advance(codes, 8)
	} else {
		advance(codes, 16)
	}
	SUBQ(U32(16), left)
	JNE(LabelRef("loop"))
	advance(sp, 4)
	if zeros {
		advance(zp, 1)
	}
	DECQ(groups)
	JNE(LabelRef("group"))
	y := Load(Param("y"), GP64())
	for r := range codeRows {
		VMOVSS(avx512.sum16(acc[r:r+1]), Mem{Base: y, Disp: 4 * r})
	}
	VZEROUPPER()
	RET()
}
