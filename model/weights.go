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
	into    *kernels.Weight // nil: checked, but not put on the device (vision, where the device cannot see)
	spec    kernels.WeightSpec
	tensors []Tensor
	sources [][]source // [part][expert] of a checkpoint, once they were found
	columns *[]int32   // the order of the normalised row that it reads (a norm: makes), where the layer keeps it; nil: it reads another
	outputs [][]int32  // the order of each expert's outputs; nil: as stored
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
	rows := []weight{matrix(&m.Embed, "embedding", kernels.Replicated, c.Dim, c.Vocab, names.text+"embed_tokens.weight").random(1)}
	// What is added to the residual shrinks with the number of additions, so that random weights keep its size.
	added := 1 / math.Sqrt(float64(2*c.Layers))
	for i := range m.Layers {
		l := &m.Layers[i]
		prefix := fmt.Sprintf("%slayers.%d.", names.text, i)
		attn, ffn := prefix+"self_attn.", prefix+"feed_forward."
		a := &l.Attn
		heads, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
		rows = append(rows,
			vector(&a.Norm, "norms", c.Dim, prefix+"input_layernorm.weight").ordered(&a.Order),
			parts(&a.QKV, "attention", kernels.Outputs, c.Dim, []int{heads, kv, kv}, attn+"q_proj.weight", attn+"k_proj.weight", attn+"v_proj.weight").whole(c.HeadDim).ordered(&a.Order),
			matrix(&a.Out, "attention", kernels.Inputs, heads, c.Dim, attn+"o_proj.weight").whole(c.HeadDim).random(added/math.Sqrt(float64(heads))))
		f, norm := c.FFNDim(i), prefix+"post_attention_layernorm.weight"
		if d := l.Dense; d != nil {
			rows = append(rows,
				vector(&d.Norm, "norms", c.Dim, norm).ordered(&d.Order),
				pairs(parts(&d.GateUp, "dense feed-forward", kernels.Outputs, c.Dim, []int{f, f}, ffn+"gate_proj.weight", ffn+"up_proj.weight")).ordered(&d.Order),
				matrix(&d.Down, "dense feed-forward", kernels.Inputs, f, c.Dim, ffn+"down_proj.weight").random(downGain*added/math.Sqrt(float64(f))))
			continue
		}
		e, shared := l.MoE, ffn+"shared_expert."
		rows = append(rows,
			vector(&e.Norm, "norms", c.Dim, norm).ordered(&e.Order),
			matrix(&e.Router, "router", kernels.Replicated, c.Dim, c.Experts, ffn+"router.weight").ordered(&e.Order),
			pairs(experts(&e.GateUp, kernels.Outputs, c.Experts, c.Dim, []int{f, f}, ffn+"experts.gate_up_proj")).ordered(&e.Order),
			experts(&e.Down, kernels.Inputs, c.Experts, f, []int{c.Dim}, ffn+"experts.down_proj").random(downGain*added/math.Sqrt(float64(f))),
			pairs(parts(&e.SharedGateUp, "shared expert", kernels.Outputs, c.Dim, []int{f, f}, shared+"gate_proj.weight", shared+"up_proj.weight")).ordered(&e.Order),
			matrix(&e.SharedDown, "shared expert", kernels.Inputs, f, c.Dim, shared+"down_proj.weight").random(downGain*added/math.Sqrt(float64(f))))
	}
	rows = append(rows, vector(&m.Head.Norm, "norms", c.Dim, names.text+"norm.weight"))
	if !c.TiedHead {
		rows = append(rows, matrix(&m.Head.Out, "output projection", kernels.Outputs, c.Dim, c.Vocab, names.head+"weight"))
	}
	if c.Vision != nil {
		rows = append(rows, c.visionTable(m.Vision, names.vision)...)
	}
	return rows
}

// visionTable lists the tensors of the vision tower, adapter and projector, with the places in v where they go.
func (c *Config) visionTable(v *Vision, prefix string) []weight {
	o := c.Vision
	var rows []weight
	add := func(w weight) { rows = append(rows, w) }
	// Random biases and class tokens are small beside what they are added to.
	bias := func(into *kernels.Weight, n int, name string) {
		add(vector(into, visionModule, n, prefix+name+".bias").random(0.02))
	}
	norm := func(n *kernels.LayerNorm, name string) {
		add(vector(&n.Weight, visionModule, o.Dim, prefix+name+".weight"))
		bias(&n.Bias, o.Dim, name)
	}
	linear := func(into *kernels.Weight, in, out int, name string) {
		add(matrix(into, visionModule, kernels.Replicated, in, out, prefix+name+".weight"))
	}
	added := 1 / math.Sqrt(float64(2*o.Layers))

	const tower = "vision_model."
	add(vector(&v.Patch.Class, visionModule, o.Dim, prefix+tower+"class_embedding").random(0.02))
	add(matrix(&v.Patch.Positions, visionModule, kernels.Replicated, o.Dim, o.Patches()+1, prefix+tower+"positional_embedding_vlm").random(0.02))
	linear(&v.Patch.Weight, o.PatchDim(), o.Dim, tower+"patch_embedding.linear")
	norm(&v.Patch.Norm, tower+"layernorm_pre")
	for i := range v.Layers {
		l, layer := &v.Layers[i], fmt.Sprintf("%smodel.layers.%d.", tower, i)
		attn, mlp := layer+"self_attn.", layer+"mlp."
		norm(&l.AttnNorm, layer+"input_layernorm")
		add(parts(&l.QKV, visionModule, kernels.Replicated, o.Dim, []int{o.Dim, o.Dim, o.Dim},
			prefix+attn+"q_proj.weight", prefix+attn+"k_proj.weight", prefix+attn+"v_proj.weight"))
		for p, name := range []string{"q_proj", "k_proj", "v_proj"} {
			bias(&l.QKVBias[p], o.Dim, attn+name)
		}
		add(matrix(&l.Out, visionModule, kernels.Replicated, o.Dim, o.Dim, prefix+attn+"o_proj.weight").random(added / math.Sqrt(float64(o.Dim))))
		bias(&l.OutBias, o.Dim, attn+"o_proj")
		norm(&l.FFNNorm, layer+"post_attention_layernorm")
		linear(&l.Up, o.Dim, o.FFNDim, mlp+"fc1")
		bias(&l.UpBias, o.FFNDim, mlp+"fc1")
		add(matrix(&l.Down, visionModule, kernels.Replicated, o.FFNDim, o.Dim, prefix+mlp+"fc2.weight").random(added / math.Sqrt(float64(o.FFNDim))))
		bias(&l.DownBias, o.Dim, mlp+"fc2")
	}
	p := &v.Projector
	norm(&p.Norm, tower+"layernorm_post")
	linear(&p.Up, o.FFNDim, o.AdapterDim, tower+"vision_adapter.mlp.fc1")
	linear(&p.Down, o.AdapterDim, o.AdapterDim, tower+"vision_adapter.mlp.fc2")
	linear(&p.Out, o.AdapterDim, c.Dim, "multi_modal_projector.linear_1")
	return rows
}

const visionModule = "vision"

// blind takes the tower's weights off a table, for a device that cannot run it; they are still checked.
func (m *Model) blind(rows []weight) {
	for i := range rows {
		if rows[i].tensors[0].Module == visionModule {
			rows[i].into = nil
		}
	}
	m.Vision = nil
}

// downGain makes up for silu(gate)·up of normal values being smaller than normal.
const downGain = 1.67

// random sets the deviation of random values.
func (w weight) random(std float64) weight {
	w.std = std
	return w
}

// whole says that ranks have all or nothing of a head of so many outputs (or inputs).
func (w weight) whole(head int) weight {
	w.spec.Whole = head
	return w
}

// ordered says where the layer keeps the order of the normalised row that the weight reads or makes.
func (w weight) ordered(order *[]int32) weight {
	w.columns = order
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
