//go:build cuda

package cuda_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/model"
)

// fastConfig reaches every kernel of compute capability 9.0 with sizes that no tile divides by accident: heads of 128,
// several tiles along K, a chunk that pages do not divide, 16 experts.
func fastConfig() map[string]any {
	return map[string]any{
		"model_type": "llama4_text", "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128,
		"intermediate_size": 192, "intermediate_size_mlp": 320, "num_local_experts": 16, "num_experts_per_tok": 1, "vocab_size": 1000,
		"num_hidden_layers": 4, "attention_chunk_size": 72, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "use_qk_norm": true,
		"attn_temperature_tuning": true, "floor_scale": 40, "attn_scale": 0.1, "rope_theta": 500000.0, "interleave_moe_layer_step": 2,
		"no_rope_layers": []int{1, 1, 1, 0}, "hidden_act": "silu", "tie_word_embeddings": false,
	}
}

// logitsTap captures the logits of every row of a step; outs are compared as well.
func (s *side) logits(t testing.TB, pieces []piece) ([]float32, []kernels.Out) {
	t.Helper()
	n := 0
	for _, x := range pieces {
		n += len(x.tokens)
	}
	tap := kernels.Tap{At: kernels.Point{Hook: kernels.HookLogits}, Buf: make([]float32, n*s.Config.Vocab)}
	for i := range n {
		tap.Rows = append(tap.Rows, int32(i))
	}
	outs := s.run(t, pieces, true, []kernels.Tap{tap})
	return tap.Buf, outs
}

func randomTokens(r *rand.Rand, n, vocab int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(r.IntN(vocab))
	}
	return out
}

// sameOut says whether two answers are equal, bit for bit.
func sameOut(a, b kernels.Out) bool {
	return a.Token == b.Token && math.Float32bits(a.LogProb) == math.Float32bits(b.LogProb) && math.Float32bits(a.Score) == math.Float32bits(b.Score) && slices.Equal(a.Top, b.Top)
}

// The stages of the fast kernels against the CPU, and which kernels that were.
func TestFastKernels(t *testing.T) {
	p := dummyPair(t, fastConfig(), cuda.Options{NoGraphs: true})
	r := rand.New(rand.NewPCG(5, 6))
	seqs := []*sequence{{}, {}, {}}
	parity(t, p, []piece{{seqs[0], randomTokens(r, 300, 1000)}})
	parity(t, p, []piece{{seqs[0], randomTokens(r, 1, 1000)}, {seqs[1], randomTokens(r, 130, 1000)}, {seqs[2], randomTokens(r, 5, 1000)}})
	parity(t, p, []piece{{seqs[0], randomTokens(r, 1, 1000)}, {seqs[1], randomTokens(r, 1, 1000)}, {seqs[2], randomTokens(r, 1, 1000)}})
	ran := p.gpu.dev.(*cuda.Device).Ran()
	for _, name := range []string{"gemm_store_90", "gemm_swiglu_90", "gemm_routed_90", "attend_prefill_90", "attend_decode_90", "stream_swiglu_8", "stream_partial_8", "norm_slices", "sort_rows", "sample_rows"} {
		if ran[name] == 0 {
			t.Errorf("%s did not run", name)
		}
	}
	if ran["gemm_store_80"] != 0 {
		t.Error("the portable products ran where the fast ones should")
	}
}

// Decode attention makes queries, keys and values itself; with taps, kernels before it do. Both give the same bits: with four query
// heads for a key/value head, and with sixteen, the most that there may be.
func TestTappedDecode(t *testing.T) {
	for _, c := range []struct {
		heads [2]int
		keys  kernels.Format
		name  string
	}{{[2]int{8, 2}, kernels.BF16, "attend_decode_90"}, {[2]int{16, 1}, kernels.BF16, "attend_decode_90"}, {[2]int{8, 2}, kernels.F8E4M3, "attend_decode_e4m3_90"}} {
		heads := c.heads
		t.Run(fmt.Sprint(heads, c.keys), func(t *testing.T) {
			config := fastConfig()
			config["num_attention_heads"], config["num_key_value_heads"] = heads[0], heads[1]
			config["num_hidden_layers"], config["no_rope_layers"] = 2, []int{1, 0}
			p, q := dummyPair(t, config, cuda.Options{}, c.keys), dummyPair(t, config, cuda.Options{}, c.keys)
			r := rand.New(rand.NewPCG(9, 10))
			var a, b []piece
			for _, n := range []int{3, 126} { // the second goes from one split to two
				prompt := randomTokens(r, n, 1000)
				a, b = append(a, piece{&sequence{}, prompt}), append(b, piece{&sequence{}, prompt})
			}
			p.gpu.run(t, a, true, nil)
			q.gpu.run(t, b, true, nil)
			for step := range 4 {
				for i := range a {
					next := randomTokens(r, 1, 1000)
					a[i].tokens, b[i].tokens = next, next
				}
				outs := p.gpu.run(t, a, true, nil)
				_, tapped := q.gpu.logits(t, b)
				for i := range outs {
					if !sameOut(outs[i], tapped[i]) {
						t.Fatalf("step %d row %d: %+v, with taps %+v", step, i, outs[i], tapped[i])
					}
				}
			}
			if ran := q.gpu.dev.(*cuda.Device).Ran(); ran[c.name] == 0 || ran["rope_append"] == 0 {
				t.Errorf("want %s and rope_append, got %v", c.name, ran)
			}
			if p.gpu.dev.(*cuda.Device).Ran()["rope_append"] != 0 {
				t.Error("rope_append ran without taps")
			}
		})
	}
}

// Three hundred steps with buckets that change: graphs whose kernels overlap, over a workspace that is NaN before every step,
// give the answers of kernels launched one after the other, the log-probability of every id among them, which a graph gives and no tap
// would show, and leave the same keys and values behind.
func TestManySteps(t *testing.T) {
	steps := 300
	if testing.Short() {
		steps = 10
	}
	p := dummyPair(t, fastConfig(), cuda.Options{Poison: true})
	q := dummyPair(t, fastConfig(), cuda.Options{NoGraphs: true, NoOverlap: true})
	vocab := int32(p.gpu.Config.Vocab)
	p.gpu.top, q.gpu.top = vocab, vocab
	spec := p.gpu.Config.KVSpec(kernels.BF16, pageTokens)
	for g := range kernels.Groups { // what is not written must not differ
		zeros := make([]byte, spec.PageBytes(g))
		for page := range kernels.Page(pages) {
			if err := errors.Join(p.gpu.kv.Load(g, page, zeros), q.gpu.kv.Load(g, page, zeros)); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := rand.New(rand.NewPCG(41, 42))
	const n = 12
	var sides [2][n]*sequence
	next := make([]int32, n)
	for i := range n {
		sides[0][i], sides[1][i] = &sequence{}, &sequence{}
		prompt := randomTokens(r, 2+r.IntN(20), 1000)
		a, b := p.gpu.runWithLast(t, []piece{{sides[0][i], prompt}}), q.gpu.runWithLast(t, []piece{{sides[1][i], prompt}})
		if !sameOut(a[0], b[0]) {
			t.Fatalf("prompt %d: %+v and %+v", i, a[0], b[0])
		}
		next[i] = a[0].Token
	}
	for step := range steps {
		var a, b []piece
		rows := r.Perm(n)[:1+r.IntN(n)]
		for _, i := range rows {
			a, b = append(a, piece{sides[0][i], next[i : i+1]}), append(b, piece{sides[1][i], next[i : i+1]})
		}
		outs, want := p.gpu.run(t, a, true, nil), q.gpu.run(t, b, true, nil)
		for j, i := range rows {
			if len(want[j].Top) != int(vocab) {
				t.Fatalf("step %d row %d: want %d log-probabilities, got %d", step, j, vocab, len(want[j].Top))
			}
			if !sameOut(outs[j], want[j]) {
				t.Fatalf("step %d row %d of %d: %+v, one after the other %+v", step, j, len(rows), outs[j], want[j])
			}
			next[i] = want[j].Token
		}
	}
	for g := range kernels.Groups {
		a, b := make([]byte, spec.PageBytes(g)), make([]byte, spec.PageBytes(g))
		for page := range kernels.Page(pages) {
			if err := errors.Join(p.gpu.kv.Save(g, page, a), q.gpu.kv.Save(g, page, b)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a, b) {
				t.Fatalf("group %d: page %d of keys and values differs", g, page)
			}
		}
	}
}

// Draws, scores and alternatives equal the CPU's on the same logits: the CPU's are put in place of the GPU's.
func TestSampling(t *testing.T) {
	p := dummyPair(t, fastConfig(), cuda.Options{NoGraphs: true})
	r := rand.New(rand.NewPCG(9, 10))
	vocab := 1000
	rows := 24
	for round := range 6 {
		logits := make([]float32, rows*vocab)
		for i := range logits {
			logits[i] = float32(r.NormFloat64() * []float64{0, 1, 4}[i/vocab%3]) // all equal, flat, peaked
			if round == 5 {
				logits[i] = float32(int(logits[i] * 2)) // many ties
			}
		}
		tap := kernels.Tap{At: kernels.Point{Hook: kernels.HookLogits}, Op: kernels.Set, Buf: logits}
		var wants []kernels.Want
		for i := range rows {
			tap.Rows = append(tap.Rows, int32(i))
			s := &kernels.Sampler{Seed: r.Uint64(), Index: uint64(i)}
			w := kernels.Want{Row: int32(i), Score: int32(r.IntN(vocab)), Top: int32(r.IntN(30)), Sample: s}
			if i%4 > 0 {
				s.Temperature = float32(r.Float64()*2 + 0.05)
			}
			if r.IntN(2) == 0 {
				s.TopK = int32(r.IntN(vocab + 50))
			}
			if r.IntN(2) == 0 {
				s.TopP = float32(r.Float64())
			}
			if r.IntN(3) == 0 {
				s.MinP = float32(r.Float64() * 0.3)
			}
			if r.IntN(2) == 0 {
				for _, id := range r.Perm(vocab)[:r.IntN(40)] {
					s.Adjust = append(s.Adjust, kernels.Adjust{ID: int32(id), Penalty: float32(r.Float64() + 0.7), Add: float32(r.NormFloat64())})
				}
			}
			if r.IntN(3) == 0 {
				s.Mask = make([]uint32, (vocab+31)/32)
				for range 1 + r.IntN(300) {
					id := r.IntN(vocab)
					s.Mask[id/32] |= 1 << (id % 32)
				}
			}
			if i == rows-1 {
				w.Sample, w.Score, w.Top = nil, -1, 0
			}
			wants = append(wants, w)
		}
		seq := &sequence{}
		tokens := randomTokens(r, rows, vocab)
		answer := func(s *side) []kernels.Out {
			b := s.batch([]piece{{seq, tokens}})
			b.Want, b.Taps = wants, []kernels.Tap{tap}
			res := <-s.dev.Step(b, func() { s.Forward(s.dev) })
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			return res.Outs
		}
		want, got := answer(p.cpu), answer(p.gpu)
		for i := range want {
			if got[i].Token != want[i].Token || len(got[i].Top) != len(want[i].Top) {
				t.Errorf("round %d row %d: got token %d and %d alternatives, want %d and %d (%+v)", round, i, got[i].Token, len(got[i].Top), want[i].Token, len(want[i].Top), wants[i].Sample)
				continue
			}
			near := func(a, b float32) bool { return math.Abs(float64(a-b)) <= 2e-6*(1+math.Abs(float64(b))) }
			if !near(got[i].LogProb, want[i].LogProb) || !near(got[i].Score, want[i].Score) {
				t.Errorf("round %d row %d: log-probabilities %v and %v, want %v and %v", round, i, got[i].LogProb, got[i].Score, want[i].LogProb, want[i].Score)
			}
			for j := range want[i].Top {
				if got[i].Top[j].ID != want[i].Top[j].ID || !near(got[i].Top[j].LogProb, want[i].Top[j].LogProb) {
					t.Errorf("round %d row %d: alternative %d is %+v, want %+v", round, i, j, got[i].Top[j], want[i].Top[j])
					break
				}
			}
		}
	}
}

// What goes in comes out: every layout, format and part, through the packing and back.
func TestPacking(t *testing.T) {
	dev := openGPU(t, cuda.Options{})
	r := rand.New(rand.NewPCG(11, 12))
	for _, spec := range []kernels.WeightSpec{
		{Names: []string{"q", "k", "v"}, Parts: []int{70, 8, 129}, K: 100, Experts: 1},
		{Names: []string{"gate_up"}, Parts: []int{40, 40}, K: 64, Experts: 3, Pairs: true},
		{Names: []string{"down"}, Parts: []int{24}, K: 200, Experts: 2},
	} {
		for _, inOut := range []bool{false, true} {
			w, err := dev.NewWeight(spec)
			if err != nil {
				t.Fatal(err)
			}
			put := map[[2]int]kernels.Matrix{}
			for e := range spec.Experts {
				for part, n := range spec.Parts {
					m := kernels.Matrix{Format: kernels.BF16, N: n, K: spec.K, InOut: inOut, Data: make([]byte, 2*n*spec.K)}
					for i := 0; i < len(m.Data); i += 2 {
						b := math.Float32bits(float32(r.NormFloat64()))
						m.Data[i], m.Data[i+1] = byte(b>>16), byte(b>>24)
					}
					put[[2]int{part, e}] = m
					if err := w.Put(part, e, m); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := w.Seal(); err != nil {
				t.Fatal(err)
			}
			for at, m := range put {
				got, err := w.Get(at[0], at[1])
				if err != nil || !slices.Equal(got.Data, m.Data) || got.InOut != m.InOut {
					t.Errorf("%v in_out=%v part %d expert %d: what came back differs (%v)", spec.Names, inOut, at[0], at[1], err)
				}
			}
			// A value that is not finite is found and named.
			m := put[[2]int{0, spec.Experts - 1}]
			bad := slices.Clone(m.Data)
			at := (m.N*m.K - 3) * 2
			bad[at], bad[at+1] = 0x80, 0x7f
			m.Data = bad
			w.Put(0, spec.Experts-1, m)
			if err := w.Seal(); err == nil {
				t.Errorf("%v: an infinity passes", spec.Names)
			} else {
				t.Log(err)
			}
		}
	}
}

// Random values made on the device are the CPU's.
func TestFill(t *testing.T) {
	p := dummyPair(t, fastConfig(), cuda.Options{})
	for i := range p.cpu.Layers {
		if p.cpu.Layers[i].MoE == nil {
			continue
		}
		for part := range 2 {
			for e := range 16 {
				a, err := p.cpu.Layers[i].MoE.GateUp.Get(part, e)
				if err != nil {
					t.Fatal(err)
				}
				b, err := p.gpu.Layers[i].MoE.GateUp.Get(part, e)
				if err != nil || !slices.Equal(a.Data, b.Data) {
					t.Fatalf("layer %d part %d expert %d differs (%v)", i, part, e, err)
				}
			}
		}
	}
}

// No row reads what it must not: with NaN in every expert that nobody chose, the answers keep their bits.
func TestUnchosenExperts(t *testing.T) {
	p := dummyPair(t, fastConfig(), cuda.Options{NoGraphs: true})
	prompt := []int32{1, 2, 3, 4, 5, 6, 7}
	var taps []kernels.Tap
	for _, h := range model.Hooks(p.gpu.Config) {
		if h.At.Hook == kernels.HookExpertIndex {
			taps = append(taps, capture(h, len(prompt)))
		}
	}
	seq := &sequence{}
	want := p.gpu.run(t, []piece{{seq, prompt}}, true, taps)
	one := &sequence{pos: 7, global: seq.global, chunk: seq.chunk}
	decodeTaps := append([]kernels.Tap(nil), taps...)
	for i := range decodeTaps {
		decodeTaps[i] = kernels.Tap{At: taps[i].At, Rows: []int32{0}, Buf: make([]float32, 1)}
	}
	wantOne := p.gpu.run(t, []piece{{one, []int32{8}}}, false, decodeTaps)
	poison := 0
	for i, tap := range taps {
		used := map[int]bool{int(decodeTaps[i].Buf[0]): true}
		for _, e := range tap.Buf {
			used[int(e)] = true
		}
		moe := p.gpu.Layers[tap.At.Layer].MoE
		for e := range 16 {
			if used[e] {
				continue
			}
			poison++
			for part := range 2 {
				cuda.Poison(moe.GateUp, part, e)
			}
			cuda.Poison(moe.Down, 0, e)
		}
	}
	if poison == 0 {
		t.Fatal("every expert is used")
	}
	again := &sequence{}
	got := p.gpu.run(t, []piece{{again, prompt}}, true, nil)
	for i := range want {
		if !sameOut(got[i], want[i]) {
			t.Errorf("row %d: %+v with %d poisoned experts, %+v without", i, got[i], poison, want[i])
		}
	}
	gotOne := p.gpu.run(t, []piece{{again, []int32{8}}}, false, nil)
	if !sameOut(gotOne[0], wantOne[0]) {
		t.Errorf("decode: %+v with poisoned experts, %+v without", gotOne[0], wantOne[0])
	}
}

// The routers' own counts are those of taps, from prompts, launched and replayed steps.
func TestExpertRows(t *testing.T) {
	p := dummyPair(t, fastConfig(), cuda.Options{})
	q := dummyPair(t, fastConfig(), cuda.Options{})
	r := rand.New(rand.NewPCG(51, 52))
	want := map[int][]uint64{}
	a, b := [3]*sequence{{}, {}, {}}, [3]*sequence{{}, {}, {}}
	for step := range 6 {
		var x, y []piece
		for i := range a {
			tokens := randomTokens(r, 1, 1000)
			if step == 0 {
				tokens = randomTokens(r, 5+i, 1000)
			}
			x, y = append(x, piece{a[i], tokens}), append(y, piece{b[i], tokens})
		}
		rows := 0
		for _, z := range x {
			rows += len(z.tokens)
		}
		var taps []kernels.Tap
		for _, h := range model.Hooks(p.gpu.Config) {
			if h.At.Hook == kernels.HookExpertIndex {
				taps = append(taps, capture(h, rows))
			}
		}
		p.gpu.run(t, x, true, nil)
		q.gpu.run(t, y, true, taps)
		for _, tap := range taps {
			if want[tap.At.Layer] == nil {
				want[tap.At.Layer] = make([]uint64, 16)
			}
			for _, e := range tap.Buf {
				want[tap.At.Layer][int(e)]++
			}
		}
	}
	got, err := p.gpu.dev.(kernels.ExpertCounter).ExpertRows()
	if err != nil {
		t.Fatal(err)
	}
	for layer, counts := range want {
		if layer >= len(got) || !slices.Equal(got[layer], counts) {
			t.Errorf("layer %d: want %v, got %v", layer, counts, got)
		}
	}
}

// Faults of a step leave the device usable; their messages name what was wrong.
func TestFaults(t *testing.T) {
	p := dummyPair(t, fastConfig(), cuda.Options{})
	seq := &sequence{}
	want := p.gpu.run(t, []piece{{seq, []int32{5, 6, 7}}}, false, nil)
	for what, change := range map[string]func(b *kernels.Batch){
		"token":   func(b *kernels.Batch) { b.Token[1] = 1000 },
		"want":    func(b *kernels.Batch) { b.Want[0].Row = 3 },
		"score":   func(b *kernels.Batch) { b.Want[0].Score = 1000 },
		"adjust":  func(b *kernels.Batch) { b.Want[0].Sample.Adjust = []kernels.Adjust{{ID: -1}} },
		"mask":    func(b *kernels.Batch) { b.Want[0].Sample.Mask = make([]uint32, 1) },
		"nothing": func(b *kernels.Batch) { b.Want[0].Sample.Mask = make([]uint32, 32) },
		"page":    func(b *kernels.Batch) { b.Spans[0][0].Pages = []kernels.Page{pages} },
		"pos":     func(b *kernels.Batch) { b.Pos[2] = 100 },
		"tap":     func(b *kernels.Batch) { b.Taps = []kernels.Tap{{Rows: []int32{0}, Cols: [2]int32{0, 1000}}} },
		"expert": func(b *kernels.Batch) {
			b.Taps = []kernels.Tap{{At: kernels.Point{Layer: 1, Hook: kernels.HookExpertIndex}, Rows: []int32{0}, Op: kernels.Set, Buf: []float32{16}}}
		},
		"nan": func(b *kernels.Batch) {
			b.Taps = []kernels.Tap{{At: kernels.Point{Layer: 1, Hook: kernels.HookRouterLogits}, Rows: []int32{0}, Op: kernels.Scale, By: float32(math.NaN())}}
		},
	} {
		b := p.gpu.batch([]piece{{seq, []int32{5, 6, 7}}})
		change(b)
		res := <-p.gpu.dev.Step(b, func() { p.gpu.Forward(p.gpu.dev) })
		if res.Err == nil {
			t.Errorf("%s: no error", what)
		} else {
			t.Logf("%s: %v", what, res.Err)
		}
	}
	got := p.gpu.run(t, []piece{{seq, []int32{5, 6, 7}}}, false, nil)
	for i := range want {
		if !sameOut(got[i], want[i]) {
			t.Errorf("after the faults row %d gives %+v, want %+v", i, got[i], want[i])
		}
	}
}
