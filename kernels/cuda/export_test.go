//go:build cuda

package cuda

import (
	"math"

	"chulengo/kernels"
)

// Poison makes one matrix NaN on the device, behind the back of Seal.
func Poison(h kernels.Weight, part, expert int) {
	w := h.(*weight)
	defer w.dev.gpu.enter()()
	at := w.data + ptr(uint64(expert)*w.expertBytes())
	if part == 0 {
		w.dev.gpu.keep(w.dev.gpu.main.Fill(at, 0xff, int(w.expertBytes())))
	}
	if err := w.dev.gpu.sync(); err != nil {
		panic(err)
	}
}

// Delay has f called before every rank's part of a step.
func (g *Group) Delay(f func(rank int)) { g.delay = f }

// LastEpochs sets the numbers of exchanges so that they come around after n more steps.
func (g *Group) LastEpochs(n int) { g.steps = math.MaxUint32/meetingsAStep - uint32(n) }

// Residuals are the bytes of the ranks' residual streams after a step of so many rows.
func (g *Group) Residuals(rows int) (all [][]byte, err error) {
	for _, d := range g.ranks {
		leave := d.gpu.enter()
		x := make([]byte, 4*rows*g.width)
		err := d.gpu.copyOutNow(x, d.mem("x", len(x)))
		leave()
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}
