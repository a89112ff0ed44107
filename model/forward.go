package model

import "chulengo/kernels"

// Model is a checkpoint on a device: the description of every stage, built once from the configuration.
type Model struct {
	Config *Config
	Embed  kernels.Weight // [V, D]
	Layers []Layer
	Head   kernels.Head
	Vision *Vision // nil: the checkpoint is for text, or the device is no kernels.Viewer
}

// Layer is attention followed by a feed-forward: routed experts (MoE) or one dense network, the other is nil.
type Layer struct {
	Attn  kernels.Attn
	MoE   *kernels.MoE
	Dense *kernels.Dense
}

// Forward enqueues one step of the model on d: token ids to logits. T rows of several sequences run together; which
// keys and values a row sees is in the step's spans.
func (m *Model) Forward(d kernels.Device) {
	x := d.Embed(m.Embed) // [T, D] the residual stream: tokens, and rows of pictures
	for i := range m.Layers {
		l := &m.Layers[i]

		q := d.AttnIn(&l.Attn, x) // [T, H, Hd]: norm, projections, RoPE, QK norm, temperature; k and v are cached
		z := d.Attend(&l.Attn, q) // [T, H, Hd]: whole context, or the row's chunk
		d.AttnOut(&l.Attn, x, z)  // x += z·Woᵀ

		if l.MoE != nil {
			h, r := d.Route(l.MoE, x) // h [T, D] normalised, r [T] expert and gate
			d.Experts(l.MoE, x, h, r) // x += shared(h) + expert(gate·h)
		} else {
			d.FFN(l.Dense, x) // x += down(silu(gate·h) · up·h)
		}
	}
	d.Logits(&m.Head, x) // the wanted rows: norm, projection to V, draw
}

// describe builds the stages of every layer with the rules of the configuration; the weights come later.
func describe(c *Config) *Model {
	m := &Model{Config: c, Layers: make([]Layer, c.Layers), Head: kernels.Head{Eps: c.Eps}}
	if c.Vision != nil {
		m.Vision = describeVision(c.Vision)
	}
	frequencies := c.RoPE.Frequencies(c.HeadDim)
	var slots [kernels.Groups]int
	for i := range m.Layers {
		l, group := &m.Layers[i], c.KVGroup(i)
		l.Attn = kernels.Attn{
			Layer: i, Group: group, Slot: slots[group],
			Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Eps: c.Eps,
			QKNorm: c.UsesQKNorm(i), Temp: c.AttnTemp(i),
		}
		slots[group]++
		if c.UsesRoPE(i) {
			l.Attn.RoPE = frequencies
		}
		if c.IsMoE(i) {
			l.MoE = &kernels.MoE{Layer: i, Eps: c.Eps}
		} else {
			l.Dense = &kernels.Dense{Layer: i, Eps: c.Eps}
		}
	}
	return m
}
