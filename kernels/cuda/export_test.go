//go:build cuda

package cuda

import (
	"io/fs"
	"math"
	"strings"
	"unsafe"

	"chulengo/kernels"
	"chulengo/kernels/cuda/driver"
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

// Way is how the ranks meet.
func (g *Group) Way() Way { return g.way }

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

// Reads is what copies of the software GPU read of weights.
type Reads struct {
	d     *Device
	watch *driver.Function
	at    ptr // [bytes of each expert of each weight]
	of    []int
}

// Watch begins to count. On a GPU, where nothing counts for it, it gives nil.
func Watch(d *Device, weights []kernels.Weight) (*Reads, error) {
	if !strings.Contains(d.Name(), "emulated") {
		return nil, nil
	}
	defer d.gpu.enter()()
	image, err := fs.ReadFile(images, "image/tap.fatbin")
	if err != nil {
		return nil, err
	}
	m, err := d.gpu.Load(image)
	if err != nil {
		return nil, err
	}
	r := &Reads{d: d}
	if r.watch, err = m.Function("emu_watch", 1, 0); err != nil {
		return nil, err
	}
	n := 0
	for _, h := range weights {
		r.of = append(r.of, h.(*weight).spec.Experts)
		n += h.(*weight).spec.Experts
	}
	if r.at, err = d.gpu.alloc(8 * n); err != nil {
		return nil, err
	}
	d.gpu.zero(r.at, 8*n)
	n = 0
	for _, h := range weights {
		w := h.(*weight)
		for e := range w.spec.Experts {
			r.launch(w.data+ptr(uint64(e)*w.expertBytes()), w.expertBytes(), r.at+ptr(8*n))
			n++
		}
	}
	return r, d.gpu.sync()
}

func (r *Reads) launch(from ptr, bytes uint64, read ptr) {
	p := struct {
		from  ptr
		bytes uint64
		read  ptr
	}{from, bytes, read}
	r.d.gpu.keep(r.d.gpu.main.Launch(r.watch, 1, 1, 0, unsafe.Pointer(&p), unsafe.Sizeof(p), false))
}

// Take gives the bytes since the last call, [weight][expert].
func (r *Reads) Take() ([][]uint64, error) {
	defer r.d.gpu.enter()()
	var list [][]uint64
	at := r.at
	for _, n := range r.of {
		one := make([]uint64, n)
		r.d.gpu.copyOut(bytesOf(one), at)
		r.d.gpu.zero(at, 8*n)
		list, at = append(list, one), at+ptr(8*n)
	}
	return list, r.d.gpu.sync()
}

// Close ends the counting.
func (r *Reads) Close() error {
	defer r.d.gpu.enter()()
	r.launch(0, 0, 0)
	err := r.d.gpu.sync()
	r.d.gpu.free(r.at)
	return err
}

// ExpertBytes is the size of one expert's packed matrix.
func ExpertBytes(h kernels.Weight) uint64 { return h.(*weight).expertBytes() }

// Units is in how many units the decode engine reads one expert's matrix.
func Units(d *Device, h kernels.Weight, swiglu bool) uint32 {
	w := h.(*weight)
	if swiglu {
		return uint32(w.units())
	}
	return uint32(w.units() * d.splits(w, 1))
}

// Counters gives the first n counters of the last step (Device.counters).
func Counters(d *Device, n int) ([]uint32, error) {
	defer d.gpu.enter()()
	list := make([]uint32, n)
	d.gpu.copyOut(bytesOf(list), d.buffers["zeros"].at+4)
	return list, d.gpu.sync()
}

// Tiled says that pages lie as the kernels for 9.0 read them.
func Tiled(m kernels.KV) bool { return m.(*kv).tiled }

// Staging is the pinned memory of a load, in bytes.
const Staging = stagingBuffers * stagingBytes

// Fast says that the kernels of compute capability 9.0 run.
func (d *Device) Fast() bool { return d.fast() }

// RowBlocks is how many blocks norm so many decode rows of this width.
func RowBlocks(d *Device, rows, width int) uint32 {
	p := &phase{decode: true, grid: bucket(rows)}
	return uint32(p.grid * max(d.slices(p, &residual{d: width}), 1))
}
