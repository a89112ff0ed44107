//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"chulengo/kernels/cuda/driver"
)

// gpu is the driver as the device uses it: one stream, kernels by name, pinned buffers by name, and errors that are kept
// until somebody waits.
type gpu struct {
	*driver.Device
	name       string
	capability int
	sms        int
	mu         sync.Mutex // held between enter and leave: weights come from many goroutines
	kernels    map[string]*driver.Function
	main       stream
	capturing  bool
	serial     bool              // kernels do not overlap
	frozen     bool              // nothing may be allocated: that can wait for kernels which wait for another GPU
	profile    *profile          // nil: launches are not timed
	broken     error             // the first fault of the copies that were enqueued since the last sync
	pins       map[string][]byte // pinned host memory
	uploads    []uploadPiece     // copies to the device that the next launch needs
	outs       []pendingOut      // copies to the host that a sync completes
	outUsed    int
}

type pendingOut struct {
	to     []byte
	pinned []byte
}

// executable is a captured step.
type executable = driver.Graph

// stream is a queue of work on the GPU.
type stream struct {
	gpu *gpu
	*driver.Stream
}

// openGPU opens a GPU, loads every kernel and holds the table against them.
func openGPU(ordinal int) (*gpu, error) {
	dev, err := driver.Open(ordinal)
	if err != nil {
		return nil, err
	}
	g := &gpu{Device: dev, capability: dev.Capability, sms: dev.SMs, kernels: map[string]*driver.Function{}, pins: map[string][]byte{}}
	g.name = fmt.Sprintf("cuda:%d: %s, %d GiB", ordinal, dev.Name, dev.Memory>>30)
	defer g.enter()()
	if g.main, err = g.newStream(); err == nil {
		err = g.loadKernels()
	}
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("%s: %w", g.name, err)
	}
	return g, nil
}

// loadKernels loads the families that this GPU can run.
func (g *gpu) loadKernels() error {
	modules := map[string]*driver.Module{}
	for name, k := range table {
		if strings.HasSuffix(k.family, "90") && g.capability != 90 {
			continue
		}
		m := modules[k.family]
		if m == nil {
			code, err := fatbin(k.family)
			if err != nil {
				return err
			}
			if m, err = g.Load(code); err != nil {
				return fmt.Errorf("kernels %s: %w", k.family, err)
			}
			modules[k.family] = m
		}
		f, err := m.Function(name, k.threads, k.shared)
		if err != nil {
			return err
		}
		a, err := f.Attributes()
		if err != nil {
			return err
		}
		if a.MaxThreads < k.threads || a.Local != 0 {
			return fmt.Errorf("kernel %s: want %d threads and no local memory, got %d and %d bytes", name, k.threads, a.MaxThreads, a.Local)
		}
		g.kernels[name] = f
	}
	return nil
}

// enter makes the GPU current and its main stream the caller's alone; the function that it returns ends that.
func (g *gpu) enter() (leave func()) {
	g.mu.Lock()
	unlock := g.Enter()
	return func() {
		unlock()
		g.mu.Unlock()
	}
}

func (g *gpu) close() error {
	for _, p := range g.pins {
		g.Unpin(p)
	}
	return g.Device.Close()
}

func (g *gpu) alloc(bytes int) (ptr, error) {
	if g.frozen {
		return 0, errFrozen
	}
	return g.Alloc(max(bytes, 16))
}

var errFrozen = errors.New("want no more memory while other GPUs wait for this one")

func (g *gpu) free(p ptr) { g.keep(g.Release(p)) }

// pin allocates pinned host memory.
func (g *gpu) pin(bytes int) ([]byte, error) {
	if g.frozen {
		return nil, errFrozen
	}
	return g.Pin(bytes)
}
func (g *gpu) unpin(b []byte) { g.keep(g.Unpin(b)) }

// keep remembers the first fault.
func (g *gpu) keep(err error) {
	if err != nil && g.broken == nil {
		g.broken = err
	}
}

// pinnedInts is pinned memory under a name, for n values at least. What was there is no longer needed when it grows.
func (g *gpu) pinnedInts(name string, n int) []int32 {
	b := g.pinnedBytes(name, 4*n)
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func (g *gpu) pinnedBytes(name string, n int) []byte {
	b := g.pins[name]
	if len(b) >= n && b != nil {
		return b
	}
	if b != nil {
		g.flush()
		g.keep(g.main.Wait())
		g.unpin(b)
		delete(g.pins, name)
	}
	made, err := g.pin(grow(max(n, 4096)))
	if err != nil {
		g.keep(err)
		return make([]byte, n) // the fault is reported; pageable memory serves as well
	}
	g.pins[name] = made
	return made
}

func (g *gpu) launch(name string, gridX, gridY, shared int, params unsafe.Pointer, size uintptr) error {
	g.flush()
	return g.launch1(name, gridX, gridY, shared, params, size)
}

// launch1 is launch when nothing waits to be copied.
func (g *gpu) launch1(name string, gridX, gridY, shared int, params unsafe.Pointer, size uintptr) error {
	if g.profile == nil {
		return g.main.launch(name, gridX, gridY, shared, params, size)
	}
	return g.profile.around(g, name, func() error { return g.main.launch(name, gridX, gridY, shared, params, size) })
}

func (s stream) launch(name string, gridX, gridY, shared int, params unsafe.Pointer, size uintptr) error {
	f := s.gpu.kernels[name]
	if f == nil {
		return fmt.Errorf("no kernel of this name for compute capability %d.%d", s.gpu.capability/10, s.gpu.capability%10)
	}
	return s.Launch(f, gridX, gridY, shared, params, size, s.gpu.capability >= 90 && s.gpu.profile == nil && !s.gpu.serial)
}

func (g *gpu) newStream() (stream, error) {
	s, err := g.NewStream()
	return stream{g, s}, err
}

func (s stream) wait() error                      { return s.Wait() }
func (s stream) copyIn(to ptr, from []byte) error { return s.CopyIn(to, from) }
func (s stream) close()                           { s.gpu.keep(s.Close()) }

// copyIn enqueues a copy from pinned memory, which stays as it is until the next sync. Copies between two launches are one
// launch of their own.
func (g *gpu) copyIn(to ptr, from []int32) {
	if len(from) > 0 {
		g.uploads = append(g.uploads, uploadPiece{to, ptr(uintptr(unsafe.Pointer(unsafe.SliceData(from)))), uint64(len(from))})
	}
}

// zeroWords enqueues zeros, n values of four bytes.
func (g *gpu) zeroWords(to ptr, n int) {
	g.uploads = append(g.uploads, uploadPiece{to: to, words: uint64(n)})
}

// flush launches the copies that wait for it.
func (g *gpu) flush() {
	for len(g.uploads) > 0 {
		var p uploadParams
		n := copy(p.pieces[:], g.uploads)
		g.uploads = append(g.uploads[:0], g.uploads[n:]...)
		most := uint64(0)
		for _, piece := range p.pieces[:n] {
			most = max(most, piece.words)
		}
		g.keep(g.launch1("upload_words", int(min((most+255)/256, 64)), n, 0, unsafe.Pointer(&p), unsafe.Sizeof(p)))
	}
}

// copyInNow copies any host memory and waits.
func (g *gpu) copyInNow(to ptr, from []byte) error {
	const most = 4 << 20
	for at := 0; at < len(from); at += most {
		part := from[at:min(at+most, len(from))]
		g.flush()
		host := g.pinnedBytes("now", len(part))
		copy(host, part)
		g.keep(g.main.CopyIn(to+ptr(at), host[:len(part)]))
		if err := g.sync(); err != nil {
			return err
		}
	}
	return nil
}

// copyOut enqueues a copy to the host, which is there after the next sync.
func (g *gpu) copyOut(to []byte, from ptr) {
	if len(to) == 0 {
		return
	}
	g.flush()
	if g.outUsed+len(to) > len(g.pins["out"]) {
		g.keep(g.sync())
		if len(to) > len(g.pins["out"]) {
			g.pinnedBytes("out", max(len(to), 1<<20))
		}
	}
	host := g.pins["out"]
	if len(host) < len(to) {
		return // the fault was kept
	}
	host = host[g.outUsed : g.outUsed+len(to)]
	g.outUsed += (len(to) + 15) &^ 15
	g.keep(g.main.CopyOut(host, from))
	g.outs = append(g.outs, pendingOut{to, host})
}

// copyOutNow copies to any host memory and waits.
func (g *gpu) copyOutNow(to []byte, from ptr) error {
	const most = 4 << 20
	for at := 0; at < len(to); at += most {
		g.copyOut(to[at:min(at+most, len(to))], from+ptr(at))
		if err := g.sync(); err != nil {
			return err
		}
	}
	return nil
}

func (g *gpu) copyWithin(to, from ptr, bytes int) {
	g.flush()
	g.keep(g.main.Copy(to, from, bytes))
}

func (g *gpu) zero(p ptr, bytes int) { g.fill(p, 0, bytes) }

func (g *gpu) fill(p ptr, value byte, bytes int) {
	g.flush()
	g.keep(g.main.Fill(p, value, bytes))
}

// sync waits for the stream and gives the first fault since the last sync.
func (g *gpu) sync() error {
	g.flush()
	g.keep(g.main.Wait())
	if g.profile != nil && g.broken == nil {
		g.keep(g.profile.settle())
	}
	err := g.broken
	g.broken = nil
	if err == nil {
		for _, o := range g.outs {
			copy(o.to, o.pinned)
		}
	}
	g.outs, g.outUsed = g.outs[:0], 0
	return err
}

// abandon forgets what a failed step left behind.
func (g *gpu) abandon() {
	if g.capturing {
		g.endCapture()
	}
	g.main.Wait()
	g.broken, g.uploads, g.outs, g.outUsed = nil, g.uploads[:0], g.outs[:0], 0
}

func (g *gpu) beginCapture() {
	g.flush()
	g.keep(g.main.Capture())
	g.capturing = true
}

func (g *gpu) endCapture() (*executable, error) {
	g.capturing = false
	return g.main.Captured()
}

func (g *gpu) replay(e *executable) error {
	g.flush()
	return g.main.Replay(e)
}

func (g *gpu) freeGraph(e *executable) {
	g.keep(g.main.Wait())
	g.keep(e.Close())
}

// firstBad is the index of the first bfloat16 that is not finite among pieces of 16 bytes; -1: none.
func (g *gpu) firstBad(data ptr, pieces uint64) (int64, error) {
	at, err := g.alloc(8)
	if err != nil {
		return 0, err
	}
	defer g.free(at)
	g.keep(g.main.Fill(at, 0xff, 8))
	p := checkParams{data: data, pieces: pieces, firstBad: at}
	blocks := int(min((pieces+255)/256, uint64(8*g.sms)))
	if err := g.launch("check_weight", blocks, 1, 0, unsafe.Pointer(&p), unsafe.Sizeof(p)); err != nil {
		return 0, err
	}
	out := make([]byte, 8)
	if err := g.copyOutNow(out, at); err != nil {
		return 0, err
	}
	return *(*int64)(unsafe.Pointer(&out[0])), nil
}
