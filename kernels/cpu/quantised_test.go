package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"chulengo/kernels"
)

// testTable is a table of sixteen numbers, nearly that of nf4.
var testTable = [16]float32{-1, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1}

// codings are every format with every geometry of scales that checkpoints have, and some that they have not.
func codings() (list []kernels.Coding) {
	for _, f := range []kernels.Format{kernels.F8E4M3, kernels.Int4, kernels.Table4} {
		for _, g := range [][2]int{{0, 0}, {1, 0}, {16, 16}, {128, 128}, {1, 32}, {1, 64}, {1, 128}, {0, 32}, {3, 6}} {
			c := kernels.Coding{Format: f, Rows: g[0], Cols: g[1], Scale: kernels.F32}
			if f == kernels.Table4 {
				c.Table = &testTable
			}
			list = append(list, c)
			if c.Zeros = true; f == kernels.Int4 {
				list = append(list, c)
			}
		}
	}
	return list
}

// randomCodes is a matrix [n, k] of all codes but those that are no numbers.
func randomCodes(r *rand.Rand, c kernels.Coding, n, k, stride int) kernels.Matrix {
	m := kernels.Matrix{Format: c.Format, N: n, K: k, Stride: stride, Coding: c}
	m.Data = make([]byte, c.Format.Bytes((n-1)*m.RowStride()+k))
	for i := range m.Data {
		m.Data[i] = byte(r.Uint32())
		if c.Format == kernels.F8E4M3 && m.Data[i]&0x7f == 0x7f {
			m.Data[i] = 0
		}
	}
	rows, cols := c.Grid(n, k)
	for range rows * cols {
		m.Scales = append(m.Scales, float32(r.NormFloat64()))
		if c.Zeros {
			m.Zeros = append(m.Zeros, uint8(r.IntN(17)))
		}
	}
	return m
}

// decoded is a quantised matrix as the specification has it, in float32.
func decoded(m kernels.Matrix) kernels.Matrix {
	out := kernels.Matrix{Format: kernels.F32, N: m.N, K: m.K}
	row := make([]float32, m.K)
	for n := range m.N {
		m.Decode(row, n)
		for _, v := range row {
			out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(v))
		}
	}
	return out
}

// Products with quantised weights, and rows of a quantised table, have the bits of those with the numbers that the codes
// are worth; what was put comes back.
func TestQuantisedWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, c := range codings() {
		for _, size := range [][3]int{{40, 64, 0}, {130, 288, 320}, {3, 30, 0}} {
			n, k, stride := size[0], size[1], size[2]
			name := fmt.Sprintf("%v zeros=%v [%d, %d]", c, c.Zeros, n, k)
			d := New(Options{Threads: 2})
			spec := kernels.WeightSpec{Names: []string{"w"}, Parts: []int{n, n}, K: k, Experts: 2, Coding: c}
			plain := spec
			plain.Coding = kernels.Coding{}
			w, err := d.NewWeight(spec)
			if err != nil {
				t.Fatal(err)
			}
			ref, _ := d.NewWeight(plain)
			for e := range 2 {
				for p := range 2 {
					m := randomCodes(r, c, n, k, stride)
					if err := w.Put(p, e, m); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if got, err := w.Get(p, e); err != nil || !reflect.DeepEqual(got, m) {
						t.Errorf("%s: Get gives another matrix (%v)", name, err)
					}
					if err := ref.Put(p, e, decoded(m)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, w := range []kernels.Weight{w, ref} {
				if err := w.Seal(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			for _, tokens := range []int{1, 3, 17} {
				x, got, want := new(act).resize(tokens, k), new(act).resize(tokens, 2*n), new(act).resize(tokens, 2*n)
				for i := range x.data {
					x.data[i] = float32(r.NormFloat64())
				}
				for p := range 2 {
					d.part(got, x, p*n, w, p, 1)
					d.part(want, x, p*n, ref, p, 1)
				}
				d.multiply()
				if !reflect.DeepEqual(got.data, want.data) {
					t.Errorf("%s: products of %d rows differ", name, tokens)
				}
			}
			a, b := make([]float32, k), make([]float32, k)
			for row := range n {
				readRow(a, &w.(*weight).parts[1][0], row)
				readRow(b, &ref.(*weight).parts[1][0], row)
				if !reflect.DeepEqual(a, b) {
					t.Errorf("%s: row %d differs", name, row)
				}
			}
			d.Close()
		}
	}
}

// What no quantised weight may be is refused with its name and place.
func TestBadQuantisedWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	group := kernels.Coding{Format: kernels.Int4, Rows: 1, Cols: 32, Scale: kernels.BF16, Zeros: true}
	row := kernels.Coding{Format: kernels.F8E4M3, Rows: 1, Scale: kernels.BF16}
	table := kernels.Coding{Format: kernels.Table4, Rows: 1, Cols: 32, Scale: kernels.F32, Table: &testTable}
	for _, c := range []struct {
		what   string
		coding kernels.Coding
		want   string
		spoil  func(m *kernels.Matrix)
	}{
		{"a NaN scale", group, "scale NaN at [2, 1]", func(m *kernels.Matrix) { m.Scales[5] = float32(math.NaN()) }},
		{"an infinite scale", row, "scale -Inf at [4, 0]", func(m *kernels.Matrix) { m.Scales[4] = float32(math.Inf(-1)) }},
		{"a scale that makes infinite values", row, "scale 1e+38 at [0, 0]", func(m *kernels.Matrix) { m.Scales[0] = 1e38 }},
		{"a zero beyond the codes", group, "got 17 at [1, 1]", func(m *kernels.Matrix) { m.Zeros[3] = 17 }},
		{"no number", row, "0xff, which is none, at [3, 21]", func(m *kernels.Matrix) { m.Data[3*64+21] = 0xff }},
		{"no number in the last byte", row, "at [7, 63]", func(m *kernels.Matrix) { m.Data[8*64-1] = 0x7f }},
		{"a scale too few", group, "want [8, 2] scales, got 15", func(m *kernels.Matrix) { m.Scales = m.Scales[:15] }},
		{"no zeros", group, "want zeros for 16 scales", func(m *kernels.Matrix) { m.Zeros = nil }},
		{"another coding", group, "want INT4", func(m *kernels.Matrix) { m.Coding.Cols = 64 }},
		{"a plain matrix", group, "want INT4", func(m *kernels.Matrix) { *m = decoded(*m) }},
		{"columns first", row, "want quantised rows", func(m *kernels.Matrix) { m.InOut = true }},
		{"rows of half bytes", group, "want quantised rows", func(m *kernels.Matrix) { m.Stride = 65 }},
		{"too few bytes", table, "want 256 bytes, got 255", func(m *kernels.Matrix) { m.Data = m.Data[:255] }},
	} {
		d := New(Options{Threads: 1})
		w, err := d.NewWeight(kernels.WeightSpec{Names: []string{"some.*.weight"}, Parts: []int{8}, K: 64, Experts: 2, Coding: c.coding})
		if err != nil {
			t.Fatal(err)
		}
		good, bad := randomCodes(r, c.coding, 8, 64, 0), randomCodes(r, c.coding, 8, 64, 0)
		c.spoil(&bad)
		if err = w.Put(0, 0, good); err == nil {
			if err = w.Put(0, 1, bad); err == nil {
				err = w.Seal()
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "some.1.weight") {
			t.Errorf("%s: got %v, want an error with some.1.weight and %q", c.what, err, c.want)
		}
		d.Close()
	}
	if w, _ := New(Options{Threads: 1}).NewWeight(kernels.WeightSpec{Names: []string{"w"}, Parts: []int{8}, K: 64, Experts: 1}); w.Put(0, 0, randomCodes(r, row, 8, 64, 0)) == nil {
		t.Error("a plain weight took a quantised matrix")
	}
}

// Keys and values in FP8 are the numbers nearest to what was written.
func TestKeysAsE4M3(t *testing.T) {
	const pageTokens, heads, dim, n = 4, 2, 24, 11
	d := New(Options{Threads: 1})
	defer d.Close()
	opened, err := d.NewKV(kernels.KVSpec{Format: kernels.F8E4M3, PageTokens: pageTokens, KVHeads: heads, HeadDim: dim, Layers: [kernels.Groups]int{1}, Pages: [kernels.Groups]int{3}})
	if err != nil {
		t.Fatal(err)
	}
	m := opened.(*kv)
	r := rand.New(rand.NewPCG(9, 9))
	values := make([]float32, n*dim)
	for i := range values {
		values[i] = float32(math.Exp(8*r.NormFloat64()) * (r.Float64() - 0.5)) // some below the smallest number, some beyond the largest
	}
	s := &kernels.Span{Pages: []kernels.Page{2, 0, 1}}
	for slot := range n {
		m.write(0, s, slot, 0, 1, 1, values[slot*dim:][:dim])
	}
	codes := kernels.Matrix{Format: kernels.F8E4M3, N: 1, K: 256, Coding: kernels.Coding{Format: kernels.F8E4M3}, Scales: []float32{1}}
	for c := range 256 {
		codes.Data = append(codes.Data, byte(c))
	}
	numbers := make([]float32, 256)
	codes.Decode(numbers, 0)
	for slot := range n {
		got := m.read(0, s.Pages[slot/pageTokens], 0, 1, 1, pageTokens, make([]float32, pageTokens*dim))[slot%pageTokens*dim:][:dim]
		for i, v := range values[slot*dim:][:dim] {
			nearest := float32(math.Inf(1))
			for _, x := range numbers {
				if x == x && math.Abs(float64(x-v)) < math.Abs(float64(nearest-v)) {
					nearest = x
				}
			}
			if math.Abs(float64(got[i]-v)) != math.Abs(float64(nearest-v)) {
				t.Errorf("slot %d: %v became %v, want %v", slot, v, got[i], nearest)
			}
		}
	}
}

// A device that rounds activations does so for prefill rows and weights in F8_E4M3 alone, whatever order the rows come in.
func TestRoundRows(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	e4m3 := kernels.Coding{Format: kernels.F8E4M3, Rows: 1, Scale: kernels.BF16}
	int4 := kernels.Coding{Format: kernels.Int4, Rows: 1, Cols: 32, Scale: kernels.BF16}
	const rows, k, width = 5, 64, 96 // the columns beyond K are not multiplied
	for _, c := range []struct {
		activations kernels.Format
		coding      kernels.Coding
		order       []int
		rounded     [rows]bool
	}{
		{kernels.F8E4M3, e4m3, nil, [rows]bool{false, false, true, true, true}},
		{kernels.F8E4M3, e4m3, []int{4, 1, 2, 0, 3}, [rows]bool{true, false, true, false, true}},
		{kernels.F8E4M3, int4, nil, [rows]bool{}},
		{kernels.F8E4M3, kernels.Coding{}, nil, [rows]bool{}},
		{kernels.BF16, e4m3, nil, [rows]bool{}},
	} {
		d := New(Options{Threads: 2, Activations: c.activations})
		w, err := d.NewWeight(kernels.WeightSpec{Names: []string{"w"}, Parts: []int{8}, K: k, Experts: 1, Coding: c.coding})
		if err != nil {
			t.Fatal(err)
		}
		m := kernels.Matrix{Format: kernels.BF16, N: 8, K: k, Data: make([]byte, 2*8*k)}
		if c.coding.Format.Quantised() {
			m = randomCodes(r, c.coding, 8, k, 0)
		}
		if err := w.Put(0, 0, m); err != nil {
			t.Fatal(err)
		}
		if err := w.Seal(); err != nil {
			t.Fatal(err)
		}
		x := new(act).resize(rows, width)
		for i := range x.data {
			x.data[i] = float32(r.NormFloat64())
		}
		want := &act{append([]float32(nil), x.data...), width}
		for i, rounded := range c.rounded {
			if rounded {
				kernels.RoundRow(want.row(i)[:k])
			}
		}
		d.batch = &kernels.Batch{Decode: 2}
		d.roundRows(x, w, c.order)
		if !reflect.DeepEqual(x, want) {
			t.Errorf("activations %v, weights %v, order %v: other rows are rounded", c.activations, c.coding, c.order)
		}
		d.Close()
	}
}
