//go:build cuda

package cuda_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/model"
)

func orderConfig(width int) map[string]any {
	config := fastConfig()
	config["hidden_size"], config["num_local_experts"] = width, 4
	config["num_hidden_layers"], config["no_rope_layers"] = 2, []int{1, 0}
	return config
}

// reorder gives every feed-forward and every projection of q, k and v random codes, as they are once a checkpoint's groups of scattered
// inputs are sorted; or, plain, the float32 numbers of that checkpoint, whose inputs and outputs lie where the model has them.
func reorder(t *testing.T, m *model.Model, dev kernels.Device, coding kernels.Coding, plain bool) {
	t.Helper()
	r := rand.New(rand.NewPCG(31, 32))
	// permutation gives the order, of which a plain model has the inverse.
	permutation := func(n int) []int32 {
		order, inverse := make([]int32, n), make([]int32, n)
		for j, k := range r.Perm(n) {
			order[j], inverse[k] = int32(k), int32(j)
		}
		if plain {
			return inverse
		}
		return order
	}
	put := func(w *kernels.Weight, spec kernels.WeightSpec, matrix func(part, expert int) kernels.Matrix) {
		t.Helper()
		spec.Names = []string{"reordered"}
		var err error
		if *w, err = dev.NewWeight(spec); err != nil {
			t.Fatal(err)
		}
		for e := range spec.Experts {
			for part := range spec.Parts {
				if err := (*w).Put(part, e, matrix(part, e)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := (*w).Seal(); err != nil {
			t.Fatal(err)
		}
	}
	// numbers are random plain ones, which a device has in its order.
	numbers := func(n, k int, size float64, cols []int32) kernels.Matrix {
		out := kernels.Matrix{Format: kernels.BF16, N: n, K: k}
		for range n * k {
			out.Data = binary.LittleEndian.AppendUint16(out.Data, uint16(math.Float32bits(toBF16(float32(r.NormFloat64()*size)))>>16))
		}
		if plain {
			return out
		}
		return out.Arranged(nil, cols)
	}
	// coded are codes in the order of the device.
	coded := func(w *kernels.Weight, spec kernels.WeightSpec, rows, cols [][]int32) {
		t.Helper()
		at := func(orders [][]int32, expert int) []int32 {
			if orders == nil {
				return nil
			}
			return orders[expert%len(orders)]
		}
		if spec.Coding = coding; plain {
			spec.Coding = kernels.Coding{}
		}
		put(w, spec, func(part, expert int) kernels.Matrix {
			c := randomCodes(r, coding, spec.Parts[part], spec.K)
			if plain {
				return floats(c).Arranged(at(rows, expert), at(cols, expert))
			}
			return c
		})
	}
	c, d := m.Config, m.Config.Dim
	feedForward := func(gateUp, down *kernels.Weight, order []int32, f, experts int) {
		var own [][]int32
		for range experts {
			own = append(own, permutation(f))
		}
		coded(gateUp, kernels.WeightSpec{Parts: []int{f, f}, K: d, Experts: experts, Pairs: true, Split: kernels.Outputs, Whole: coding.Cols}, own, [][]int32{order})
		coded(down, kernels.WeightSpec{Parts: []int{d}, K: f, Experts: experts, Split: kernels.Inputs, Whole: coding.Cols}, nil, own)
	}
	for i := range m.Layers {
		l := &m.Layers[i]
		norm := func(w *kernels.Weight, at *[]int32) []int32 {
			order := permutation(d)
			if put(w, kernels.WeightSpec{Parts: []int{1}, K: d, Experts: 1}, func(int, int) kernels.Matrix { return numbers(1, d, 1, order) }); !plain {
				*at = order
			}
			return order
		}
		heads, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
		order := norm(&l.Attn.Norm, &l.Attn.Order)
		coded(&l.Attn.QKV, kernels.WeightSpec{Parts: []int{heads, kv, kv}, K: d, Experts: 1, Split: kernels.Outputs, Whole: c.HeadDim}, nil, [][]int32{order})
		if l.Dense != nil {
			feedForward(&l.Dense.GateUp, &l.Dense.Down, norm(&l.Dense.Norm, &l.Dense.Order), c.FFNDim(i), 1)
			continue
		}
		order = norm(&l.MoE.Norm, &l.MoE.Order)
		put(&l.MoE.Router, kernels.WeightSpec{Parts: []int{c.Experts}, K: d, Experts: 1}, func(int, int) kernels.Matrix {
			return numbers(c.Experts, d, 1/math.Sqrt(float64(d)), order)
		})
		feedForward(&l.MoE.SharedGateUp, &l.MoE.SharedDown, order, c.FFNDim(i), 1)
		feedForward(&l.MoE.GateUp, &l.MoE.Down, order, c.FFNDim(i), c.Experts)
	}
}

// Rows in an order: every value that taps see is that of a plain model on the CPU, which knows of no order, and steps without taps and
// in graphs have the bits of steps with them.
func TestOrderedStages(t *testing.T) {
	coding := codings[2] // groups of 32, which divide every width here
	for _, c := range []struct {
		ranks, width int
		portable     bool
	}{
		{1, 256, false}, {1, 256, true},
		{1, 768, false}, {2, 768, false}, // two slices of a row, the second a short one (Device.slices: not on a software GPU)
	} {
		if testing.Short() && c.portable {
			continue // takes long on a software GPU
		}
		t.Run(fmt.Sprintf("ranks=%d/width=%d/portable=%v", c.ranks, c.width, c.portable), func(t *testing.T) {
			if c.ranks > 1 {
				onRanks(t, c.ranks)
			}
			p, q := dummyPair(t, orderConfig(c.width), cuda.Options{NoGraphs: true, Portable: c.portable}), dummyPair(t, orderConfig(c.width), cuda.Options{Portable: c.portable})
			reorder(t, p.cpu.Model, p.cpu.dev, coding, true)
			reorder(t, p.gpu.Model, p.gpu.dev, coding, false)
			reorder(t, q.gpu.Model, q.gpu.dev, coding, false)

			// As in TestCodedStages.
			within := maps.Clone(bounds)
			digits := math.Sqrt(128.0/3) / (1 << 14)
			for _, h := range []kernels.Hook{kernels.HookQ, kernels.HookK, kernels.HookV} {
				within[h] += rounding + digits
			}
			for _, h := range []kernels.Hook{kernels.HookRoutedOut, kernels.HookSharedOut, kernels.HookFFNOut} {
				within[h] += 2*rounding + 3*digits
			}
			r := rand.New(rand.NewPCG(33, 34))
			var tapped, plain []piece
			for _, n := range []int{37, 3, 9} {
				prompt := randomTokens(r, n, 1000)
				tapped, plain = append(tapped, piece{&sequence{}, prompt}), append(plain, piece{&sequence{}, prompt})
			}
			seen := parityWithin(t, p, tapped, within)
			q.gpu.run(t, plain, true, nil)
			for range 3 { // launched, captured, replayed
				for i := range plain {
					next := randomTokens(r, 1, 1000)
					tapped[i].tokens, plain[i].tokens = next, next
				}
				seen += parityWithin(t, p, tapped, within)
				q.gpu.run(t, plain, true, nil)
			}
			t.Logf("%d values", seen)

			again := []piece{{&sequence{}, plain[0].tokens}}
			same := []piece{{&sequence{}, plain[0].tokens}}
			for step := range 4 {
				outs := q.gpu.run(t, again, true, nil)
				_, want := p.gpu.logits(t, same)
				if !sameOut(outs[0], want[0]) {
					t.Fatalf("step %d: %+v, with taps %+v", step, outs[0], want[0])
				}
			}
			if dev, ok := q.gpu.dev.(*cuda.Device); ok {
				ran := dev.Ran()
				if ran["norm_rows_ordered"] == 0 || ran["route_rows_ordered"] == 0 || ran["norm_slices_ordered"] == 0 && (c.width < 640 || ran["rms_norm_ordered"] == 0) {
					t.Errorf("want norms of every kind that write in an order, got %v", ran)
				}
			}
		})
	}
}
