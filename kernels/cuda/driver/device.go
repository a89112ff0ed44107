//go:build cuda

package driver

/*
#cgo CFLAGS: -O2
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "native.h"
#cgo noescape native_launch
#cgo nocallback native_launch
#cgo noescape native_replay
#cgo nocallback native_replay
*/
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"
)

// minVersion is the oldest driver that this program works with: CUDA 12.4, where programmatic dependent launch can be captured.
const minVersion = 12040

// Ptr is an address in device memory; 0 is null.
type Ptr uint64

// Info describes a GPU.
type Info struct {
	Ordinal    int
	Name       string
	UUID       string
	Capability int // 10·major + minor
	SMs        int // multiprocessors
	Memory     int64
	Driver     int // version, 1000·major + 10·minor

	Cooperative bool // blocks of a launch may wait for one another; not so on a software GPU
}

// available checks that there is a driver that starts.
func available() error {
	switch status := C.cudl_status(); {
	case status < 0:
		return &UnavailableError{NoDriver, C.GoString(C.cudl_why())}
	case status == 100:
		return &UnavailableError{Problem: NoDevice}
	case status == 803 || status == 35:
		return &UnavailableError{OldDriver, Error(status).Error()}
	case status != 0:
		return &UnavailableError{Broken, fmt.Sprintf("cuInit gives %d", int(status))}
	}
	if v := cu.Version(); v < minVersion {
		return &UnavailableError{OldDriver, fmt.Sprintf("it supports CUDA %d.%d; this program needs %d.%d", v/1000, v%1000/10, minVersion/1000, minVersion%1000/10)}
	}
	return nil
}

// Devices lists the GPUs that CUDA_VISIBLE_DEVICES leaves.
func Devices() ([]Info, error) {
	if err := available(); err != nil {
		return nil, err
	}
	n, err := cu.NumDevices()
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, &UnavailableError{Problem: NoDevice}
	}
	var list []Info
	for i := range n {
		info, err := describe(i)
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	return list, nil
}

func describe(ordinal int) (info Info, err error) {
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return info, err
	}
	info.Ordinal, info.Driver = ordinal, cu.Version()
	if info.Name, err = dev.Name(); err != nil {
		return info, err
	}
	major, minor, err := dev.ComputeCapability()
	if err != nil {
		return info, err
	}
	info.Capability = 10*major + minor
	if info.SMs, err = dev.Attribute(cu.MultiprocessorCount); err != nil {
		return info, err
	}
	const cooperativeLaunch = 95 // CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, which cu does not name
	cooperative, err := dev.Attribute(cooperativeLaunch)
	if err != nil {
		return info, err
	}
	info.Cooperative = cooperative != 0
	if info.Memory, err = dev.TotalMem(); err != nil {
		return info, err
	}
	var uuid [16]C.uchar
	if err := result(C.native_uuid(C.int(dev), &uuid[0])); err != nil {
		return info, err
	}
	info.UUID = fmt.Sprintf("GPU-%x-%x-%x-%x-%x", bytesOf(uuid[:4]), bytesOf(uuid[4:6]), bytesOf(uuid[6:8]), bytesOf(uuid[8:10]), bytesOf(uuid[10:]))
	return info, nil
}

func bytesOf(c []C.uchar) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&c[0])), len(c)) }

// Device is one GPU's primary context.
type Device struct {
	Info
	dev     cu.Device
	context cu.CUContext
}

// Open retains the context of a GPU.
func Open(ordinal int) (*Device, error) {
	list, err := Devices()
	if err != nil {
		return nil, err
	}
	if ordinal < 0 || ordinal >= len(list) {
		return nil, &UnavailableError{NoOrdinal, fmt.Sprintf("want number %d, there are %d", ordinal, len(list))}
	}
	d := &Device{Info: list[ordinal]}
	if d.Capability < 80 {
		return nil, &UnavailableError{TooOld, fmt.Sprintf("%s has compute capability %d.%d, want 8.0 or later", d.Name, d.Capability/10, d.Capability%10)}
	}
	if d.dev, err = cu.GetDevice(ordinal); err != nil {
		return nil, err
	}
	if d.context, err = d.dev.RetainPrimaryCtx(); err != nil {
		return nil, fmt.Errorf("cuda: %s: %w", d.Name, err)
	}
	return d, nil
}

// Reach lets kernels of d read and write another GPU's memory. ok is false where the machine cannot do that.
func (d *Device) Reach(other *Device) (ok bool, err error) {
	if d.context == other.context { // the same GPU
		return true, nil
	}
	can, err := d.dev.CanAccessPeer(other.dev)
	if err != nil || can == 0 {
		return false, err
	}
	defer d.Enter()()
	if err := other.context.EnablePeerAccess(0); err != nil && err != cu.PeerAccessAlreadyEnabled {
		return false, fmt.Errorf("cuda: access of %s to %s: %w", d.Name, other.Name, err)
	}
	return true, nil
}

// Enter makes the device current on the goroutine's thread, which the goroutine keeps until the function that it returns is
// called. Everything below must be called in between.
func (d *Device) Enter() (leave func()) {
	runtime.LockOSThread()
	if err := cu.SetCurrentContext(d.context); err != nil {
		panic(fmt.Sprintf("cuda: %s: %v", d.Name, err)) // only a context that was closed
	}
	return runtime.UnlockOSThread
}

// Close releases the context: everything on the device is gone.
func (d *Device) Close() error { return d.dev.ReleasePrimaryCtx() }

// Free is the memory that is free, and all of it, in bytes.
func (d *Device) Free() (free, total int64, err error) { return cu.MemInfo() }

// Alloc allocates device memory. A shortage is a *MemoryError.
func (d *Device) Alloc(bytes int) (Ptr, error) {
	p, err := cu.MemAlloc(int64(bytes))
	if err == nil {
		return Ptr(p), nil
	}
	if err == cu.OutOfMemory {
		free, total, _ := cu.MemInfo()
		return 0, &MemoryError{int64(bytes), free, total}
	}
	return 0, err
}

// Release frees device memory.
func (d *Device) Release(p Ptr) error { return cu.MemFree(cu.DevicePtr(p)) }

// Pin allocates host memory that the device copies from and to directly.
func (d *Device) Pin(bytes int) ([]byte, error) {
	var p unsafe.Pointer
	if err := result(C.native_host_alloc(&p, C.size_t(bytes))); err != nil {
		return nil, fmt.Errorf("pinned host memory, %d bytes: %w", bytes, err)
	}
	return unsafe.Slice((*byte)(p), bytes), nil
}

// Unpin frees memory of Pin.
func (d *Device) Unpin(b []byte) error {
	return result(C.native_host_free(unsafe.Pointer(unsafe.SliceData(b))))
}

// Module is a loaded image of kernels.
type Module struct{ handle C.handle }

// Load loads a cubin, fatbin or PTX image.
func (d *Device) Load(image []byte) (*Module, error) {
	m := &Module{}
	return m, result(C.native_load(unsafe.Pointer(unsafe.SliceData(image)), &m.handle))
}

// Function is a kernel.
type Function struct {
	handle  C.handle
	threads C.uint
}

// Function finds a kernel, to be launched with so many threads a block, and allows it `shared` bytes of dynamic shared memory.
func (m *Module) Function(name string, threads, shared int) (*Function, error) {
	f, err := (*(*cu.Module)(unsafe.Pointer(&m.handle))).Function(name)
	if err != nil {
		return nil, fmt.Errorf("cuda: kernel %s: %w", name, err)
	}
	k := &Function{handle: *(*C.handle)(unsafe.Pointer(&f)), threads: C.uint(threads)}
	if shared > 0 {
		if err := result(C.native_shared(k.handle, C.int(shared))); err != nil {
			return nil, fmt.Errorf("cuda: kernel %s: %d bytes of shared memory: %w", name, shared, err)
		}
	}
	return k, nil
}

// Attributes of a kernel.
type Attributes struct{ MaxThreads, Shared, Local, Registers int }

// Attributes asks the driver.
func (f *Function) Attributes() (a Attributes, err error) {
	for _, x := range []struct {
		id int
		to *int
	}{{0, &a.MaxThreads}, {1, &a.Shared}, {3, &a.Local}, {4, &a.Registers}} {
		var v C.int
		if err := result(C.native_attribute(f.handle, C.int(x.id), &v)); err != nil {
			return a, err
		}
		*x.to = int(v)
	}
	return a, nil
}

// Stream is a queue of work.
type Stream struct{ s cu.Stream }

// NewStream makes one that does not wait for the default stream.
func (d *Device) NewStream() (*Stream, error) {
	s, err := cu.MakeStream(cu.NonBlocking)
	return &Stream{s}, err
}

func (s *Stream) handle() C.handle { return *(*C.handle)(unsafe.Pointer(&s.s)) }

// Handle is the driver's own, for other libraries.
func (s *Stream) Handle() unsafe.Pointer { return unsafe.Pointer(s.handle()) }

// Close destroys the stream when its work is done.
func (s *Stream) Close() error { return s.s.Destroy() }

// Wait returns when all work of the stream is done.
func (s *Stream) Wait() error { return s.s.Synchronize() }

// Launch enqueues a kernel with a packed struct of parameters. dependent: it may begin before its predecessor has ended.
func (s *Stream) Launch(f *Function, gridX, gridY, shared int, params unsafe.Pointer, size uintptr, dependent bool) error {
	pdl := C.int(0)
	if dependent {
		pdl = 1
	}
	return result(C.native_launch(f.handle, C.uint(gridX), C.uint(gridY), f.threads, C.uint(shared), s.handle(), params, C.size_t(size), pdl))
}

// CopyIn enqueues a copy from pinned memory.
func (s *Stream) CopyIn(to Ptr, from []byte) error {
	return cu.MemcpyHtoDAsync(cu.DevicePtr(to), unsafe.Pointer(unsafe.SliceData(from)), int64(len(from)), s.s)
}

// CopyOut enqueues a copy to pinned memory.
func (s *Stream) CopyOut(to []byte, from Ptr) error {
	return cu.MemcpyDtoHAsync(unsafe.Pointer(unsafe.SliceData(to)), cu.DevicePtr(from), int64(len(to)), s.s)
}

// Copy enqueues a copy within the device.
func (s *Stream) Copy(to, from Ptr, bytes int) error {
	return cu.MemcpyDtoDAsync(cu.DevicePtr(to), cu.DevicePtr(from), int64(bytes), s.s)
}

// Zero enqueues a fill with zero bytes.
func (s *Stream) Zero(p Ptr, bytes int) error { return s.Fill(p, 0, bytes) }

// Fill enqueues a fill.
func (s *Stream) Fill(p Ptr, value byte, bytes int) error {
	return cu.MemsetD8Async(cu.DevicePtr(p), value, int64(bytes), s.s)
}

// Capture begins to record launches instead of running them.
func (s *Stream) Capture() error { return result(C.native_begin_capture(s.handle())) }

// Graph is a recorded run of work.
type Graph struct{ exec C.handle }

// Captured ends the recording and makes it ready to run.
func (s *Stream) Captured() (*Graph, error) {
	var graph C.handle
	if err := result(C.native_end_capture(s.handle(), &graph)); err != nil {
		return nil, err
	}
	g := &Graph{}
	err := result(C.native_instantiate(graph, &g.exec))
	if e := result(C.native_free_graph(graph)); err == nil {
		err = e
	}
	return g, err
}

// Replay enqueues a graph.
func (s *Stream) Replay(g *Graph) error { return result(C.native_replay(g.exec, s.handle())) }

// Close frees the graph; it must not run any more.
func (g *Graph) Close() error { return result(C.native_free_exec(g.exec)) }

// Event is a moment in a stream.
type Event struct{ e cu.Event }

// NewEvent makes an event that keeps the time.
func (d *Device) NewEvent() (*Event, error) {
	e, err := cu.MakeEvent(cu.DefaultEvent)
	return &Event{e}, err
}

// Close frees the event.
func (e *Event) Close() error { return cu.DestroyEvent(&e.e) }

// Record enqueues the event.
func (s *Stream) Record(e *Event) error { return e.e.Record(s.s) }

// Passed says that everything before the latest Record is done.
func (e *Event) Passed() (bool, error) {
	err := e.e.Query()
	if err == cu.NotReady {
		return false, nil
	}
	return err == nil, err
}

// Since is the time in milliseconds between two events that have passed.
func (e *Event) Since(begin *Event) (float64, error) {
	ms, err := begin.e.Elapsed(e.e)
	return ms, err
}
