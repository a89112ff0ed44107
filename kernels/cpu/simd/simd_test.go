package simd

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// every runs f with each set of routines that this machine has, plain Go first.
func every(t *testing.T, f func(t *testing.T)) {
	defer func(s *set) { active = s }(active)
	for _, s := range append([]*set{nil}, sets()...) {
		active = s
		t.Run(Name(), f)
	}
}

// problem is one product with guard values around everything that a routine must not touch.
type problem struct {
	t, n, k       int
	ldx, ldy, ldw int
	x, y          []float32
	w             []byte
	transposed    bool // w is [k, n]
}

const guard = float32(-12345.5)

func newProblem(r *rand.Rand, t, n, k int, transposed bool) *problem {
	p := &problem{t: t, n: n, k: k, ldx: k + r.IntN(4), ldy: n + r.IntN(4), transposed: transposed}
	rows, cols := n, k
	if transposed {
		rows, cols = k, n
	}
	p.ldw = cols + r.IntN(5)
	p.x = make([]float32, (t-1)*p.ldx+k)
	for i := range p.x {
		p.x[i] = float32(r.NormFloat64())
	}
	raw := make([]byte, 1+2*((rows-1)*p.ldw+cols)) // one byte off: weights need not be aligned
	p.w = raw[1:]
	for i := 0; i < len(p.w); i += 2 {
		binary.LittleEndian.PutUint16(p.w[i:], uint16(math.Float32bits(float32(r.NormFloat64()))>>16))
	}
	p.y = make([]float32, 8+(t-1)*p.ldy+n+8)
	return p
}

// run computes into fresh guarded memory and gives y, [t, n] with row stride ldy.
func (p *problem) run() []float32 {
	for i := range p.y {
		p.y[i] = guard
	}
	y := p.y[8 : len(p.y)-8 : len(p.y)-8]
	if p.transposed {
		MulBF16(y, p.ldy, p.x, p.ldx, p.w, p.ldw, p.t, p.n, p.k)
	} else {
		DotBF16(y, p.ldy, p.x, p.ldx, p.w, p.ldw, p.t, p.n, p.k)
	}
	return y
}

func (p *problem) weight(j, k int) float64 {
	at := j*p.ldw + k
	if p.transposed {
		at = k*p.ldw + j
	}
	return float64(widenOne(p.w, at))
}

// check compares with a sum in float64. A chain of k additions of rounded products is within k·2⁻²³·Σ|terms|.
func (p *problem) check(t *testing.T) {
	t.Helper()
	y := p.run()
	for i := range p.t {
		for j := range p.n {
			var want, size float64
			for k := range p.k {
				term := float64(p.x[i*p.ldx+k]) * p.weight(j, k)
				want, size = want+term, size+math.Abs(term)
			}
			if got := float64(y[i*p.ldy+j]); !(math.Abs(got-want) <= float64(p.k+1)*0x1p-23*size) {
				t.Fatalf("transposed %v t=%d n=%d k=%d: y[%d,%d] = %v, want %v", p.transposed, p.t, p.n, p.k, i, j, got, want)
			}
		}
	}
	for i, v := range p.y {
		at := i - 8
		if inside := at >= 0 && at < len(p.y)-16 && at%p.ldy < p.n; !inside && v != guard {
			t.Fatalf("transposed %v t=%d n=%d k=%d: wrote outside of y at %d", p.transposed, p.t, p.n, p.k, at)
		}
	}
}

func TestProducts(t *testing.T) {
	every(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		step := 1
		if testing.Short() {
			step = 5
		}
		for _, transposed := range []bool{false, true} {
			for n := 1; n <= 70; n++ {
				for k := 1 + n%step; k <= 70; k += step {
					newProblem(r, 1+(n*7+k)%13, n, k, transposed).check(t)
				}
			}
			for _, c := range [][3]int{{1, 300, 515}, {5, 64, 256}, {17, 257, 130}, {64, 100, 300}, {33, 520, 128}, {7, 4200, 9}, {2, 4100, 24}} {
				newProblem(r, c[0], c[1], c[2], transposed).check(t)
			}
		}
	})
}

// An output has the same bits alone, beside other outputs, and in every set but plain Go.
func TestSameBits(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, transposed := range []bool{false, true} {
		for _, c := range [][3]int{{13, 150, 200}, {6, 64, 64}, {40, 77, 131}, {9, 300, 1024}} {
			p := newProblem(r, c[0], c[1], c[2], transposed)
			var first []float32
			every(t, func(t *testing.T) {
				y := append([]float32(nil), p.run()...)
				if active != nil {
					if first == nil {
						first = y
					}
					for i := range y {
						if math.Float32bits(y[i]) != math.Float32bits(first[i]) {
							t.Fatalf("transposed %v %v: value %d differs from another instruction set's", transposed, c, i)
						}
					}
				}
				for i := range p.t {
					for _, band := range [][2]int{{0, 1}, {3, 3 + 40}, {p.n - 17, p.n}} {
						one := *p
						one.t, one.n, one.x = 1, band[1]-band[0], p.x[i*p.ldx:]
						one.y = make([]float32, 16+one.n)
						if transposed {
							one.w = p.w[2*band[0]:]
						} else {
							one.w = p.w[2*band[0]*p.ldw:]
						}
						for j, v := range one.run() {
							if math.Float32bits(v) != math.Float32bits(y[i*p.ldy+band[0]+j]) {
								t.Fatalf("transposed %v %v: row %d column %d differs alone", transposed, c, i, band[0]+j)
							}
						}
					}
				}
			})
		}
	}
}

func TestVectors(t *testing.T) {
	every(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		for n := range 200 {
			a, b, y := make([]float32, n), make([]float32, n), make([]float32, n+16)
			var want, size float64
			for i := range a {
				a[i], b[i] = float32(r.NormFloat64()), float32(r.NormFloat64())
				want += float64(a[i]) * float64(b[i])
				size += math.Abs(float64(a[i]) * float64(b[i]))
			}
			if got := float64(Dot(a, b)); !(math.Abs(got-want) <= float64(n+1)*0x1p-23*size) {
				t.Errorf("Dot of %d: got %v, want %v", n, got, want)
			}
			for i := range y {
				y[i] = guard
			}
			copy(y[8:], b)
			AddScaled(y[8:8+n], 0.75, a)
			for i := range y {
				want := float64(guard)
				if i >= 8 && i < 8+n {
					want = float64(b[i-8]) + 0.75*float64(a[i-8])
				}
				if math.Abs(float64(y[i])-want) > 1e-6*(1+math.Abs(want)) {
					t.Fatalf("AddScaled of %d: value %d is %v, want %v", n, i-8, y[i], want)
				}
			}
			if n > 0 {
				same := append([]float32(nil), b...) // y may be x
				AddScaled(same, 1, same)
				for i := range same {
					if same[i] != 2*b[i] {
						t.Fatalf("AddScaled onto itself: %v, want %v", same[i], 2*b[i])
					}
				}
			}
		}
	})
}

// TestRows: many rows at once are Dot and AddScaled row by row, bit for bit, and touch nothing else.
func TestRows(t *testing.T) {
	every(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		for _, n := range []int{0, 1, 7, 15, 16, 17, 31, 32, 48, 64, 100, 128, 144} {
			for rows := range 21 {
				ldw := n + r.IntN(5)
				w, x, a := make([]float32, rows*ldw+n), make([]float32, n), make([]float32, rows)
				for _, s := range [][]float32{w, x, a} {
					for i := range s {
						s[i] = float32(r.NormFloat64())
					}
				}
				y := make([]float32, rows+16)
				sums := make([]float32, n+16)
				for i := range y {
					y[i] = guard
				}
				for i := range sums {
					sums[i] = guard
				}
				copy(sums[8:], x)
				DotRows(y[8:8+rows], x, w, ldw)
				AddScaledRows(sums[8:8+n], a, w, ldw)
				want := append([]float32(nil), x...)
				for i := range rows {
					if got, one := y[8+i], Dot(x, w[i*ldw:][:n]); got != one {
						t.Fatalf("DotRows of %d × %d: row %d is %v, alone %v", rows, n, i, got, one)
					}
					AddScaled(want, a[i], w[i*ldw:][:n])
				}
				for i := range sums {
					one := float32(guard)
					if i >= 8 && i < 8+n {
						one = want[i-8]
					}
					if sums[i] != one {
						t.Fatalf("AddScaledRows of %d × %d: value %d is %v, want %v", rows, n, i-8, sums[i], one)
					}
				}
				for i := range y {
					if (i < 8 || i >= 8+rows) && y[i] != guard {
						t.Fatalf("DotRows of %d × %d wrote beyond its output", rows, n)
					}
				}
			}
		}
	})
}

// The bound of SwiGLU: exp(-g) is off by 2⁻²⁴ for each of its last addition and its scaled argument, and a little for the
// polynomial; the sum, the quotient and the product add 2⁻²⁴ each. All is below 6·2⁻²⁴.
func TestSwiGLU(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	var first []float32
	inputs := []float32{0, float32(math.Copysign(0, -1)), 1e-40, -1e-40, 87, -87, 88, -88, 88.8, -88.8, 103.9, -104, 104, -1e4, 1e4, -3e38, 3e38, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())}
	for x := float32(-120); x <= 120; x += 0.037 {
		inputs = append(inputs, x)
	}
	for range 20000 {
		inputs = append(inputs, float32(r.NormFloat64()*4))
	}
	ups := make([]float32, len(inputs))
	for i := range ups {
		ups[i] = float32(r.NormFloat64())
	}
	every(t, func(t *testing.T) {
		got := append([]float32(nil), inputs...)
		SwiGLU(got, ups)
		for i, g := range inputs {
			x, v := float64(g), float64(got[i])
			want := x / (1 + math.Exp(-x)) * float64(ups[i])
			if math.IsInf(want, 0) || math.Abs(want) > math.MaxFloat32 {
				if math.Abs(v) < math.MaxFloat32/2 || v*want < 0 {
					t.Errorf("silu(%v)·%v = %v, want %v", g, ups[i], v, want)
				}
				continue
			}
			if math.IsNaN(want) != math.IsNaN(v) || math.Abs(v-want) > 3*0x1p-23*math.Abs(want)+0x1p-119*math.Abs(float64(ups[i]))+0x1p-149 {
				t.Errorf("silu(%v)·%v = %v, want %v", g, ups[i], v, want)
			}
		}
		if active == nil {
			return
		}
		if first == nil {
			first = got
		}
		for i := range got {
			if math.Float32bits(got[i]) != math.Float32bits(first[i]) && got[i] == got[i] {
				t.Fatalf("silu(%v) differs from another instruction set's", inputs[i])
			}
		}
		// A value is the same wherever it stands; nothing beyond the slice changes.
		for n := range 40 {
			part := append([]float32(nil), inputs[100:100+n+16]...)
			SwiGLU(part[3:3+n], ups[103:103+n])
			for i, v := range part {
				want := inputs[100+i]
				if i >= 3 && i < 3+n {
					want = got[100+i]
				}
				if math.Float32bits(v) != math.Float32bits(want) {
					t.Fatalf("SwiGLU of %d: value %d is %v, want %v", n, i-3, v, want)
				}
			}
		}
	})
}

// NaN and infinities come through: no routine may hide a damaged activation.
func TestNotFinite(t *testing.T) {
	every(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		for _, transposed := range []bool{false, true} {
			for _, rows := range []int{1, 2, 9} {
				p := newProblem(r, rows, 70, 48, transposed)
				p.x[(rows-1)*p.ldx+17] = float32(math.NaN())
				y := p.run()
				for j := range p.n {
					if v := y[(rows-1)*p.ldy+j]; v == v {
						t.Fatalf("transposed %v: a NaN input gives %v", transposed, v)
					}
					if v := y[j]; rows > 1 && v != v {
						t.Fatalf("transposed %v: a NaN in another row gives NaN", transposed)
					}
				}
			}
		}
	})
}

// Short slices panic as Go code would; nothing is read or written beyond them.
func TestBounds(t *testing.T) {
	every(t, func(t *testing.T) {
		x, y, w := make([]float32, 32), make([]float32, 32), make([]byte, 64*32)
		for what, f := range map[string]func(){
			"y": func() { DotBF16(y[:31], 16, x, 16, w, 16, 2, 16, 16) }, "x": func() { DotBF16(y, 16, x[:31], 16, w, 16, 2, 16, 16) },
			"w": func() { DotBF16(y, 16, x, 16, w[:511], 16, 2, 16, 16) }, "y, transposed": func() { MulBF16(y[:31], 16, x, 16, w, 16, 2, 16, 16) },
			"x, transposed": func() { MulBF16(y, 16, x[:31], 16, w, 16, 2, 16, 16) }, "w, transposed": func() { MulBF16(y, 16, x, 16, w[:511], 16, 2, 16, 16) },
			"b of Dot": func() { Dot(x, y[:31]) }, "x of AddScaled": func() { AddScaled(y, 1, x[:31]) },
			"w of DotRows": func() { DotRows(y[:2], x[:16], x[:31], 16) }, "w of AddScaledRows": func() { AddScaledRows(y[:16], x[:2], x[:31], 16) }, "up": func() { SwiGLU(x, y[:31]) }, "odd ReadSum": func() { ReadSum(w[:255]) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("short %s: want a panic", what)
					}
				}()
				f()
			}()
		}
		DotBF16(nil, 0, nil, 0, nil, 0, 0, 5, 5)
		MulBF16(nil, 0, nil, 0, nil, 0, 5, 0, 5)
		y[0] = 7
		if DotBF16(y, 16, nil, 0, nil, 0, 1, 16, 0); y[0] != 0 {
			t.Errorf("a sum of nothing is %v", y[0])
		}
	})
}

func TestChoose(t *testing.T) {
	if choose("go") != nil {
		t.Error("go: want plain Go")
	}
	for i, s := range sets() {
		if got := choose(s.name); got.name != s.name {
			t.Errorf("%s: got %s", s.name, got.name)
		}
		if i == len(sets())-1 && choose("").name != s.name {
			t.Errorf("by default: got %s, want %s", choose("").name, s.name)
		}
	}
}

// weights are more than any cache holds, so that every pass comes from memory.
const streamed = 1 << 29

var streamedWeights []byte

func stream() []byte {
	if streamedWeights == nil {
		streamedWeights = make([]byte, streamed)
		r := rand.New(rand.NewPCG(9, 9))
		for i := 0; i < streamed; i += 2 {
			binary.LittleEndian.PutUint16(streamedWeights[i:], uint16(0x3c00+r.IntN(0x300)))
		}
	}
	return streamedWeights
}

// The stream benchmarks give GB/s of one thread: ReadSum is the bound of the others.
func BenchmarkStream(b *testing.B) {
	w := stream()
	const n, k = 8192, 4096
	x, y := make([]float32, n), make([]float32, n)
	for name, f := range map[string]func([]byte){
		"read": func(w []byte) { ReadSum(w) },
		"dot":  func(w []byte) { DotBF16(y, n, x, n, w, k, 1, n, k) },
		"mul":  func(w []byte) { MulBF16(y, n, x, n, w, n, 1, n, k) },
	} {
		b.Run(name, func(b *testing.B) {
			const size = 2 * n * k
			b.SetBytes(size)
			for i := 0; b.Loop(); i++ {
				at := i * size % (streamed - size + 1)
				f(w[at : at+size])
			}
		})
	}
}

// The prefill benchmarks give GFLOP/s of one thread: FMA is the bound of the others.
func BenchmarkPrefill(b *testing.B) {
	b.Run("fma", func(b *testing.B) {
		flops := 0
		for b.Loop() {
			flops += FMA(1 << 20)
		}
		b.ReportMetric(float64(flops)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
	})
	const n, k = 2048, 5120
	w := stream()[:2*n*k]
	for _, t := range []int{8, 64, 512} {
		x, y := make([]float32, t*k), make([]float32, t*n)
		for i := range x {
			x[i] = float32(i%17) * 0.1
		}
		for name, f := range map[string]func(){
			"dot": func() { DotBF16(y, n, x, k, w, k, t, n, k) },
			"mul": func() { MulBF16(y, n, x, k, w, n, t, n, k) },
		} {
			b.Run(fmt.Sprintf("%s/t=%d", name, t), func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(float64(b.N)*2*float64(t)*n*k/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
