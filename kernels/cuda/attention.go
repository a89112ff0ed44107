//go:build cuda

package cuda

import (
	"math"
	"strconv"

	"chulengo/kernels"
)

// residual is the stream x [T, D] float32. In decode, what the last stage added may still be in slots.
type residual struct {
	at      ptr
	d       int
	pending [2]slots
	partial bool         // what is pending is this rank's part of it
	parts   *shareParams // what all ranks have for the prefill rows, where the next norm adds it; nil: nothing
}

// of is the address of a phase's first row.
func (x *residual) of(p *phase) ptr { return x.at + ptr(4*p.first*x.d) }

// queries is q [rows, H·Hd] bfloat16 of each phase, or how the attention of decode makes them; heads is z, likewise, as images.
type queries struct {
	at   [2]ptr
	rope ropeParams // of decode: without qkv everything is done
}
type heads struct{ at [2]image }

// normalised is the normalised rows of each phase.
type normalised struct{ at [2]image }

// Embed implements kernels.Device.
func (d *Device) Embed(table kernels.Weight) kernels.Act {
	d.stage("embed")
	if d.err != nil {
		return nil
	}
	w := d.weightOf(table)
	x := &residual{d: w.spec.K}
	if x.d%4 != 0 {
		d.fail("%s: want a width that is a multiple of 4, got %d", w.spec.Tensor(0), x.d)
		return nil
	}
	x.at = d.mem("x", 4*max(grow(len(d.batch.Token)), maxDecodeRows)*x.d)
	for i, id := range d.batch.Token {
		if id < 0 || int(id) >= w.spec.Parts[0] {
			d.fail("%s: token at row %d: want an id below %d, got %d", w.spec.Tensor(0), i, w.spec.Parts[0], id)
			return nil
		}
	}
	for _, p := range d.phases {
		if w.coded != nil {
			launch(d, "embed_coded", p.grid, 1, 0, &embedCodedParams{table: w.data, token: p.token, x: x.of(p), d: int32(x.d), tiles: int32(w.tiles), coding: w.coded.coding})
			continue
		}
		launch(d, "embed_rows", p.grid, 1, 0, &embedParams{table: w.data, token: p.token, x: x.of(p), d: int32(x.d), tiles: int32(w.tiles)})
	}
	d.show(x)
	d.tapResidual(0, kernels.HookEmbed, x)
	return x
}

// norm resolves what is pending and normalises a phase's rows, in an order [D] of columns (nil: as they are), which w has.
func (d *Device) norm(p *phase, name string, x *residual, w kernels.Weight, order []int32, eps float32) (image, normParams) {
	h := d.imageOf(p, name, p.lines, x.d)
	h.place = d.placesOf(order)
	n := normParams{
		x: x.of(p), pending: x.due(p), rows: p.decodeCount(), weight: d.weightOf(w).data, image: h.at,
		lines: int32(h.lines), d: int32(x.d), tiles: int32(h.tiles), eps: eps, place: h.place,
	}
	d.joinPeers(p, x, &n)
	if p.decode {
		n.step, n.squares, n.number = p.step, d.zeroed("decode.squares", 8*maxDecodeRows*rowGroups), uint32(d.norms)
		if d.norms++; d.norms > normsAStep {
			d.fail("a step: want at most %d norms", normsAStep)
		}
	}
	return h, n
}

// normRows normalises the rows of a phase; it first adds what is due.
func (d *Device) normRows(p *phase, x *residual, n *normParams) {
	switch slices := d.slices(p, x); {
	case slices > 0:
		launch(d, n.kernel("norm_slices"), p.grid*slices, 1, 0, n)
	case p.decode:
		launch(d, n.kernel("rms_norm"), p.grid, 1, 4*x.d, n)
	case x.parts != nil: // a multiprocessor holds one of its blocks, where it holds two of share_rows
		launch(d, n.kernel("norm_parts"), min(p.grid, max(d.group.shareBlocks(d.gpu.sms)/2, 1)), 1, 4*x.d, &normPartsParams{*n, *x.parts})
		x.parts = nil
	default:
		launch(d, n.kernel("norm_rows"), p.grid, 1, 4*x.d, n)
	}
}

// kernel is the one of a name that writes rows in the norm's order.
func (n *normParams) kernel(name string) string {
	if n.place != 0 {
		return name + "_ordered"
	}
	return name
}

// placesOf is where each column of x lies in rows that have an order, [D] int32 on the device; 0: where it is.
func (d *Device) placesOf(order []int32) ptr {
	if order == nil || d.err != nil {
		return 0
	}
	at, known := d.places[&order[0]]
	if known {
		return at
	}
	if d.gpu.capturing {
		d.fail("norm: an order that no step before this one had, while a graph is captured")
		return 0
	}
	places := make([]int32, len(order))
	for j, column := range order {
		places[column] = int32(j)
	}
	at, err := d.gpu.alloc(4 * len(places))
	if err == nil {
		err = d.gpu.copyInNow(at, bytesOf(places))
	}
	if err != nil {
		d.fail("norm: %w", err)
		return 0
	}
	d.places[&order[0]] = at
	return at
}

const (
	routeSlice = 640     // columns of a row that one block norms: ROUTE_SLICE of route.cuh
	rowGroups  = 128     // MAX_GROUPS of norm.cuh
	normsAStep = 1 << 13 // NORMS_A_STEP
	maxParts   = 4096    // slices of a row times experts: they lie in shared memory
)

// slices is how many blocks norm a decode row together (slice.cuh); 0: one has the row for itself. Blocks that wait for each other must all be
// on the GPU, so there is room for few rows; with many, rows keep the GPU busy anyway.
func (d *Device) slices(p *phase, x *residual) int {
	n := ceil(x.d, routeSlice)
	if !p.decode || n > 1 && (!d.gpu.Cooperative || n*p.grid > d.gpu.sms || d.group != nil && d.group.same) {
		return 0
	}
	return n
}

// due is what is pending for a phase: prefill adds at once.
func (x *residual) due(p *phase) [2]slots {
	if p.decode {
		return x.pending
	}
	return [2]slots{}
}

// settle says that nothing is pending.
func (x *residual) settle() { x.pending, x.partial = [2]slots{}, false }

// leave leaves a stage's sums for the next norm.
func (d *Device) leave(x *residual, sums ...slots) {
	x.settle()
	copy(x.pending[:], sums)
	x.partial = d.group != nil
}

// decodeCount is the device's number of rows where the grid may have more.
func (p *phase) decodeCount() ptr {
	if p.decode {
		return p.count
	}
	return 0
}

// AttnIn implements kernels.Device.
func (d *Device) AttnIn(l *kernels.Attn, xa kernels.Act) kernels.Act {
	d.stage("attn_in")
	if d.err != nil {
		return nil
	}
	l = d.ownHeads(l)
	x := xa.(*residual)
	d.tapResidual(l.Layer, kernels.HookResidPre, x)
	q := &queries{}
	w := d.weightOf(l.QKV)
	for i, p := range d.phases {
		h, n := d.norm(p, "h", x, l.Norm, l.Order, l.Eps)
		if p.decode {
			n.arrivals, n.arrivalsLd = d.arrivals(), int32(l.KVHeads)
		}
		d.normRows(p, x, &n)
		d.tapImage(p, l.Layer, kernels.HookAttnNorm, h, x.d)

		var qkv slots
		if p.decode {
			qkv = d.partial(p, "qkv", w, h)
		} else {
			out := d.floats(p, "qkv", p.rows, w.rows)
			d.gemm("store", w, h, p.rows, gemmParams{out: out, ld: int32(w.rows)})
			qkv = slots{values: out, count: 1, ld: int32(w.rows)}
		}
		if d.open {
			qkv = d.resolve(p, "qkv.open", qkv, w.rows)
			for part, hook := range []kernels.Hook{kernels.HookQ, kernels.HookK, kernels.HookV} {
				d.tapFloats(p, l.Layer, hook, qkv.values+ptr(4*w.first[part]), w.rows, w.spec.Parts[part])
			}
		}
		q.at[i] = d.mem(p.name+"q", 2*d.capacity(p)*l.Heads*l.HeadDim)
		rope := d.ropeOf(p, l, w, qkv, q.at[i])
		if p.decode && d.kv.tiled && !d.open {
			q.rope = rope
			continue
		}
		d.ropeAppend(p, l, rope)
	}
	x.settle()
	return q
}

// capacity is the rows that a phase's buffers have room for.
func (d *Device) capacity(p *phase) int {
	if p.decode {
		return maxDecodeRows
	}
	return grow(p.rows)
}

// arrivals counts the splits of decode attention that are done, [rows][KvH] uint32. The layer's first norm sets it to 0.
func (d *Device) arrivals() ptr { return d.mem("decode.arrivals", 4*maxDecodeRows*d.kv.spec.KVHeads) }

// ropeOf describes how q, and k and v in their pages, are made from the sums of the projections.
func (d *Device) ropeOf(p *phase, l *kernels.Attn, w *weight, qkv slots, q ptr) ropeParams {
	params := ropeParams{
		qkv: qkv, slot: p.group[l.Group].slot, rows: p.decodeCount(), q: q,
		pages: d.kv.data[l.Group], pageStride: d.kv.pageStride(l.Group), layerAt: d.kv.layerAt(l.Slot),
		eps: l.Eps, heads: int32(l.Heads), kvHeads: int32(l.KVHeads), headDim: int32(l.HeadDim), pageTokens: int32(d.kv.spec.PageTokens),
		kAt: int32(w.first[1]), vAt: int32(w.first[2]), tiled: d.kv.layout(),
	}
	if d.kv.coded() {
		params.coded = 1
	}
	if l.QKNorm {
		params.qkNorm = 1
	}
	if l.Temp != nil && l.Temp.Floor > 0 {
		params.temper = d.temper(p, *l.Temp)
	}
	if l.RoPE != nil {
		params.table = d.ropeTable(p, l.RoPE)
	}
	return params
}

// ropeAppend does it in launches of its own.
func (d *Device) ropeAppend(p *phase, l *kernels.Attn, params ropeParams) {
	run := func(steps int32) {
		params.steps = steps
		if p.decode {
			launch(d, "rope_append", p.grid, ceil(l.Heads+2*l.KVHeads, 4), 0, &params)
		} else {
			launch(d, "rope_append_rows", p.grid, 1, 0, &params)
		}
	}
	if !d.open {
		run(ropeRotate | ropeAppend)
		return
	}
	width := l.KVHeads * l.HeadDim
	params.k, params.v = d.mem(p.name+"k", 4*d.capacity(p)*width), d.mem(p.name+"v", 4*d.capacity(p)*width)
	run(ropeRotate)
	d.tapBF16(p, l.Layer, kernels.HookRotQ, params.q, l.Heads*l.HeadDim)
	d.tapFloats(p, l.Layer, kernels.HookRotK, params.k, width, width)
	run(ropeAppend)
}

// ropeTable is the step's cos and sin, computed when the first layer asks.
func (d *Device) ropeTable(p *phase, frequencies []float64) ptr {
	half := len(frequencies)
	at := d.mem(p.name+"rope", 8*d.capacity(p)*half)
	if d.rope[p.index()] == &frequencies[0] {
		return at
	}
	d.rope[p.index()] = &frequencies[0]
	turns, known := d.ropes[&frequencies[0]]
	if !known {
		if d.gpu.capturing {
			d.fail("rope: frequencies that no step before this one had, while a graph is captured")
			return 0
		}
		values := make([]float64, half)
		for i, f := range frequencies {
			values[i] = f / math.Pi
		}
		var err error
		if turns, err = d.gpu.alloc(8 * half); err == nil {
			err = d.gpu.copyInNow(turns, bytesOf(values))
		}
		if err != nil {
			d.fail("rope: %w", err)
			return 0
		}
		d.ropes[&frequencies[0]] = turns
	}
	launch(d, "rope_table", p.grid, 1, 0, &ropeTableParams{turns: turns, pos: p.pos, table: at, half: int32(half)})
	return at
}

// temper is what the step's queries are scaled with in layers of this temperature, computed when the first layer asks.
func (d *Device) temper(p *phase, t kernels.Temperature) ptr {
	at, rows := d.mem(p.name+"temper", 4*d.capacity(p)), p.grid
	if d.tempers[p.index()] == t {
		return at
	}
	d.tempers[p.index()] = t
	launch(d, "rope_temper", ceil(rows, 128), 1, 0, &temperParams{pos: p.pos, temper: at, scale: t.Scale, floor: t.Floor, rows: int32(rows)})
	return at
}

// index is 0 for decode, 1 for prefill.
func (p *phase) index() int {
	if p.decode {
		return 0
	}
	return 1
}

// headSize is the smallest compiled head that holds the model's.
func headSize(hd int) int {
	for _, n := range []int{32, 64} {
		if hd <= n {
			return n
		}
	}
	return 128
}

// Attend implements kernels.Device.
func (d *Device) Attend(l *kernels.Attn, qa kernels.Act) kernels.Act {
	d.stage("attend")
	if d.err != nil {
		return nil
	}
	l = d.ownHeads(l)
	q, z := qa.(*queries), &heads{}
	hd := headSize(l.HeadDim)
	if group := l.Heads / l.KVHeads; group > 16 {
		d.fail("attention of layer %d: want at most 16 query heads for a key/value head, got %d", l.Layer, group)
		return nil
	}
	scale := float32(math.Log2E / math.Sqrt(float64(l.HeadDim)))
	for i, p := range d.phases {
		g := &p.group[l.Group]
		z.at[i] = d.imageOf(p, "z", p.lines, l.Heads*l.HeadDim)
		pages := d.kv.pages(l, g.table)
		if p.decode {
			d.attendDecode(p, l, pages, q.at[i], q.rope, z.at[i], scale, hd)
		} else {
			params := prefillParams{pages: pages, q: q.at[i], tiles: g.queryTiles, z: z.at[i].at, scale: scale,
				heads: int32(l.Heads), lines: int32(z.at[i].lines), tilesAlong: int32(z.at[i].tiles), tileCount: int32(g.tiles)}
			if d.kv.tiled {
				launch(d, d.kv.attend("prefill", "90"), min(g.tiles*l.Heads, d.gpu.sms), 1, fastPrefillShared, &params)
			} else {
				launch(d, d.kv.attend("prefill", strconv.Itoa(hd)), g.tiles, l.Heads, prefillShared(hd, d.kv.spec.Format.Size()), &params)
			}
		}
		d.tapImage(p, l.Layer, kernels.HookZ, z.at[i], l.Heads*l.HeadDim)
	}
	return z
}

// attendDecode is Attend for decode rows.
func (d *Device) attendDecode(p *phase, l *kernels.Attn, pages pagesParams, q ptr, rope ropeParams, z image, scale float32, hd int) {
	g := &p.group[l.Group]
	splits := d.decodeSplits
	params := decodeParams{
		pages: pages, q: q, list: g.list, length: g.length, firstSplit: g.firstSplit, firstRound: g.firstRound, rows: p.count,
		out: d.mem("decode.splits", 4*splits*l.Heads*l.HeadDim), norm: d.mem("decode.splitNorms", 8*splits*l.Heads), z: z.at,
		scale: scale, heads: int32(l.Heads), lines: int32(z.lines), tilesAlong: int32(z.tiles),
	}
	if d.kv.tiled {
		launch(d, d.kv.attend("decode", "90"), 2*d.gpu.sms, 1, fastDecodeShared,
			&fusedDecodeParams{attend: params, rope: rope, arrived: d.arrivals(), arrivedLd: int32(l.KVHeads)})
		return
	}
	launch(d, d.kv.attend("decode", strconv.Itoa(hd)), 2*d.gpu.sms, 1, decodeShared(hd, d.kv.spec.Format.Size()), &params)
	launch(d, "attend_combine", p.grid, l.Heads, 0, &params)
}

// AttnOut implements kernels.Device.
func (d *Device) AttnOut(l *kernels.Attn, xa, za kernels.Act) {
	d.stage("attn_out")
	if d.err != nil {
		return
	}
	x, z, w := xa.(*residual), za.(*heads), d.weightOf(l.Out)
	for i, p := range d.phases {
		if p.decode {
			d.leave(x, d.partial(p, "out", w, z.at[i]))
			if d.open {
				x.pending[0] = d.total(p, x, "out.open", x.pending[0], w.rows)
				d.tapFloats(p, l.Layer, kernels.HookAttnOut, x.pending[0].values, w.rows, x.d)
			}
			continue
		}
		d.addProduct(p, x, w, z.at[i], func(out ptr) { d.tapFloats(p, l.Layer, kernels.HookAttnOut, out, w.rows, x.d) })
	}
	d.tapResidual(l.Layer, kernels.HookResidMid, x)
}

// addProduct is x += a·Wᵀ for prefill rows. The product is written out first where taps look at it, or where the residual's
// rows have no room for its padding.
func (d *Device) addProduct(p *phase, x *residual, w *weight, a image, tap func(out ptr)) {
	if d.group != nil {
		d.gemm("store", w, a, p.rows, gemmParams{out: d.ownPart(), ld: int32(w.rows)})
		if !d.open {
			d.shareInto(p, x, w.rows)
			return
		}
		out := d.floats(p, "out", p.rows, w.rows)
		d.share(p, shareParams{out: out, outLd: int32(w.rows), ld: int32(w.rows), width: int32(w.rows)})
		tap(out)
		d.addRows(p, x, out, w.rows)
		return
	}
	if d.apart(x, w) {
		out := d.floats(p, "out", p.rows, w.rows)
		d.gemm("store", w, a, p.rows, gemmParams{out: out, ld: int32(w.rows)})
		tap(out)
		d.addRows(p, x, out, w.rows)
		return
	}
	d.gemm("add", w, a, p.rows, gemmParams{out: x.of(p), ld: int32(x.d)})
}

// apart says that a prefill product cannot be added to the residual as it is made.
func (d *Device) apart(x *residual, w *weight) bool { return d.open || w.rows != x.d }

// addRows is x += out [rows, ld] for prefill rows.
func (d *Device) addRows(p *phase, x *residual, out ptr, ld int) {
	launch(d, "rms_norm", p.grid, 1, 4*x.d, &normParams{x: x.of(p), pending: [2]slots{{values: out, count: 1, ld: int32(ld)}}, d: int32(x.d)})
}

// resolve writes the sum of slots out.
func (d *Device) resolve(p *phase, name string, s slots, width int) slots {
	return d.resolveTo(p, d.floats(p, name, p.rows, width), s, width)
}

func (d *Device) resolveTo(p *phase, out ptr, s slots, width int) slots {
	launch(d, "sum_slots", p.grid, 1, 0, &sumParams{slots: s, out: out, rows: p.decodeCount(), ld: int32(width), width: int32(width)})
	return slots{values: out, count: 1, ld: int32(width)}
}
