package engine

import (
	"maps"
	"math"
	"slices"

	"chulengo/kernels"
)

// drawer keeps the sampler of one sequence. The adjustments of logits name each id once and only ids that the request
// changes; they wait for the previous token, everything else is fixed.
type drawer struct {
	sampler  kernels.Sampler
	sampling Sampling
	at       map[int32]int // index of an id's adjustment
	said     map[int32]int // how often the answer has it; nil without penalties on the answer
}

func newDrawer(s Sampling, prompt []int32) *drawer {
	d := &drawer{sampling: s, at: map[int32]int{}, sampler: kernels.Sampler{
		Temperature: s.Temperature, TopK: int32(min(s.TopK, math.MaxInt32)), TopP: s.TopP, MinP: s.MinP, Seed: s.Seed,
	}}
	for _, id := range slices.Sorted(maps.Keys(s.LogitBias)) {
		if bias := s.LogitBias[id]; bias != 0 {
			d.adjust(id).Add = bias
		}
	}
	if s.repeats() {
		for _, id := range prompt {
			d.adjust(id).Penalty = s.RepetitionPenalty
		}
	}
	if s.repeats() || s.PresencePenalty != 0 || s.FrequencyPenalty != 0 {
		d.said = map[int32]int{}
	}
	return d
}

func (s *Sampling) repeats() bool { return s.RepetitionPenalty != 0 && s.RepetitionPenalty != 1 }

// drew counts a draw and its penalties.
func (d *drawer) drew(id int32) {
	d.sampler.Index++
	if d.said == nil {
		return
	}
	d.said[id]++
	s := &d.sampling
	a := d.adjust(id)
	if s.repeats() {
		a.Penalty = s.RepetitionPenalty
	}
	a.Add = s.LogitBias[id] - s.PresencePenalty - s.FrequencyPenalty*float32(d.said[id])
}

func (d *drawer) adjust(id int32) *kernels.Adjust {
	i, ok := d.at[id]
	if !ok {
		i = len(d.sampler.Adjust)
		d.at[id] = i
		d.sampler.Adjust = append(d.sampler.Adjust, kernels.Adjust{ID: id})
	}
	return &d.sampler.Adjust[i]
}
