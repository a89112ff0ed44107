package model_test

import (
	"slices"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/model"
	"chulengo/safetensors"
)

// alone: every module has an order of its own. alike: all that read one row share it, routed experts too. quantised is as a quantiser
// makes them, which sees the same inputs for q, k and v, for gate and up, and others for every expert.
func alone(name string) string { return name }

func alike(name string) string {
	for _, leaf := range []string{"q_proj", "k_proj", "v_proj", "router"} {
		if rest, ok := strings.CutSuffix(name, leaf); ok {
			return rest
		}
	}
	if layer, rest, ok := strings.Cut(name, ".feed_forward."); ok && !strings.HasSuffix(rest, "down_proj") {
		return layer + ".feed_forward."
	}
	return name
}

func quantised(name string) string {
	for _, leaf := range []string{"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"} {
		if rest, ok := strings.CutSuffix(name, leaf); ok {
			return rest
		}
	}
	return name
}

// orderKinds are checkpoints with act-order.
func orderKinds() []kind {
	// Matrices of one kind in all layers: half of the layers are dense.
	const outs, rest = wLayers, 3 * wLayers                                 // o_proj; q, k and v
	const ups = wLayers/2*2 + wLayers/2*2*(1+wExperts)                      // gate and up of dense layers, and of the others
	const moeUps, expertUps = ups - wLayers/2*2, wLayers / 2 * 2 * wExperts // of layers with experts; of routed ones alone
	act := func(n int) map[model.Reason]int { return map[model.Reason]int{model.ActivationOrder: n} }
	mixed := func(weights ...map[string]any) map[string]any { return compressedConfig("mixed-precision", weights...) }
	float := packFP8(1, 0, safetensors.BF16, ".weight_scale", false)
	uneven := func(p pack) pack {
		return func(w *written, name string, n, k int) []float32 {
			w.uneven = true
			defer func() { w.uneven = false }()
			return p(w, name, n, k)
		}
	}
	return []kind{
		{"packed, act-order", compressedConfig("pack-quantized", intWeights(32, true)), only(packPacked(32, false, alone), experts), act(expertUps), kernels.Int4},
		{"packed, act-order, by row", compressedConfig("pack-quantized", intWeights(32, false)), only(packPacked(32, true, alike), feedForward), act(outs), kernels.Int4},
		{"packed, act-order, as quantisers do", compressedConfig("pack-quantized", intWeights(32, true)), only(packPacked(32, false, quantised), feedForward), act(outs + moeUps), kernels.Int4},
		{"packed, act-order, plain experts", compressedConfig("pack-quantized", intWeights(32, true)), func(name string) pack {
			if strings.Contains(name, experts) {
				return nil
			}
			return only(packPacked(32, false, quantised), feedForward)(name)
		}, act(outs), kernels.BF16},
		{"packed, act-order, groups of other sizes", compressedConfig("pack-quantized", intWeights(32, true)), only(uneven(packPacked(32, false, alike)), feedForward), act(outs + rest + ups + wLayers/2*(2+wExperts)), kernels.Int4},
		{"packed, act-order beside fp8 channel", mixed(floatWeights("channel"), intWeights(32, true)), func(name string) pack {
			if strings.Contains(name, experts) {
				return float
			}
			return only(packPacked(32, false, quantised), feedForward)(name)
		}, act(outs), kernels.F8E4M3},
		{"packed, act-order behind fp8 block", mixed(floatWeights("block"), intWeights(32, true)), func(name string) pack {
			if strings.HasSuffix(name, "feed_forward.down_proj") {
				return packPacked(32, false, alone)
			}
			return only(packFP8(128, 128, safetensors.BF16, ".weight_scale", false), "feed_forward.gate_proj", "feed_forward.up_proj")(name)
		}, act(wLayers / 2), kernels.BF16},
		{"gptq, act-order", gptqConfig("gptq", 32, false), only(packGPTQ(32, true, alone, -1), feedForward), act(outs + rest + ups), kernels.Int4},
		{"gptq, act-order, as quantisers do", gptqConfig("gptq", 32, true), only(packGPTQ(32, false, quantised, -1), feedForward), act(outs + moeUps), kernels.Int4},
	}
}

// sorted is the order of a module's inputs by their groups; nil: it is not scattered.
func (w *written) sorted(name string) (order []int) {
	group := w.group[name]
	for i := range group {
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return group[a] - group[b] })
	return order
}

// arranged is what a module is worth as a device must hold it. Columns of what reads a normalised row are in the order of one that is
// scattered and was kept; those of a down projection are in its own, and gate's and up's rows in that.
func (w *written) arranged(m *model.Model, name string, widened map[string]bool) []float32 {
	kept := func(name string) []int {
		if widened[name] {
			return nil
		}
		return w.sorted(name)
	}
	var rows, cols []int
	parent, leaf := name[:strings.LastIndex(name, ".")+1], name[strings.LastIndex(name, ".")+1:]
	switch leaf {
	case "gate_proj", "up_proj":
		rows = kept(parent + "down_proj")
		fallthrough
	case "q_proj", "k_proj", "v_proj", "router":
		layer := name[:strings.Index(name, leaf)]
		if before, _, ok := strings.Cut(name, ".feed_forward."); ok {
			layer = before + ".feed_forward."
		}
		for reader := range w.group {
			if o := strings.HasSuffix(reader, "down_proj") || strings.HasSuffix(reader, "o_proj"); strings.HasPrefix(reader, layer) && !o && cols == nil {
				cols = kept(reader)
			}
		}
	case "down_proj":
		cols = kept(name)
	}
	values, n, k := w.values[name], w.shapes[name][0], w.shapes[name][1]
	at := func(order []int, i int) int {
		if order == nil {
			return i
		}
		return order[i]
	}
	out := make([]float32, 0, n*k)
	for i := range n {
		for j := range k {
			out = append(out, values[at(rows, i)*k+at(cols, j)])
		}
	}
	return out
}

// Taps see values in the model's own order, whatever the order of a row; and so do they change them.
func TestOrderedTaps(t *testing.T) {
	all := orderKinds()
	k := all[slices.IndexFunc(all, func(k kind) bool { return k.name == "packed, act-order, by row" })]
	w := newWritten(t, k.config)
	w.fill(k.choose)
	m, notes := loadNoted(t, w.dir(t))
	for _, n := range notes {
		for _, name := range n.Modules {
			for i, v := range w.values[name] {
				w.values[name][i] = bf16(v)
			}
		}
	}
	plain := load(t, w.plain(t), 2)
	for i := range m.Layers {
		if l := &m.Layers[i]; l.Attn.Order == nil || l.Dense != nil && l.Dense.Order == nil || l.MoE != nil && l.MoE.Order == nil {
			t.Fatalf("layer %d: want an order of both rows", i)
		}
	}
	tokens := []int32{3, 1, 4, 1, 5, 9, 2, 6}
	for _, op := range []kernels.Op{kernels.Capture, kernels.Zero, kernels.Add, kernels.Set, kernels.Scale} {
		var got [2][][]float32
		for side, m := range []*loaded{m, plain} {
			var taps []kernels.Tap
			for _, h := range model.Hooks(m.Config) {
				if h.At.Hook != kernels.HookLogits {
					taps = append(taps, capture(h, len(tokens)))
				}
				if s := h.At.Hook; op == kernels.Capture || s != kernels.HookAttnNorm && s != kernels.HookFFNNorm && s != kernels.HookExpertIn {
					continue
				}
				some := kernels.Tap{At: h.At, Rows: []int32{2, 5}, Cols: [2]int32{7, 40}, Op: op, By: -2, Buf: make([]float32, 2*33)}
				for i := range some.Buf {
					some.Buf[i] = float32(i%7) - 3
				}
				taps = append(taps, some, capture(h, len(tokens)))
			}
			logits := newStepper(t, m).step([]piece{{&sequence{}, tokens}}, taps...)
			for i := range taps {
				if taps[i].Op == kernels.Capture {
					got[side] = append(got[side], taps[i].Buf)
				}
			}
			got[side] = append(got[side], logits)
		}
		for i := range got[0] {
			if e := relativeError(got[0][i], got[1][i]); !(e <= tolerance) {
				t.Errorf("operation %d, value %d: relative error %.2e, want at most %.0e", op, i, e, tolerance)
			}
		}
	}
}

// Sorted weights are as large on a device as those without act-order, and ranks can share them: groups do not straddle.
func TestOrderedBytes(t *testing.T) {
	size := func(k kind, ranks int) int64 {
		w := newWritten(t, k.config)
		w.fill(k.choose)
		cfg, err := model.LoadConfig(w.dir(t))
		if err != nil {
			t.Fatal(err)
		}
		ckpt, err := safetensors.Open(w.dir(t))
		if err != nil {
			t.Fatal(err)
		}
		defer ckpt.Close()
		n, err := model.DeviceBytes(ckpt, cfg, "", ranks)
		if err != nil {
			t.Fatalf("%s, %d ranks: %v", k.name, ranks, err)
		}
		return n
	}
	config := compressedConfig("pack-quantized", intWeights(32, true))
	sorted := kind{name: "sorted", config: config, choose: only(packPacked(32, false, alike), "q_proj", "k_proj", "v_proj", "feed_forward.")}
	stored := kind{name: "stored so", config: config, choose: only(packPacked(32, false, nil), "q_proj", "k_proj", "v_proj", "feed_forward.")}
	for ranks := range 3 {
		if got, want := size(sorted, ranks), size(stored, ranks); got != want {
			t.Errorf("%d ranks: %d bytes, without act-order %d", ranks, got, want)
		}
	}
}
