package cpu

import (
	"math"

	"chulengo/kernels"
	"chulengo/kernels/cpu/simd"
)

// Embed implements kernels.Device.
func (d *Device) Embed(table kernels.Weight) kernels.Act {
	if d.err != nil {
		return nil
	}
	w := weightOf(table)
	m := w.parts[0][0]
	x := d.work.x.resize(len(d.batch.Token), m.K)
	for i, id := range d.batch.Token {
		if id < 0 || int(id) >= m.N {
			d.fail("%s: token at row %d: want an id below %d, got %d", w.spec.Tensor(0), i, m.N, id)
			return nil
		}
	}
	d.eachRow(x, func(i int) {
		readRow(x.row(i), &m, int(d.batch.Token[i]))
	})
	for _, p := range d.batch.Pictures {
		from := p.Picture.(*seen)
		if from.act.width != x.width {
			d.fail("picture at row %d: want rows of %d values, got %d", p.Row, x.width, from.act.width)
			return nil
		}
		for i := range int(p.Rows) {
			copy(x.row(int(p.Row)+i), from.act.row(int(p.From)+i))
		}
	}
	d.tap(0, kernels.HookEmbed, x)
	return x
}

// AttnIn implements kernels.Device.
func (d *Device) AttnIn(l *kernels.Attn, xa kernels.Act) kernels.Act {
	if d.err != nil {
		return nil
	}
	x := xa.(*act)
	d.tap(l.Layer, kernels.HookResidPre, x)
	n := d.normRows(&d.work.norm, x, l.Norm, l.Order, l.Eps)
	d.tapOrdered(l.Layer, kernels.HookAttnNorm, n, l.Order)

	t := len(d.batch.Token)
	q := d.work.q.resize(t, l.Heads*l.HeadDim)
	k := d.work.k.resize(t, l.KVHeads*l.HeadDim)
	v := d.work.v.resize(t, l.KVHeads*l.HeadDim)
	d.roundRows(n, l.QKV, nil)
	d.part(q, n, 0, l.QKV, 0, 0)
	d.part(k, n, 0, l.QKV, 1, 0)
	d.part(v, n, 0, l.QKV, 2, 0)
	d.multiply()
	d.tap(l.Layer, kernels.HookQ, q)
	d.tap(l.Layer, kernels.HookK, k)
	d.tap(l.Layer, kernels.HookV, v)

	if l.RoPE != nil {
		d.work.rope.prepare(d, l.RoPE)
	}
	d.each(t, t*(q.width+k.width), func(_, row int) {
		for _, x := range [2][]float32{q.row(row), k.row(row)} {
			for ; len(x) > 0; x = x[l.HeadDim:] {
				head := x[:l.HeadDim]
				if l.RoPE != nil {
					d.work.rope.rotate(head, row)
				}
				if l.QKNorm {
					rmsNorm(head, head, nil, l.Eps)
				}
			}
		}
		if l.Temp != nil {
			scale := float32(1 + l.Temp.Scale*math.Log(math.Floor(float64(d.batch.Pos[row]+1)/l.Temp.Floor)+1))
			for i := range q.row(row) {
				q.row(row)[i] *= scale
			}
		}
	})
	d.tap(l.Layer, kernels.HookRotQ, q)
	d.tap(l.Layer, kernels.HookRotK, k)

	for i := range d.batch.Spans[l.Group] {
		s := &d.batch.Spans[l.Group][i]
		for row := s.Row; row < s.Row+s.Rows; row++ {
			slot := int(d.batch.Pos[row] - s.Base)
			for h := range l.KVHeads {
				d.kv.write(l.Group, s, slot, l.Slot, 0, h, k.row(int(row))[h*l.HeadDim:][:l.HeadDim])
				d.kv.write(l.Group, s, slot, l.Slot, 1, h, v.row(int(row))[h*l.HeadDim:][:l.HeadDim])
			}
		}
	}
	return q
}

// Attend implements kernels.Device. One unit of work is a row and a key/value head: the query heads that share it read
// each key and value once. Scores, weights and sums run over the slots in their order, whatever pages they lie in.
func (d *Device) Attend(l *kernels.Attn, qa kernels.Act) kernels.Act {
	if d.err != nil {
		return nil
	}
	q := qa.(*act)
	z := d.work.z.resize(len(d.batch.Token), l.Heads*l.HeadDim)
	t, spans := len(d.batch.Token), d.batch.Spans[l.Group]
	spanOf, slots := d.work.spanOf[:0], 0 // slots that all rows see together
	for i := range spans {
		for row := spans[i].Row; row < spans[i].Row+spans[i].Rows; row++ {
			spanOf = append(spanOf, int32(i))
			slots += int(d.batch.Pos[row]-spans[i].Base) + 1
		}
	}
	d.work.spanOf = spanOf
	d.each(t*l.KVHeads, 2*slots*l.Heads*l.HeadDim, func(worker, unit int) {
		// Late rows of a prompt see the most: they go first, so that no thread is left with them at the end.
		row, head := t-1-unit/l.KVHeads, unit%l.KVHeads
		s := &spans[spanOf[row]]
		d.attendRow(worker, l, s, head, int(d.batch.Pos[row]-s.Base)+1, q.row(row), z.row(row))
	})
	d.tap(l.Layer, kernels.HookZ, z)
	return z
}

// attendRow is softmax(q·Kᵀ/√Hd)·V over n slots for the query heads of one key/value head; q and z are [H, Hd].
func (d *Device) attendRow(worker int, l *kernels.Attn, s *kernels.Span, kvHead, n int, q, z []float32) {
	group, hd := l.Heads/l.KVHeads, l.HeadDim
	if len(d.work.scores[worker]) < group*n {
		d.work.scores[worker] = make([]float32, group*(n+n/2))
	}
	scores := d.work.scores[worker]
	perPage := d.kv.spec.PageTokens
	scratch := d.scratch(worker, perPage*hd)
	scale := float32(1 / math.Sqrt(float64(hd)))
	first := kvHead * group * hd
	for at := 0; at < n; at += perPage {
		m := min(perPage, n-at)
		keys := d.kv.read(l.Group, s.Pages[at/perPage], l.Slot, 0, kvHead, m, scratch)
		for g := range group {
			query := q[first+g*hd:][:hd]
			row := scores[g*n+at:][:m]
			simd.DotRows(row, query, keys, hd)
			for i := range row {
				row[i] *= scale
			}
		}
	}
	clear(z[first:][:group*hd])
	var total [64]float32
	sums := total[:]
	if group > len(total) {
		sums = make([]float32, group)
	}
	for g := range group {
		sums[g] = softmaxWeights(scores[g*n:][:n])
	}
	for at := 0; at < n; at += perPage {
		m := min(perPage, n-at)
		values := d.kv.read(l.Group, s.Pages[at/perPage], l.Slot, 1, kvHead, m, scratch)
		for g := range group {
			simd.AddScaledRows(z[first+g*hd:][:hd], scores[g*n+at:][:m], values, hd)
		}
	}
	for g := range group {
		inverse := 1 / sums[g]
		for i := range hd {
			z[first+g*hd+i] *= inverse
		}
	}
}

// softmaxWeights replaces scores by exp(score - largest) and returns their sum.
func softmaxWeights(x []float32) float32 {
	largest := float32(math.Inf(-1))
	for _, v := range x {
		largest = max(largest, v)
	}
	var sum float64
	for i, v := range x {
		x[i] = float32(math.Exp(float64(v - largest)))
		sum += float64(x[i])
	}
	return float32(sum)
}

// AttnOut implements kernels.Device.
func (d *Device) AttnOut(l *kernels.Attn, xa, za kernels.Act) {
	if d.err != nil {
		return
	}
	x, z := xa.(*act), za.(*act)
	o := d.work.out.resize(len(d.batch.Token), x.width)
	d.roundRows(z, l.Out, nil)
	d.part(o, z, 0, l.Out, 0, 0)
	d.multiply()
	d.tap(l.Layer, kernels.HookAttnOut, o)
	d.add(x, o)
	d.tap(l.Layer, kernels.HookResidMid, x)
}

// normRows is the RMS norm of every row of x, in an order [D] (nil: as it is), times the weight, which has that order.
func (d *Device) normRows(into, x *act, w kernels.Weight, order []int32, eps float32) *act {
	n := into.resize(len(x.data)/x.width, x.width)
	g := weightOf(w).vector
	d.eachRow(x, func(i int) {
		y, from := n.row(i), x.row(i)
		if order != nil {
			for j, k := range order {
				y[j] = from[k]
			}
			from = y
		}
		rmsNorm(y, from, g, eps)
	})
	return n
}

// rmsNorm is y = x/√(mean(x²)+eps)·g; without g the factor is 1. y may be x.
func rmsNorm(y, x, g []float32, eps float32) {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	r := float32(1 / math.Sqrt(sum/float64(len(x))+float64(eps)))
	if g == nil {
		for i, v := range x {
			y[i] = v * r
		}
		return
	}
	for i, v := range x {
		y[i] = v * r * g[i]
	}
}

// ropeTable holds cos and sin of every row's angles for one step, [T, Hd/2]: they are the same on every layer.
type ropeTable struct {
	of       *float64 // the frequencies it was made from; nil: none in this step
	cos, sin act
}

func (r *ropeTable) prepare(d *Device, frequencies []float64) {
	if r.of == &frequencies[0] {
		return
	}
	r.of = &frequencies[0]
	t := len(d.batch.Token)
	r.cos.resize(t, len(frequencies))
	r.sin.resize(t, len(frequencies))
	const sincos = 32 // as many multiplications
	d.each(t, t*len(frequencies)*sincos, func(_, row int) {
		for i, f := range frequencies {
			sin, cos := math.Sincos(float64(d.batch.Pos[row]) * f)
			r.sin.row(row)[i], r.cos.row(row)[i] = float32(sin), float32(cos)
		}
	})
}

// rotate turns the adjacent pairs of x [Hd] by the angles of a row.
func (r *ropeTable) rotate(x []float32, row int) { turn(x, r.cos.row(row), r.sin.row(row)) }

// turn rotates the adjacent pairs of x.
func turn(x, cos, sin []float32) {
	for i := range cos {
		a, b := x[2*i], x[2*i+1]
		x[2*i], x[2*i+1] = a*cos[i]-b*sin[i], a*sin[i]+b*cos[i]
	}
}
