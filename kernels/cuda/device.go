//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"chulengo/kernels"
)

// maxDecodeRows is the most rows that decode in one step: the largest tile of tokens of the decode engine.
const maxDecodeRows = 64

// Options of a device.
type Options struct {
	Ordinal   int  // which GPU, among those that CUDA_VISIBLE_DEVICES leaves
	NoGraphs  bool // run every step launch by launch
	NoOverlap bool // no kernel begins before the one before it has ended
	Portable  bool // use only the kernels that every GPU from 8.0 on runs
	Profile   bool // time every launch (see Device.Profile)
	Poison    bool // for tests: what a step leaves in the workspace is NaN before the next

	// Activations are what prefill multiplies with weights in F8_E4M3: BF16, or F8E4M3, for which each row gets a scale of its own and
	// codes (gemm_e4m3_90.cu; of a group's rank, its part of a row). Decode and other weights have BF16.
	Activations kernels.Format

	Way Way // how the ranks of a group meet

	// Patience is how long a GPU waits for another one of its group within a step; 0: 5 seconds, over NCCL 10.
	Patience time.Duration
}

// Device implements kernels.Device on one GPU.
type Device struct {
	gpu     *gpu
	options Options
	loader  *loader

	buffers      map[string]*buffer
	graphs       map[graphKey]*executable // nil: one step of this kind has run
	decodePages  int                      // capacity for the page numbers of decode, per group
	decodeSplits int                      // and for its splits

	ropes  map[*float64]ptr    // frequencies on the device
	places map[*int32]ptr      // orders of normalised rows, turned round (placesOf)
	counts map[int]expertCount // of each layer with a router

	turnsOf map[turnsKey]ptr // of the vision tower's heads
	view    *view            // of the picture that is encoded
	left    *unfinished      // of the picture that is encoded in pieces

	vocab int    // of the head, known once Logits has run
	steps uint32 // that were begun, since the last time that their numbers began anew

	rank  int
	group *Group // nil: the device has the model for itself
	parts partsOf

	gathers *gatherer // nil: ranks meet without NCCL

	// Of the step that runs.
	batch     *kernels.Batch
	kv        *kv
	err       error
	open      bool // values between kernels are written out, for taps
	phases    []*phase
	wants     wants
	taps      []placedTap
	outs      []kernels.Out
	answered  bool                   // Logits has run
	counters  int                    // that were given out
	norms     int                    // of decode rows
	rehearsal bool                   // stages run, kernels do not (rehearse)
	recording bool                   // launches are written down (pieces.go)
	meetings  int                    // exchanges with other ranks that were enqueued
	shares    int                    // those of them that share_rows does
	rope      [2]*float64            // the frequencies of each phase's table
	tempers   [2]kernels.Temperature // of each phase's scales
	ran       map[string]int
}

var (
	_ kernels.Device        = (*Device)(nil)
	_ kernels.ExpertCounter = (*Device)(nil)
	_ kernels.Viewer        = (*Device)(nil)
)

// expertCount is a layer's counts on the device, [experts] uint64.
type expertCount struct {
	at      ptr
	experts int
}

// buffer is device memory that grows with need and keeps its place otherwise.
type buffer struct {
	at   ptr
	size int
}

// New opens a GPU and loads the kernels. Errors say what is missing: a driver, a GPU, a newer driver, memory.
func New(o Options) (*Device, error) {
	g, err := openGPU(o.Ordinal)
	if err != nil {
		return nil, err
	}
	if err := o.checkActivations(g); err != nil {
		g.close()
		return nil, err
	}
	d := &Device{gpu: g, options: o, buffers: map[string]*buffer{}, graphs: map[graphKey]*executable{}, ropes: map[*float64]ptr{}, places: map[*int32]ptr{}, counts: map[int]expertCount{},
		turnsOf: map[turnsKey]ptr{}, ran: map[string]int{}}
	d.loader = newLoader(g)
	g.serial = o.NoOverlap
	if o.Profile {
		g.profile = &profile{totals: map[[2]string]*KernelTime{}}
		d.options.NoGraphs = true
	}
	return d, nil
}

// ErrActivations says that a GPU, or the kernels that it is to use, cannot multiply with activations in Options.Activations.
var ErrActivations = errors.New("want compute capability 9.0, and its kernels, for activations in F8_E4M3")

func (o Options) checkActivations(g *gpu) error {
	switch {
	case o.Activations != kernels.BF16 && o.Activations != kernels.F8E4M3:
		return fmt.Errorf("kernels/cuda: activations: want BF16 or F8_E4M3, got %v", o.Activations)
	case o.Activations == kernels.F8E4M3 && (g.capability != 90 || o.Portable):
		return fmt.Errorf("kernels/cuda: %w, got %s of %d.%d, portable kernels: %v", ErrActivations, g.name, g.capability/10, g.capability%10, o.Portable)
	}
	return nil
}

// Name is the GPU's, with its number and memory.
func (d *Device) Name() string { return d.gpu.name }

// Memory is the GPU's free and whole memory, in bytes.
func (d *Device) Memory() (free, total int64, err error) {
	defer d.gpu.enter()()
	return d.gpu.Free()
}

// Close frees the device's memory. Weights and KV of the device must not be used any more.
func (d *Device) Close() error {
	defer d.gpu.enter()()
	d.loader.close()
	return d.gpu.close()
}

// fast says that the kernels of compute capability 9.0 may be used.
func (d *Device) fast() bool { return d.gpu.capability == 90 && !d.options.Portable }

// fail keeps the step's first error.
func (d *Device) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("kernels/cuda: "+format, args...)
	}
}

// mem is device memory of at least so many bytes under a name: the same place every time, unless it must grow.
func (d *Device) mem(name string, bytes int) ptr {
	b := d.buffers[name]
	if b == nil {
		b = &buffer{}
		d.buffers[name] = b
	}
	if b.size >= bytes {
		return b.at
	}
	if d.err != nil {
		return 0
	}
	if d.gpu.capturing {
		d.fail("memory %s: want %d bytes while a graph is captured, have %d", name, bytes, b.size)
		return 0
	}
	d.gpu.sync() // earlier kernels of the step may use the old place
	if b.at != 0 {
		d.gpu.free(b.at)
		b.at, b.size = 0, 0
		d.dropGraphs()
	}
	bytes = (bytes + 255) &^ 255
	at, err := d.gpu.alloc(bytes)
	if err != nil {
		d.fail("memory %s: %w", name, err)
		return 0
	}
	b.at, b.size = at, bytes
	return at
}

// zeroed is mem that is zero the first time, for what blocks tell each other (tell in ptx.cuh).
func (d *Device) zeroed(name string, bytes int) ptr {
	b := d.buffers[name]
	had := b != nil && b.size >= bytes
	at := d.mem(name, bytes)
	if !had && d.err == nil {
		d.gpu.zero(at, bytes)
	}
	return at
}

// numberStep gives the step a number. Before numbers begin anew, what was told under them is forgotten.
func (d *Device) numberStep() {
	if d.steps++; d.steps < math.MaxUint32/normsAStep {
		return
	}
	d.steps = 1
	for _, name := range []string{"decode.squares", "decode.parts"} {
		if b := d.buffers[name]; b != nil {
			d.gpu.zero(b.at, b.size)
		}
	}
}

// launch enqueues a kernel; params points at its parameter struct.
func launch[P any](d *Device, name string, gridX, gridY, shared int, p *P) {
	if d.err != nil || gridX == 0 || gridY == 0 || d.rehearsal {
		return
	}
	if d.recording {
		same := *p
		d.enqueue(func() { launch(d, name, gridX, gridY, shared, &same) })
		return
	}
	d.ran[name]++
	if err := d.gpu.launch(name, gridX, gridY, shared, unsafe.Pointer(p), unsafe.Sizeof(*p)); err != nil {
		d.fail("%s: %w", name, err)
	}
}

// Ran counts launches by kernel since the device was opened: what a test asserts about which kernels a shape reaches. A
// replayed graph counts nothing.
func (d *Device) Ran() map[string]int { return d.ran }

// Step runs one batch and waits for its answers.
func (d *Device) Step(b *kernels.Batch, forward func()) <-chan kernels.Result {
	done := make(chan kernels.Result, 1)
	defer d.gpu.enter()()
	d.begin(b)
	done <- d.finish(forward)
	return done
}

// begin checks a batch and lays it out: afterwards the device is ready to compute.
func (d *Device) begin(b *kernels.Batch) {
	d.batch, d.outs, d.err, d.open = b, nil, nil, len(b.Taps) > 0 || d.group != nil && d.group.open
	d.gpu.broken = nil
	d.stage("")
	if d.err = d.check(b); d.err != nil {
		return
	}
	for _, p := range b.Pictures { // a step that shows a picture waits for all of it
		if d.err = d.complete(p.Picture.(*picture)); d.err != nil {
			return
		}
	}
	d.guard(func() {
		if d.options.Poison {
			for name, b := range d.buffers {
				if d.left == nil || !strings.HasPrefix(name, "vision.") {
					d.gpu.fill(b.at, 0xff, b.size)
				}
			}
		}
		d.upload()
		d.rewind()
	})
}

// rewind takes back what stages have noted of the step.
func (d *Device) rewind() {
	d.tempers = [2]kernels.Temperature{}
	d.rope, d.answered, d.counters, d.norms, d.meetings, d.shares = [2]*float64{}, false, 0, 0, 0, 0
}

// finish computes what begin has laid out and reads the answers.
func (d *Device) finish(forward func()) kernels.Result {
	if d.err == nil {
		d.guard(func() {
			d.compute(forward)
			d.collect()
		})
	}
	r := kernels.Result{Outs: d.outs, Err: d.err}
	if r.Err != nil {
		r.Outs = nil
		d.gpu.abandon()
	}
	d.batch, d.outs, d.taps = nil, nil, nil
	return r
}

// guard turns a panic below into the step's error: a request must not end the process.
func (d *Device) guard(f func()) {
	defer func() {
		if p := recover(); p != nil {
			d.fail("panic in a stage: %v\n%s", p, debug.Stack())
		}
	}()
	f()
}

// weightOf is the weight behind a handle: of a rank, its part.
func (d *Device) weightOf(h kernels.Weight) *weight {
	if all, ok := h.(*cutWeight); ok {
		h = all.of[d.rank-d.group.first]
	}
	w, ok := h.(*weight)
	if !ok || !w.sealed {
		panic(fmt.Sprintf("want a sealed weight of this device, got %T", h))
	}
	return w
}

func ceil(a, b int) int { return (a + b - 1) / b }

// grow rounds a capacity up, so that slowly growing needs reallocate seldom.
func grow(n int) int {
	c := 64
	for c < n {
		c *= 2
	}
	return c
}
