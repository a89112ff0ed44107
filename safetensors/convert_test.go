package safetensors

import (
	"encoding/binary"
	"math"
	"math/big"
	"slices"
	"testing"
)

// float8 computes a value in rational arithmetic from the sentence of the specification:
// (-1)^s · 2^(e-bias) · 1.m, or (-1)^s · 2^(1-bias) · 0.m where e = 0.
func float8(b, mantissaBits, bias int) float32 {
	e, m := b&0x7f>>mantissaBits, b&(1<<mantissaBits-1)
	v := big.NewRat(int64(m), 1<<mantissaBits)
	if e == 0 {
		e = 1
	} else {
		v.Add(v, big.NewRat(1, 1))
	}
	two := big.NewRat(2, 1)
	for ; e > bias; e-- {
		v.Mul(v, two)
	}
	for ; e < bias; e++ {
		v.Quo(v, two)
	}
	f, _ := v.Float32()
	if b&0x80 != 0 {
		f = float32(math.Copysign(float64(f), -1))
	}
	return f
}

func TestFloat8(t *testing.T) {
	bytes := make([]byte, 256)
	for i := range bytes {
		bytes[i] = byte(i)
	}
	for _, c := range []struct {
		dtype              DType
		mantissaBits, bias int
		largest            float32
	}{{F8_E4M3, 3, 7, 448}, {F8_E5M2, 2, 15, 57344}} {
		x := Tensor{Name: "w", DType: c.dtype, Shape: []int{16, 16}, Data: bytes}
		values, err := x.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		largest, nans := float32(0), 0
		for b, got := range values {
			magnitude := b & 0x7f
			switch {
			case c.dtype == F8_E4M3 && magnitude == 0x7f, c.dtype == F8_E5M2 && magnitude > 0x7c:
				nans++
				if got == got {
					t.Errorf("%v %#02x: got %v, want NaN", c.dtype, b, got)
				}
			case c.dtype == F8_E5M2 && magnitude == 0x7c:
				if want := math.Inf(1 - 2*(b>>7)); float64(got) != want {
					t.Errorf("%v %#02x: got %v, want %v", c.dtype, b, got, want)
				}
			default:
				want := float8(b, c.mantissaBits, c.bias)
				if math.Float32bits(got) != math.Float32bits(want) {
					t.Errorf("%v %#02x: got %v, want %v", c.dtype, b, got, want)
				}
				largest = max(largest, got)
			}
		}
		if want := map[DType]int{F8_E4M3: 2, F8_E5M2: 6}[c.dtype]; largest != c.largest || nans != want {
			t.Errorf("%v: largest %v and %d NaNs, want %v and %d", c.dtype, largest, nans, c.largest, want)
		}
	}
}

// TestFloat16 compares every binary16 with the formula.
func TestFloat16(t *testing.T) {
	data := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(data[2*i:], uint16(i))
	}
	x := Tensor{Name: "w", DType: F16, Shape: []int{1 << 16}, Data: data}
	values, err := x.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range values {
		e, m := i>>10&31, i&1023
		want := math.Ldexp(float64(1024+m), e-25)
		switch {
		case e == 0:
			want = math.Ldexp(float64(m), -24)
		case e == 31 && m == 0:
			want = math.Inf(1)
		case e == 31:
			want = math.NaN()
		}
		if i>>15 == 1 {
			want = math.Copysign(want, -1)
		}
		if got != got && want != want {
			continue
		}
		if math.Float32bits(got) != math.Float32bits(float32(want)) {
			t.Fatalf("F16 %#04x: got %v, want %v", i, got, want)
		}
	}
}

func TestBF16(t *testing.T) {
	// Every bfloat16 widens to the float32 with 16 more zero bits, and narrows to itself; a NaN becomes quiet.
	all := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(all[2*i:], uint16(i))
	}
	wide, back := make([]float32, 1<<16), make([]byte, 2<<16)
	BF16ToFloat32(wide, all)
	Float32ToBF16(back, wide)
	for i, v := range wide {
		if math.Float32bits(v) != uint32(i)<<16 && v == v {
			t.Fatalf("BF16 %#04x: got %v", i, v)
		}
		want := uint16(i)
		if v != v {
			want |= 0x40
		}
		if got := binary.LittleEndian.Uint16(back[2*i:]); got != want {
			t.Fatalf("BF16 %#04x: back as %#04x, want %#04x", i, got, want)
		}
	}
	// Between two neighbours, the nearer wins, and the even one at the middle.
	for i := range uint32(0x7f80) {
		for _, c := range []struct{ low, up uint32 }{{0, 0}, {1, 0}, {0x7fff, 0}, {0x8000, i & 1}, {0x8001, 1}, {0xffff, 1}} {
			for _, sign := range []uint32{0, 0x8000} {
				if got, want := bf16Bits(math.Float32frombits((i|sign)<<16|c.low)), uint16(i+c.up|sign); got != want {
					t.Fatalf("%#04x%04x: got %#04x, want %#04x", i|sign, c.low, got, want)
				}
			}
		}
	}
	for _, bits := range []uint32{0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff, 0x7fc00000} {
		got := uint32(bf16Bits(math.Float32frombits(bits))) << 16
		if v := math.Float32frombits(got); v == v || got>>31 != bits>>31 {
			t.Errorf("NaN %#08x: got %#08x, want a NaN of its sign", bits, got)
		}
	}
	for _, f := range []func(){
		func() { BF16ToFloat32(make([]float32, 2), make([]byte, 3)) },
		func() { Float32ToBF16(make([]byte, 3), make([]float32, 2)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("lengths that do not fit: want a panic")
				}
			}()
			f()
		}()
	}
}

func TestFloat32s(t *testing.T) {
	le := binary.LittleEndian
	u16 := func(v ...uint16) (b []byte) {
		for _, x := range v {
			b = le.AppendUint16(b, x)
		}
		return b
	}
	u32 := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = le.AppendUint32(b, x)
		}
		return b
	}
	u64 := func(v ...uint64) (b []byte) {
		for _, x := range v {
			b = le.AppendUint64(b, x)
		}
		return b
	}
	for _, c := range []struct {
		dtype DType
		data  []byte
		want  []float32
	}{
		{BOOL, []byte{0, 1, 2}, []float32{0, 1, 1}},
		{U8, []byte{0, 128, 255}, []float32{0, 128, 255}},
		{I8, []byte{0, 128, 255}, []float32{0, -128, -1}},
		{U16, u16(0, 1, 65535), []float32{0, 1, 65535}},
		{I16, u16(0, 32768, 65535), []float32{0, -32768, -1}},
		{U32, u32(1, 1<<24+1, math.MaxUint32), []float32{1, 1 << 24, 1 << 32}},
		{I32, u32(1, 1<<31, math.MaxUint32), []float32{1, -1 << 31, -1}},
		{U64, u64(1, 1<<63, math.MaxUint64), []float32{1, 1 << 63, 1 << 64}},
		{I64, u64(1, 1<<63, math.MaxUint64), []float32{1, -1 << 63, -1}},
		{F8_E4M3, []byte{0x38, 0xb8, 1}, []float32{1, -1, 1. / 512}},
		{F8_E5M2, []byte{0x3c, 0xbc, 1}, []float32{1, -1, 1. / 65536}},
		{F16, u16(0x3c00, 0xc000, 1), []float32{1, -2, 1. / (1 << 24)}},
		{BF16, u16(0x3f80, 0xc000, 0x4049), []float32{1, -2, 3.140625}},
		{F32, u32(math.Float32bits(3.5), 0x80000000, 1), []float32{3.5, float32(math.Copysign(0, -1)), math.SmallestNonzeroFloat32}},
		{F64, u64(math.Float64bits(0.1), math.Float64bits(1e300), math.Float64bits(-2)), []float32{0.1, float32(math.Inf(1)), -2}},
	} {
		// A byte before the data makes every wide element unaligned.
		x := Tensor{Name: "w", DType: c.dtype, Shape: []int{3, 1}, Data: append([]byte{9}, c.data...)[1:]}
		got, err := x.Float32s()
		if err != nil {
			t.Errorf("%v: %v", c.dtype, err)
			continue
		}
		if !slices.EqualFunc(got, c.want, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
			t.Errorf("%v: got %v, want %v", c.dtype, got, c.want)
		}
	}
	x := Tensor{Name: "w", File: "f", DType: F32, Shape: []int{2}, Data: make([]byte, 7)}
	_, err := x.Float32s()
	checkFault(t, err, BadTensor, "f", "w", "want 8 bytes for F32 [2], got 7")
	values := []float32{1, -2.5, float32(math.Inf(1))}
	made := NewFloat32("w", []int{3}, values)
	if got, err := made.Float32s(); err != nil || !slices.Equal(got, values) {
		t.Errorf("NewFloat32: got %v, %v", got, err)
	}
}

func TestDTypes(t *testing.T) {
	sizes := map[string]int{"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
		"F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}
	if len(DTypes()) != len(sizes) {
		t.Errorf("%d dtypes, want %d", len(DTypes()), len(sizes))
	}
	for word, size := range sizes {
		if d, ok := ParseDType(word); !ok || d.String() != word || d.Size() != size {
			t.Errorf("%s: got %v of %d bytes, want %d", word, d, d.Size(), size)
		}
	}
	for _, d := range []DType{0, F64 + 1, 255} {
		if d.Size() != 0 || d.String()[:6] != "DType(" {
			t.Errorf("no dtype: got %v of %d bytes", d, d.Size())
		}
	}
}
