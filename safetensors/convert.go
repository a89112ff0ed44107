package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/x448/float16"
)

// Float32s converts the tensor to float32, in a new slice of Len elements. F16, BF16 and the 8-bit floats convert
// exactly; F64 and integers above 2^24 are rounded to nearest even; BOOL gives 0 and 1. The error is BadTensor, for a
// tensor made by hand whose fields disagree.
func (t *Tensor) Float32s() ([]float32, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	out := make([]float32, t.Len())
	src, le := t.Data, binary.LittleEndian
	switch t.DType {
	case BOOL:
		for i := range out {
			if src[i] != 0 {
				out[i] = 1
			}
		}
	case U8:
		for i := range out {
			out[i] = float32(src[i])
		}
	case I8:
		for i := range out {
			out[i] = float32(int8(src[i]))
		}
	case U16:
		for i := range out {
			out[i] = float32(le.Uint16(src[2*i:]))
		}
	case I16:
		for i := range out {
			out[i] = float32(int16(le.Uint16(src[2*i:])))
		}
	case U32:
		for i := range out {
			out[i] = float32(le.Uint32(src[4*i:]))
		}
	case I32:
		for i := range out {
			out[i] = float32(int32(le.Uint32(src[4*i:])))
		}
	case U64:
		for i := range out {
			out[i] = float32(le.Uint64(src[8*i:]))
		}
	case I64:
		for i := range out {
			out[i] = float32(int64(le.Uint64(src[8*i:])))
		}
	case F8_E4M3:
		for i := range out {
			out[i] = e4m3Values[src[i]]
		}
	case F8_E5M2:
		for i := range out {
			out[i] = e5m2Values[src[i]]
		}
	case F16:
		for i := range out {
			out[i] = float16.Frombits(le.Uint16(src[2*i:])).Float32()
		}
	case BF16:
		for i := range out {
			out[i] = math.Float32frombits(uint32(le.Uint16(src[2*i:])) << 16)
		}
	case F32:
		for i := range out {
			out[i] = math.Float32frombits(le.Uint32(src[4*i:]))
		}
	case F64:
		for i := range out {
			out[i] = float32(math.Float64frombits(le.Uint64(src[8*i:])))
		}
	default:
		panic(fmt.Sprintf("safetensors: dtype %v has no conversion", t.DType)) // a dtype added to the table only
	}
	return out, nil
}

// NewFloat32 makes an F32 tensor of the shape from values [shape...].
func NewFloat32(name string, shape []int, values []float32) Tensor {
	data := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
	}
	return Tensor{Name: name, DType: F32, Shape: shape, Data: data}
}

// BF16ToFloat32 widens src, little-endian bfloat16, into dst, exactly. len(src) must be 2·len(dst).
func BF16ToFloat32(dst []float32, src []byte) {
	if len(src) != 2*len(dst) {
		panic(fmt.Sprintf("safetensors: BF16ToFloat32: want %d bytes, got %d", 2*len(dst), len(src)))
	}
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

// Float32ToBF16 narrows src into dst, little-endian bfloat16, rounding to nearest, ties to even. Values beyond the
// largest bfloat16 become infinite; a NaN stays a NaN, quiet and of its sign. len(dst) must be 2·len(src).
func Float32ToBF16(dst []byte, src []float32) {
	if len(dst) != 2*len(src) {
		panic(fmt.Sprintf("safetensors: Float32ToBF16: want %d bytes, got %d", 2*len(src), len(dst)))
	}
	for i, v := range src {
		binary.LittleEndian.PutUint16(dst[2*i:], bf16Bits(v))
	}
}

// bf16Bits rounds v to bfloat16.
func bf16Bits(v float32) uint16 {
	b := math.Float32bits(v)
	if v != v {
		return uint16(b>>16) | 0x40 // the quiet bit: a payload in the lower half alone would otherwise turn into infinity
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// e4m3Values and e5m2Values are the values of all 8-bit floats, indexed by their bits.
var e4m3Values, e5m2Values = decode8(4, 3), decode8(5, 2)

// decode8 lists the values of a format with a sign, exponent and mantissa bits, by the rules of the OCP 8-bit floating
// point specification (2023): E5M2 keeps IEEE 754's infinities and NaN, E4M3 gives all but S.1111.111 to numbers.
func decode8(exponentBits, mantissaBits int) (values [256]float32) {
	bias, top := 1<<(exponentBits-1)-1, 1<<exponentBits-1
	for b := range values {
		exponent, mantissa := b>>mantissaBits&top, b&(1<<mantissaBits-1)
		var v float64
		switch {
		case exponent == top && exponentBits == 5 && mantissa == 0:
			v = math.Inf(1)
		case exponent == top && (exponentBits == 5 || mantissa == 7):
			v = math.NaN()
		case exponent == 0: // subnormal
			v = math.Ldexp(float64(mantissa), 1-bias-mantissaBits)
		default:
			v = math.Ldexp(float64(mantissa+1<<mantissaBits), exponent-bias-mantissaBits)
		}
		if b >= 0x80 {
			v = math.Copysign(v, -1)
		}
		values[b] = float32(v)
	}
	return values
}
