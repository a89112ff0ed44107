package cpu

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"chulengo/kernels"
)

// candidate is an id that may be drawn.
type candidate struct {
	id     int32
	logit  float32 // adjusted
	weight uint64  // exp((logit - best)/T) in units of 2⁻³²
}

// before orders candidates by falling logit; the lower id comes first among equals.
func (c candidate) before(other candidate) bool {
	return c.logit > other.logit || c.logit == other.logit && c.id < other.id
}

// draw picks an id from logits [V] as kernels.Sampler says. logits are not changed.
func (d *drawer) draw(s *kernels.Sampler, logits []float32) (int32, error) {
	d.adjusted = append(d.adjusted[:0], logits...)
	x := d.adjusted
	for _, a := range s.Adjust {
		if a.ID < 0 || int(a.ID) >= len(x) {
			return 0, fmt.Errorf("sampling: want an adjusted id below %d, got %d", len(x), a.ID)
		}
		v := &x[a.ID]
		if a.Penalty != 0 {
			if *v > 0 {
				*v /= a.Penalty
			} else {
				*v *= a.Penalty
			}
		}
		*v += a.Add
	}
	if s.Mask != nil {
		if len(s.Mask)*32 < len(x) {
			return 0, fmt.Errorf("sampling: want a mask of %d bits, got %d", len(x), len(s.Mask)*32)
		}
		for id := range x {
			if s.Mask[id/32]>>(id%32)&1 == 0 {
				x[id] = float32(math.Inf(-1))
			}
		}
	}
	best, ok := largest(x)
	if !ok {
		if math.IsInf(float64(x[best]), -1) {
			return 0, errors.New("sampling: want an id that may be drawn, got none after bias and mask")
		}
		return 0, fmt.Errorf("sampling: want finite logits after penalties and bias, got %v for id %d", x[best], best)
	}
	if s.Temperature == 0 {
		return int32(best), nil
	}
	list := d.weigh(x, x[best], s.Temperature)
	if list = filter(s, list); len(list) == 0 {
		return int32(best), nil // the filters are set so tight that rounding left none: the best is always allowed
	}
	var total uint64
	for _, c := range list {
		total += c.weight
	}
	r := philox(s.Seed, s.Index)
	at, _ := bits.Mul64(uint64(r[1])<<32|uint64(r[0]), total)
	for _, c := range list {
		if at < c.weight {
			return c.id, nil
		}
		at -= c.weight
	}
	return 0, errors.New("sampling: weights do not add up") // unreachable: at < total
}

// weigh lists the ids whose weight at a temperature is not zero, in id order.
func (d *drawer) weigh(x []float32, best, temperature float32) []candidate {
	list := d.candidates[:0]
	const least = -23 // exp of less is below 2⁻³³, half a unit
	for id, v := range x {
		power := (float64(v) - float64(best)) / float64(temperature)
		if power < least {
			continue
		}
		w := math.Exp(power)
		if n := uint64(w*(1<<32) + 0.5); n > 0 {
			list = append(list, candidate{int32(id), v, n})
		}
	}
	d.candidates = list
	return list
}

// filter keeps what TopK, TopP and MinP allow, in id order.
func filter(s *kernels.Sampler, list []candidate) []candidate {
	if s.TopK > 0 && int(s.TopK) < len(list) {
		list = newHeap(list).take(func(n int, _ uint64) bool { return n < int(s.TopK) })
	}
	if s.TopP > 0 && s.TopP < 1 {
		var total uint64
		for _, c := range list {
			total += c.weight
		}
		enough := float64(s.TopP) * float64(total)
		list = newHeap(list).take(func(_ int, sum uint64) bool { return float64(sum) < enough })
	}
	if s.MinP > 0 {
		least := float64(s.MinP) * (1 << 32) // the best has weight 2³²
		list = slices.DeleteFunc(list, func(c candidate) bool { return float64(c.weight) < least })
	}
	slices.SortFunc(list, func(a, b candidate) int { return int(a.id) - int(b.id) })
	return list
}

// heap gives candidates in their order, the best first. It is seldom emptied: what the filters keep is small.
type heap []candidate

func newHeap(list []candidate) heap {
	for i := len(list)/2 - 1; i >= 0; i-- {
		heap(list).sink(i)
	}
	return list
}

// take removes candidates as long as more, told their number and the sum of their weights, says so.
func (h heap) take(more func(n int, sum uint64) bool) []candidate {
	var kept []candidate
	var sum uint64
	for len(h) > 0 && more(len(kept), sum) {
		kept = append(kept, h[0])
		sum += h[0].weight
		h[0] = h[len(h)-1]
		h = h[:len(h)-1]
		h.sink(0)
	}
	return kept
}

// sink restores the heap below i: no child comes before its parent.
func (h heap) sink(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1].before(h[child]) {
			child++
		}
		if !h[child].before(h[i]) {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

// philox is block number counter of Philox4x32-10 under a key (Salmon et al., "Parallel random numbers: as easy as 1, 2,
// 3", 2011).
func philox(key, counter uint64) [4]uint32 {
	return philoxBlock([4]uint32{uint32(counter), uint32(counter >> 32)}, [2]uint32{uint32(key), uint32(key >> 32)})
}

func philoxBlock(c [4]uint32, k [2]uint32) [4]uint32 {
	for range 10 {
		p0, p1 := 0xD2511F53*uint64(c[0]), 0xCD9E8D57*uint64(c[2])
		c = [4]uint32{uint32(p1>>32) ^ c[1] ^ k[0], uint32(p1), uint32(p0>>32) ^ c[3] ^ k[1], uint32(p0)}
		k[0] += 0x9E3779B9
		k[1] += 0xBB67AE85
	}
	return c
}
