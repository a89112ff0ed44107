package bench

import (
	"strings"
	"time"

	"chulengo/model"
)

// KernelTime is what one kernel took in all its launches from one stage, as a device measures it.
type KernelTime struct {
	Stage    string // of Stages; "": before the forward pass
	Name     string
	Launches int
	Time     time.Duration
}

// Families of kernels, in the order of the forward pass. In decode the router's launches contain the norm before it and the
// experts' the shared expert; in prefill each is on its own.
var Families = []string{"embed", "norm", "qkv", "rope", "attend", "attn_out", "router", "shared", "experts", "ffn", "logits", "sampling"}

// family says which one a kernel belongs to; "" where none has a bound.
func family(stage, name string) string {
	switch {
	case stage == "":
		return ""
	case strings.Contains(name, "norm"):
		return "norm"
	case strings.HasPrefix(name, "rope"):
		return "rope"
	case strings.HasPrefix(name, "sample"):
		return "sampling"
	}
	switch stage {
	case "attn_in":
		return "qkv"
	case "route":
		return "router"
	}
	return stage
}

// work is the least that a family must do in a step.
type work struct{ bytes, flops float64 }

// activations is what the families without weights read and write at least: the residual as float32 into a bfloat16 image
// for each norm, the sums of q, k and v into bfloat16, rows of the embedding into float32, the logits once.
func activations(c *model.Config, rows, norms, wants int) map[string]work {
	r := float64(rows)
	return map[string]work{
		"embed":    {bytes: r * float64((2+4)*c.Dim)},
		"norm":     {bytes: (r*float64(norms) + float64(wants)) * float64((4+2)*c.Dim)},
		"rope":     {bytes: r * float64(c.Layers*(4+2)*c.HeadDim*(c.Heads+2*c.KVHeads))},
		"sampling": {bytes: float64(wants * 4 * c.Vocab)},
	}
}

// decodeWork is that of one decoding step: DecodeBytes, by family.
func decodeWork(c *model.Config, positions []int, distinct int, w Widths) map[string]work {
	norms := c.Layers
	for l := range c.Layers {
		if !c.IsMoE(l) {
			norms++
		}
	}
	out := activations(c, len(positions), norms, len(positions))
	b := DecodeBytes(c, positions, distinct, w)
	for stage, name := range productFamilies {
		out[name] = work{bytes: b[stage]}
	}
	return out
}

// prefillWork is that of a prompt of n tokens from the start: PrefillFlops, by family, beside the weights, each once.
func prefillWork(c *model.Config, n int, w Widths) map[string]work {
	out := activations(c, n, 2*c.Layers, 1)
	distinct, shared := 0, 0.0
	for l := range c.Layers {
		if c.IsMoE(l) {
			distinct += min(c.Experts, n)
			shared += w.of("shared expert") * 3 * float64(c.Dim*c.FFNDim(l))
		}
	}
	b, f := DecodeBytes(c, nil, distinct, w), PrefillFlops(c, n)
	b["shared"], b["experts"] = shared, b["experts"]-shared
	for stage, name := range productFamilies {
		out[name] = work{bytes: b[stage], flops: f[stage]}
	}
	return out
}

// productFamilies are the families whose work a stage's bytes or operations count.
var productFamilies = map[string]string{
	"attn_in": "qkv", "attend": "attend", "attn_out": "attn_out", "route": "router", "shared": "shared", "experts": "experts", "ffn": "ffn", "logits": "logits",
}

// familyResults adds what each family took in one of n steps, against the larger of its two bounds: what it reads and writes
// at the bandwidth, and what it computes at the peak.
func (r *Report) familyResults(name string, times []KernelTime, n int, by map[string]work) {
	sums := map[string]KernelTime{}
	for _, t := range times {
		f := family(t.Stage, t.Name)
		s := sums[f]
		s.Time += t.Time
		s.Launches += t.Launches
		sums[f] = s
	}
	for _, f := range Families {
		took, w := sums[f].Time/time.Duration(n), by[f]
		if took <= 0 || w == (work{}) {
			continue
		}
		r.bounded(Result{Name: name + "/family=" + f, Launches: sums[f].Launches / n}, w, took)
	}
}
