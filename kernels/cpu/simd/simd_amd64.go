package simd

//go:generate go run -C gen . -out ../kernels_amd64.s -stubs ../kernels_amd64.go -pkg simd

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// sets lists what this processor has, the best last.
func sets() (list []*set) {
	x := cpu.X86
	if x.HasAVX2 && x.HasFMA { // and F16C, which is older than both
		list = append(list, &set{
			name: "avx2", lanes: 8,
			dotRows: 2, dotTile: []dotFunc{dot2x1AVX2, dot2x2AVX2, dot2x3AVX2},
			dotRow: []dotFunc{dot1x1AVX2, dot1x2AVX2, dot1x3AVX2}, dotFour: []dotFunc{dot4x1AVX2},
			mulWidth: 16, mulTile: []mulFunc{mul1x16AVX2, mul2x16AVX2, mul3x16AVX2, mul4x16AVX2, mul5x16AVX2, mul6x16AVX2},
			axpy8: axpy8BF16AVX2, axpy1: axpy1BF16AVX2, axpyF32: axpy1F32AVX2, axpy8F32: axpy8F32AVX2,
			dot: dotF32AVX2, dot4F32: dot4F32AVX2, swiGLU: swiGLUAVX2, widen: widenAVX2, readSum: readSumAVX2, fmaLoop: fmaLoopAVX2,
			decodeE4M3: decodeE4M3, decodeInt4: decodeInt4, decodeTable4: decodeTable4,
		})
	}
	if len(list) > 0 && x.HasAVX512F && x.HasAVX512VL && x.HasAVX512BW && x.HasAVX512DQ {
		list = append(list, &set{
			name: "avx512", lanes: 16,
			dotRows: 4, dotTile: []dotFunc{dot4x1AVX512, dot4x2AVX512, dot4x3AVX512, dot4x4AVX512, dot4x5AVX512, dot4x6AVX512},
			dotRow: []dotFunc{dot1x1AVX512, dot1x2AVX512, dot1x3AVX512, dot1x4AVX512, dot1x5AVX512, dot1x6AVX512}, dotFour: []dotFunc{dot4x1AVX512},
			mulWidth: 64, mulTile: []mulFunc{mul1x64AVX512, mul2x64AVX512, mul3x64AVX512, mul4x64AVX512, mul5x64AVX512, mul6x64AVX512},
			axpy8: axpy8BF16AVX512, axpy1: axpy1BF16AVX512, axpyF32: axpy1F32AVX512, axpy8F32: axpy8F32AVX512,
			dot: dotF32AVX512, dot4F32: dot4F32AVX512, swiGLU: swiGLUAVX512, widen: widenAVX512, readSum: readSumAVX512, fmaLoop: fmaLoopAVX512,
			decodeE4M3: decodeE4M3, decodeInt4: decodeInt4, decodeTable4: decodeTable4,
			dotHalf: dotHalfAVX512, dotHalfZeros: dotHalfZerosAVX512, dotE4M3: dotE4M3AVX512,
		})
	}
	return list
}

// bytesOf is the address of x for routines that read either format.
func bytesOf(x []float32) *byte { return (*byte)(unsafe.Pointer(unsafe.SliceData(x))) }
