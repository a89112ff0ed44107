//go:build cuda

package cuda

import (
	"fmt"

	"chulengo/kernels"
)

// routing is the choice of a step.
type routing struct{ at [2]routed }

// routed is one phase's: the expert and the gate of every row, and gate·h.
type routed struct {
	expert, gate ptr
	normed       ptr   // decode: counts the blocks whose part of a row is normed, before the router has chosen;
	normers      int   // there are so many of them
	scaled       image // decode: by row; prefill: by place
}

// Route implements kernels.Device.
func (d *Device) Route(l *kernels.MoE, xa kernels.Act) (kernels.Act, kernels.Act) {
	d.stage("route")
	if d.err != nil {
		return nil, nil
	}
	x, router := xa.(*residual), d.weightOf(l.Router)
	h, r := &normalised{}, &routing{}
	experts := router.spec.Parts[0]
	if experts > 1024 {
		d.fail("router of layer %d: want at most 1024 experts, got %d", l.Layer, experts)
		return nil, nil
	}
	for i, p := range d.phases {
		to := &r.at[i]
		to.expert, to.gate = d.mem(p.name+"expert", 4*d.capacity(p)), d.mem(p.name+"gate", 4*d.capacity(p))
		params := routeParams{router: router.data, logits: d.floats(p, "router", p.rows, router.rows), expert: to.expert, gate: to.gate,
			counts: d.expertCounts(l.Layer, experts), status: d.status(), count: int32(p.rows), experts: int32(experts), ld: int32(router.rows)}
		h.at[i], params.norm = d.norm(p, "h", x, l.Norm, l.Order, l.Eps)
		if p.decode {
			to.scaled = d.imageOf(p, "scaled", p.lines, x.d)
			to.scaled.place = h.at[i].place
			if d.readsDigits(l.SharedGateUp, h.at[i]) {
				h.at[i] = d.digitsOf(p, "h", p.lines, x.d)
				params.norm.image, params.norm.digits = h.at[i].at, 1
			}
			if d.readsDigits(l.GateUp, to.scaled) {
				to.scaled = d.digitsOf(p, "scaled", p.lines, x.d)
				params.digits = 1
			}
			if !d.open {
				to.normed = d.counter()
				params.normed, to.normers = to.normed, p.grid*max(d.routeSlices(p, x, experts, h.at[i]), 1)
			}
			params.scaled = to.scaled.at
			d.routeDecode(p, l, x, h.at[i], params)
		} else {
			d.routePrefill(p, l, x, h.at[i], router, params)
		}
	}
	x.settle()
	return h, r
}

// readsDigits says that the router's kernels may write digits of the rows h, which a weight of INT4 multiplies. Taps see bfloat16.
func (d *Device) readsDigits(w kernels.Weight, h image) bool {
	coded := d.weightOf(w).coded
	return coded != nil && coded.name == "int4" && !d.open && h.place == 0
}

// expertCounts is where a layer's router counts; it stays as long as the device.
func (d *Device) expertCounts(layer, experts int) ptr {
	if c, ok := d.counts[layer]; ok && c.experts == experts || d.err != nil {
		return c.at
	}
	if d.gpu.capturing {
		d.fail("router of layer %d: a graph is captured before the layer has run", layer)
		return 0
	}
	at, err := d.gpu.alloc(8 * experts)
	if err != nil {
		d.fail("router of layer %d: %w", layer, err)
		return 0
	}
	d.gpu.zero(at, 8*experts)
	d.counts[layer] = expertCount{at, experts}
	return at
}

// ExpertRows implements kernels.ExpertCounter.
func (d *Device) ExpertRows() ([][]uint64, error) {
	defer d.gpu.enter()()
	var rows [][]uint64
	for layer, c := range d.counts {
		for len(rows) <= layer {
			rows = append(rows, nil)
		}
		rows[layer] = make([]uint64, c.experts)
		d.gpu.copyOut(bytesOf(rows[layer]), c.at)
	}
	if err := d.gpu.sync(); err != nil {
		return nil, fmt.Errorf("kernels/cuda: counts of experts: %w", err)
	}
	return rows, nil
}

// routeSlices is how many blocks route a decode row together; 0: one has the row for itself, as it must where taps look in between, and where
// a block's columns of x lie all over the row h.
func (d *Device) routeSlices(p *phase, x *residual, experts int, h image) int {
	if n := d.slices(p, x); !d.open && h.place == 0 && n*experts <= maxParts {
		return n
	}
	return 0
}

// routeDecode: everything in one launch, except where taps look in between.
func (d *Device) routeDecode(p *phase, l *kernels.MoE, x *residual, h image, params routeParams) {
	if n := d.routeSlices(p, x, int(params.experts), h); n > 0 {
		params.steps, params.parts = routeNorm|routeLogits|routeChoose|routeScale, d.zeroed("decode.parts", 8*maxDecodeRows*n*int(params.experts))
		launch(d, "route_slices", p.grid*n, 1, 4*n*int(params.experts), &params)
		return
	}
	step := func(steps int32) {
		params.steps = steps
		launch(d, params.norm.kernel("route_rows"), p.grid, 1, 4*x.d+lineBytes*h.tiles, &params)
	}
	if !d.open {
		step(routeNorm | routeLogits | routeChoose | routeScale)
		return
	}
	step(routeNorm)
	d.tapImage(p, l.Layer, kernels.HookFFNNorm, h, x.d)
	step(routeLogits)
	d.tapFloats(p, l.Layer, kernels.HookRouterLogits, params.logits, int(params.ld), int(params.experts))
	step(routeChoose)
	d.tapInts(p, l.Layer, kernels.HookExpertIndex, params.expert)
	d.tapFloats(p, l.Layer, kernels.HookExpertGate, params.gate, 1, 1)
	step(routeScale)
}

// routePrefill: the router is a product like any other.
func (d *Device) routePrefill(p *phase, l *kernels.MoE, x *residual, h image, router *weight, params routeParams) {
	d.normRows(p, x, &params.norm)
	d.tapImage(p, l.Layer, kernels.HookFFNNorm, h, x.d)
	d.gemm("store", router, h, p.rows, gemmParams{out: params.logits, ld: params.ld})
	d.tapFloats(p, l.Layer, kernels.HookRouterLogits, params.logits, int(params.ld), int(params.experts))
	params.steps = routeChoose
	launch(d, "choose_rows", ceil(p.rows, 8), 1, 0, &params)
	if !d.open {
		return
	}
	d.tapInts(p, l.Layer, kernels.HookExpertIndex, params.expert)
	d.tapFloats(p, l.Layer, kernels.HookExpertGate, params.gate, 1, 1)
	params.steps = routeScale // checks what the taps left
	launch(d, "choose_rows", ceil(p.rows, 8), 1, 0, &params)
}

// Experts implements kernels.Device.
func (d *Device) Experts(l *kernels.MoE, xa, ha, ra kernels.Act) {
	d.stage("experts")
	if d.err != nil {
		return
	}
	x, h, r := xa.(*residual), ha.(*normalised), ra.(*routing)
	for i, p := range d.phases {
		if p.decode {
			d.decodeExperts(p, l, x, h.at[i], r.at[i])
		} else {
			d.prefillExperts(p, l, x, h.at[i], r.at[i])
		}
	}
	d.tapResidual(l.Layer, kernels.HookResidPost, x)
}

// decodeExperts: the shared expert on all rows and every chosen expert on its own, in one launch for each half.
func (d *Device) decodeExperts(p *phase, l *kernels.MoE, x *residual, h image, r routed) {
	d.tapImage(p, l.Layer, kernels.HookExpertIn, r.scaled, x.d)
	shared, gateUp := d.weightOf(l.SharedGateUp), d.weightOf(l.GateUp)
	sharedIn := d.imageOf(p, "shared", p.lines, shared.spec.Parts[0])
	routedIn := d.imageOf(p, "routed", p.lines, gateUp.spec.Parts[0])
	up := streamParams{expert: r.expert, denseOut: sharedIn.at, routedOut: routedIn.at, features: int32(sharedIn.tiles * tile)}
	if alike(shared, gateUp) {
		if !d.open { // the shared expert begins beside the router
			up.ready, up.readyCount = r.normed, int32(r.normers)
		}
		d.stream(p, true, shared, gateUp, h, r.scaled, up)
	} else {
		d.stream(p, true, shared, nil, h, image{}, up)
		up.features = int32(routedIn.tiles * tile)
		d.stream(p, true, nil, gateUp, r.scaled, r.scaled, up)
	}

	sharedDown, down := d.weightOf(l.SharedDown), d.weightOf(l.Down)
	launched := 1
	if alike(sharedDown, down) {
		launched = 2
	}
	d.manyDigits(p, reader{"shared", &sharedIn, l.SharedDown}, reader{"routed", &routedIn, l.Down})
	lines := uint64(streamWidth(p.lines))
	out := func(name string, w *weight) slots {
		n := d.splits(w, launched)
		return slots{values: d.floats(p, name, 0, n*w.rows), stride: lines * uint64(w.rows), count: int32(n), ld: int32(w.rows)}
	}
	a, b := out("shared.out", sharedDown), out("routed.out", down)
	sum := streamParams{expert: r.expert, denseOut: a.values, routedOut: b.values, ld: int32(down.rows), splits: int32(b.count)}
	if launched == 2 {
		d.stream(p, false, sharedDown, down, sharedIn, routedIn, sum)
	} else {
		sum.ld, sum.splits = int32(sharedDown.rows), int32(a.count)
		d.stream(p, false, sharedDown, nil, sharedIn, image{}, sum)
		sum.ld, sum.splits = int32(down.rows), int32(b.count)
		d.stream(p, false, nil, down, routedIn, routedIn, sum)
	}
	d.leave(x, a, b)
	if d.open {
		a, b = d.resolve(p, "shared.open", a, down.rows), d.resolve(p, "routed.open", b, down.rows)
		x.settle()
		x.pending[0] = d.tapExperts(p, l.Layer, x, a.values, b.values, down.rows)
	}
}

// tapExperts shows the outputs of the two experts [rows, ld] and adds them up in the first.
func (d *Device) tapExperts(p *phase, layer int, x *residual, shared, routed ptr, ld int) slots {
	if d.group != nil {
		return d.tapOwnExperts(p, layer, x, shared, routed, ld)
	}
	d.tapFloats(p, layer, kernels.HookRoutedOut, routed, ld, x.d)
	d.tapFloats(p, layer, kernels.HookSharedOut, shared, ld, x.d)
	launch(d, "add_rows", p.grid, 1, 0, &addParams{a: shared, b: routed, rows: p.decodeCount(), ld: int32(ld), width: int32(ld)})
	d.tapFloats(p, layer, kernels.HookFFNOut, shared, ld, x.d)
	return slots{values: shared, count: 1, ld: int32(ld)}
}

// reader is an image and the weight that multiplies it.
type reader struct {
	name string
	h    *image
	w    kernels.Weight
}

// manyDigits makes digits of images for weights of INT4, one or two of as many columns, where a kernel for it pays (bench/LOG.md, 2026-11-29,
// fourth): one row costs it more than every block's making them again.
func (d *Device) manyDigits(p *phase, readers ...reader) {
	const many, warps = 4, 8 // rows, rounded up to a power of two; of a block, each of which has a group of tiles
	params := digitRowsParams{rows: p.count, lines: int32(p.lines), tiles: int32(readers[0].h.tiles)}
	for _, r := range readers {
		if p.grid < many || int32(r.h.tiles) != params.tiles || !d.readsDigits(r.w, *r.h) {
			return
		}
	}
	for i, r := range readers {
		to := d.digitsOf(p, r.name, p.lines, r.h.tiles*tile)
		params.images[i], params.digits[i] = r.h.at, to.at
		*r.h = to
	}
	launch(d, "digit_rows", p.grid, len(readers)*ceil(int(params.tiles), digitTiles*warps), 0, &params)
}

// prefillExperts: rows are sorted by expert, so that each matrix is read once for each tile of its rows.
func (d *Device) prefillExperts(p *phase, l *kernels.MoE, x *residual, h image, r routed) {
	gateUp, down := d.weightOf(l.GateUp), d.weightOf(l.Down)
	shared, sharedDown := d.weightOf(l.SharedGateUp), d.weightOf(l.SharedDown)
	experts := gateUp.spec.Experts
	width := int32(min(d.expertTileWidth(gateUp, p.rows), d.expertTileWidth(down, p.rows)))
	places := ceil(p.rows, 16)*16 + 16*min(experts, p.rows) // every expert begins at a multiple of 16
	sorted := d.imageOf(p, "sorted", places, x.d)
	sorted.place = h.place
	tokenOf := d.mem(p.name+"tokenOf", 4*grow(places))
	tiles := d.mem(p.name+"tiles", 12*(grow(p.rows)/portableWidth+experts+1))
	count := d.mem(p.name+"tileCount", 4)
	launch(d, "sort_rows", 1, 1, 0, &sortParams{expert: r.expert, sorted: d.mem(p.name+"place", 4*grow(p.rows)), tokenOf: tokenOf, tiles: tiles, tileCount: count,
		rows: int32(p.rows), experts: int32(experts), capacity: int32(places), width: width})
	if d.bothCoded(gateUp) && !d.open { // the same codes, without the numbers that taps would see
		sorted = d.quantised(codedRowsParams{image: h.at, tokenOf: tokenOf, gate: r.gate, lines: int32(h.lines), tiles: int32(h.tiles)}, places)
	} else {
		gather := gatherParams{h: h.at, tokenOf: tokenOf, gate: r.gate, out: sorted.at, lines: int32(h.lines), outLines: int32(sorted.lines), tiles: int32(h.tiles)}
		launch(d, "gather_rows", places, 1, 0, &gather)
		if d.open {
			d.tapSorted(p, l.Layer, kernels.HookExpertIn, sorted, tokenOf, places, x.d)
		}
	}

	f := ceil(gateUp.spec.Parts[0], tile) * tile
	act := d.imageOf(p, "sorted.act", places, f)
	routed := gemmParams{list: tiles, listCount: count, width: width}
	up := routed
	up.out, up.features, up.outLines = act.at, int32(f), int32(act.lines)
	d.gemm("swiglu", gateUp, sorted, p.rows, up)

	fs := ceil(shared.spec.Parts[0], tile) * tile
	sharedAct := d.imageOf(p, "act", p.lines, fs)
	d.stage("shared")
	d.gemm("swiglu", shared, h, p.rows, gemmParams{out: sharedAct.at, features: int32(fs), outLines: int32(sharedAct.lines)})
	var out ptr
	if alone := d.group == nil; alone || d.open {
		out = d.floats(p, "out", p.rows, sharedDown.rows)
	} else {
		out = d.ownPart()
	}
	d.gemm("store", sharedDown, sharedAct, p.rows, gemmParams{out: out, ld: int32(sharedDown.rows)})
	d.stage("experts")

	routed.tokenOf = tokenOf
	if d.group != nil && !d.open {
		routed.out, routed.base, routed.ld = out, out, int32(down.rows)
		d.gemm("routed", down, act, p.rows, routed)
		d.shareInto(p, x, down.rows)
		return
	}
	if !d.apart(x, down) {
		routed.out, routed.base, routed.ld = x.of(p), out, int32(x.d)
		d.gemm("routed", down, act, p.rows, routed)
		return
	}
	routed.out, routed.ld = d.floats(p, "routed", p.rows, down.rows), int32(down.rows)
	d.gemm("routed", down, act, p.rows, routed)
	d.addRows(p, x, d.tapExperts(p, l.Layer, x, out, routed.out, down.rows).values, down.rows)
}

// FFN implements kernels.Device.
func (d *Device) FFN(l *kernels.Dense, xa kernels.Act) {
	d.stage("ffn")
	if d.err != nil {
		return
	}
	x, gateUp, down := xa.(*residual), d.weightOf(l.GateUp), d.weightOf(l.Down)
	f := ceil(gateUp.spec.Parts[0], tile) * tile
	for _, p := range d.phases {
		h, n := d.norm(p, "h", x, l.Norm, l.Order, l.Eps)
		d.normRows(p, x, &n)
		if p.decode {
			x.settle()
		}
		d.tapImage(p, l.Layer, kernels.HookFFNNorm, h, x.d)
		act := d.imageOf(p, "act", p.lines, f)
		show := func(out ptr) { d.tapFloats(p, l.Layer, kernels.HookFFNOut, out, down.rows, x.d) }
		if !p.decode {
			d.gemm("swiglu", gateUp, h, p.rows, gemmParams{out: act.at, features: int32(f), outLines: int32(act.lines)})
			d.addProduct(p, x, down, act, show)
			continue
		}
		d.stream(p, true, gateUp, nil, h, image{}, streamParams{denseOut: act.at, features: int32(f)})
		d.manyDigits(p, reader{"act", &act, l.Down})
		d.leave(x, d.partial(p, "shared.out", down, act))
		if d.open {
			x.pending[0] = d.total(p, x, "shared.open", x.pending[0], down.rows)
			show(x.pending[0].values)
		}
	}
	d.tapResidual(l.Layer, kernels.HookResidPost, x)
}
