//go:build cuda

package cuda

import (
	"unsafe"

	"chulengo/kernels"
)

// placedTap is a tap of the step with its memory on the device.
type placedTap struct {
	*kernels.Tap
	rows [2]ptr // per phase: the phase's row for each of the tap's, -1 where it is the other phase's
	buf  ptr    // [rows, columns]
	host []float32
	used bool
}

// layTaps gives the step's taps their rows and their buffers.
func (d *Device) layTaps() {
	if !d.open || d.err != nil {
		return
	}
	ints, floats := 0, 0
	for i := range d.batch.Taps {
		ints += 2 * len(d.batch.Taps[i].Rows)
		floats += len(d.batch.Taps[i].Buf)
	}
	blk := &block{at: d.mem("tap.rows", 4*max(ints, 1)), host: d.gpu.pinnedInts("tap.rows", max(ints, 1))}
	buf := d.mem("tap.values", 4*max(floats, 1))
	if d.err != nil {
		return
	}
	values := make([]float32, 0, floats)
	for i := range d.batch.Taps {
		t := &d.batch.Taps[i]
		placed := placedTap{Tap: t, buf: buf + ptr(4*len(values)), host: t.Buf}
		for _, p := range d.phases {
			at, rows := blk.take(len(t.Rows))
			placed.rows[p.index()] = at
			for j, r := range t.Rows {
				rows[j] = -1
				if local := int(r) - p.first; local >= 0 && local < p.rows {
					rows[j] = int32(local)
				}
			}
		}
		values = append(values, t.Buf...)
		d.taps = append(d.taps, placed)
	}
	d.gpu.copyIn(blk.at, blk.host[:blk.used])
	if err := d.gpu.copyInNow(buf, bytesOf(values)); err != nil {
		d.fail("taps: %w", err)
	}
}

// readTaps enqueues the way back of captured values; the function it returns hands them over after the step.
func (d *Device) readTaps() func() {
	back := make([][]float32, len(d.taps))
	for i := range d.taps {
		if t := &d.taps[i]; t.used && t.Op == kernels.Capture {
			back[i] = make([]float32, len(t.host))
			d.gpu.copyOut(bytesOf(back[i]), t.buf)
		}
	}
	return func() {
		for i, values := range back {
			copy(d.taps[i].host, values)
		}
	}
}

// tapped is a value that taps look at: rows of `width` columns, of which column c lies at place[c] (0: c).
type tapped struct {
	kind      int // of tapFloat and so on
	data      ptr
	ld, width int
	place     ptr
}

// tapAt runs the step's taps at one point over a phase's rows of a value.
func (d *Device) tapAt(p *phase, layer int, hook kernels.Hook, v tapped) {
	if !d.open {
		return
	}
	for i := range d.taps {
		if t := &d.taps[i]; t.At == (kernels.Point{Layer: layer, Hook: hook}) {
			d.runTap(t, t.rows[p.index()], v)
		}
	}
}

// runTap applies one tap to the rows listed on the device.
func (d *Device) runTap(t *placedTap, rows ptr, v tapped) {
	from, to, width := 0, v.width, v.width
	if t.Cols != [2]int32{} {
		from, to = int(t.Cols[0]), int(t.Cols[1])
		if from < 0 || to > width || from >= to {
			d.fail("tap at layer %d hook %d: want columns within %d, got [%d, %d)", t.At.Layer, t.At.Hook, width, from, to)
			return
		}
	}
	if t.Op > kernels.Scale {
		d.fail("tap at layer %d hook %d: unknown operation %d", t.At.Layer, t.At.Hook, t.Op)
		return
	}
	if (t.Op == kernels.Capture || t.Op == kernels.Add || t.Op == kernels.Set) && len(t.host) < len(t.Rows)*(to-from) {
		d.fail("tap at layer %d hook %d: want a buffer of %d values, got %d", t.At.Layer, t.At.Hook, len(t.Rows)*(to-from), len(t.host))
		return
	}
	t.used = true
	launch(d, "tap_rows", len(t.Rows), 1, 0, &tapParams{data: v.data, rows: rows, buf: t.buf, place: v.place, ld: uint64(v.ld), by: t.By,
		from: int32(from), to: int32(to), op: int32(t.Op), kind: int32(v.kind)})
}

func (d *Device) tapFloats(p *phase, layer int, hook kernels.Hook, data ptr, ld, width int) {
	d.tapAt(p, layer, hook, tapped{kind: tapFloat, data: data, ld: ld, width: width})
}

func (d *Device) tapBF16(p *phase, layer int, hook kernels.Hook, data ptr, width int) {
	d.tapAt(p, layer, hook, tapped{kind: tapBF16, data: data, ld: width, width: width})
}

func (d *Device) tapInts(p *phase, layer int, hook kernels.Hook, data ptr) {
	d.tapAt(p, layer, hook, tapped{kind: tapInt, data: data, ld: 1, width: 1})
}

func (d *Device) tapImage(p *phase, layer int, hook kernels.Hook, a image, width int) {
	d.tapAt(p, layer, hook, a.tapped(width))
}

func (a image) tapped(width int) tapped {
	return tapped{kind: tapImage, data: a.at, ld: a.lines, width: width, place: a.place}
}

// tapResidual is a tap of x, which first must be whole.
func (d *Device) tapResidual(layer int, hook kernels.Hook, x *residual) {
	if !d.open || d.err != nil {
		return
	}
	d.addPending(x)
	for _, p := range d.phases {
		d.tapFloats(p, layer, hook, x.of(p), x.d, x.d)
	}
}

// tapSorted is a tap of rows that lie at their places in the order of experts: tokenOf [places] names each place's row.
func (d *Device) tapSorted(p *phase, layer int, hook kernels.Hook, a image, tokenOf ptr, places, width int) {
	var place []int32 // of each row
	for i := range d.taps {
		t := &d.taps[i]
		if t.At != (kernels.Point{Layer: layer, Hook: hook}) || d.err != nil {
			continue
		}
		if place == nil {
			tokens := make([]int32, places)
			if err := d.gpu.copyOutNow(bytesOf(tokens), tokenOf); err != nil {
				d.fail("tap at layer %d hook %d: %w", layer, hook, err)
				return
			}
			place = make([]int32, p.rows)
			for at, row := range tokens {
				if row >= 0 && !d.rehearsal {
					place[row] = int32(at)
				}
			}
		}
		rows := make([]int32, len(t.Rows))
		for j, r := range t.Rows {
			rows[j] = -1
			if local := int(r) - p.first; local >= 0 && local < p.rows {
				rows[j] = place[local]
			}
		}
		d.runTap(t, d.tapRows(rows), a.tapped(width))
	}
}

// tapRows puts rows on the device for the next tap.
func (d *Device) tapRows(rows []int32) ptr {
	at := d.mem("tap.some", 4*max(len(rows), 64))
	if err := d.gpu.copyInNow(at, bytesOf(rows)); err != nil {
		d.fail("taps: %w", err)
	}
	return at
}

// tapWanted is a tap of the rows of a run of Wants, n from first on.
func (d *Device) tapWanted(hook kernels.Hook, first, n, kind int, data ptr, ld, width int) {
	for i := range d.taps {
		t := &d.taps[i]
		if t.At != (kernels.Point{Hook: hook}) {
			continue
		}
		rows := make([]int32, len(t.Rows))
		for j, r := range t.Rows {
			rows[j] = -1
			for w := range n {
				if d.batch.Want[first+w].Row == r {
					rows[j] = int32(w)
				}
			}
		}
		d.runTap(t, d.tapRows(rows), tapped{kind: kind, data: data, ld: ld, width: width})
	}
}

// bytesOf is the memory of a slice of plain values.
func bytesOf[T any](s []T) []byte {
	var one T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(one)))
}
