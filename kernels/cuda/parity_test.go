//go:build cuda

package cuda_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/model"
)

// Every value that has a name is compared with the CPU device's, one stage at a time: the step runs on the CPU with a
// tap at every hook, then on the GPU, where each value is captured and then replaced by the CPU's. What differs at a hook
// was made between the hook before it and this one.

// bounds of ‖gpu-cpu‖/‖cpu‖ for each hook. Rounding to bfloat16 (8 significant bits) is off by at most 2⁻⁸ of a value,
// √(1/3) of that in the mean square at worst; between two hooks lie the roundings that the comments name. Sums of float32
// add nothing that would show.
const rounding = 1.0 / 256 / 1.7320508

var bounds = map[kernels.Hook]float64{
	kernels.HookEmbed:        0,
	kernels.HookResidPre:     0,
	kernels.HookAttnNorm:     1.05 * rounding, // the output
	kernels.HookQ:            1e-5,            // the input was set: already rounded
	kernels.HookK:            1e-5,
	kernels.HookV:            1e-5,
	kernels.HookRotQ:         1.05 * rounding,
	kernels.HookRotK:         1.05 * rounding,
	kernels.HookZ:            3 * rounding, // values, weights of the softmax, output
	kernels.HookAttnOut:      1e-5,
	kernels.HookResidMid:     1e-6,
	kernels.HookFFNNorm:      1.05 * rounding,
	kernels.HookRouterLogits: 1e-5,
	kernels.HookExpertGate:   1e-6,
	kernels.HookExpertIn:     1.05 * rounding,
	kernels.HookRoutedOut:    1.5 * rounding, // silu(gate)·up
	kernels.HookSharedOut:    1.5 * rounding,
	kernels.HookFFNOut:       1.5 * rounding,
	kernels.HookResidPost:    1e-6,
	kernels.HookFinalNorm:    1.05 * rounding,
	kernels.HookLogits:       1e-5,
}

// rounded are the hooks whose value the GPU keeps in bfloat16: what is set there is rounded, so the CPU's is as well.
var rounded = map[kernels.Hook]bool{
	kernels.HookAttnNorm: true, kernels.HookRotQ: true, kernels.HookRotK: true, kernels.HookZ: true,
	kernels.HookFFNNorm: true, kernels.HookExpertIn: true, kernels.HookFinalNorm: true,
}

func toBF16(v float32) float32 {
	b := math.Float32bits(v)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}

// parity runs one step on both devices and compares every hook. It returns how many values were looked at.
func parity(t *testing.T, p *pair, pieces []piece) int {
	t.Helper()
	return parityWithin(t, p, pieces, bounds)
}

func parityWithin(t *testing.T, p *pair, pieces []piece, bounds map[kernels.Hook]float64) int {
	t.Helper()
	n := 0
	for _, x := range pieces {
		n += len(x.tokens)
	}
	hooks := model.Hooks(p.cpu.Config)
	// The CPU's values, rounded where the GPU rounds: a second tap puts them back, so that both go on from the same.
	var first []kernels.Tap
	for _, h := range hooks {
		first = append(first, capture(h, n))
	}
	p.cpu.run(t, pieces, false, first)
	var onCPU, onGPU []kernels.Tap
	for i, h := range hooks {
		want := append([]float32(nil), first[i].Buf...)
		if rounded[h.At.Hook] {
			for j, v := range want {
				want[j] = toBF16(v)
			}
		}
		set := capture(h, n)
		set.Op, set.Buf = kernels.Set, want
		onCPU = append(onCPU, capture(h, n))
		onGPU = append(onGPU, capture(h, n))
		if rounded[h.At.Hook] {
			onCPU = append(onCPU, set)
		}
		onGPU = append(onGPU, set)
	}
	// Rounding changes what follows: iterate to the values that the CPU has when it rounds where the GPU does.
	p.cpu.run(t, pieces, false, onCPU)
	values := map[kernels.Point][]float32{}
	for _, tap := range onCPU {
		if tap.Op == kernels.Capture {
			values[tap.At] = tap.Buf
		}
	}
	for _, tap := range onGPU {
		if tap.Op == kernels.Set && !rounded[tap.At.Hook] {
			copy(tap.Buf, values[tap.At])
		}
	}
	p.gpu.run(t, pieces, true, onGPU)
	seen := 0
	for _, tap := range onGPU {
		if tap.Op != kernels.Capture {
			continue
		}
		want := values[tap.At]
		seen += len(want)
		what := fmt.Sprintf("layer %d %s", tap.At.Layer, hookName(hooks, tap.At))
		if tap.At.Hook == kernels.HookExpertIndex {
			for i := range want {
				if want[i] != tap.Buf[i] {
					t.Errorf("%s: row %d: got expert %v, want %v", what, i, tap.Buf[i], want[i])
				}
			}
			continue
		}
		if e := relativeError(tap.Buf, want); !(e <= bounds[tap.At.Hook]) {
			t.Errorf("%s: relative error %.2e, want at most %.1e", what, e, bounds[tap.At.Hook])
		}
	}
	return seen
}

func hookName(hooks []model.Hook, at kernels.Point) string {
	for _, h := range hooks {
		if h.At == at {
			return h.Name
		}
	}
	return fmt.Sprint(at.Hook)
}

// Prefill, decode in ragged batches, and both mixed.
func TestStages(t *testing.T) {
	for _, g := range goldens(t) {
		for _, portable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/portable=%v", g.name, portable), func(t *testing.T) { testStages(t, g, portable, kernels.BF16) })
		}
		if c, err := model.LoadConfig(g.dir); err != nil {
			t.Error(err)
		} else if c.HeadDim%16 == 0 {
			if !testing.Short() || c.HeadDim == 128 { // others have the portable kernels for attention
				t.Run(g.name+"/fp8", func(t *testing.T) { testStages(t, g, false, kernels.F8E4M3) })
			}
			t.Run(g.name+"/portable fp8", func(t *testing.T) { testStages(t, g, true, kernels.F8E4M3) })
		}
	}
}

func testStages(t *testing.T, g golden, portable bool, keys kernels.Format) {
	if testing.Short() && strings.HasPrefix(g.name, "tiny") && (portable || g.name == "tiny-maverick") {
		t.Skip("takes long on a software GPU, and the smaller checkpoints reach the same kernels")
	}
	p := newPair(t, g.dir, cuda.Options{NoGraphs: true, Portable: portable}, keys)
	r := rand.New(rand.NewPCG(3, 4))
	random := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(r.IntN(p.cpu.Config.Vocab))
		}
		return out
	}
	chunk := p.cpu.Config.AttnChunk
	seqs := make([]*sequence, 12)
	for i := range seqs {
		seqs[i] = &sequence{}
	}
	seen := parity(t, p, []piece{{seqs[0], random(2*chunk + 3)}})
	seen += parity(t, p, []piece{{seqs[1], random(1)}, {seqs[2], random(70)}, {seqs[3], random(2)}})
	seen += parity(t, p, []piece{{seqs[0], random(1)}, {seqs[2], random(1)}, {seqs[4], random(17)}})
	var all []piece
	for i, q := range seqs {
		if q.pos == 0 {
			parity(t, p, []piece{{q, random(1 + 3*i)}})
		}
		all = append(all, piece{q, random(1)})
	}
	seen += parity(t, p, all)
	t.Logf("%d values", seen)
}
