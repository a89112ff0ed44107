package model

import (
	"fmt"
	"math"

	"chulengo/kernels"
)

// The weight table: every tensor of a checkpoint with its name, its shape and where it goes. It is the only place that
// knows the names. Load reads along it, inspect prints it, and a tensor that is not in it is an error.

// Tensor is one row of the table.
type Tensor struct {
	Name   string
	Shape  []int
	Module string // what people call it: "attention", "experts", …

	part  int  // of its weight
	fused bool // experts stored as [E, K, parts·N]
}

// weight is one kernels.Weight and the tensors it is made of.
type weight struct {
	into    *kernels.Weight // nil: checked, but not put on the device
	spec    kernels.WeightSpec
	tensors []Tensor
	sources [][]source // [part][expert] of a checkpoint, once they were found
	std     float64    // deviation of random values in place of a checkpoint's (LoadDummy); 0: all values are 1
}

// layout is how a checkpoint prefixes its names.
type layout struct{ text, head, vision string }

// layouts are the known prefixes: multimodal checkpoints, text-only exports, and multimodal ones of newer writers.
var layouts = []layout{
	{text: "language_model.model.", head: "language_model.lm_head.", vision: ""},
	{text: "model.language_model.", head: "lm_head.", vision: "model."},
	{text: "model.", head: "lm_head.", vision: ""},
}

// findLayout recognises a checkpoint by the name of its embedding table.
func findLayout(has func(name string) bool) (layout, error) {
	for _, l := range layouts {
		for _, name := range []string{"weight", "weight_packed", "qweight"} {
			if has(l.text + "embed_tokens." + name) {
				return l, nil
			}
		}
	}
	return layout{}, fmt.Errorf("model: no embedding table: want a tensor named %sembed_tokens.weight or %sembed_tokens.weight",
		layouts[0].text, layouts[2].text)
}

// table lists the weights of a model in the order of the forward pass, with the places in m where they go.
func (m *Model) table(names layout) []weight {
	c := m.Config
	rows := []weight{matrix(&m.Embed, "embedding", kernels.Outputs, c.Dim, c.Vocab, names.text+"embed_tokens.weight").random(1)}
	// What is added to the residual shrinks with the number of additions, so that random weights keep its size.
	added := 1 / math.Sqrt(float64(2*c.Layers))
	for i := range m.Layers {
		l := &m.Layers[i]
		prefix := fmt.Sprintf("%slayers.%d.", names.text, i)
		attn, ffn := prefix+"self_attn.", prefix+"feed_forward."
		a := &l.Attn
		heads, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
		rows = append(rows,
			vector(&a.Norm, "norms", c.Dim, prefix+"input_layernorm.weight"),
			parts(&a.QKV, "attention", kernels.Outputs, c.Dim, []int{heads, kv, kv}, attn+"q_proj.weight", attn+"k_proj.weight", attn+"v_proj.weight"),
			matrix(&a.Out, "attention", kernels.Inputs, heads, c.Dim, attn+"o_proj.weight").random(added/math.Sqrt(float64(heads))))
		f, norm := c.FFNDim(i), prefix+"post_attention_layernorm.weight"
		if d := l.Dense; d != nil {
			rows = append(rows,
				vector(&d.Norm, "norms", c.Dim, norm),
				pairs(parts(&d.GateUp, "dense feed-forward", kernels.Outputs, c.Dim, []int{f, f}, ffn+"gate_proj.weight", ffn+"up_proj.weight")),
				matrix(&d.Down, "dense feed-forward", kernels.Inputs, f, c.Dim, ffn+"down_proj.weight").random(downGain*added/math.Sqrt(float64(f))))
			continue
		}
		e, shared := l.MoE, ffn+"shared_expert."
		rows = append(rows,
			vector(&e.Norm, "norms", c.Dim, norm),
			matrix(&e.Router, "router", kernels.Replicated, c.Dim, c.Experts, ffn+"router.weight"),
			pairs(experts(&e.GateUp, kernels.Outputs, c.Experts, c.Dim, []int{f, f}, ffn+"experts.gate_up_proj")),
			experts(&e.Down, kernels.Inputs, c.Experts, f, []int{c.Dim}, ffn+"experts.down_proj").random(downGain*added/math.Sqrt(float64(f))),
			pairs(parts(&e.SharedGateUp, "shared expert", kernels.Outputs, c.Dim, []int{f, f}, shared+"gate_proj.weight", shared+"up_proj.weight")),
			matrix(&e.SharedDown, "shared expert", kernels.Inputs, f, c.Dim, shared+"down_proj.weight").random(downGain*added/math.Sqrt(float64(f))))
	}
	rows = append(rows, vector(&m.Head.Norm, "norms", c.Dim, names.text+"norm.weight"))
	if !c.TiedHead {
		rows = append(rows, matrix(&m.Head.Out, "output projection", kernels.Outputs, c.Dim, c.Vocab, names.head+"weight"))
	}
	if c.Vision != nil {
		rows = append(rows, c.visionTable(names.vision)...)
	}
	return rows
}

// visionTable lists the tensors of the vision tower, adapter and projector.
func (c *Config) visionTable(prefix string) []weight {
	v := c.Vision
	var rows []weight
	add := func(name string, shape ...int) {
		rows = append(rows, weight{tensors: []Tensor{{Name: prefix + name, Shape: shape, Module: "vision"}}})
	}
	linear := func(name string, in, out int) {
		add(name+".weight", out, in)
		add(name+".bias", out)
	}
	norm := func(name string) {
		add(name+".weight", v.Dim)
		add(name+".bias", v.Dim)
	}
	add("vision_model.class_embedding", v.Dim)
	add("vision_model.positional_embedding_vlm", v.Patches()+1, v.Dim)
	add("vision_model.patch_embedding.linear.weight", v.Dim, v.PatchDim())
	norm("vision_model.layernorm_pre")
	for i := range v.Layers {
		p := fmt.Sprintf("vision_model.model.layers.%d.", i)
		norm(p + "input_layernorm")
		for _, proj := range []string{"q", "k", "v", "o"} {
			linear(p+"self_attn."+proj+"_proj", v.Dim, v.Dim)
		}
		norm(p + "post_attention_layernorm")
		linear(p+"mlp.fc1", v.Dim, v.FFNDim)
		linear(p+"mlp.fc2", v.FFNDim, v.Dim)
	}
	norm("vision_model.layernorm_post")
	add("vision_model.vision_adapter.mlp.fc1.weight", v.AdapterDim, v.FFNDim)
	add("vision_model.vision_adapter.mlp.fc2.weight", v.AdapterDim, v.AdapterDim)
	add("multi_modal_projector.linear_1.weight", c.Dim, v.AdapterDim)
	return rows
}

// downGain makes up for silu(gate)·up of normal values being smaller than normal.
const downGain = 1.67

// random sets the deviation of random values.
func (w weight) random(std float64) weight {
	w.std = std
	return w
}

func vector(into *kernels.Weight, module string, n int, name string) weight {
	return weight{into: into, spec: kernels.WeightSpec{Names: []string{name}, Parts: []int{1}, K: n, Experts: 1},
		tensors: []Tensor{{Name: name, Shape: []int{n}, Module: module}}}
}

func matrix(into *kernels.Weight, module string, s kernels.Split, in, out int, name string) weight {
	return parts(into, module, s, in, []int{out}, name)
}

// parts are matrices [out, in] that read one input.
func parts(into *kernels.Weight, module string, s kernels.Split, in int, outs []int, names ...string) weight {
	w := weight{into: into, spec: kernels.WeightSpec{Names: names, Parts: outs, K: in, Experts: 1, Split: s}, std: 1 / math.Sqrt(float64(in))}
	for i, name := range names {
		w.tensors = append(w.tensors, Tensor{Name: name, Shape: []int{outs[i], in}, Module: module, part: i})
	}
	return w
}

// pairs says that the two parts are gate and up.
func pairs(w weight) weight {
	w.spec.Pairs = true
	return w
}

// experts are the fused matrices of all experts, [E, in, Σ outs]: the parts lie side by side in every row.
func experts(into *kernels.Weight, s kernels.Split, n, in int, outs []int, name string) weight {
	total := 0
	for _, o := range outs {
		total += o
	}
	return weight{into: into, spec: kernels.WeightSpec{Names: []string{name}, Parts: outs, K: in, Experts: n, Split: s},
		tensors: []Tensor{{Name: name, Shape: []int{n, in, total}, Module: "experts", fused: true}}, std: 1 / math.Sqrt(float64(in))}
}
