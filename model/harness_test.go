package model_test

import (
	"context"
	"encoding/binary"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
)

// golden is a checkpoint with reference outputs.
type golden struct {
	name string
	dir  fs.FS
}

// goldens are the small ones of this folder, and the larger ones of the shared material where it lies beside the module.
func goldens(t *testing.T) []golden {
	list := []golden{{"micro-scout", os.DirFS("testdata/micro-scout")}, {"micro-maverick", os.DirFS("testdata/micro-maverick")}}
	for _, name := range []string{"tiny-scout", "tiny-maverick"} {
		dir := filepath.Join("..", "..", "shared", "goldens", name)
		if _, err := os.Stat(dir); err == nil {
			list = append(list, golden{name, os.DirFS(dir)})
		} else {
			t.Logf("%s is not beside the module: the smaller goldens stand alone", name)
		}
	}
	return list
}

// loaded is a model on the CPU device.
type loaded struct {
	*model.Model
	dev *cpu.Device
}

func load(t testing.TB, dir fs.FS, threads int) *loaded {
	t.Helper()
	dev := cpu.New(cpu.Options{Threads: threads})
	t.Cleanup(func() { dev.Close() })
	return &loaded{loadOn(t, dir, dev, model.LoadOptions{}), dev}
}

// loadOn puts the model of a checkpoint on any device.
func loadOn(t testing.TB, dir fs.FS, dev kernels.Device, o model.LoadOptions) *model.Model {
	t.Helper()
	cfg, err := model.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := safetensors.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ckpt.Close() })
	m, err := model.Load(context.Background(), ckpt, cfg, dev, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// reference gives the tensors of expected.safetensors.
func reference(t *testing.T, dir fs.FS) func(name string) []float32 {
	t.Helper()
	data, err := fs.ReadFile(dir, "expected.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Parse("expected.safetensors", data)
	if err != nil {
		t.Fatal(err)
	}
	return func(name string) []float32 {
		t.Helper()
		x, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if x.DType == safetensors.I32 {
			out := make([]float32, x.Len())
			for i := range out {
				out[i] = float32(int32(binary.LittleEndian.Uint32(x.Data[4*i:])))
			}
			return out
		}
		values, err := x.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		return values
	}
}

func ids(x []float32) []int32 {
	out := make([]int32, len(x))
	for i, v := range x {
		out[i] = int32(v)
	}
	return out
}

// relativeError is ‖got-want‖ / ‖want‖.
func relativeError(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var diff, norm float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		diff += d * d
		norm += float64(want[i]) * float64(want[i])
	}
	return math.Sqrt(diff / norm)
}

// firstDifference is the index of the first pair with different bits, -1 if there is none.
func firstDifference(a, b []float32) int {
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return i
		}
	}
	return -1
}

const (
	testPageTokens = 16 // divides no chunk of the goldens but one
	testPages      = 512
)

// stepper runs steps on scattered pages: a naive twin of the engine.
type stepper struct {
	t     *testing.T
	m     *model.Model
	dev   kernels.Device
	kv    kernels.KV
	order [kernels.Groups][]int
	next  [kernels.Groups]int

	pictures []kernels.PictureRows // of the next steps
}

// sequence is one text in progress.
type sequence struct {
	pos    int
	global []kernels.Page
	chunk  map[int][]kernels.Page // pages of the chunked group by number of chunk
}

// piece is what one sequence adds to a step.
type piece struct {
	seq    *sequence
	tokens []int32
}

func newStepper(t *testing.T, m *loaded) *stepper {
	return newStepperOn(t, m.Model, m.dev, kernels.F32)
}

// newStepperOn is that on any device, whose keys and values are kept in a format.
func newStepperOn(t *testing.T, m *model.Model, dev kernels.Device, format kernels.Format) *stepper {
	spec := m.Config.KVSpec(format, testPageTokens)
	spec.Pages = [kernels.Groups]int{testPages, testPages}
	kv, err := dev.NewKV(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	r := rand.New(rand.NewPCG(1, 2))
	return &stepper{t: t, m: m, dev: dev, kv: kv, order: [kernels.Groups][]int{r.Perm(testPages), r.Perm(testPages)}}
}

func (s *stepper) page(group int) kernels.Page {
	p := s.order[group][s.next[group]%testPages]
	s.next[group]++
	return kernels.Page(p)
}

func grow(list []kernels.Page, slots int, page func() kernels.Page) []kernels.Page {
	for len(list)*testPageTokens < slots {
		list = append(list, page())
	}
	return list
}

// step runs one batch and gives the logits of all its rows, flat [T, V]. Pieces of one token come first.
func (s *stepper) step(pieces []piece, taps ...kernels.Tap) []float32 {
	s.t.Helper()
	b := &kernels.Batch{KV: s.kv, Taps: taps, Pictures: s.pictures}
	chunk := s.m.Config.AttnChunk
	var rows []int32
	for _, p := range pieces {
		q, n := p.seq, len(p.tokens)
		row := len(b.Token)
		if n == 1 && row == b.Decode {
			b.Decode++
		}
		q.global = grow(q.global, q.pos+n, func() kernels.Page { return s.page(kernels.GroupGlobal) })
		b.Spans[kernels.GroupGlobal] = append(b.Spans[kernels.GroupGlobal], kernels.Span{Row: int32(row), Rows: int32(n), Pages: q.global})
		for at := q.pos; at < q.pos+n; {
			c := at / chunk
			end := min(q.pos+n, (c+1)*chunk)
			if q.chunk == nil {
				q.chunk = map[int][]kernels.Page{}
			}
			q.chunk[c] = grow(q.chunk[c], end-c*chunk, func() kernels.Page { return s.page(kernels.GroupChunked) })
			b.Spans[kernels.GroupChunked] = append(b.Spans[kernels.GroupChunked],
				kernels.Span{Row: int32(row + at - q.pos), Rows: int32(end - at), Base: int32(c * chunk), Pages: q.chunk[c]})
			at = end
		}
		for i, id := range p.tokens {
			b.Token = append(b.Token, id)
			b.Pos = append(b.Pos, int32(q.pos+i))
			b.Want = append(b.Want, kernels.Want{Row: int32(row + i), Score: -1})
			rows = append(rows, int32(row+i))
		}
		q.pos += n
		for c := range q.chunk { // chunks that were left are never read again
			if (c+1)*chunk <= q.pos {
				delete(q.chunk, c)
			}
		}
	}
	logits := make([]float32, len(rows)*s.m.Config.Vocab)
	b.Taps = append(b.Taps, kernels.Tap{At: kernels.Point{Hook: kernels.HookLogits}, Rows: rows, Buf: logits})
	if r := <-s.dev.Step(b, func() { s.m.Forward(s.dev) }); r.Err != nil {
		s.t.Fatal(r.Err)
	}
	return logits
}

// capture makes a tap for all of a step's n rows.
func capture(h model.Hook, n int) kernels.Tap {
	rows := make([]int32, n)
	for i := range rows {
		rows[i] = int32(i)
	}
	return kernels.Tap{At: h.At, Rows: rows, Buf: make([]float32, n*h.Width())}
}
