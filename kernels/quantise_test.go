package kernels

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Every float32 near a code or between two goes to the nearest code, to the even one of two that are equally near.
func TestE4M3(t *testing.T) {
	for code := range 256 {
		if code&0x7f == 0x7f {
			continue
		}
		v := e4m3[code]
		if got := E4M3(v); int(got) != code {
			t.Errorf("E4M3(%v) = %#x, want %#x", v, got, code)
		}
		if code&0x7f == 0x7e {
			continue
		}
		middle := (v + e4m3[code+1]) / 2
		even := byte(code + code&1)
		if got := E4M3(middle); got != even {
			t.Errorf("E4M3(%v) = %#x, between %#x and the next: want the even %#x", middle, got, code, even)
		}
		for _, side := range []struct {
			towards float32
			want    byte
		}{{v, byte(code)}, {e4m3[code+1], byte(code + 1)}} {
			if near := math.Nextafter32(middle, side.towards); near != 0 && E4M3(near) != side.want {
				t.Errorf("E4M3(%v) = %#x, want %#x", near, E4M3(near), side.want)
			}
		}
	}
	for _, v := range []float32{449, 1e30, float32(math.Inf(1)), float32(math.NaN())} {
		if E4M3(v) != 0x7e || E4M3(-v) != 0xfe {
			t.Errorf("±%v: got %#x, %#x, want the largest codes", v, E4M3(v), E4M3(-v))
		}
	}
}

// plainMatrix is a random matrix in a format and a layout, and its values [N, K].
func plainMatrix(r *rand.Rand, f Format, n, k int, inOut bool) (Matrix, []float32) {
	m := Matrix{Format: f, N: n, K: k, InOut: inOut}
	rows, cols := n, k
	if inOut {
		rows, cols = k, n
	}
	m.Stride = cols + 3
	m.Data = make([]byte, rows*m.Stride*f.Size())
	values := make([]float32, n*k)
	for i := range n {
		for j := range k {
			v := math.Float32frombits(math.Float32bits(float32(r.NormFloat64())) &^ 0x1ffff) // 6 bits of mantissa: exact in all formats
			values[i*k+j] = v
			at := i*m.Stride + j
			if inOut {
				at = j*m.Stride + i
			}
			switch bits := math.Float32bits(v); {
			case f == BF16:
				binary.LittleEndian.PutUint16(m.Data[2*at:], uint16(bits>>16))
			case f == F32:
				binary.LittleEndian.PutUint32(m.Data[4*at:], bits)
			case bits>>23&255 < 113: // subnormal: a multiple of 2⁻²⁴, or nothing
				h := uint16(math.Abs(float64(v)) * 0x1p24)
				values[i*k+j] = float32(math.Copysign(float64(h)*0x1p-24, float64(v)))
				binary.LittleEndian.PutUint16(m.Data[2*at:], h|uint16(bits>>31<<15))
			default:
				binary.LittleEndian.PutUint16(m.Data[2*at:], uint16(bits>>31<<15|(bits>>23&255-112)<<10|bits>>13&0x3ff))
			}
		}
	}
	return m, values
}

// Codes are the nearest ones to w/scale, with the scale of the rule.
func TestQuantise(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	worth := map[Format][]float64{}
	for code, v := range e4m3 {
		if v == v {
			worth[F8E4M3] = append(worth[F8E4M3], float64(v))
		}
		if code < 16 {
			worth[Int4] = append(worth[Int4], float64(code-8))
		}
	}
	for _, c := range []Coding{{Format: F8E4M3, Rows: 1, Scale: BF16}, {Format: F8E4M3, Rows: 1, Cols: 32, Scale: F32}, {Format: Int4, Rows: 1, Cols: 32, Scale: BF16}, {Format: Int4, Rows: 1, Scale: F32}} {
		for _, f := range []Format{BF16, F16, F32} {
			for _, inOut := range []bool{false, true} {
				const n, k = 141, 96
				m, values := plainMatrix(r, f, n, k, inOut)
				read := make([]float32, n*k)
				m.Rows(read, 0, n)
				if !slices.Equal(read, values) {
					t.Fatalf("%v in_out=%v: rows differ", f, inOut)
				}
				q, err := Quantise(m, c)
				if err != nil {
					t.Fatal(err)
				}
				if err := q.Check(WeightSpec{Parts: []int{n}, K: k, Experts: 1, Coding: c}, 0, 0); err != nil {
					t.Fatal(err)
				}
				cols := c.Cols
				if cols == 0 {
					cols = k
				}
				row := make([]float32, k)
				for i := range n {
					q.Decode(row, i)
					for j := range k {
						var biggest, divisor float64 = 0, 448
						for _, v := range values[i*k+j/cols*cols:][:cols] {
							biggest = max(biggest, math.Abs(float64(v)))
						}
						if c.Format == Int4 {
							divisor = 8
						}
						s, w := float64(q.Scales[i*(k/cols)+j/cols]), float64(values[i*k+j])
						if math.Abs(s/(biggest/divisor)-1) > 1.0/256 {
							t.Fatalf("%v: scale %v of numbers up to %v", c, s, biggest)
						}
						nearest := math.Inf(1)
						for _, v := range worth[c.Format] {
							nearest = min(nearest, math.Abs(v*s-w))
						}
						if off := math.Abs(float64(row[j]) - w); off > nearest+s*1e-4 {
							t.Fatalf("%v: %v became %v, off by %v, want %v", c, w, row[j], off, nearest)
						}
					}
				}
			}
		}
	}
}

// Zeros, tiny numbers and numbers at the bounds become codes; NaN and infinities do not.
func TestQuantiseEdges(t *testing.T) {
	c := Coding{Format: Int4, Rows: 1, Scale: BF16}
	one := func(values ...float32) Matrix {
		m := Matrix{Format: F32, N: 1, K: len(values)}
		for _, v := range values {
			m.Data = binary.LittleEndian.AppendUint32(m.Data, math.Float32bits(v))
		}
		return m
	}
	for _, x := range []struct {
		values, want []float32
	}{
		{[]float32{0, 0}, []float32{0, 0}},
		{[]float32{-8, 7}, []float32{-8, 7}},
		{[]float32{8, -8, 0.5, 1.5, 2.5, -0.5}, []float32{7, -8, 0, 2, 2, 0}},
		{[]float32{1e-44, 0}, []float32{0, 0}},
	} {
		q, err := Quantise(one(x.values...), c)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, q.K)
		q.Decode(got, 0)
		if !slices.Equal(got, x.want) {
			t.Errorf("%v became %v, want %v", x.values, got, x.want)
		}
	}
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
		if _, err := Quantise(one(1, v), c); err == nil {
			t.Errorf("%v was quantised", v)
		}
	}
	for _, bad := range []Coding{{Format: Table4, Rows: 1}, {Format: Int4, Cols: 2, Rows: 1, Zeros: true}, {Format: Int4}, {Format: Int4, Rows: 1, Cols: 4}} {
		if _, err := Quantise(one(1, 2), bad); err == nil {
			t.Errorf("quantised as %v", bad)
		}
	}
}

// RoundRow is Quantise of the row in bfloat16, with its scale in float32, and back.
func TestRoundRow(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	c := Coding{Format: F8E4M3, Rows: 1, Scale: F32}
	for _, size := range []float64{1, 1e-30, 1e-38, 3e37, 0} { // with subnormal numbers, and without any
		const k = 200
		row, m := make([]float32, k), Matrix{Format: BF16, N: 1, K: k}
		for i := range row {
			row[i] = float32(r.NormFloat64() * size)
			m.Data = binary.LittleEndian.AppendUint16(m.Data, uint16(math.Float32bits(toBF16(row[i]))>>16))
		}
		q, err := Quantise(m, c)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]float32, k)
		q.Decode(want, 0)
		RoundRow(row)
		if !slices.Equal(row, want) {
			t.Errorf("size %v: want %v, got %v", size, want, row)
		}
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			row[7] = float32(bad)
			RoundRow(row)
			for i, v := range row {
				if v == v {
					t.Fatalf("%v in a row: value %d is %v", bad, i, v)
				}
			}
			clear(row)
		}
	}
}
