// Package cpu runs the stages of package kernels in Go on the processor's cores. It is the specification that other
// devices are tested against, and what serves machines without a GPU.
//
// Weights stay where they are: bfloat16 matrices are read in place from the mapped checkpoint, in either stored layout.
// Activations, sums, and by default keys and values are float32. The hot loops (products of a matrix with vectors, dot
// products, scaled sums) are package simd's; everything else is plain Go.
//
// # Same bits
//
// The value of every output depends on its inputs alone: not on the other rows of the step, not on where a prompt was
// cut into pieces, not on the number of threads. Each sum has an order that is a function of its own length; work is
// split between threads over outputs, never over the terms of a sum.
package cpu

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"chulengo/kernels"
	"chulengo/kernels/cpu/simd"
)

// Options of a device.
type Options struct {
	Threads int // 0: one for each core

	// Activations are what prefill rows multiply with weights in F8_E4M3: F8E4M3 rounds each row to codes with a scale of its own
	// (kernels.RoundRow), for any other format they stay float32, as in decode and for other weights.
	Activations kernels.Format
}

// Device implements kernels.Device.
type Device struct {
	pool    *pool
	options Options

	// Of the step that runs.
	batch *kernels.Batch
	kv    *kv
	err   error
	outs  []kernels.Out

	work   workspace
	seeing *encoding // of Encode
}

var _ kernels.Viewer = (*Device)(nil)

// workspace keeps the buffers of the stages from step to step; each grows to the largest step seen.
type workspace struct {
	x, norm, q, k, v, z, out act
	h, logits, index, gate   act
	expertIn, routed, shared act
	gateUp, sharedGateUp     act
	sorted, sortedOut        act
	route                    routing
	rope                     ropeTable
	head, vocab              act
	spanOf                   []int32     // [T] of the group that attends
	draws                    []drawer    // per worker
	scores                   [][]float32 // per worker
	rows                     [][]float32 // per worker: converted weights or keys
	jobs                     []product
}

// act is a stage's output: [T, width] float32, row by row.
type act struct {
	data  []float32
	width int
}

func (a *act) row(i int) []float32 { return a.data[i*a.width : (i+1)*a.width] }

// rows makes a hold n rows of the given width. Their contents are undefined.
func (a *act) resize(n, width int) *act {
	if cap(a.data) < n*width {
		a.data = make([]float32, n*width)
	}
	a.data, a.width = a.data[:n*width], width
	return a
}

// New starts a device and its threads.
func New(o Options) *Device {
	if o.Threads <= 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	d := &Device{pool: newPool(o.Threads), options: o}
	d.work.draws = make([]drawer, o.Threads)
	d.work.scores = make([][]float32, o.Threads)
	d.work.rows = make([][]float32, o.Threads)
	return d
}

// Name says how many threads run which routines.
func (d *Device) Name() string { return fmt.Sprintf("cpu: %d threads, %s", d.pool.size, simd.Name()) }

// Close ends the threads. Weights and KV of the device must not be used any more.
func (d *Device) Close() error {
	d.pool.close()
	return nil
}

// Step runs forward at once on the calling goroutine; the result is there when it returns.
func (d *Device) Step(b *kernels.Batch, forward func()) <-chan kernels.Result {
	done := make(chan kernels.Result, 1)
	d.batch, d.outs, d.kv = b, nil, nil
	d.work.rope.of, d.work.jobs = nil, d.work.jobs[:0]
	d.err = d.check(b)
	if d.err == nil {
		d.run(forward)
	}
	r := kernels.Result{Outs: d.outs, Err: d.err}
	if r.Err != nil {
		r.Outs = nil
	}
	d.batch, d.outs, d.kv = nil, nil, nil
	done <- r
	return done
}

// run turns a panic below into the step's error: a request must not end the process.
func (d *Device) run(forward func()) {
	defer func() {
		if p := recover(); p != nil {
			d.fail("panic in a stage: %v\n%s", p, debug.Stack())
		}
	}()
	forward()
}

// fail keeps the step's first error.
func (d *Device) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("kernels/cpu: "+format, args...)
	}
}

// check validates everything in a batch that stages later use as an index.
func (d *Device) check(b *kernels.Batch) error {
	t := len(b.Token)
	if t == 0 || len(b.Pos) != t || b.Decode < 0 || b.Decode > t {
		return fmt.Errorf("kernels/cpu: batch: want at least 1 token and as many positions, got %d and %d, %d of them decoding", t, len(b.Pos), b.Decode)
	}
	memory, ok := b.KV.(*kv)
	if !ok || memory.closed {
		return errors.New("kernels/cpu: batch: want open key/value memory of this device")
	}
	d.kv = memory
	for g, spans := range b.Spans {
		if memory.spec.Layers[g] == 0 {
			continue
		}
		covered := 0
		for i := range spans {
			s := &spans[i]
			if int(s.Row) != covered || s.Rows < 1 || int(s.Row+s.Rows) > t {
				return fmt.Errorf("kernels/cpu: batch: group %d span %d: want rows from %d within %d, got %d rows from %d", g, i, covered, t, s.Rows, s.Row)
			}
			for row := s.Row; row < s.Row+s.Rows; row++ {
				if slot := int(b.Pos[row] - s.Base); slot < 0 || slot >= len(s.Pages)*memory.spec.PageTokens || row > s.Row && b.Pos[row] != b.Pos[row-1]+1 {
					return fmt.Errorf("kernels/cpu: batch: group %d row %d: want ascending positions in the %d slots from %d, got %d",
						g, row, len(s.Pages)*memory.spec.PageTokens, s.Base, b.Pos[row])
				}
			}
			for _, p := range s.Pages {
				if p < 0 || int(p) >= len(memory.pages[g]) {
					return fmt.Errorf("kernels/cpu: batch: group %d: want a page below %d, got %d", g, len(memory.pages[g]), p)
				}
			}
			covered += int(s.Rows)
		}
		if covered != t {
			return fmt.Errorf("kernels/cpu: batch: group %d: want spans over %d rows, got %d", g, t, covered)
		}
	}
	for i, w := range b.Want {
		if w.Row < 0 || int(w.Row) >= t {
			return fmt.Errorf("kernels/cpu: batch: want %d: want a row below %d, got %d", i, t, w.Row)
		}
	}
	free := int32(0) // rows before it are taken
	for i, p := range b.Pictures {
		from, ok := p.Picture.(*seen)
		if !ok || from.released {
			return fmt.Errorf("kernels/cpu: batch: picture %d: want one of this device that was not released, got %T", i, p.Picture)
		}
		if p.Rows < 1 || p.Row < free || int(p.Row)+int(p.Rows) > t {
			return fmt.Errorf("kernels/cpu: batch: picture %d: want rows from %d on, below %d, got %d rows from %d", i, free, t, p.Rows, p.Row)
		}
		if p.From < 0 || int(p.From)+int(p.Rows) > from.Rows() {
			return fmt.Errorf("kernels/cpu: batch: picture %d: want rows of its %d, got %d rows from %d", i, from.Rows(), p.Rows, p.From)
		}
		free = p.Row + p.Rows
	}
	for _, tap := range b.Taps {
		for _, r := range tap.Rows {
			if r < 0 || int(r) >= t {
				return fmt.Errorf("kernels/cpu: batch: tap at layer %d hook %d: want a row below %d, got %d", tap.At.Layer, tap.At.Hook, t, r)
			}
		}
	}
	return nil
}

// tap runs the step's taps at one point over a, whose row i is batch row i. It is the only place that knows taps.
func (d *Device) tap(layer int, hook kernels.Hook, a *act) { d.tapOrdered(layer, hook, a, nil) }

// tapOrdered is tap for rows in an order [columns]; taps see them in the model's own.
func (d *Device) tapOrdered(layer int, hook kernels.Hook, a *act, order []int32) {
	for i := range d.batch.Taps {
		if t := &d.batch.Taps[i]; t.At == (kernels.Point{Layer: layer, Hook: hook}) {
			for j, row := range t.Rows {
				x := a.row(int(row))
				if order == nil {
					d.tapRow(t, j, x)
					continue
				}
				own := make([]float32, len(x))
				for at, column := range order {
					own[column] = x[at]
				}
				d.tapRow(t, j, own)
				for at, column := range order {
					x[at] = own[column]
				}
			}
		}
	}
}

// tapWanted is tap for an act whose row i is batch row d.batch.Want[first+i].Row.
func (d *Device) tapWanted(hook kernels.Hook, first int, a *act) {
	for i := range d.batch.Taps {
		t := &d.batch.Taps[i]
		if t.At != (kernels.Point{Hook: hook}) {
			continue
		}
		for j, row := range t.Rows {
			for w := range len(a.data) / a.width {
				if d.batch.Want[first+w].Row == row {
					d.tapRow(t, j, a.row(w))
				}
			}
		}
	}
}

// tapRow applies a tap to one row; j is its place in the tap's buffer.
func (d *Device) tapRow(t *kernels.Tap, j int, x []float32) {
	if t.Cols != [2]int32{} {
		if t.Cols[0] < 0 || t.Cols[1] > int32(len(x)) || t.Cols[0] >= t.Cols[1] {
			d.fail("tap at layer %d hook %d: want columns within %d, got [%d, %d)", t.At.Layer, t.At.Hook, len(x), t.Cols[0], t.Cols[1])
			return
		}
		x = x[t.Cols[0]:t.Cols[1]]
	}
	var buf []float32
	if t.Op == kernels.Capture || t.Op == kernels.Add || t.Op == kernels.Set {
		if len(t.Buf) < (j+1)*len(x) {
			d.fail("tap at layer %d hook %d: want a buffer of %d values, got %d", t.At.Layer, t.At.Hook, len(t.Rows)*len(x), len(t.Buf))
			return
		}
		buf = t.Buf[j*len(x) : (j+1)*len(x)]
	}
	switch t.Op {
	case kernels.Capture:
		copy(buf, x)
	case kernels.Zero:
		clear(x)
	case kernels.Add:
		for i, v := range buf {
			x[i] += v
		}
	case kernels.Set:
		copy(x, buf)
	case kernels.Scale:
		for i := range x {
			x[i] *= t.By
		}
	default:
		d.fail("tap at layer %d hook %d: unknown operation %d", t.At.Layer, t.At.Hook, t.Op)
	}
}
