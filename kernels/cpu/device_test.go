package cpu

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/x448/float16"

	"chulengo/kernels"
)

// block is one layer of attention and experts with an embedding and a head: enough to run every stage.
type block struct {
	dev   *Device
	embed kernels.Weight
	attn  kernels.Attn
	moe   kernels.MoE
	head  kernels.Head
	kv    kernels.KV
}

const (
	testVocab, testDim, testHeads, testKVHeads, testHeadDim, testFFN, testExperts = 50, 40, 4, 2, 16, 24, 3
	testPageTokens                                                                = 4
)

// random encodes n values in a format; bf16 rounds them first, so that every format holds the same numbers.
func random(r *rand.Rand, f kernels.Format, n int, scale float64) []byte {
	var out []byte
	for range n {
		v := math.Float32frombits(uint32(toBF16(float32(r.NormFloat64()*scale))) &^ 0x7 << 16)
		switch f {
		case kernels.BF16:
			out = binary.LittleEndian.AppendUint16(out, toBF16(v))
		case kernels.F16:
			out = binary.LittleEndian.AppendUint16(out, float16.Fromfloat32(v).Bits())
		default:
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	}
	return out
}

func newBlock(t *testing.T, threads int, f, kvFormat kernels.Format, inOut bool) *block {
	t.Helper()
	d := New(Options{Threads: threads})
	t.Cleanup(func() { d.Close() })
	r := rand.New(rand.NewPCG(7, 8))
	weight := func(k, experts int, transposed bool, outs ...int) kernels.Weight {
		w, err := d.NewWeight(kernels.WeightSpec{Names: []string{"w"}, Parts: outs, K: k, Experts: experts})
		if err != nil {
			t.Fatal(err)
		}
		for e := range experts {
			for p, n := range outs {
				m := kernels.Matrix{Format: f, N: n, K: k, InOut: transposed, Data: random(r, f, n*k, 1/math.Sqrt(float64(k)))}
				if err := w.Put(p, e, m); err != nil {
					t.Fatal(err)
				}
				if got, err := w.Get(p, e); err != nil || !bytes.Equal(got.Data, m.Data) || got.InOut != m.InOut {
					t.Fatalf("Get gives %v, %v", got, err)
				}
			}
		}
		if err := w.Seal(); err != nil {
			t.Fatal(err)
		}
		return w
	}
	b := &block{dev: d, embed: weight(testDim, 1, false, testVocab)}
	b.attn = kernels.Attn{
		Norm: weight(testDim, 1, false, 1), QKV: weight(testDim, 1, false, testHeads*testHeadDim, testKVHeads*testHeadDim, testKVHeads*testHeadDim),
		Out: weight(testHeads*testHeadDim, 1, false, testDim), Heads: testHeads, KVHeads: testKVHeads, HeadDim: testHeadDim, Eps: 1e-5, QKNorm: true,
		Temp: &kernels.Temperature{Scale: 0.1, Floor: 3},
	}
	for i := range testHeadDim / 2 {
		b.attn.RoPE = append(b.attn.RoPE, math.Pow(100, -float64(i)/testHeadDim*2))
	}
	b.moe = kernels.MoE{
		Norm: weight(testDim, 1, false, 1), Router: weight(testDim, 1, false, testExperts),
		GateUp: weight(testDim, testExperts, inOut, testFFN, testFFN), Down: weight(testFFN, testExperts, inOut, testDim),
		SharedGateUp: weight(testDim, 1, false, testFFN, testFFN), SharedDown: weight(testFFN, 1, false, testDim), Eps: 1e-5,
	}
	b.head = kernels.Head{Norm: weight(testDim, 1, false, 1), Out: weight(testDim, 1, false, testVocab), Eps: 1e-5}
	kv, err := d.NewKV(kernels.KVSpec{Format: kvFormat, PageTokens: testPageTokens, KVHeads: testKVHeads, HeadDim: testHeadDim,
		Layers: [kernels.Groups]int{1}, Pages: [kernels.Groups]int{32}})
	if err != nil {
		t.Fatal(err)
	}
	b.kv = kv
	return b
}

func (b *block) forward() {
	d := b.dev
	x := d.Embed(b.embed)
	z := d.Attend(&b.attn, d.AttnIn(&b.attn, x))
	d.AttnOut(&b.attn, x, z)
	h, r := d.Route(&b.moe, x)
	d.Experts(&b.moe, x, h, r)
	d.Logits(&b.head, x)
}

// batch is one sequence of n tokens from position pos on.
func (b *block) batch(pos, n int) *kernels.Batch {
	batch := &kernels.Batch{KV: b.kv}
	for i := range n {
		batch.Token = append(batch.Token, int32((pos+i)*13%testVocab))
		batch.Pos = append(batch.Pos, int32(pos+i))
		batch.Want = append(batch.Want, kernels.Want{Row: int32(i), Score: -1, Top: testVocab, Sample: &kernels.Sampler{}})
	}
	batch.Spans[kernels.GroupGlobal] = []kernels.Span{{Rows: int32(n), Pages: []kernels.Page{7, 3, 30, 1, 0, 12}}}
	return batch
}

// run gives every log-probability of every row, in id order, flat [T, V].
func (b *block) run(t *testing.T, batch *kernels.Batch) []float32 {
	t.Helper()
	r := <-b.dev.Step(batch, b.forward)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	out := make([]float32, len(r.Outs)*testVocab)
	for i, o := range r.Outs {
		for _, l := range o.Top {
			out[i*testVocab+int(l.ID)] = l.LogProb
		}
	}
	return out
}

func largestDifference(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var worst float64
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i]-b[i])))
	}
	return worst
}

// The same numbers in another format or layout give the same answer, but for the order of sums; bfloat16 keys and values
// round.
func TestFormats(t *testing.T) {
	ref := newBlock(t, 2, kernels.BF16, kernels.F32, false)
	want := ref.run(t, ref.batch(0, 11))
	for _, c := range []struct {
		f, kv kernels.Format
		inOut bool
		bound float64
	}{
		{kernels.BF16, kernels.F32, false, 0}, {kernels.F32, kernels.F32, false, 1e-5}, {kernels.F16, kernels.F32, false, 1e-5},
		{kernels.F32, kernels.F32, true, math.Inf(1)}, {kernels.BF16, kernels.BF16, false, 0.1}, {kernels.BF16, kernels.F8E4M3, false, 1},
	} {
		b := newBlock(t, 2, c.f, c.kv, c.inOut)
		got := b.run(t, b.batch(0, 11))
		if d := largestDifference(got, want); d > c.bound {
			t.Errorf("%v weights, %v keys: differs by %g, want at most %g", c.f, c.kv, d, c.bound)
		}
		var decoded []float32
		b = newBlock(t, 3, c.f, c.kv, c.inOut)
		for i := range 11 {
			decoded = append(decoded, b.run(t, b.batch(i, 1))...)
		}
		if !slices.Equal(decoded, got) {
			t.Errorf("%v weights, %v keys, transposed %v: token by token differs from one piece by %g", c.f, c.kv, c.inOut, largestDifference(decoded, got))
		}
	}
	a, b := newBlock(t, 2, kernels.BF16, kernels.F32, true), newBlock(t, 2, kernels.F32, kernels.F32, true)
	if d := largestDifference(a.run(t, a.batch(0, 11)), b.run(t, b.batch(0, 11))); d > 1e-5 {
		t.Errorf("transposed BF16 and F32 differ by %g", d)
	}
}

func TestPagesMove(t *testing.T) {
	for _, f := range []kernels.Format{kernels.F32, kernels.BF16, kernels.F8E4M3} {
		b := newBlock(t, 2, kernels.BF16, f, true)
		want := b.run(t, b.batch(0, 10))[9*testVocab:]
		b.run(t, b.batch(0, 9))
		spec := b.kv.(*kv).spec
		saved := make([]byte, spec.PageBytes(0))
		if err := b.kv.Save(0, 30, saved); err != nil { // slots 8..11
			t.Fatal(err)
		}
		if err := b.kv.Copy(0, 20, 3); err != nil { // slots 4..7
			t.Fatal(err)
		}
		if err := b.kv.Load(0, 21, saved); err != nil {
			t.Fatal(err)
		}
		batch := b.batch(9, 1)
		batch.Spans[0][0].Pages = []kernels.Page{7, 20, 21}
		if got := b.run(t, batch); !slices.Equal(got, want) {
			t.Errorf("%v: moved pages differ by %g", f, largestDifference(got, want))
		}
		for what, err := range map[string]error{
			"copy to a page that is not there": b.kv.Copy(0, 32, 0), "copy from one": b.kv.Copy(0, 0, -1), "save of a group that is not there": b.kv.Save(2, 0, saved),
			"save to a short buffer": b.kv.Save(0, 0, saved[1:]), "load of too much": b.kv.Load(0, 0, append(saved, 0)),
		} {
			if err == nil {
				t.Errorf("%s: want an error", what)
			}
		}
	}
}

func TestTapsChangeValues(t *testing.T) {
	b := newBlock(t, 2, kernels.BF16, kernels.F32, true)
	const n = 5
	rows := []int32{1, 3}
	at := func(h kernels.Hook) kernels.Point { return kernels.Point{Hook: h} }
	run := func(taps ...kernels.Tap) []float32 {
		batch := b.batch(0, n)
		batch.Taps = taps
		return b.run(t, batch)
	}
	plain := run()
	captured := func(h kernels.Hook, width int, before ...kernels.Tap) []float32 {
		buf := make([]float32, len(rows)*width)
		run(append(before, kernels.Tap{At: at(h), Rows: rows, Buf: buf})...)
		return buf
	}
	resid := captured(kernels.HookResidMid, testDim)
	double := captured(kernels.HookResidMid, testDim, kernels.Tap{At: at(kernels.HookResidMid), Rows: rows, Op: kernels.Scale, By: 2})
	for i, v := range resid {
		if double[i] != 2*v {
			t.Fatalf("Scale: got %v, want %v", double[i], 2*v)
		}
	}
	one := make([]float32, len(rows)*testDim)
	for i := range one {
		one[i] = 1
	}
	for i, v := range captured(kernels.HookResidMid, testDim, kernels.Tap{At: at(kernels.HookResidMid), Rows: rows, Op: kernels.Add, Buf: one}) {
		if v != resid[i]+1 {
			t.Fatalf("Add: got %v, want %v", v, resid[i]+1)
		}
	}
	head := kernels.Tap{At: at(kernels.HookZ), Rows: rows, Op: kernels.Zero, Cols: [2]int32{testHeadDim, 2 * testHeadDim}}
	z := captured(kernels.HookZ, testHeads*testHeadDim, head)
	for i, v := range z {
		if inHead := i%(testHeads*testHeadDim)/testHeadDim == 1; (v == 0) != inHead {
			t.Fatalf("Zero of a head: value %d is %v", i, v)
		}
	}
	expert := kernels.Tap{At: at(kernels.HookExpertIndex), Rows: rows, Op: kernels.Set, Buf: []float32{2, 0}}
	if got := captured(kernels.HookExpertIndex, 1, expert); got[0] != 2 || got[1] != 0 {
		t.Errorf("Set of experts: got %v", got)
	}
	same := run(kernels.Tap{At: at(kernels.HookExpertIndex), Rows: []int32{0}, Buf: make([]float32, 1)})
	if !slices.Equal(same, plain) {
		t.Error("capturing changed the result")
	}
	if changed := run(expert); slices.Equal(changed, plain) {
		t.Error("forcing experts changed nothing")
	}
}

// Wrong input of a step is an error that says what is wrong; the device goes on.
func TestBadSteps(t *testing.T) {
	b := newBlock(t, 2, kernels.BF16, kernels.F32, true)
	good := b.run(t, b.batch(0, 6))
	other := newBlock(t, 1, kernels.BF16, kernels.F32, true)
	tap := func(p kernels.Tap) func(*kernels.Batch) {
		return func(x *kernels.Batch) { x.Taps = []kernels.Tap{p} }
	}
	for what, spoil := range map[string]func(x *kernels.Batch){
		"empty":                    func(x *kernels.Batch) { *x = kernels.Batch{KV: x.KV} },
		"positions missing":        func(x *kernels.Batch) { x.Pos = x.Pos[1:] },
		"decode rows":              func(x *kernels.Batch) { x.Decode = 7 },
		"no KV":                    func(x *kernels.Batch) { x.KV = nil },
		"token":                    func(x *kernels.Batch) { x.Token[3] = testVocab },
		"negative token":           func(x *kernels.Batch) { x.Token[3] = -1 },
		"row":                      func(x *kernels.Batch) { x.Want[0].Row = 6 },
		"page":                     func(x *kernels.Batch) { x.Spans[0][0].Pages = []kernels.Page{1, 32} },
		"negative page":            func(x *kernels.Batch) { x.Spans[0][0].Pages = []kernels.Page{1, -1} },
		"slots":                    func(x *kernels.Batch) { x.Spans[0][0].Pages = []kernels.Page{1} },
		"base":                     func(x *kernels.Batch) { x.Spans[0][0].Base = 1 },
		"positions jump":           func(x *kernels.Batch) { x.Pos[4] = 9 },
		"rows uncovered":           func(x *kernels.Batch) { x.Spans[0][0].Rows = 5 },
		"rows covered twice":       func(x *kernels.Batch) { x.Spans[0] = append(x.Spans[0], x.Spans[0][0]) },
		"scored id":                func(x *kernels.Batch) { x.Want[0].Score = testVocab },
		"tap row":                  tap(kernels.Tap{Rows: []int32{6}, Buf: make([]float32, testDim)}),
		"tap buffer":               tap(kernels.Tap{Rows: []int32{0}, Buf: make([]float32, testDim-1)}),
		"tap columns":              tap(kernels.Tap{Rows: []int32{0}, Cols: [2]int32{0, testDim + 1}, Op: kernels.Zero}),
		"tap operation":            tap(kernels.Tap{Rows: []int32{0}, Op: 99}),
		"expert that is not there": tap(kernels.Tap{At: kernels.Point{Hook: kernels.HookExpertIndex}, Rows: []int32{0}, Op: kernels.Set, Buf: []float32{testExperts}}),
		"half an expert":           tap(kernels.Tap{At: kernels.Point{Hook: kernels.HookExpertIndex}, Rows: []int32{0}, Op: kernels.Set, Buf: []float32{0.5}}),
		"NaN residual":             tap(kernels.Tap{Rows: []int32{2}, Op: kernels.Scale, By: float32(math.NaN())}),
	} {
		x := b.batch(0, 6)
		spoil(x)
		if r := <-b.dev.Step(x, b.forward); r.Err == nil || r.Outs != nil || !strings.HasPrefix(r.Err.Error(), "kernels/cpu: ") || strings.Contains(r.Err.Error(), "panic") {
			t.Errorf("%s: got %v, %v", what, r.Outs, r.Err)
		}
		if !slices.Equal(b.run(t, b.batch(0, 6)), good) {
			t.Fatalf("%s: the next step differs", what)
		}
	}
	x := b.batch(0, 6)
	x.KV = other.kv
	if err := other.kv.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-b.dev.Step(x, b.forward); r.Err == nil {
		t.Error("closed KV: want an error")
	}
	r := <-b.dev.Step(b.batch(0, 6), func() { b.dev.pool.each(8, func(_, i int) { _ = []int{}[i] }) })
	if r.Err == nil || !strings.Contains(r.Err.Error(), "panic") {
		t.Errorf("a panic on a thread: got %v", r.Err)
	}
	if !slices.Equal(b.run(t, b.batch(0, 6)), good) {
		t.Error("after a panic: the next step differs")
	}
}

func TestWeights(t *testing.T) {
	d := New(Options{Threads: 1})
	defer d.Close()
	w, err := d.NewWeight(kernels.WeightSpec{Names: []string{"a", "b"}, Parts: []int{3, 5}, K: 7, Experts: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Seal(); err == nil || !strings.Contains(err.Error(), "a expert 0") {
		t.Errorf("nothing put: got %v", err)
	}
	for f, codes := range map[kernels.Format][]uint32{
		kernels.BF16: {0x7f80, 0xff80, 0x7f81, 0xffff}, kernels.F16: {0x7c00, 0xfc00, 0x7c01}, kernels.F32: {0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff},
	} {
		for n := 1; n < 20; n++ {
			data := random(rand.New(rand.NewPCG(1, uint64(n))), f, n, 1e4)
			if f == kernels.F16 {
				data = random(rand.New(rand.NewPCG(1, uint64(n))), f, n, 1e2)
			}
			if i := firstNotFinite(f, data); i >= 0 {
				t.Fatalf("%v: value %d of finite ones is not", f, i)
			}
			for at := range n {
				for _, code := range codes {
					x := bytes.Clone(data)
					if f.Size() == 4 {
						binary.LittleEndian.PutUint32(x[4*at:], code)
					} else {
						binary.LittleEndian.PutUint16(x[2*at:], uint16(code))
					}
					if got := firstNotFinite(f, x); got != at {
						t.Errorf("%v: code %x at %d of %d: found at %d", f, code, at, n, got)
					}
				}
			}
		}
	}
	a, b := New(Options{}), New(Options{})
	defer a.Close()
	defer b.Close()
	fill := func(d *Device, seed uint64) kernels.Matrix {
		w, _ := d.NewWeight(kernels.WeightSpec{Names: []string{"w"}, Parts: []int{64}, K: 100, Experts: 1})
		if err := w.Fill(0, 0, kernels.Fill{Seed: seed, NStep: 100, KStep: 1, Std: 0.5}); err != nil {
			t.Fatal(err)
		}
		m, err := w.Get(0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	one, two, three := fill(a, 1), fill(b, 1), fill(a, 2)
	if !bytes.Equal(one.Data, two.Data) || bytes.Equal(one.Data, three.Data) {
		t.Error("Fill does not follow its seed")
	}
	x := make([]float32, 6400)
	convert(x, kernels.BF16, one.Data)
	var sum, squares float64
	for _, v := range x {
		sum, squares = sum+float64(v), squares+float64(v)*float64(v)
	}
	if mean, std := sum/6400, math.Sqrt(squares/6400); math.Abs(mean) > 0.02 || math.Abs(std-0.5) > 0.02 {
		t.Errorf("Fill: mean %v, deviation %v, want 0 and 0.5", mean, std)
	}
}

// Closing ends the threads.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 10 {
		d := New(Options{Threads: 8})
		d.pool.each(100, func(_, _ int) {})
		d.Close()
		d.Close()
	}
	for i := 0; runtime.NumGoroutine() > before && i < 100; i++ {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}
