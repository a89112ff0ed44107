package safetensors

import "fmt"

// DType is an element type of the format. The zero value is no dtype.
type DType uint8

// The dtypes; String gives the word that the header uses.
const (
	BOOL    DType = iota + 1 // one byte, 0 or 1
	U8                       // unsigned integers
	I8                       // two's complement integers
	U16                      //
	I16                      //
	U32                      //
	I32                      //
	U64                      //
	I64                      //
	F8_E4M3                  // OCP 8-bit float, 4 exponent bits, finite (no infinities), 1 NaN a sign
	F8_E5M2                  // OCP 8-bit float, 5 exponent bits, infinities and NaN as in IEEE 754
	F16                      // IEEE 754 binary16
	BF16                     // the upper half of a binary32
	F32                      // IEEE 754 binary32
	F64                      // IEEE 754 binary64
)

// dtypes is the one table of names and sizes, indexed by DType.
var dtypes = [...]struct {
	name string
	size int // bytes an element
}{
	BOOL: {"BOOL", 1}, U8: {"U8", 1}, I8: {"I8", 1}, U16: {"U16", 2}, I16: {"I16", 2}, U32: {"U32", 4}, I32: {"I32", 4},
	U64: {"U64", 8}, I64: {"I64", 8}, F8_E4M3: {"F8_E4M3", 1}, F8_E5M2: {"F8_E5M2", 1}, F16: {"F16", 2}, BF16: {"BF16", 2},
	F32: {"F32", 4}, F64: {"F64", 8},
}

// ParseDType returns the dtype of a header's word, false for a word that is none.
func ParseDType(word string) (DType, bool) {
	for d := BOOL; d <= F64; d++ {
		if dtypes[d].name == word {
			return d, true
		}
	}
	return 0, false
}

// DTypes returns all dtypes, in the order of their declaration.
func DTypes() []DType {
	all := make([]DType, 0, len(dtypes)-1)
	for d := BOOL; d <= F64; d++ {
		all = append(all, d)
	}
	return all
}

func (d DType) valid() bool { return d >= BOOL && d <= F64 }

// String returns the header's word for d, "DType(0)" for the zero value.
func (d DType) String() string {
	if !d.valid() {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Size returns the bytes of one element, 0 for a value that is no dtype.
func (d DType) Size() int {
	if !d.valid() {
		return 0
	}
	return dtypes[d].size
}
