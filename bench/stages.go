package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"chulengo/kernels"
	"chulengo/kernels/cpu"
)

// Shape of the dense layer that stages time: D as in small Llamas; F follows from the bytes wanted. 3·D·F weights.
const stageDim = 4096

// multiplyRows is the number of rows of a prefill step, as the engine cuts prompts.
const multiplyRows = 512

// multiplyFFN is F where many rows multiply: enough for all threads, and one repetition stays well below a second.
const multiplyFFN = 2048

// stages measures the peaks of the machine and the feed-forward stage, which is products with weights but for a
// thousandth of its work, on both stored layouts: [out, in] as most weights are, [in, out] as fused experts are.
func (r *Report) stages(ctx context.Context, o *Options) error {
	ffn := int(o.StageBytes/2/3/stageDim) &^ 63
	ffn = max(ffn, 64)
	weights := randomWeights(3 * stageDim * max(ffn, multiplyFFN))
	r.Peaks = &Peaks{}

	dev := cpu.New(cpu.Options{Threads: o.Threads})
	defer dev.Close()
	for _, s := range []struct {
		name      string
		rows, ffn int
	}{{"Stream", 1, ffn}, {"Multiply", multiplyRows, multiplyFFN}} {
		for _, layout := range []struct {
			name  string
			inOut bool
		}{{"out-in", false}, {"in-out", true}} {
			result := Result{Name: fmt.Sprintf("%s/layout=%s", s.name, layout.name)}
			o.Progress(result.Name)
			stage, err := newStage(dev, weights, s.ffn, layout.inOut)
			if err != nil {
				return err
			}
			if err := stage.verify(); err != nil {
				return err
			}
			r.Peaks.measure(weights, o.Threads)
			samples, err := repeat(ctx, o.Repeat, func() (time.Duration, error) { return stage.run(s.rows) })
			if err != nil {
				return err
			}
			r.Peaks.measure(weights, o.Threads)
			if s.rows == 1 {
				result.Bytes = 2 * 3 * stageDim * int64(s.ffn)
			} else {
				result.Flops = 2 * 3 * stageDim * int64(s.ffn) * int64(s.rows)
			}
			r.Results = append(r.Results, newResult(result, samples))
		}
	}
	for i := range r.Results {
		r.Results[i].compare(r.Peaks)
	}
	return nil
}

// randomWeights makes n bfloat16 numbers, uniform in ±1/64.
func randomWeights(n int) []byte {
	out := make([]byte, 2*n)
	state := uint64(88172645463325252)
	for i := range n {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		f := (float32(state>>40)/(1<<24) - 0.5) / 32
		binary.LittleEndian.PutUint16(out[2*i:], uint16(math.Float32bits(f)>>16))
	}
	return out
}

// stage is one dense layer on a device.
type stage struct {
	dev    kernels.Device
	kv     kernels.KV
	embed  kernels.Weight
	dense  kernels.Dense
	data   []byte // gate, up and down, one after the other
	inOut  bool
	ffn    int
	result []float32 // [D] of the first row of the last run
}

// newStage puts the first weights of data, in place, into a layer of width ffn.
func newStage(dev kernels.Device, data []byte, ffn int, inOut bool) (*stage, error) {
	s := &stage{dev: dev, data: data, inOut: inOut, ffn: ffn}
	matrix := func(i, n, k int) kernels.Matrix {
		size := 2 * stageDim * ffn
		return kernels.Matrix{Format: kernels.BF16, N: n, K: k, InOut: inOut, Data: data[i*size : (i+1)*size]}
	}
	ones := make([]byte, 2*stageDim)
	for i := range stageDim {
		binary.LittleEndian.PutUint16(ones[2*i:], uint16(math.Float32bits(1)>>16))
	}
	weight := func(name string, k int, parts ...kernels.Matrix) (kernels.Weight, error) {
		spec := kernels.WeightSpec{Names: []string{name}, K: k, Experts: 1}
		for _, p := range parts {
			spec.Parts = append(spec.Parts, p.N)
		}
		w, err := dev.NewWeight(spec)
		if err != nil {
			return nil, err
		}
		for i, p := range parts {
			if err := w.Put(i, 0, p); err != nil {
				return nil, err
			}
		}
		return w, w.Seal()
	}
	const table = 64 // ids
	s.dense.Eps = 1e-5
	for _, w := range []struct {
		to    *kernels.Weight
		name  string
		k     int
		parts []kernels.Matrix
	}{
		{&s.embed, "bench.embed", stageDim, []kernels.Matrix{{Format: kernels.BF16, N: table, K: stageDim, Data: data[:2*table*stageDim]}}},
		{&s.dense.Norm, "bench.norm", stageDim, []kernels.Matrix{{Format: kernels.BF16, N: 1, K: stageDim, Data: ones}}},
		{&s.dense.GateUp, "bench.gate_up", stageDim, []kernels.Matrix{matrix(0, ffn, stageDim), matrix(1, ffn, stageDim)}},
		{&s.dense.Down, "bench.down", ffn, []kernels.Matrix{matrix(2, stageDim, ffn)}},
	} {
		var err error
		if *w.to, err = weight(w.name, w.k, w.parts...); err != nil {
			return nil, err
		}
	}
	var err error
	s.kv, err = dev.NewKV(kernels.KVSpec{Format: kernels.F32, PageTokens: 1, KVHeads: 1, HeadDim: 2})
	return s, err
}

// run times one step of the stage with the given rows: decode rows if there is one, prefill rows if there are many.
func (s *stage) run(rows int) (time.Duration, error) {
	b := &kernels.Batch{KV: s.kv}
	for i := range rows {
		b.Token = append(b.Token, int32(i%64))
		b.Pos = append(b.Pos, int32(i))
	}
	if rows == 1 {
		b.Decode = 1
	}
	for g := range b.Spans {
		b.Spans[g] = []kernels.Span{{Rows: int32(rows)}}
	}
	s.result = make([]float32, stageDim)
	b.Taps = []kernels.Tap{{At: kernels.Point{Hook: kernels.HookFFNOut}, Rows: []int32{0}, Buf: s.result}}
	began := time.Now()
	res := <-s.dev.Step(b, func() { s.dev.FFN(&s.dense, s.dev.Embed(s.embed)) })
	return time.Since(began), res.Err
}

// verify compares a few outputs with float64 sums, for one row and for many.
func (s *stage) verify() error {
	want := s.reference(verifyOutputs)
	for _, rows := range []int{1, 33} {
		if _, err := s.run(rows); err != nil {
			return err
		}
		var worst, norm float64
		for i, w := range want {
			worst = max(worst, math.Abs(float64(s.result[i])-w))
			norm = max(norm, math.Abs(w))
		}
		// A float32 sum of n products of random sign is off by about √n·2⁻²⁴ of its magnitude: 1e-5 for the longest here.
		if limit := norm * 1e-4; worst > limit || norm == 0 {
			return fmt.Errorf("bench: the feed-forward stage is wrong with %d rows, nothing is timed: off by %g where at most %g is rounding", rows, worst, limit)
		}
	}
	return nil
}

const verifyOutputs = 4

// reference computes the first n outputs of the layer for token 0 in float64.
func (s *stage) reference(n int) []float64 {
	at := func(i int) float64 {
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(s.data[2*i:])) << 16))
	}
	weight := func(matrix, out, in, outs, ins int) float64 {
		i := matrix * stageDim * s.ffn
		if s.inOut {
			return at(i + in*outs + out)
		}
		return at(i + out*ins + in)
	}
	x, mean := make([]float64, stageDim), 0.0
	for i := range x {
		x[i] = at(i)
		mean += x[i] * x[i] / stageDim
	}
	for i := range x {
		x[i] /= math.Sqrt(mean + float64(s.dense.Eps))
	}
	out := make([]float64, n)
	for f := range s.ffn {
		gate, up := 0.0, 0.0
		for i, v := range x {
			gate += v * weight(0, f, i, s.ffn, stageDim)
			up += v * weight(1, f, i, s.ffn, stageDim)
		}
		hidden := gate / (1 + math.Exp(-gate)) * up
		for o := range out {
			out[o] += hidden * weight(2, o, f, stageDim, s.ffn)
		}
	}
	return out
}
