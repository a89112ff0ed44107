//go:build cuda

package cuda_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
)

// force gives every router weights that send row i of a decode step to expert i mod n: those of an expert are the inputs that
// shall choose it, those of one that nobody shall choose 0.
func (p *pair) force(t *testing.T, pieces []piece, n int) {
	t.Helper()
	rows, d := len(pieces), p.cpu.Config.Dim
	for i, layer := range p.cpu.Layers {
		h := kernels.Tap{At: kernels.Point{Layer: i, Hook: kernels.HookFFNNorm}, Buf: make([]float32, rows*d)}
		for row := range rows {
			h.Rows = append(h.Rows, int32(row))
		}
		p.cpu.run(t, pieces, false, []kernels.Tap{h})
		sums := make([]float32, p.cpu.Config.Experts*d)
		for row := range rows {
			for k, v := range h.Buf[row*d:][:d] {
				sums[row%n*d+k] += v * 4 / float32(d) // a score of about 4, far above the others' 0, and a gate that is not 1
			}
		}
		m := kernels.Matrix{Format: kernels.BF16, N: p.cpu.Config.Experts, K: d}
		for _, v := range sums {
			m.Data = binary.LittleEndian.AppendUint16(m.Data, uint16(math.Float32bits(toBF16(v))>>16))
		}
		for _, w := range []kernels.Weight{layer.MoE.Router, p.gpu.Layers[i].MoE.Router} {
			if err := w.Put(0, 0, m); err != nil {
				t.Fatal(err)
			}
			if err := w.Seal(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// launchBytes is what one launch of the decode engine reads: the weights of its units, and its activations once.
type launchBytes struct {
	name  string
	units uint32
	bytes uint64
}

// launches lists those of an untapped step of `rows` rows, as they follow one another; with n experts hit in every layer.
func (s *side) launches(rows, n int) []launchBytes {
	dev := s.dev.(*cuda.Device)
	width := 8
	for width < rows {
		width *= 2
	}
	one := func(swiglu bool, dense, routed kernels.Weight, k int) launchBytes {
		l := launchBytes{"stream_partial", cuda.Units(dev, dense, swiglu), cuda.ExpertBytes(dense) + uint64(2*k*width)}
		if swiglu {
			l.name = "stream_swiglu"
		}
		if routed != nil {
			l.units += uint32(n) * cuda.Units(dev, routed, swiglu)
			l.bytes += uint64(n)*cuda.ExpertBytes(routed) + uint64(2*k*width)
		}
		l.name = fmt.Sprint(l.name, "_", width)
		return l
	}
	var list []launchBytes
	for i, c := 0, s.Config; i < c.Layers; i++ {
		attn, moe := &s.Layers[i].Attn, s.Layers[i].MoE
		list = append(list, one(false, attn.QKV, nil, c.Dim), one(false, attn.Out, nil, c.Heads*c.HeadDim), launchBytes{name: "router", units: cuda.RowBlocks(dev, rows, c.Dim)},
			one(true, moe.SharedGateUp, moe.GateUp, c.Dim), one(false, moe.SharedDown, moe.Down, c.ExpertDim))
	}
	return append(list, one(false, s.Head.Out, nil, s.Config.Dim))
}

// Sixteen rows that choose 1, 4 or 16 experts in every layer: the values are the CPU's, and a step reads the matrices of
// attention, the shared experts, the head and the experts hit once, and nothing of the others. Two witnesses: the units that
// blocks took, which every GPU counts, and the bytes that copies read, which the software GPU does. With CHULENGO_BYTES a
// file gets the bytes of each launch, for a profiler to be held against (testgpu.sh bytes); nothing else is compared then.
func TestForcedRouting(t *testing.T) {
	small := fastConfig()
	small["num_hidden_layers"], small["no_rope_layers"], small["interleave_moe_layer_step"] = 2, []int{1, 0}, 1
	for _, x := range []struct {
		name   string
		config map[string]any
	}{{"small", small}, {"scout", scoutConfig()}} {
		t.Run(x.name, func(t *testing.T) {
			if x.name == "scout" && testing.Short() {
				t.Skip("the CPU takes its time with 2.2·10⁹ weights")
			}
			forcedRouting(t, x.config, os.Getenv("CHULENGO_BYTES"))
		})
	}
}

func forcedRouting(t *testing.T, config map[string]any, file string) {
	const rows = 16
	p := dummyPair(t, config, cuda.Options{NoGraphs: file != ""})
	dev := p.gpu.dev.(*cuda.Device)
	r := rand.New(rand.NewPCG(61, 62))
	var pieces []piece
	for i := range rows {
		pieces = append(pieces, piece{&sequence{}, randomTokens(r, 2+i%3, 1000)})
	}
	p.cpu.run(t, pieces, false, nil)
	p.gpu.run(t, pieces, true, nil)
	for i := range pieces {
		pieces[i].tokens = randomTokens(r, 1, 1000)
	}

	weights := []kernels.Weight{p.gpu.Head.Out}
	for i := range p.gpu.Layers {
		l := &p.gpu.Layers[i]
		weights = append(weights, l.Attn.QKV, l.Attn.Out, l.MoE.SharedGateUp, l.MoE.SharedDown, l.MoE.GateUp, l.MoE.Down)
	}
	reads, err := cuda.Watch(dev, weights)
	if err != nil {
		t.Fatal(err)
	}
	if reads != nil {
		defer reads.Close()
	}
	for _, n := range []int{1, 4, 16} {
		p.force(t, pieces, n)
		launches := p.gpu.launches(rows, n)
		if file != "" {
			p.gpu.run(t, pieces, false, nil)
			var text strings.Builder
			for _, l := range launches {
				if l.bytes > 0 {
					fmt.Fprintln(&text, l.name, l.bytes)
				}
			}
			if err := appendFile(file, text.String()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		_, want := p.gpu.logits(t, pieces)
		for i := range pieces {
			pieces[i].seq.pos-- // back from the step that logits took
		}
		for round := range 3 { // launched, captured, replayed
			before := p.routed(t)
			if reads != nil {
				if _, err := reads.Take(); err != nil {
					t.Fatal(err)
				}
			}
			outs := p.gpu.run(t, pieces, false, nil)
			for i := range outs {
				if !sameOut(outs[i], want[i]) {
					t.Errorf("%d experts, round %d, row %d: %+v, with taps %+v", n, round, i, outs[i], want[i])
				}
			}
			hit := p.routed(t)
			for layer := range hit {
				for e := range hit[layer] {
					if hit[layer][e] -= before[layer][e]; (hit[layer][e] > 0) != (e < n) {
						t.Fatalf("%d experts: layer %d has %d rows for expert %d", n, layer, hit[layer][e], e)
					}
				}
			}
			units, err := cuda.Counters(dev, len(launches)+1)
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range append(launches, launchBytes{name: "nothing"}) {
				if units[i] != l.units {
					t.Errorf("%d experts, round %d: %s (%d) took %d units, want %d", n, round, l.name, i, units[i], l.units)
				}
			}
			if reads != nil {
				p.compareReads(t, reads, weights, n)
			}
		}
		parity(t, p, pieces)
		for i := range pieces {
			pieces[i].seq.pos--
		}
	}
	if ran := dev.Ran(); file == "" && (ran["stream_swiglu_16"] == 0 || ran["stream_partial_16"] == 0) {
		t.Errorf("want the decode engine for 16 rows, got %v", ran)
	}
}

// routed is how many rows each layer's experts have had, [layer][expert].
func (p *pair) routed(t *testing.T) [][]uint64 {
	t.Helper()
	counts, err := p.gpu.dev.(kernels.ExpertCounter).ExpertRows()
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// compareReads wants every matrix read once, except those of experts from n on.
func (p *pair) compareReads(t *testing.T, reads *cuda.Reads, weights []kernels.Weight, n int) {
	t.Helper()
	got, err := reads.Take()
	if err != nil {
		t.Fatal(err)
	}
	all := uint64(0)
	for i, w := range weights {
		want := make([]uint64, len(got[i]))
		for e := range want {
			if e < n {
				want[e] = cuda.ExpertBytes(w)
			}
			all += got[i][e]
		}
		if !slices.Equal(got[i], want) {
			t.Errorf("%d experts: of weight %d were read %v bytes, want %v", n, i, got[i], want)
		}
	}
	t.Logf("%d experts: %d bytes of weights", n, all)
}

func appendFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
