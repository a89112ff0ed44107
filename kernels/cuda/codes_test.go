//go:build cuda

package cuda_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/model"
)

// nf4 is the table of 4-bit normal floats, to four places.
var nf4 = &[16]float32{-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.723, 1}

// codings are one of every kind that the readers of checkpoints make.
var codings = []kernels.Coding{
	{Format: kernels.Int4, Rows: 1, Cols: 128, Scale: kernels.BF16},
	{Format: kernels.F8E4M3, Rows: 1, Scale: kernels.BF16},
	{Format: kernels.Int4, Rows: 1, Cols: 32, Scale: kernels.F16, Zeros: true},
	{Format: kernels.F8E4M3, Rows: 128, Cols: 128, Scale: kernels.F32},
	{Format: kernels.Table4, Rows: 1, Cols: 64, Scale: kernels.F32, Table: nf4},
	{Format: kernels.Int4, Rows: 1, Cols: 64, Scale: kernels.BF16, Zeros: true},
	{Format: kernels.F8E4M3, Scale: kernels.F32},
	{Format: kernels.Int4, Rows: 1, Scale: kernels.F32},
}

// randomCodes is a matrix of random codes, all of which occur, whose products with normal inputs are nearly normal.
func randomCodes(r *rand.Rand, c kernels.Coding, n, k int) kernels.Matrix {
	m := kernels.Matrix{Format: c.Format, N: n, K: k, Coding: c, Data: make([]byte, c.Format.Bytes(n*k))}
	deviation := map[kernels.Format]float64{kernels.F8E4M3: 110, kernels.Int4: 4.6, kernels.Table4: 0.5}[c.Format]
	for i := range m.Data {
		m.Data[i] = byte(r.IntN(256))
		if c.Format == kernels.F8E4M3 && m.Data[i]&0x7f == 0x7f {
			m.Data[i]--
		}
	}
	rows, cols := c.Grid(n, k)
	for range rows * cols {
		s := float32((0.5 + r.Float64()) / deviation / math.Sqrt(float64(k)))
		if c.Scale != kernels.F32 { // a value that both short formats hold
			s = toBF16(s)
		}
		m.Scales = append(m.Scales, s)
		if c.Zeros {
			m.Zeros = append(m.Zeros, uint8(r.IntN(17)))
		}
	}
	return m
}

// floats is a quantised matrix in float32.
func floats(m kernels.Matrix) kernels.Matrix {
	return decoded(m, kernels.F32, func(to []byte, v float32) []byte { return binary.LittleEndian.AppendUint32(to, math.Float32bits(v)) })
}

// widened is a quantised matrix as bfloat16.
func widened(m kernels.Matrix) kernels.Matrix {
	return decoded(m, kernels.BF16, func(to []byte, v float32) []byte {
		return binary.LittleEndian.AppendUint16(to, uint16(math.Float32bits(toBF16(v))>>16))
	})
}

// decoded is a quantised matrix in a format, whose values write appends.
func decoded(m kernels.Matrix, f kernels.Format, write func(to []byte, v float32) []byte) kernels.Matrix {
	out := kernels.Matrix{Format: f, N: m.N, K: m.K}
	row := make([]float32, m.K)
	for n := range m.N {
		m.Decode(row, n)
		for _, v := range row {
			out.Data = write(out.Data, v)
		}
	}
	return out
}

// recode gives every linear module of a model random codes, the same for one seed, or what they are worth in bfloat16.
func recode(t *testing.T, m *model.Model, dev kernels.Device, coding kernels.Coding, widen bool) {
	t.Helper()
	r := rand.New(rand.NewPCG(21, 22))
	weight := func(w *kernels.Weight, split kernels.Split, head int, pairs bool, parts, experts int) {
		t.Helper()
		spec := kernels.WeightSpec{Names: []string{"recoded"}, Experts: experts, Pairs: pairs, Coding: coding, Split: split, Whole: head}
		for part := range parts {
			one, err := (*w).Get(part, 0)
			if err != nil {
				t.Fatal(err)
			}
			spec.Parts, spec.K = append(spec.Parts, one.N), one.K
		}
		if widen {
			spec.Coding = kernels.Coding{}
		}
		coded, err := dev.NewWeight(spec)
		if err != nil {
			t.Fatal(err)
		}
		for e := range experts {
			for part, n := range spec.Parts {
				matrix := randomCodes(r, coding, n, spec.K)
				if widen {
					matrix = widened(matrix)
				}
				if err := coded.Put(part, e, matrix); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := coded.Seal(); err != nil {
			t.Fatal(err)
		}
		*w = coded
	}
	const outputs, inputs = kernels.Outputs, kernels.Inputs
	weight(&m.Embed, kernels.Replicated, 0, false, 1, 1)
	weight(&m.Head.Out, outputs, 0, false, 1, 1)
	for i := range m.Layers {
		l := &m.Layers[i]
		weight(&l.Attn.QKV, outputs, l.Attn.HeadDim, false, 3, 1)
		weight(&l.Attn.Out, inputs, l.Attn.HeadDim, false, 1, 1)
		if l.Dense != nil {
			weight(&l.Dense.GateUp, outputs, coding.Cols, true, 2, 1)
			weight(&l.Dense.Down, inputs, coding.Cols, false, 1, 1)
			continue
		}
		weight(&l.MoE.SharedGateUp, outputs, coding.Cols, true, 2, 1)
		weight(&l.MoE.SharedDown, inputs, coding.Cols, false, 1, 1)
		weight(&l.MoE.GateUp, outputs, coding.Cols, true, 2, m.Config.Experts)
		weight(&l.MoE.Down, inputs, coding.Cols, false, 1, m.Config.Experts)
	}
}

// Every coding in every stage, against the CPU; and prefill against a bfloat16 model of the same values, bit for bit.
func TestCodedStages(t *testing.T) {
	for i, coding := range codings {
		for _, portable := range []bool{false, true} {
			if testing.Short() && (portable != (i%2 == 1) || i > 5) {
				continue // takes long on a software GPU
			}
			t.Run(fmt.Sprintf("%v/portable=%v", coding, portable), func(t *testing.T) {
				p := dummyPair(t, fastConfig(), cuda.Options{NoGraphs: true, Portable: portable})
				recode(t, p.cpu.Model, p.cpu.dev, coding, false)
				recode(t, p.gpu.Model, p.gpu.dev, coding, false)
				q := dummyPair(t, fastConfig(), cuda.Options{NoGraphs: true, Portable: portable})
				recode(t, q.gpu.Model, q.gpu.dev, coding, true)

				// In prefill a weight is rounded to bfloat16, in decode only what a table holds. The head is always decode.
				// INT4 rounds activations, each by at most 2⁻¹⁴ of the largest of its 128 columns (stream_codes.cuh), √(1/3) of that in the mean
				// square. That largest one is at most the norm of the columns: all are off by √(128/3)·2⁻¹⁴ of their norm. Twice in gate and up.
				// With one scale there are so few values that their roundings need not be spread evenly: 2⁻⁸ is the largest.
				prefill, decode, rounding := maps.Clone(bounds), maps.Clone(bounds), rounding
				digits := 0.0
				if coding.Format == kernels.Int4 {
					digits = math.Sqrt(128.0/3) / (1 << 14)
				}
				if coding.Rows == 0 {
					rounding = 1.0 / 256
				}
				for _, h := range []kernels.Hook{kernels.HookQ, kernels.HookK, kernels.HookV, kernels.HookAttnOut} {
					prefill[h] += rounding
					decode[h] += digits
				}
				for _, h := range []kernels.Hook{kernels.HookRoutedOut, kernels.HookSharedOut, kernels.HookFFNOut} {
					prefill[h] += 2 * rounding
					decode[h] += 3 * digits
				}
				for _, b := range []map[kernels.Hook]float64{prefill, decode} {
					b[kernels.HookLogits] += digits
				}
				if coding.Format == kernels.Table4 {
					prefill[kernels.HookLogits] += rounding
					decode = prefill
				}

				r := rand.New(rand.NewPCG(23, 24))
				long, short := &sequence{}, &sequence{}
				prompt := randomTokens(r, 83, 1000)
				again := []*sequence{{}, {}}
				seen := parityWithin(t, p, []piece{{long, prompt}, {short, prompt[:3]}}, prefill)
				var last [2][]float32
				for i, s := range []*side{p.gpu, q.gpu} {
					last[i] = s.residual(t, []piece{{again[i], prompt}})
				}
				if !slices.Equal(last[0], last[1]) {
					t.Errorf("prefill differs from that of a bfloat16 model by %.2e", relativeError(last[0], last[1]))
				}
				seen += parityWithin(t, p, []piece{{long, prompt[:1]}, {short, prompt[1:2]}}, decode)
				t.Logf("%d values", seen)
			})
		}
	}
}

// residual is the last layer's residual of a step's rows, whose embeddings are replaced by small integers: those of a quantised table
// are not rounded.
func (s *side) residual(t *testing.T, pieces []piece) []float32 {
	t.Helper()
	n := len(pieces[0].tokens)
	set, get := capture(hookAt(t, s, 0, kernels.HookEmbed), n), capture(hookAt(t, s, s.Config.Layers-1, kernels.HookResidPost), n)
	set.Op = kernels.Set
	for i := range set.Buf {
		set.Buf[i] = float32(i*7919%13 - 6)
	}
	s.run(t, pieces, true, []kernels.Tap{set, get})
	return get.Buf
}

// hookAt is a hook of a model.
func hookAt(t *testing.T, s *side, layer int, hook kernels.Hook) model.Hook {
	t.Helper()
	hooks := model.Hooks(s.Config)
	i := slices.IndexFunc(hooks, func(h model.Hook) bool { return h.At == kernels.Point{Layer: layer, Hook: hook} })
	if i < 0 {
		t.Fatalf("no hook %v at layer %d", hook, layer)
	}
	return hooks[i]
}

// A row of quantised decode has the same bits alone and among 3, 11, 20 and 40, launched and replayed: sums do not depend on the
// width of the tile of tokens.
func TestCodedSameBits(t *testing.T) {
	for i, coding := range codings[:3] {
		if testing.Short() && i > 0 {
			continue // takes long on a software GPU
		}
		t.Run(coding.String(), func(t *testing.T) {
			p := dummyPair(t, fastConfig(), cuda.Options{Portable: i == 2})
			recode(t, p.gpu.Model, p.gpu.dev, coding, false)
			r := rand.New(rand.NewPCG(25, 26))
			widths := []int{3, 11, 20, 40}
			crowd := make([]*sequence, 40)
			for i := range crowd {
				crowd[i] = &sequence{}
				p.gpu.run(t, []piece{{crowd[i], randomTokens(r, 2, 1000)}}, true, nil)
			}
			alone := &sequence{}
			text := randomTokens(r, 2+3*len(widths), 1000)
			p.gpu.run(t, []piece{{alone, text[:2]}}, true, nil)
			crowd[0] = &sequence{}
			p.gpu.run(t, []piece{{crowd[0], text[:2]}}, true, nil)
			text = text[2:]
			for _, n := range widths {
				for range 3 { // launched, captured, replayed
					var pieces []piece
					for i := range n {
						pieces = append(pieces, piece{crowd[i], text[:1]})
					}
					many := p.gpu.run(t, pieces, true, nil)
					one := p.gpu.run(t, []piece{{alone, text[:1]}}, true, nil)
					if !sameOut(one[0], many[0]) {
						t.Fatalf("among %d: %+v, alone: %+v", n, many[0], one[0])
					}
					text = text[1:]
				}
			}
		})
	}
}

// Experts of INT4 read digits that the router's kernels wrote, by slices of a row or by whole rows, and, where there are many, those of what is
// between their products; where taps look they make them themselves, of bfloat16. Bits are the same. A width of 704 is two slices, eleven
// tiles, of which the last has half a group.
func TestDigits(t *testing.T) {
	for _, c := range []struct {
		width  int
		coding kernels.Coding
	}{{256, codings[0]}, {704, codings[5]}} {
		t.Run(fmt.Sprint(c.width), func(t *testing.T) {
			config := fastConfig()
			config["hidden_size"], config["num_hidden_layers"], config["no_rope_layers"], config["interleave_moe_layer_step"] = c.width, 2, []int{1, 0}, 1
			p := dummyPair(t, config, cuda.Options{Poison: true})
			recode(t, p.gpu.Model, p.gpu.dev, c.coding, false)
			r := rand.New(rand.NewPCG(33, 34))
			crowd := make([]piece, 40)
			for i := range crowd {
				crowd[i] = piece{&sequence{}, randomTokens(r, 2, 1000)}
			}
			p.gpu.run(t, crowd, true, nil)
			ran := p.gpu.dev.(*cuda.Device).Ran()
			for _, n := range []int{1, 2, 3, 11, 20, 40} {
				for i := range crowd {
					crowd[i].tokens = randomTokens(r, 1, 1000)
				}
				name := func(what string) string {
					return fmt.Sprint("stream_", what, "_", max(8, 1<<bits.Len(uint(n-1))))
				}
				counts := func() [4]int {
					return [4]int{ran[name("swiglu_digits")], ran[name("swiglu_int4")], ran["digit_rows"], ran[name("partial_digits")]}
				}
				want := counts()
				want[0] += 2
				if n > 2 { // with three, a grid is of four rows
					want[2] += 2
					want[3] += 2
				}
				outs := p.gpu.run(t, crowd[:n], false, nil)
				if got := counts(); got != want {
					t.Errorf("%d rows: want %s, %s, digit_rows and %s %d times, got %d", n, name("swiglu_digits"), name("swiglu_int4"), name("partial_digits"), want, got)
				}
				want[1] += 2
				_, tapped := p.gpu.logits(t, crowd[:n])
				if got := counts(); got != want {
					t.Errorf("%d rows with taps: want %d times, got %d", n, want, got)
				}
				for i := range outs {
					if !sameOut(outs[i], tapped[i]) {
						t.Fatalf("%d rows: row %d: %+v, with taps %+v", n, i, outs[i], tapped[i])
					}
				}
			}
			if c.width == 256 && ran["route_slices"] == 0 || ran["route_rows"] == 0 { // two slices of a row must run together, which the software GPU's do not
				t.Errorf("want slices and rows routed, got %d and %d launches", ran["route_slices"], ran["route_rows"])
			}
		})
	}
}

// Quantised matrices come back as they were put, in pieces or pairs, over others that were there before.
func TestCodedPacking(t *testing.T) {
	dev := openGPU(t, cuda.Options{})
	r := rand.New(rand.NewPCG(27, 28))
	for _, spec := range []kernels.WeightSpec{
		{Names: []string{"q", "k", "v"}, Parts: []int{70, 8, 129}, K: 100, Experts: 1},
		{Names: []string{"gate_up"}, Parts: []int{40, 40}, K: 64, Experts: 3, Pairs: true},
		{Names: []string{"down"}, Parts: []int{24}, K: 200, Experts: 2},
	} {
		for _, coding := range codings {
			spec.Coding = coding
			w, err := dev.NewWeight(spec)
			if err != nil {
				t.Fatal(err)
			}
			put := map[[2]int]kernels.Matrix{}
			for range 2 { // the second time over the first
				for e := range spec.Experts {
					for part, n := range spec.Parts {
						m := randomCodes(r, coding, n, spec.K)
						put[[2]int{part, e}] = m
						if err := w.Put(part, e, m); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := w.Seal(); err != nil {
					t.Fatal(err)
				}
			}
			for at, m := range put {
				got, err := w.Get(at[0], at[1])
				if err != nil || !slices.Equal(got.Data, m.Data) || !slices.Equal(got.Scales, m.Scales) || !slices.Equal(got.Zeros, m.Zeros) || got.Coding != m.Coding {
					t.Errorf("%v %v part %d expert %d: what came back differs (%v)", spec.Names, coding, at[0], at[1], err)
				}
			}
			m := put[[2]int{0, 0}]
			m.Scales = slices.Clone(m.Scales)
			m.Scales[0] = float32(math.NaN())
			if err := w.Put(0, 0, m); err == nil || !strings.Contains(err.Error(), "scale NaN at [0, 0]") {
				t.Errorf("%v %v: a NaN scale: %v", spec.Names, coding, err)
			}
		}
	}
	if _, err := dev.NewWeight(kernels.WeightSpec{Names: []string{"odd"}, Parts: []int{8}, K: 96, Experts: 1,
		Coding: kernels.Coding{Format: kernels.Int4, Rows: 1, Cols: 48, Scale: kernels.BF16}}); err == nil || !strings.Contains(err.Error(), "odd: want scales for 32 inputs") {
		t.Errorf("groups of 48: %v", err)
	}
}

// Random values are quantised on the device as everywhere.
func TestCodedFill(t *testing.T) {
	dev := openGPU(t, cuda.Options{})
	for i, coding := range []kernels.Coding{codings[0], codings[1], {Format: kernels.Int4, Rows: 1, Cols: 32, Scale: kernels.F32}} {
		spec := kernels.WeightSpec{Names: []string{"gate_up"}, Parts: []int{40, 40}, K: 256, Experts: 2, Pairs: true, Coding: coding}
		w, err := dev.NewWeight(spec)
		if err != nil {
			t.Fatal(err)
		}
		for e := range 2 {
			for part := range 2 {
				f := kernels.Fill{Seed: kernels.FillSeed(7, "gate_up"), Index: uint64(e*80*256 + part*40), NStep: 1, KStep: 80, Std: 0.02}
				if i > 0 {
					f.Index, f.NStep, f.KStep = uint64(e*80*256+part*40*256), 256, 1
				}
				want, err := f.Filled(40, 256, coding)
				if err != nil {
					t.Fatal(err)
				}
				if err := w.Fill(part, e, f); err != nil {
					t.Fatal(err)
				}
				got, err := w.Get(part, e)
				if err != nil || !slices.Equal(got.Data, want.Data) || !slices.Equal(got.Scales, want.Scales) {
					t.Errorf("%v part %d expert %d differs (%v)", coding, part, e, err)
				}
			}
		}
		if err := w.Seal(); err != nil {
			t.Fatal(err)
		}
	}
}
