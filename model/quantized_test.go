package model_test

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
)

// loadNoted is load, with the notes.
func loadNoted(t *testing.T, dir fs.FS) (*loaded, []model.Note) {
	t.Helper()
	dev := cpu.New(cpu.Options{Threads: 2})
	t.Cleanup(func() { dev.Close() })
	var notes []model.Note
	m := loadOn(t, dir, dev, model.LoadOptions{Notes: func(n model.Note) { notes = append(notes, n) }})
	return &loaded{m, dev}, notes
}

// place is where a module lies in a model.
type place struct {
	weight       kernels.Weight
	part, expert int
}

// matrix is the module as the device holds it.
func (p place) matrix(t *testing.T) kernels.Matrix {
	t.Helper()
	m, err := p.weight.Get(p.part, p.expert)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// places gives the linear modules by their names in a checkpoint of the text alone.
func places(m *model.Model) map[string]place {
	out := map[string]place{"model.embed_tokens": {m.Embed, 0, 0}, "lm_head": {m.Head.Out, 0, 0}}
	for i := range m.Layers {
		l := &m.Layers[i]
		p := fmt.Sprintf("model.layers.%d.", i)
		for part, name := range []string{"q", "k", "v"} {
			out[p+"self_attn."+name+"_proj"] = place{l.Attn.QKV, part, 0}
		}
		out[p+"self_attn.o_proj"] = place{l.Attn.Out, 0, 0}
		ffn := func(p string, gateUp, down kernels.Weight, e int) {
			out[p+"gate_proj"], out[p+"up_proj"], out[p+"down_proj"] = place{gateUp, 0, e}, place{gateUp, 1, e}, place{down, 0, e}
		}
		p += "feed_forward."
		if l.Dense != nil {
			ffn(p, l.Dense.GateUp, l.Dense.Down, 0)
			continue
		}
		out[p+"router"] = place{l.MoE.Router, 0, 0}
		ffn(p+"shared_expert.", l.MoE.SharedGateUp, l.MoE.SharedDown, 0)
		for e := range m.Config.Experts {
			ffn(fmt.Sprintf("%sexperts.%d.", p, e), l.MoE.GateUp, l.MoE.Down, e)
		}
	}
	return out
}

// numbers are the values [N, K] of a matrix in any format.
func numbers(t *testing.T, m kernels.Matrix) []float32 {
	t.Helper()
	if m.Format.Quantised() {
		out := make([]float32, m.N*m.K)
		for n := range m.N {
			m.Decode(out[n*m.K:][:m.K], n)
		}
		return out
	}
	if m.InOut || m.Stride != 0 {
		t.Fatalf("want rows [N, K], got %+v", m)
	}
	d := map[kernels.Format]safetensors.DType{kernels.BF16: safetensors.BF16, kernels.F32: safetensors.F32}[m.Format]
	one := safetensors.Tensor{DType: d, Shape: []int{m.N, m.K}, Data: m.Data}
	out, err := one.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// compressedConfig is a quantization_config of compressed-tensors.
func compressedConfig(format string, weights ...map[string]any) map[string]any {
	groups := map[string]any{}
	for i, w := range weights {
		groups[fmt.Sprintf("group_%d", i)] = map[string]any{"targets": []string{"Linear"}, "weights": w}
	}
	return map[string]any{"quant_method": "compressed-tensors", "format": format, "config_groups": groups, "ignore": []string{"lm_head", "re:.*router"}}
}

func floatWeights(strategy string) map[string]any {
	return map[string]any{"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": true}
}

func intWeights(group int, symmetric bool) map[string]any {
	return map[string]any{"num_bits": 4, "type": "int", "strategy": "group", "group_size": group, "symmetric": symmetric}
}

func gptqConfig(format string, group int, sym bool) map[string]any {
	return map[string]any{"quant_method": "gptq", "bits": 4, "group_size": group, "sym": sym, "desc_act": true, "checkpoint_format": format}
}

// only packs the modules whose name contains one of parts.
func only(p pack, parts ...string) func(string) pack {
	return func(name string) pack {
		for _, part := range parts {
			if strings.Contains(name, part) {
				return p
			}
		}
		return nil
	}
}

const experts, feedForward, attention = ".experts.", "_proj", "self_attn"

// kind is one kind of checkpoint.
type kind struct {
	name   string
	config map[string]any
	choose func(string) pack
	notes  map[model.Reason]int // modules of each
	quant  kernels.Format       // of the experts on the device, unless the notes say otherwise; BF16: plain
}

func kinds() []kind {
	bf16 := safetensors.BF16
	return append(orderKinds(), []kind{
		{"experts one by one", nil, only(nil), nil, kernels.BF16},
		{"fp8 channel, experts", compressedConfig("float-quantized", floatWeights("channel")), only(packFP8(1, 0, bf16, ".weight_scale", false), experts), nil, kernels.F8E4M3},
		{"fp8 channel, feed-forward and attention", compressedConfig("float-quantized", floatWeights("channel")), only(packFP8(1, 0, safetensors.F32, ".weight_scale", true), feedForward), nil, kernels.F8E4M3},
		{"fp8 tensor", compressedConfig("float-quantized", floatWeights("tensor")), only(packFP8(0, 0, bf16, ".weight_scale", true), feedForward), nil, kernels.F8E4M3},
		{"fp8 block", compressedConfig("float-quantized", floatWeights("block")), only(packFP8(128, 128, bf16, ".weight_scale", false), feedForward), nil, kernels.F8E4M3},
		{"fp8 block of 64, inverse", map[string]any{"quant_method": "fp8", "weight_block_size": []int{64, 64}}, only(packFP8(64, 64, safetensors.F32, ".weight_scale_inv", false), feedForward), nil, kernels.F8E4M3},
		{"fp8 without a word in config.json", nil, only(packFP8(1, 0, bf16, ".weight_scale", false), feedForward, "lm_head", "embed"), nil, kernels.F8E4M3},
		{"packed, groups of 128", compressedConfig("pack-quantized", intWeights(128, true)), only(packPacked(128, false, nil), feedForward), nil, kernels.Int4},
		{"packed, groups of 32, zeros", compressedConfig("pack-quantized", intWeights(32, false)), only(packPacked(32, true, nil), feedForward, "embed"), nil, kernels.Int4},
		{"gptq", gptqConfig("gptq", 32, false), only(packGPTQ(32, true, nil, -1), feedForward), nil, kernels.Int4},
		{"gptq symmetric", gptqConfig("gptq", 64, true), only(packGPTQ(64, false, nil, -1), experts), nil, kernels.Int4},
		{"gptq of the second format", gptqConfig("gptq_v2", 32, false), only(packGPTQ(32, true, nil, 0), feedForward), nil, kernels.Int4},
		{"awq", map[string]any{"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "gemm"}, only(packAWQ(64), feedForward), nil, kernels.Int4},
		{"nf4", map[string]any{"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}, only(packBlocks(false), feedForward), nil, kernels.Table4},
		{"nf4, scales quantised", map[string]any{"quant_method": "bitsandbytes", "_load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}, only(packBlocks(true), feedForward), nil, kernels.Table4},
		{"mixed formats", compressedConfig("mixed-precision", floatWeights("channel"), intWeights(128, true)), func(name string) pack {
			if strings.Contains(name, experts) {
				return packPacked(128, false, nil)
			}
			return only(packFP8(1, 0, bf16, ".weight_scale", false), attention)(name)
		}, nil, kernels.Int4},
		{"an expert left out, k quantised and q not, a router", compressedConfig("float-quantized", floatWeights("channel")), func(name string) pack {
			if strings.Contains(name, "experts.1.") {
				return nil
			}
			return only(packFP8(1, 0, bf16, ".weight_scale", false), experts, "k_proj", "router")(name)
		}, map[model.Reason]int{model.MixedParts: 2*3*(wExperts-1) + 4, model.PlainRouter: 2}, kernels.BF16},
	}...)
}

// Every kind of checkpoint: what the device holds is what the writer wrote, bit for bit (rounded to BF16 where a module is kept so,
// which the notes say), and the model is the one with the same numbers in F32.
func TestQuantisedCheckpoints(t *testing.T) {
	tokens := make([]int32, 45)
	for i := range tokens {
		tokens[i] = int32(i * 7 % wVocab)
	}
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			w := newWritten(t, k.config)
			w.fill(k.choose)
			m, notes := loadNoted(t, w.dir(t))
			widened := map[string]bool{}
			counts := map[model.Reason]int{}
			for _, n := range notes {
				counts[n.Reason] += len(n.Modules)
				for _, name := range n.Modules {
					widened[name] = true
				}
			}
			if fmt.Sprint(counts) != fmt.Sprint(k.notes) {
				t.Errorf("notes: %v, want %v", counts, k.notes)
			}
			for name, p := range places(m.Model) {
				got := p.matrix(t)
				want := w.values[name]
				if widened[name] {
					for i, v := range want {
						want[i] = bf16(v)
					}
				}
				want = w.arranged(m.Model, name, widened)
				if i := firstDifference(numbers(t, got), want); i >= 0 {
					t.Fatalf("%s: [%d, %d] differs: got %v, want %v", name, i/got.K, i%got.K, numbers(t, got)[i], want[i])
				}
				format := k.quant
				if widened[name] {
					format = kernels.BF16
				}
				if strings.Contains(name, experts) && got.Format != format {
					t.Errorf("%s: %v on the device, want %v", name, got.Format, format)
				}
			}
			logits := newStepper(t, m).step([]piece{{&sequence{}, tokens}})
			ref := newStepper(t, load(t, w.plain(t), 2)).step([]piece{{&sequence{}, tokens}})
			if e := relativeError(logits, ref); !(e <= tolerance) {
				t.Errorf("logits: relative error %.2e, want at most %.0e", e, tolerance)
			}
		})
	}
}

// Fused FP8 experts [E, in, out] with a scale for all, for each expert, or for each output; scales of activations are left aside.
func TestFusedFloatExperts(t *testing.T) {
	for _, each := range []string{"all", "expert", "output"} {
		w := newWritten(t, map[string]any{"quant_method": "modelopt", "quant_algo": "FP8"})
		w.fill(func(string) pack { return nil })
		for l := 1; l < wLayers; l += 2 {
			p := fmt.Sprintf("model.layers.%d.feed_forward.experts.", l)
			w.tensors = slices.DeleteFunc(w.tensors, func(x safetensors.Tensor) bool { return strings.HasPrefix(x.Name, p) })
			for _, f := range []struct {
				name   string
				leaves []string
			}{{"gate_up_proj", []string{"gate_proj", "up_proj"}}, {"down_proj", []string{"down_proj"}}} {
				const k, n = wDim, wExpertDim // equal here
				total := len(f.leaves) * n
				codes := w.floatCodes(wExperts * k * total)
				count := map[string]int{"all": 1, "expert": wExperts, "output": wExperts * total}[each]
				shape := map[string][]int{"all": {}, "expert": {wExperts}, "output": {wExperts, 1, total}}[each]
				scales := w.draw(count, 0.0004)
				for e := range wExperts {
					for part, leaf := range f.leaves {
						values := w.values[fmt.Sprintf("%s%d.%s", p, e, leaf)]
						for out := range n {
							for in := range k {
								s := map[string]int{"all": 0, "expert": e, "output": e*total + part*n + out}[each]
								values[out*k+in] = float32(float8(codes[(e*k+in)*total+part*n+out])) * scales[s]
							}
						}
					}
				}
				w.add(p+f.name, safetensors.F8_E4M3, []int{wExperts, k, total}, codes)
				w.add(p+f.name+"_weight_scale", safetensors.F32, shape, f32Bytes(scales))
				w.add(p+f.name+"_input_scale", safetensors.F32, nil, f32Bytes([]float32{1}))
			}
		}
		m, notes := loadNoted(t, w.dir(t))
		if len(notes) != 1 || notes[0].Reason != model.SkippedScales || len(notes[0].Modules) != wLayers {
			t.Errorf("%s: notes %v, want %d scales left aside", each, notes, wLayers)
		}
		for name, p := range places(m.Model) {
			got, err := p.weight.Get(p.part, p.expert)
			if err != nil {
				t.Fatal(err)
			}
			if i := firstDifference(numbers(t, got), w.values[name]); i >= 0 || strings.Contains(name, experts) != (got.Format == kernels.F8E4M3) {
				t.Fatalf("%s: %s as %v differs at %d", each, name, got.Format, i)
			}
		}
	}
}

// Damaged quantised checkpoints: an error that names the tensor or the key, before a token is read.
func TestDamagedQuantisedCheckpoints(t *testing.T) {
	const module = "model.layers.1.feed_forward.experts.2.up_proj"
	find := func(w *written, suffix string) *safetensors.Tensor {
		for i := range w.tensors {
			if w.tensors[i].Name == module+suffix {
				return &w.tensors[i]
			}
		}
		t.Fatalf("no %s%s", module, suffix)
		return nil
	}
	remove := func(suffix string) func(*written) {
		return func(w *written) {
			w.tensors = slices.DeleteFunc(w.tensors, func(x safetensors.Tensor) bool { return x.Name == module+suffix })
		}
	}
	reshape := func(suffix string, shape ...int) func(*written) {
		return func(w *written) {
			x := find(w, suffix)
			x.Shape = shape
			x.Data = x.Data[:x.Len()*x.DType.Size()]
		}
	}
	put := func(suffix string, at int, bytes ...byte) func(*written) {
		return func(w *written) { copy(find(w, suffix).Data[at:], bytes) }
	}
	quantization := func(key string, value any) func(*written) {
		return func(w *written) { w.config["quantization_config"].(map[string]any)[key] = value }
	}
	for _, c := range []struct {
		kind, what string
		names      []string
		spoil      func(*written)
	}{
		{"fp8 channel, experts", "no scale", []string{module + ".weight_scale"}, remove(".weight_scale")},
		{"fp8 channel, experts", "no weight", []string{module + ".weight"}, remove(".weight")},
		{"fp8 channel, experts", "half the scales", []string{module + ".weight_scale", "[128, 1]", "[64, 1]"}, reshape(".weight_scale", 64, 1)},
		{"fp8 channel, experts", "codes of another shape", []string{module + ".weight", "[128, 127]"}, reshape(".weight", 128, 127)},
		{"fp8 channel, experts", "a code that is no number", []string{module + ".weight", "0x7f", "[3, 5]"}, put(".weight", 3*128+5, 0x7f)},
		{"fp8 channel, experts", "an infinite scale", []string{module + ".weight", "+Inf", "[9, 0]"}, put(".weight_scale", 18, 0x80, 0x7f)},
		{"fp8 channel, experts", "scales of another dtype", []string{module + ".weight_scale", "I16"}, func(w *written) { find(w, ".weight_scale").DType = safetensors.I16 }},
		{"fp8 channel, experts", "a scale for the tensor", []string{module, "channel", "quantization_config"}, reshape(".weight_scale", 1)},
		{"fp8 channel, experts", "another method", []string{"experts.0.gate_proj", "quantization_config", "gptq"}, func(w *written) { w.config["quantization_config"] = gptqConfig("gptq", 128, true) }},
		{"fp8 channel, experts", "a module that is to be ignored", []string{module, "not quantised"}, quantization("ignore", []string{module})},
		{"fp8 channel, experts", "an extra tensor", []string{module + ".weight_extra"}, func(w *written) { w.add(module+".weight_extra", safetensors.F32, []int{1}, make([]byte, 4)) }},
		{"fp8 channel, experts", "a scale of a plain module", []string{"model.layers.0.self_attn.q_proj.weight_scale"}, func(w *written) {
			w.add("model.layers.0.self_attn.q_proj.weight_scale", safetensors.BF16, []int{128, 1}, make([]byte, 256))
		}},
		{"fp8 channel, experts", "a method that no reader knows", []string{"config.json", "quantization_config.quant_method", "quip"}, quantization("quant_method", "quip")},
		{"fp8 channel, experts", "a format that no reader knows", []string{"config.json", "quantization_config.format", "nvfp4-pack-quantized"}, quantization("format", "nvfp4-pack-quantized")},
		{"fp8 channel, experts", "integers of 8 bits", []string{"config_groups.group_0.weights.num_bits", "8 of type int"}, quantization("config_groups", map[string]any{
			"group_0": map[string]any{"weights": map[string]any{"num_bits": 8, "type": "int", "strategy": "channel"}}})},
		{"experts one by one", "nothing is quantised", []string{"config.json", "quantization_config", "plain"}, func(w *written) { w.config["quantization_config"] = gptqConfig("gptq", 128, true) }},
		{"experts one by one", "integers", []string{module + ".weight", "I8"}, func(w *written) {
			x := find(w, ".weight")
			x.DType, x.Data = safetensors.I8, x.Data[:x.Len()]
		}},
		{"packed, groups of 32, zeros", "no scale", []string{module + ".weight_scale"}, remove(".weight_scale")},
		{"packed, groups of 32, zeros", "no shape", []string{module + ".weight_shape"}, remove(".weight_shape")},
		{"packed, groups of 32, zeros", "another shape", []string{module + ".weight_shape", "[128, 128]", "[128, 3]"}, put(".weight_shape", 8, 3)},
		{"packed, groups of 32, zeros", "no zeros", []string{module, "quantization_config", "with zeros"}, remove(".weight_zero_point")},
		{"packed, groups of 32, zeros", "half the zeros", []string{module + ".weight_zero_point", "[16, 4]", "[16, 2]"}, reshape(".weight_zero_point", 16, 2)},
		{"packed, groups of 32, zeros", "words of other width", []string{module + ".weight_packed", "[128, 16]", "[128, 15]"}, reshape(".weight_packed", 128, 15)},
		{"packed, groups of 32, zeros", "words of bytes", []string{module + ".weight_packed", "U8"}, func(w *written) {
			x := find(w, ".weight_packed")
			x.DType, x.Shape = safetensors.U8, []int{128, 64}
		}},
		{"packed, groups of 32, zeros", "groups that do not divide", []string{module + ".weight_scale", "divides 128", "[128, 3]"}, reshape(".weight_scale", 128, 3)},
		{"packed, groups of 32, zeros", "other groups", []string{module, "quantization_config", "of 32"}, func(w *written) {
			reshape(".weight_scale", 128, 2)(w)
			reshape(".weight_zero_point", 16, 2)(w)
		}},
		{"packed, groups of 32, zeros", "a scale that is no number", []string{module + ".weight", "NaN", "[0, 1]"}, put(".weight_scale", 2, 0xc0, 0x7f)},
		{"packed, groups of 32, zeros", "8 bits", []string{"config_groups.group_0.weights.num_bits"}, quantization("config_groups", map[string]any{
			"group_0": map[string]any{"weights": map[string]any{"num_bits": 3, "type": "int", "strategy": "group", "group_size": 32}}})},
		{"packed, act-order", "a group beyond the last", []string{module + ".weight_g_idx", "0 to 3", "4 at 1"}, put(".weight_g_idx", 4, 4)},
		{"packed, act-order", "a group for half the inputs", []string{module + ".weight_g_idx", "[64]"}, reshape(".weight_g_idx", 64)},
		{"gptq", "no zeros", []string{module + ".qzeros"}, remove(".qzeros")},
		{"gptq", "no scales", []string{module + ".scales"}, remove(".scales")},
		{"gptq", "words of other width", []string{module + ".qweight", "[16, 128]", "[15, 128]"}, reshape(".qweight", 15, 128)},
		{"gptq", "zeros of other width", []string{module + ".qzeros", "[4, 16]", "[4, 15]"}, reshape(".qzeros", 4, 15)},
		{"gptq", "symmetric codes with zeros", []string{"qzeros", "symmetric"}, quantization("sym", true)},
		{"gptq", "3 bits", []string{"quantization_config.bits"}, quantization("bits", 3)},
		{"awq", "groups that do not divide", []string{module + ".scales", "[1, 64]"}, reshape(".scales", 1, 64)},
		{"awq", "another packing", []string{"quantization_config.version", "gemv"}, quantization("version", "gemv")},
		{"nf4, scales quantised", "no state", []string{module + ".weight.quant_state.bitsandbytes__nf4"}, remove(".weight.quant_state.bitsandbytes__nf4")},
		{"nf4, scales quantised", "a state that is no JSON", []string{module + ".weight.quant_state.bitsandbytes__nf4", "JSON"}, put(".weight.quant_state.bitsandbytes__nf4", 0, '[')},
		{"nf4, scales quantised", "no absmax", []string{module + ".weight.absmax"}, remove(".weight.absmax")},
		{"nf4, scales quantised", "half the absmax", []string{module + ".weight.absmax", "[256]", "[128]"}, reshape(".weight.absmax", 128)},
		{"nf4, scales quantised", "no nested_absmax", []string{module + ".weight.nested_absmax"}, remove(".weight.nested_absmax")},
		{"nf4, scales quantised", "a short table", []string{module + ".weight.quant_map", "[15]"}, reshape(".weight.quant_map", 15)},
		{"nf4, scales quantised", "half the codes", []string{module + ".weight", "[8192, 1]", "[4096, 1]"}, reshape(".weight", 4096, 1)},
	} {
		all := kinds()
		k := all[slices.IndexFunc(all, func(k kind) bool { return k.name == c.kind })]
		w := newWritten(t, k.config)
		w.fill(k.choose)
		c.spoil(w)
		err := openEverything(w.dir(t))
		if err == nil {
			t.Errorf("%s: %s: opened", c.kind, c.what)
			continue
		}
		for _, name := range c.names {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %s: the error does not name %q: %v", c.kind, c.what, name, err)
			}
		}
	}
}

// FuzzQuantizationConfig: any text is a configuration or an error, and what it accepts opens a checkpoint or not, without a panic.
func FuzzQuantizationConfig(f *testing.F) {
	for _, seed := range []string{`{}`, `{"quant_method":"gptq","bits":4}`, `{"quant_method":"awq","w_bit":4,"q_group_size":-1}`,
		`{"quant_method":"compressed-tensors","config_groups":{"a":{"weights":{"num_bits":8,"type":"float","strategy":"block","block_structure":[1,1]}}}}`,
		`{"quant_method":"fp8","weight_block_size":[128]}`, `{"quant_method":"bitsandbytes","load_in_4bit":true,"llm_int8_skip_modules":[1]}`, `null`, `[]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		model.ParseConfig([]byte(`{"model_type":"llama4_text","hidden_size":64,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,` +
			`"intermediate_size":8,"vocab_size":9,"max_position_embeddings":9,"num_local_experts":1,"hidden_act":"silu","quantization_config":` + text + `}`))
	})
}

// FuzzQuantisedTensors spoils one tensor of a quantised checkpoint: its dtype, its shape, its bytes. Whatever comes of it is a checkpoint or
// an error.
func FuzzQuantisedTensors(f *testing.F) {
	for i := range len(kinds()) {
		f.Add(uint8(i), uint16(40+7*i), uint8(i), int16(1), int16(128), []byte{0x7f, 0x7f}, uint16(2*i))
		f.Add(uint8(i), uint16(300+i), uint8(0), int16(-1), int16(0), []byte(`{"blocksize":0}`), uint16(0))
	}
	f.Fuzz(func(t *testing.T, which uint8, tensor uint16, dtype uint8, rows, cols int16, patch []byte, at uint16) {
		all := kinds()
		k := all[int(which)%len(all)]
		w := newWritten(t, k.config)
		w.fill(k.choose)
		x := &w.tensors[int(tensor)%len(w.tensors)]
		x.Data = slices.Clone(x.Data)
		if int(at) < len(x.Data) {
			copy(x.Data[at:], patch)
		}
		if rows >= 0 {
			if x.Shape = []int{int(rows)}; cols >= 0 {
				x.Shape = append(x.Shape, int(cols))
			}
			if types := safetensors.DTypes(); dtype > 0 {
				x.DType = types[int(dtype)%len(types)]
			}
			x.Data = slices.Grow(x.Data, x.Len()*x.DType.Size())[:x.Len()*x.DType.Size()]
		}
		openEverything(w.dir(t))
	})
}
