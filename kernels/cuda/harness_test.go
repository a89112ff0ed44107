//go:build cuda

package cuda_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/kernels/cuda"
	"chulengo/kernels/cuda/driver"
	"chulengo/model"
	"chulengo/safetensors"
)

// golden is a checkpoint of the test material.
type golden struct {
	name string
	dir  fs.FS
}

// goldens are the small checkpoints of package model, and the larger ones of the shared material where it is at hand. On a
// machine without the repository, CHULENGO_TESTDATA names the folder that holds them.
func goldens(t *testing.T) []golden {
	var list []golden
	for _, name := range []string{"micro-scout", "micro-maverick", "tiny-scout", "tiny-maverick"} {
		for _, root := range []string{os.Getenv("CHULENGO_TESTDATA"), "../../model/testdata", "../../../shared/goldens"} {
			dir := filepath.Join(root, name)
			if _, err := os.Stat(filepath.Join(dir, "config.json")); root != "" && err == nil {
				list = append(list, golden{name, os.DirFS(dir)})
				break
			}
		}
	}
	if len(list) < 2 {
		t.Fatal("no checkpoints to test with")
	}
	return list
}

// side is a model on one device.
type side struct {
	*model.Model
	dev kernels.Device
	kv  kernels.KV
	p   *pair
	top int32 // alternatives that every row asks for; at least 3
}

// pair is the same model on the CPU and on the GPU, with the same pages.
type pair struct {
	cpu, gpu *side
	order    [kernels.Groups][]int
	next     [kernels.Groups]int
	tokens   int // in a page
}

const (
	pageTokens = 16
	pages      = 512
)

// opened ends a test without its device: what only a GPU of 9.0 has is not tested on others.
func opened(t testing.TB, err error) {
	t.Helper()
	if gpus, _ := driver.Devices(); errors.Is(err, cuda.ErrActivations) && len(gpus) > 0 && gpus[0].Capability != 90 {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// openGPU opens the device under test.
func openGPU(t testing.TB, o cuda.Options) *cuda.Device {
	t.Helper()
	dev, err := cuda.New(o)
	opened(t, err)
	t.Cleanup(func() { dev.Close() })
	return dev
}

// ranks is how many GPUs the models of pairs run on, as many of them as there are: CHULENGO_RANKS, or what a test says.
var ranks, _ = strconv.Atoi(os.Getenv("CHULENGO_RANKS"))

// onRanks has a test's models run on n GPUs.
func onRanks(t *testing.T, n int) {
	before := ranks
	ranks = n
	t.Cleanup(func() { ranks = before })
	t.Setenv("CHULENGO_EMU_DEVICES", "2") // heard by the software GPU alone
}

// openRanks opens the device, or devices, under test.
func openRanks(t testing.TB, o cuda.Options) kernels.Device {
	t.Helper()
	if ranks < 2 {
		return openGPU(t, o)
	}
	gpus, err := driver.Devices()
	if err != nil {
		t.Fatal(err)
	}
	var list []int
	for rank := range ranks {
		list = append(list, rank%len(gpus))
	}
	g, err := cuda.NewGroup(o, list)
	opened(t, err)
	t.Cleanup(func() { g.Close() })
	return g
}

func newPair(t testing.TB, dir fs.FS, o cuda.Options, keys ...kernels.Format) *pair {
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
	return pairOf(t, cfg, o, keys, func(dev kernels.Device) (*model.Model, error) {
		return model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{})
	})
}

// configOf is a configuration as a checkpoint's config.json would give it.
func configOf(t testing.TB, config map[string]any) *model.Config {
	t.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := model.LoadConfig(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// dummyPair is a pair with random weights.
func dummyPair(t testing.TB, config map[string]any, o cuda.Options, keys ...kernels.Format) *pair {
	t.Helper()
	return dummyPairOfPages(t, config, o, pageTokens, keys...)
}

func dummyPairOfPages(t testing.TB, config map[string]any, o cuda.Options, pageTokens int, keys ...kernels.Format) *pair {
	t.Helper()
	cfg := configOf(t, config)
	return pairOfPages(t, cfg, o, pageTokens, keys, func(dev kernels.Device) (*model.Model, error) {
		return model.LoadDummy(context.Background(), cfg, dev, 1, model.LoadOptions{})
	})
}

// pairOf keeps keys and values in a format; none: BF16.
func pairOf(t testing.TB, cfg *model.Config, o cuda.Options, keys []kernels.Format, load func(kernels.Device) (*model.Model, error)) *pair {
	t.Helper()
	return pairOfPages(t, cfg, o, pageTokens, keys, load)
}

func pairOfPages(t testing.TB, cfg *model.Config, o cuda.Options, pageTokens int, keys []kernels.Format, load func(kernels.Device) (*model.Model, error)) *pair {
	t.Helper()
	p := &pair{tokens: pageTokens}
	r := rand.New(rand.NewPCG(1, 2))
	for g := range p.order {
		p.order[g] = r.Perm(pages)
	}
	host := cpu.New(cpu.Options{Activations: o.Activations})
	t.Cleanup(func() { host.Close() })
	make := func(dev kernels.Device) *side {
		m, err := load(dev)
		if err != nil {
			t.Fatal(err)
		}
		spec := cfg.KVSpec(append(keys, kernels.BF16)[0], pageTokens)
		spec.Pages = [kernels.Groups]int{pages, pages}
		kv, err := dev.NewKV(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { kv.Close() })
		return &side{Model: m, dev: dev, kv: kv, p: p}
	}
	gpu := openRanks(t, o)
	p.cpu, p.gpu = make(host), make(gpu)
	return p
}

func (p *pair) page(group int) kernels.Page {
	n := p.order[group][p.next[group]%len(p.order[group])]
	p.next[group]++
	return kernels.Page(n)
}

// sequence is one text in progress, the same on both sides.
type sequence struct {
	pos    int
	global []kernels.Page
	chunk  map[int][]kernels.Page
}

// piece is what a sequence adds to a step.
type piece struct {
	seq    *sequence
	tokens []int32
}

// extend gives a list of pages room for so many slots.
func (p *pair) extend(group int, list []kernels.Page, slots int) []kernels.Page {
	for len(list)*p.tokens < slots {
		list = append(list, p.page(group))
	}
	return list
}

// batch lays a step out; leading pieces of one token decode.
func (s *side) batch(pieces []piece) *kernels.Batch {
	b, p, chunk := &kernels.Batch{KV: s.kv}, s.p, s.Config.AttnChunk
	for _, x := range pieces {
		q, n, row := x.seq, len(x.tokens), len(b.Token)
		if n == 1 && row == b.Decode && q.pos > 0 {
			b.Decode++
		}
		q.global = p.extend(kernels.GroupGlobal, q.global, q.pos+n)
		b.Spans[kernels.GroupGlobal] = append(b.Spans[kernels.GroupGlobal], kernels.Span{Row: int32(row), Rows: int32(n), Pages: q.global})
		for at := q.pos; at < q.pos+n; {
			c := at / chunk
			end := min(q.pos+n, (c+1)*chunk)
			if q.chunk == nil {
				q.chunk = map[int][]kernels.Page{}
			}
			q.chunk[c] = p.extend(kernels.GroupChunked, q.chunk[c], end-c*chunk)
			b.Spans[kernels.GroupChunked] = append(b.Spans[kernels.GroupChunked],
				kernels.Span{Row: int32(row + at - q.pos), Rows: int32(end - at), Base: int32(c * chunk), Pages: q.chunk[c]})
			at = end
		}
		for i, id := range x.tokens {
			b.Token = append(b.Token, id)
			b.Pos = append(b.Pos, int32(q.pos+i))
			b.Want = append(b.Want, kernels.Want{Row: int32(row + i), Score: id, Top: max(3, s.top), Sample: &kernels.Sampler{}})
		}
	}
	return b
}

// run runs a step; advance moves the sequences on.
func (s *side) run(t testing.TB, pieces []piece, advance bool, taps []kernels.Tap) []kernels.Out {
	t.Helper()
	b := s.batch(pieces)
	b.Taps = taps
	r := <-s.dev.Step(b, func() { s.Forward(s.dev) })
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if advance {
		for _, x := range pieces {
			x.seq.pos += len(x.tokens)
		}
	}
	return r.Outs
}

// capture makes a tap for all of a step's n rows.
func capture(h model.Hook, n int) kernels.Tap {
	rows := make([]int32, n)
	for i := range rows {
		rows[i] = int32(i)
	}
	return kernels.Tap{At: h.At, Rows: rows, Buf: make([]float32, n*h.Width())}
}

// relativeError is ‖got-want‖ / ‖want‖.
func relativeError(got, want []float32) float64 {
	var diff, norm float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		diff += d * d
		norm += float64(want[i]) * float64(want[i])
	}
	if diff == 0 {
		return 0
	}
	return math.Sqrt(diff / norm)
}
