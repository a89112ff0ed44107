package engine

import (
	"slices"
	"time"

	"chulengo/kernels"
)

// experts counts the tokens that every expert was given: the device does, or taps on the choice of expert.
type experts struct {
	device kernels.ExpertCounter // nil: taps
	asked  time.Time             // when it last told
	stale  bool                  // there were steps since

	layers []int      // those with experts
	counts [][]uint64 // [layer][expert]; nil: nobody wants to know
	rows   []int32    // every row of the step
	values [][]float32
}

// find looks for the layers with experts.
func (x *experts) find(s *Spec) {
	layers := 0
	for _, n := range s.KV.Layers {
		layers += n
	}
	x.counts = make([][]uint64, layers)
	for l := range layers {
		if s.Columns == nil || s.Experts == 0 {
			continue
		}
		if _, err := s.Columns(kernels.Point{Layer: l, Hook: kernels.HookExpertIndex}); err == nil {
			x.layers = append(x.layers, l)
			x.counts[l] = make([]uint64, s.Experts)
		}
	}
	x.values = make([][]float32, len(x.layers))
}

// expertInterval is how often a device is asked while there is work; it costs a copy.
const expertInterval = time.Second

// askExperts reads the counts of a device that counts by itself, when it is time or (idle) when there is nothing else to do. The
// engine's goroutine calls it between steps, without the lock. Counts that cannot be read stay as they are: the step that
// follows will fail and say why.
func (e *Engine) askExperts(idle bool) {
	x := &e.experts
	if x.device == nil || !x.stale || !idle && time.Since(x.asked) < expertInterval {
		return
	}
	x.asked, x.stale = time.Now(), false
	counts, err := x.device.ExpertRows()
	if err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for l, n := range counts {
		if l < len(x.counts) && x.counts[l] != nil {
			copy(x.counts[l], n)
		}
	}
}

// tap appends the taps of a step.
func (x *experts) tap(b *kernels.Batch) {
	if x.device != nil {
		x.stale = true
		return
	}
	if len(x.layers) == 0 {
		return
	}
	n := len(b.Token)
	for len(x.rows) < n {
		x.rows = append(x.rows, int32(len(x.rows)))
	}
	for i, l := range x.layers {
		if cap(x.values[i]) < n {
			x.values[i] = make([]float32, n)
		}
		x.values[i] = x.values[i][:n]
		b.Taps = append(b.Taps, kernels.Tap{At: kernels.Point{Layer: l, Hook: kernels.HookExpertIndex}, Rows: x.rows[:n], Op: kernels.Capture, Buf: x.values[i]})
	}
}

// count adds what the taps saw; the engine's lock is held.
func (x *experts) count() {
	if x.device != nil {
		return
	}
	for i, l := range x.layers {
		for _, v := range x.values[i] {
			if e := int(v); e >= 0 && e < len(x.counts[l]) {
				x.counts[l][e]++
			}
		}
	}
}

// snapshot copies the counts; the engine's lock is held.
func (x *experts) snapshot() [][]uint64 {
	if x.counts == nil {
		return nil
	}
	c := make([][]uint64, len(x.counts))
	for l, n := range x.counts {
		c[l] = slices.Clone(n)
	}
	return c
}
