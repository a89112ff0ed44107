//go:build cuda

package cuda_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
)

// borderPages is the tokens in a page that the engine uses on a GPU.
const borderPages = 64

// past is keys and values that were never computed: pages [layers][k, v][KvH][PageTokens][Hd] of random numbers, a function of
// the position, the same for every sequence.
type past struct {
	*pair
	tiled bool // the GPU's pages lie as attend.cuh says
	chunk int
}

// page fills a page of a group with positions first.. below end; what lies beyond is NaN.
func (p past) page(t *testing.T, group int, page kernels.Page, first, end int) {
	t.Helper()
	spec := p.cpu.Config.KVSpec(kernels.BF16, p.tokens)
	plain := make([]byte, spec.PageBytes(group))
	tiles := make([]byte, len(plain))
	r := rand.New(rand.NewPCG(uint64(group), uint64(first)))
	for i := range len(plain) / 2 {
		k, slot := i%spec.HeadDim, i/spec.HeadDim%p.tokens
		head := i / spec.HeadDim / p.tokens
		v := float32(r.NormFloat64())
		if at := (first + slot + 3) % p.chunk; head/spec.KVHeads%2 == 1 && at < 6 {
			v *= 64 // a value at a border that is seen, or is not, shows among thousands
		}
		if first+slot >= end {
			v = float32(math.NaN())
		}
		bits := uint16(math.Float32bits(toBF16(v)) >> 16)
		if v != v {
			bits = 0x7fff
		}
		binary.LittleEndian.PutUint16(plain[2*i:], bits)
		tile := ((head*spec.HeadDim/64+k/64)*p.tokens + slot) * 64
		binary.LittleEndian.PutUint16(tiles[2*(tile+(k%64/8^slot&7)*8+k%8):], bits)
	}
	gpu := plain
	if p.tiled {
		gpu = tiles
	}
	if err := errors.Join(p.cpu.kv.Load(group, page, plain), p.gpu.kv.Load(group, page, gpu)); err != nil {
		t.Fatal(err)
	}
}

// sequence is one with so many tokens behind it. Whole pages are those of `shared`, if there is one.
func (p past) sequence(t *testing.T, pos int, shared *sequence) *sequence {
	t.Helper()
	q := &sequence{pos: pos, chunk: map[int][]kernels.Page{}}
	list := func(group, base, end int, from []kernels.Page) (pages []kernels.Page) {
		for first := base; first < end; first += p.tokens {
			if i := len(pages); i < len(from) && first+p.tokens <= end {
				pages = append(pages, from[i])
				continue
			}
			page := p.pair.page(group)
			p.page(t, group, page, first, end)
			pages = append(pages, page)
		}
		return pages
	}
	if shared == nil {
		shared = &sequence{}
	}
	q.global = list(kernels.GroupGlobal, 0, pos, shared.global)
	for c := 0; c*p.chunk < pos; c++ {
		q.chunk[c] = list(kernels.GroupChunked, c*p.chunk, min(pos, (c+1)*p.chunk), shared.chunk[c])
	}
	return q
}

// Rows at the last positions of a chunk and the first of the next, with Scout's heads: decoding, as pieces of prompts that
// begin before the border, and both in one step; in a chunked and in a global layer, every value against the CPU's.
func TestChunkBorders(t *testing.T) {
	for _, x := range []struct {
		chunk, heads, kvHeads int
		portable              bool
	}{{256, 10, 2, false}, {256, 10, 2, true}, {8192, 40, 8, false}, {8192, 40, 8, true}} {
		t.Run(fmt.Sprintf("chunk=%d/portable=%v", x.chunk, x.portable), func(t *testing.T) {
			if x.chunk == 8192 && testing.Short() {
				t.Skip("takes long on a software GPU")
			}
			config := fastConfig()
			config["num_attention_heads"], config["num_key_value_heads"] = x.heads, x.kvHeads
			config["attention_chunk_size"], config["floor_scale"], config["max_position_embeddings"] = x.chunk, x.chunk, 10485760
			config["num_hidden_layers"], config["no_rope_layers"] = 2, []int{1, 0}
			p := past{dummyPairOfPages(t, config, cuda.Options{Portable: x.portable}, borderPages), false, x.chunk}
			dev := p.gpu.dev.(*cuda.Device)
			p.tiled = cuda.Tiled(p.gpu.kv)
			r := rand.New(rand.NewPCG(71, 72))
			shared := p.sequence(t, x.chunk/borderPages*borderPages, nil)
			at := func(pos, n int) piece { return piece{p.sequence(t, pos, shared), randomTokens(r, n, 1000)} }
			var decode []piece
			for pos := x.chunk - 2; pos <= x.chunk+2; pos++ {
				decode = append(decode, at(pos, 1))
			}
			prefill := []piece{at(x.chunk-2, 5), at(x.chunk-1, 2), at(x.chunk, 2), at(x.chunk-70, 140)}
			parity(t, p.pair, prefill)
			parity(t, p.pair, decode)
			for i := range decode {
				decode[i].seq.pos--
			}
			// Without taps decode attention is one kernel on 9.0, and the step can be replayed.
			_, want := p.gpu.logits(t, decode)
			for i := range decode {
				decode[i].seq.pos--
			}
			for round := range 3 {
				outs := p.gpu.run(t, decode, false, nil)
				for i := range outs {
					if !sameOut(outs[i], want[i]) {
						t.Errorf("round %d, position %d: %+v, with taps %+v", round, decode[i].seq.pos, outs[i], want[i])
					}
				}
			}
			for i := range decode { // and on, over the border or away from it, with prompts beside it
				decode[i].seq.pos++
				decode[i].tokens = randomTokens(r, 1, 1000)
			}
			parity(t, p.pair, append(decode, at(x.chunk-1, 4)))
			name := "attend_decode_90"
			if !p.tiled {
				name = "attend_decode_128"
			}
			if dev.Ran()[name] == 0 {
				t.Errorf("%s did not run", name)
			}
		})
	}
}
