//go:build cuda

package cuda_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/model"
)

// Steps of a model with random weights, against what the bytes (decode) and the operations (prefill) allow. By default the
// small configuration, so that the benchmarks themselves are tested; CHULENGO_BENCH=scout takes the layers of
// Llama-4-Scout, as many as CHULENGO_LAYERS says (default 16), CHULENGO_QUANT quantises them, and CHULENGO_ACTIVATIONS=fp8 has prompts read
// with activations in codes.
//
// The bounds are those of an H200: 4.65 TB/s measured for reads, 700 TFLOP/s for a bfloat16 product through cuBLAS.
const (
	readBandwidth = 4.65e12
	productFlops  = 700e12
)

func benchConfig() map[string]any {
	if os.Getenv("CHULENGO_BENCH") != "scout" {
		return fastConfig()
	}
	layers, err := strconv.Atoi(os.Getenv("CHULENGO_LAYERS"))
	if err != nil {
		layers = 16
	}
	return map[string]any{
		"model_type": "llama4_text", "hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
		"intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 16, "num_experts_per_tok": 1, "vocab_size": 202048,
		"num_hidden_layers": layers, "attention_chunk_size": 8192, "max_position_embeddings": 10485760, "rms_norm_eps": 1e-5, "use_qk_norm": true,
		"attn_temperature_tuning": true, "floor_scale": 8192, "attn_scale": 0.1, "rope_theta": 500000.0, "interleave_moe_layer_step": 1,
		"hidden_act": "silu", "tie_word_embeddings": false,
	}
}

// gpuSide is a model with random weights on the GPU alone, with room for so many tokens.
func gpuSide(b *testing.B, config map[string]any, o cuda.Options, tokens int) (*side, *cuda.Device) {
	b.Helper()
	if os.Getenv("CHULENGO_ACTIVATIONS") == "fp8" {
		o.Activations = kernels.F8E4M3
	}
	cfg := configOf(b, config)
	dev := openGPU(b, o)
	m, err := model.LoadDummy(context.Background(), cfg, dev, 1, model.LoadOptions{Recipe: model.Recipe(os.Getenv("CHULENGO_QUANT"))})
	if err != nil {
		b.Fatal(err)
	}
	p := &pair{tokens: 64} // as the engine's pages on a GPU
	n := tokens/p.tokens + 64
	for g := range p.order {
		p.order[g] = rand.New(rand.NewPCG(1, 2)).Perm(n)
	}
	spec := cfg.KVSpec(kernels.BF16, p.tokens)
	spec.Pages = [kernels.Groups]int{n, n}
	kv, err := dev.NewKV(spec)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { kv.Close() })
	return &side{Model: m, dev: dev, kv: kv, p: p}, dev
}

// weightBytes is what one decoding step reads of the weights when so many distinct experts are chosen over all layers.
func (s *side) weightBytes(distinct int) float64 {
	c := s.Config
	attn := 2 * c.Dim * c.HeadDim * (2*c.Heads + 2*c.KVHeads)
	total := 2 * c.Dim * c.Vocab // the head; of the embedding a row
	for l := range c.Layers {
		total += attn + 2*3*c.Dim*c.FFNDim(l) // the dense network, or the shared expert
		if c.IsMoE(l) {
			total += 2 * c.Dim * c.Experts
		}
	}
	return float64(total) + float64(distinct)*2*3*float64(c.Dim)*float64(c.FFNDim(s.firstMoE()))
}

func (s *side) firstMoE() int {
	for l := range s.Config.Layers {
		if s.Config.IsMoE(l) {
			return l
		}
	}
	return 0
}

// kvBytes is what attention of one row after n tokens reads.
func (s *side) kvBytes(n int) float64 {
	c := s.Config
	total := 0
	for l := range c.Layers {
		seen := n + 1
		if chunk := c.ChunkSize(l); chunk > 0 {
			seen = n%chunk + 1
		}
		total += seen * 2 * 2 * c.KVHeads * c.HeadDim
	}
	return float64(total)
}

// distinctExperts counts the chosen experts of a step, over all layers.
func (s *side) distinctExperts(b *testing.B, pieces []piece) int {
	var taps []kernels.Tap
	for _, h := range model.Hooks(s.Config) {
		if h.At.Hook == kernels.HookExpertIndex {
			taps = append(taps, capture(h, len(pieces)))
		}
	}
	s.run(b, pieces, false, taps)
	n := 0
	for _, t := range taps {
		seen := map[float32]bool{}
		for _, e := range t.Buf {
			seen[e] = true
		}
		n += len(seen)
	}
	return n
}

// fill reads a random prompt into a sequence.
func (s *side) fill(b *testing.B, r *rand.Rand, n int) *sequence {
	q := &sequence{}
	for q.pos < n {
		s.runWith(b, []piece{{q, randomTokens(r, min(n-q.pos, 8192), s.Config.Vocab)}}, 1)
	}
	return q
}

// runWith is run with answers for the last row of each piece only, as an engine asks.
func (s *side) runWith(b *testing.B, pieces []piece, wants int) []kernels.Out {
	b.Helper()
	batch := s.batch(pieces)
	if batch.Decode != len(batch.Token) {
		batch.Want = batch.Want[len(batch.Want)-wants:]
	}
	for i := range batch.Want {
		batch.Want[i].Score, batch.Want[i].Top = -1, 0
	}
	r := <-s.dev.Step(batch, func() { s.Forward(s.dev) })
	if r.Err != nil {
		b.Fatal(r.Err)
	}
	for _, x := range pieces {
		x.seq.pos += len(x.tokens)
	}
	return r.Outs
}

// BenchmarkDecode feeds every row its own last token, from graphs, sampling included.
func BenchmarkDecode(b *testing.B) {
	cases := [][2]int{{1, 512}, {8, 512}, {32, 512}, {1, 4096}, {1, 32768}, {1, 131072}, {8, 4096}}
	if os.Getenv("CHULENGO_BENCH") != "scout" {
		cases = [][2]int{{1, 20}, {3, 90}}
	}
	for _, c := range cases {
		batch, depth := c[0], c[1]
		b.Run(fmt.Sprintf("batch=%d/context=%d", batch, depth), func(b *testing.B) {
			s, _ := gpuSide(b, benchConfig(), cuda.Options{}, batch*(depth+4096))
			r := rand.New(rand.NewPCG(3, 4))
			var pieces []piece
			for range batch {
				pieces = append(pieces, piece{s.fill(b, r, depth), randomTokens(r, 1, s.Config.Vocab)})
			}
			experts := s.distinctExperts(b, pieces)
			step := func() {
				for i, o := range s.runWith(b, pieces, batch) {
					pieces[i].tokens[0] = o.Token
				}
			}
			for range 3 { // launched, captured, replayed
				step()
			}
			begin := time.Now()
			n := 0
			for b.Loop() {
				step()
				n++
			}
			seconds := time.Since(begin).Seconds() / float64(n)
			bytes := s.weightBytes(experts) + float64(batch)*s.kvBytes(pieces[0].seq.pos)
			b.ReportMetric(float64(batch)/seconds, "tok/s")
			b.ReportMetric(bytes/1e9, "GB/step")
			b.ReportMetric(100*bytes/readBandwidth/seconds, "%bound")
			b.ReportMetric((seconds-bytes/readBandwidth)/float64(s.Config.Layers)*1e6, "µs/layer-over")
		})
	}
}

// BenchmarkPrefill reads whole prompts; %peak counts useful operations, exact causal pairs included.
func BenchmarkPrefill(b *testing.B) {
	sizes := []int{2048, 8192}
	if os.Getenv("CHULENGO_BENCH") != "scout" {
		sizes = []int{100}
	}
	for _, n := range sizes {
		b.Run(fmt.Sprintf("tokens=%d", n), func(b *testing.B) {
			s, _ := gpuSide(b, benchConfig(), cuda.Options{}, n+64)
			tokens := randomTokens(rand.New(rand.NewPCG(3, 4)), n, s.Config.Vocab)
			q := &sequence{}
			run := func() {
				q.pos = 0
				s.runWith(b, []piece{{q, tokens}}, 1)
			}
			run()
			begin := time.Now()
			rounds := 0
			for b.Loop() {
				run()
				rounds++
			}
			seconds := time.Since(begin).Seconds() / float64(rounds)
			c := s.Config
			flops := 2 * float64(c.Dim) * float64(c.Vocab)
			for l := range c.Layers {
				linear := c.Dim*c.HeadDim*(2*c.Heads+2*c.KVHeads) + 3*c.Dim*c.FFNDim(l)
				if c.IsMoE(l) {
					linear += 3*c.Dim*c.FFNDim(l) + c.Dim*c.Experts
				}
				flops += 2 * float64(linear) * float64(n)
				flops += 4 * float64(c.Heads*c.HeadDim) * float64(n) * float64(n+1) / 2 // one chunk
			}
			b.ReportMetric(float64(n)/seconds, "tok/s")
			b.ReportMetric(flops/seconds/1e12, "TFLOP/s")
			b.ReportMetric(100*flops/seconds/productFlops, "%peak")
		})
	}
}

// BenchmarkKernels prints where the time of a step goes, kernel by kernel, without overlap.
func BenchmarkKernels(b *testing.B) {
	decode, prefill := [][2]int{{1, 512}, {8, 512}, {32, 512}, {1, 32768}}, []int{2048, 8192}
	if os.Getenv("CHULENGO_BENCH") != "scout" {
		decode, prefill = [][2]int{{1, 40}}, []int{150}
	}
	s, dev := gpuSide(b, benchConfig(), cuda.Options{Profile: true}, 65536)
	r := rand.New(rand.NewPCG(3, 4))
	measure := func(what string, steps int, step func()) {
		step()
		dev.Profile()
		for range steps {
			step()
		}
		for _, k := range dev.Profile() {
			fmt.Printf("%-20s %-20s %4d launches a step %10.1f µs a step %8.2f µs each\n", what, k.Name, k.Launches/steps,
				k.Time.Seconds()*1e6/float64(steps), k.Time.Seconds()*1e6/float64(k.Launches))
		}
	}
	for _, c := range decode {
		var pieces []piece
		for range c[0] {
			pieces = append(pieces, piece{s.fill(b, r, c[1]), randomTokens(r, 1, s.Config.Vocab)})
		}
		measure(fmt.Sprintf("decode %d at %d", c[0], c[1]), 10, func() { s.runWith(b, pieces, c[0]) })
		s.p.next = [kernels.Groups]int{}
	}
	for _, n := range prefill {
		q, tokens := &sequence{}, randomTokens(r, n, s.Config.Vocab)
		measure(fmt.Sprintf("prefill %d", n), 3, func() {
			q.pos = 0
			s.runWith(b, []piece{{q, tokens}}, 1)
		})
		s.p.next = [kernels.Groups]int{}
	}
	for b.Loop() { // the report is what matters
	}
}

// BenchmarkVision encodes random pictures of one tile, of five and of 17, and prints where the time goes; CHULENGO_BENCH=vision has
// Scout's tower.
func BenchmarkVision(b *testing.B) {
	config, tiles := towerConfig(4, 16, 4, 2, 5, 3), []int{1, 2}
	if os.Getenv("CHULENGO_BENCH") == "vision" {
		config = towerConfig(16, 88, 24, 2, 14, 3)
		config["text_config"].(map[string]any)["hidden_size"] = 5120
		maps.Copy(config["vision_config"].(map[string]any), map[string]any{"num_hidden_layers": 34, "vision_output_dim": 4096, "projector_input_dim": 4096, "projector_output_dim": 4096})
		tiles = []int{1, 5, 17}
	}
	for _, profile := range []bool{false, true} {
		s, dev := gpuSide(b, config, cuda.Options{Profile: profile}, 64)
		for _, n := range tiles {
			p := randomPixels(s.Config.Vision, kernels.BF16, rand.New(rand.NewPCG(13, 14)), n)
			encode := func(times int) time.Duration { // enqueued one behind the other; the device is done when the last is released
				begin := time.Now()
				pictures := make([]kernels.Picture, times)
				for i := range pictures {
					pictures[i] = s.see(b, p)
				}
				pictures[0].Release()
				took := time.Since(begin) / time.Duration(times)
				for _, picture := range pictures[1:] {
					picture.Release()
				}
				return took
			}
			encode(1)
			if profile {
				dev.Profile()
				encode(4)
				for _, k := range dev.Profile() {
					fmt.Printf("%2d tiles %-14s %-20s %4d launches %10.1f µs %8.2f µs each\n", n, k.Stage, k.Name, k.Launches/4,
						k.Time.Seconds()*1e6/4, k.Time.Seconds()*1e6/float64(k.Launches))
				}
				continue
			}
			b.Run(fmt.Sprintf("tiles=%d", n), func(b *testing.B) {
				var took time.Duration
				rounds := 0
				for b.Loop() {
					took += encode(8)
					rounds++
				}
				seconds, flops := took.Seconds()/float64(rounds), s.Config.VisionFlops(n)
				b.ReportMetric(seconds*1e3, "ms")
				b.ReportMetric(flops/seconds/1e12, "TFLOP/s")
				b.ReportMetric(100*flops/seconds/productFlops, "%bound")
			})
			b.Run(fmt.Sprintf("tiles=%d/beside", n), func(b *testing.B) { // what an answer in progress waits for
				answer, pieces := &sequence{}, 0
				step := func() time.Duration {
					begin := time.Now()
					s.run(b, []piece{{answer, []int32{7}}}, false, nil)
					return time.Since(begin)
				}
				step()
				alone, longest := step(), time.Duration(0)
				for b.Loop() {
					inPieces := *p
					inPieces.InPieces = true
					picture := s.see(b, &inPieces)
					for done, err := false, error(nil); !done; pieces++ {
						begin := time.Now()
						if done, err = picture.(kernels.Unfinished).Continue(); err != nil {
							b.Fatal(err)
						}
						step()
						longest = max(longest, time.Since(begin))
					}
					picture.Release()
				}
				b.ReportMetric(float64(pieces)/float64(b.N), "pieces")
				b.ReportMetric(alone.Seconds()*1e3, "ms/step-alone")
				b.ReportMetric(longest.Seconds()*1e3, "ms/step-longest")
			})
		}
	}
}
