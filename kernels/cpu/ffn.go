package cpu

import (
	"math"

	"chulengo/kernels"
	"chulengo/kernels/cpu/simd"
)

// routing is the choice of a step: an expert and a gate for every row, and the rows of each expert side by side.
type routing struct {
	expert []int
	gate   []float32
	order  []int // rows sorted by expert, stable
	from   []int // [E+1] expert e has order[from[e]:from[e+1]]
}

// Route implements kernels.Device.
func (d *Device) Route(l *kernels.MoE, xa kernels.Act) (h, r kernels.Act) {
	if d.err != nil {
		return nil, nil
	}
	x := xa.(*act)
	t := len(d.batch.Token)
	n := d.normRows(&d.work.h, x, l.Norm, l.Order, l.Eps)
	d.tapOrdered(l.Layer, kernels.HookFFNNorm, n, l.Order)
	experts := weightOf(l.Router).spec.Parts[0]
	logits := d.work.logits.resize(t, experts)
	d.part(logits, n, 0, l.Router, 0, 0)
	d.multiply()
	d.tap(l.Layer, kernels.HookRouterLogits, logits)

	index, gate := d.work.index.resize(t, 1), d.work.gate.resize(t, 1)
	for row := range t {
		best := 0
		scores := logits.row(row)
		for e, v := range scores {
			if v != v {
				d.fail("router of layer %d, row %d: want finite scores, got %v for expert %d", l.Layer, row, v, e)
				return nil, nil
			}
			if v > scores[best] {
				best = e
			}
		}
		index.data[row] = float32(best)
		gate.data[row] = float32(1 / (1 + math.Exp(-float64(scores[best]))))
	}
	d.tap(l.Layer, kernels.HookExpertIndex, index)
	d.tap(l.Layer, kernels.HookExpertGate, gate)
	if !d.work.route.group(index.data, gate.data, experts) {
		d.fail("router of layer %d: want experts below %d, got another from a tap", l.Layer, experts)
	}
	return n, &d.work.route
}

// group sorts rows by expert. It reports whether every index is one of an expert.
func (r *routing) group(index, gate []float32, experts int) bool {
	r.expert, r.order = r.expert[:0], r.order[:0]
	r.gate = append(r.gate[:0], gate...)
	r.from = append(r.from[:0], make([]int, experts+1)...)
	for _, v := range index {
		e := int(v)
		if float32(e) != v || e < 0 || e >= experts {
			return false
		}
		r.expert = append(r.expert, e)
		r.from[e+1]++
	}
	for e := range experts {
		r.from[e+1] += r.from[e]
	}
	next := append([]int(nil), r.from[:experts]...)
	r.order = append(r.order, make([]int, len(index))...)
	for row, e := range r.expert {
		r.order[next[e]] = row
		next[e]++
	}
	return true
}

// Experts implements kernels.Device. Rows are gathered by expert, so that each chosen expert's weights are read once.
func (d *Device) Experts(l *kernels.MoE, xa, ha, ra kernels.Act) {
	if d.err != nil {
		return
	}
	x, h, r := xa.(*act), ha.(*act), ra.(*routing)
	t, f := len(d.batch.Token), weightOf(l.GateUp).spec.Parts[0]

	in := d.work.expertIn.resize(t, h.width)
	d.eachRow(in, func(row int) {
		out, gate := in.row(row), r.gate[row]
		for i, v := range h.row(row) {
			out[i] = gate * v
		}
	})
	d.tapOrdered(l.Layer, kernels.HookExpertIn, in, l.Order)
	sorted := d.work.sorted.resize(t, h.width)
	d.eachRow(sorted, func(i int) { copy(sorted.row(i), in.row(r.order[i])) })

	d.roundRows(sorted, l.GateUp, r.order)
	d.roundRows(h, l.SharedGateUp, nil)
	gateUp, shared := d.work.gateUp.resize(t, 2*f), d.work.sharedGateUp.resize(t, 2*f)
	for e := range len(r.from) - 1 {
		rows := [2]int{r.from[e], r.from[e+1]}
		d.partRows(gateUp, sorted, 0, rows, l.GateUp, 0, e)
		d.partRows(gateUp, sorted, f, rows, l.GateUp, 1, e)
	}
	d.part(shared, h, 0, l.SharedGateUp, 0, 0)
	d.part(shared, h, f, l.SharedGateUp, 1, 0)
	d.multiply()
	d.swiGLU(gateUp)
	d.swiGLU(shared)

	// The first f columns of gateUp and shared are now the inputs of the down projections.
	d.roundRows(gateUp, l.Down, r.order)
	d.roundRows(shared, l.SharedDown, nil)
	sortedOut, sharedOut := d.work.sortedOut.resize(t, x.width), d.work.shared.resize(t, x.width)
	for e := range len(r.from) - 1 {
		d.partRows(sortedOut, gateUp, 0, [2]int{r.from[e], r.from[e+1]}, l.Down, 0, e)
	}
	d.part(sharedOut, shared, 0, l.SharedDown, 0, 0)
	d.multiply()

	routed := d.work.routed.resize(t, x.width)
	d.eachRow(routed, func(i int) { copy(routed.row(r.order[i]), sortedOut.row(i)) })
	d.tap(l.Layer, kernels.HookRoutedOut, routed)
	d.tap(l.Layer, kernels.HookSharedOut, sharedOut)
	d.add(sharedOut, routed)
	d.addFFN(l.Layer, x, sharedOut)
}

// FFN implements kernels.Device.
func (d *Device) FFN(l *kernels.Dense, xa kernels.Act) {
	if d.err != nil {
		return
	}
	x := xa.(*act)
	t, f := len(d.batch.Token), weightOf(l.GateUp).spec.Parts[0]
	h := d.normRows(&d.work.h, x, l.Norm, l.Order, l.Eps)
	d.tapOrdered(l.Layer, kernels.HookFFNNorm, h, l.Order)
	d.roundRows(h, l.GateUp, nil)
	gateUp := d.work.gateUp.resize(t, 2*f)
	d.part(gateUp, h, 0, l.GateUp, 0, 0)
	d.part(gateUp, h, f, l.GateUp, 1, 0)
	d.multiply()
	d.swiGLU(gateUp)
	out := d.work.out.resize(t, x.width)
	d.roundRows(gateUp, l.Down, nil)
	d.part(out, gateUp, 0, l.Down, 0, 0)
	d.multiply()
	d.addFFN(l.Layer, x, out)
}

// addFFN adds a feed-forward's output [T, D] to the residual.
func (d *Device) addFFN(layer int, x, out *act) {
	d.tap(layer, kernels.HookFFNOut, out)
	d.add(x, out)
	d.tap(layer, kernels.HookResidPost, x)
}

// swiGLU turns rows (gate, up) [T, 2F] into silu(gate)·up in their first F columns.
func (d *Device) swiGLU(a *act) {
	f := a.width / 2
	rows := len(a.data) / a.width
	const piece = 512
	pieces := (f + piece - 1) / piece
	do := func(_, i int) {
		row := a.row(i / pieces)
		from := i % pieces * piece
		to := min(from+piece, f)
		simd.SwiGLU(row[from:to], row[f+from:f+to])
	}
	const exp = 8 // as many multiplications
	d.each(rows*pieces, rows*f*exp, do)
}
