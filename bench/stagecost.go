package bench

import (
	"context"
	"slices"
	"time"

	"chulengo/kernels"
)

// A stage's cost is what a step gets shorter when all layers but the first leave it out. That is wall clock: kernels that overlap others, or
// hide behind them, cost what they add, where times of single kernels (Families) contain the pauses between them. Every layer has weights and
// keys of its own, so that caches are as warm as in any step. Steps ask for no answers, and are never replayed: launches are enqueued ahead.
// What layers compute without a stage means nothing, but costs the same; at batch 1 also of experts, of which every token has one.
// Prompts have no such results: what is multiplied then holds more zeros, which draw less power, and the clock rises; and their kernels take
// so long that times between events are right.

// stageCost is the difference of steps that leave out the stages `with` and steps that leave out the stages `without`.
type stageCost struct {
	stage         string
	with, without []string
}

// stageCosts: attention counts what the norm before its projections set to zero, so the projections are left out after it; the experts' rows
// are chosen by the router, likewise.
var stageCosts = []stageCost{
	{"attn_in", []string{"attend"}, []string{"attend", "attn_in"}},
	{"attend", nil, []string{"attend"}},
	{"attn_out", nil, []string{"attn_out"}},
	{"route", []string{"experts"}, []string{"experts", "route"}},
	{"experts", nil, []string{"experts"}},
	{"ffn", nil, []string{"ffn"}},
}

// forwardWithout is Model.Forward up to the head, without stages that are named but once.
func (s *steps) forwardWithout(stages []string) func(d kernels.Device) {
	return func(d kernels.Device) {
		ran := map[string]bool{}
		does := func(stage string) bool {
			first := !ran[stage]
			ran[stage] = true
			return first || !slices.Contains(stages, stage)
		}
		var q, z, h, r kernels.Act
		x := d.Embed(s.Embed)
		for i := range s.Layers {
			l := &s.Layers[i]
			if does("attn_in") {
				q = d.AttnIn(&l.Attn, x)
			}
			if does("attend") {
				z = d.Attend(&l.Attn, q)
			}
			if does("attn_out") {
				d.AttnOut(&l.Attn, x, z)
			}
			if l.MoE == nil {
				if does("ffn") {
					d.FFN(l.Dense, x)
				}
				continue
			}
			if does("route") {
				h, r = d.Route(l.MoE, x)
			}
			if does("experts") {
				d.Experts(l.MoE, x, h, r)
			}
		}
	}
}

// stageResults adds the cost of each stage in a decoding step that `run` takes and times, against its bytes. by has those of all layers,
// first those of a model of one layer: attention's depend on the layer.
func (r *Report) stageResults(ctx context.Context, o *StepOptions, s *steps, name string, by, first map[string]float64, run func() (time.Duration, error)) error {
	took := func(stages []string) (time.Duration, error) {
		s.forward = s.forwardWithout(stages)
		samples, err := repeat(ctx, o.Repeat, run)
		if err != nil {
			return 0, err
		}
		return slices.Min(samples), nil
	}
	defer func() { s.forward = nil }()
	layers := map[string]int{"attn_in": s.Config.Layers, "attend": s.Config.Layers, "attn_out": s.Config.Layers}
	for l := range s.Config.Layers {
		if s.Config.IsMoE(l) {
			layers["route"]++
			layers["experts"]++
		} else {
			layers["ffn"]++
		}
	}
	for _, c := range stageCosts {
		n := layers[c.stage]
		if n < 2 {
			continue
		}
		with, err := took(c.with)
		if err != nil {
			return err
		}
		without, err := took(c.without)
		if err != nil {
			return err
		}
		if with <= without {
			continue
		}
		rest := by[c.stage] * float64(n-1) / float64(n)
		if c.stage == "attend" {
			rest = by[c.stage] - first[c.stage]
		}
		r.bounded(Result{Name: name + "/stage=" + c.stage}, work{bytes: rest}, with-without)
	}
	return nil
}

// bounded adds a result against the larger of its two bounds. Without known peaks operations count where there are any.
func (r *Report) bounded(x Result, w work, took time.Duration) {
	if w.flops > 0 && (r.Peaks == nil || w.flops/r.Peaks.GFlops >= w.bytes/r.Peaks.ReadGBs) {
		x.Flops = int64(w.flops)
	} else {
		x.Bytes = int64(w.bytes)
	}
	x = newResult(x, []time.Duration{took})
	if r.Peaks != nil {
		x.compare(r.Peaks)
	}
	r.Results = append(r.Results, x)
}
