//go:build cuda

package cuda_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/model"
)

// The same keys and values become the same codes as on the CPU, whatever they are: every binade, ties, what saturates. On a
// portable device pages lie as the CPU's do, and Load is Save's inverse.
func TestFP8Pages(t *testing.T) {
	p := newPair(t, goldens(t)[0].dir, cuda.Options{NoGraphs: true, Portable: true}, kernels.F8E4M3)
	c, n := p.cpu.Config, 2*pageTokens
	r := rand.New(rand.NewPCG(51, 52))
	var taps []kernels.Tap
	for _, h := range model.Hooks(c) {
		if h.At.Hook != kernels.HookRotK && h.At.Hook != kernels.HookV {
			continue
		}
		tap := capture(h, n)
		tap.Op = kernels.Set
		for i := range tap.Buf {
			code := float64(r.IntN(1<<7)) / 8 // 16 steps between two codes of a binade, so that some are ties
			v := math.Ldexp(1+code/16, r.IntN(22)-12)
			if r.IntN(8) == 0 {
				v = math.Ldexp(float64(r.IntN(64)), -12) // around the smallest ones, zero among them
			}
			tap.Buf[i] = float32(v * float64(1-2*r.IntN(2)))
		}
		taps = append(taps, tap)
	}
	q := &sequence{}
	pieces := []piece{{q, randomTokens(r, n, c.Vocab)}}
	p.cpu.run(t, pieces, false, taps)
	p.gpu.run(t, pieces, false, taps)
	compared := 0
	for g, list := range [][]kernels.Page{q.global, q.chunk[0]} {
		for i, page := range list {
			size := p.cpu.kvBytesOf(g)
			want, got, again := make([]byte, size), make([]byte, size), make([]byte, size)
			if err := p.cpu.kv.Save(g, page, want); err != nil {
				t.Fatal(err)
			}
			if err := p.gpu.kv.Save(g, page, got); err != nil {
				t.Fatal(err)
			}
			if i == len(list)-1 && (g == kernels.GroupChunked || n%pageTokens != 0) {
				continue // not full: what was never written is anything
			}
			compared++
			for j := range want {
				if want[j] != got[j] {
					t.Fatalf("group %d page %d byte %d: want %#x, got %#x", g, i, j, want[j], got[j])
				}
			}
			if err := p.gpu.kv.Load(g, 7, got); err != nil {
				t.Fatal(err)
			}
			if err := p.gpu.kv.Save(g, 7, again); err != nil || !bytes.Equal(again, got) {
				t.Fatalf("group %d page %d: loaded and saved, it is another (%v)", g, i, err)
			}
		}
	}
	if compared < 3 {
		t.Errorf("only %d pages were full", compared)
	}
}

func (s *side) kvBytesOf(g int) int { return s.Config.KVSpec(kernels.F8E4M3, pageTokens).PageBytes(g) }

// Formats and heads that kernels cannot read are errors that name them.
func TestKVErrors(t *testing.T) {
	dev := openGPU(t, cuda.Options{})
	for _, c := range []struct {
		format  kernels.Format
		headDim int
		want    string
	}{{kernels.F32, 128, "want format BF16 or F8_E4M3, got F32"}, {kernels.F8E4M3, 24, "multiple of 16"}, {kernels.BF16, 20, "multiple of 8"}} {
		if _, err := dev.NewKV(kernels.KVSpec{Format: c.format, PageTokens: 16, KVHeads: 1, HeadDim: c.headDim}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, heads of %d: want an error with %q, got %v", c.format, c.headDim, c.want, err)
		}
	}
}
