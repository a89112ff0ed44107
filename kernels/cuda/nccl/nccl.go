//go:build cuda

package nccl

/*
#cgo CFLAGS: -O2
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "native.h"
#cgo noescape nccl_all_gather
#cgo nocallback nccl_all_gather
*/
import "C"

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"chulengo/kernels/cuda/driver"
)

// minVersion is 2.18 of 2023: older ones are made for an older CUDA than the driver package asks for.
const minVersion = 21800

// Open finds the library: the file that CHULENGO_NCCL names, or libnccl.so.2 where the system looks for libraries. The first call
// decides for the process.
var Open = sync.OnceValue(func() error {
	file := cmp.Or(os.Getenv("CHULENGO_NCCL"), "libnccl.so.2")
	for name, value := range map[string]string{
		"NCCL_NVLS_ENABLE":     "0", // no multicast over NVLink: not every virtual machine has it
		"NCCL_RUNTIME_CONNECT": "0", // connect at once, not within a step
		"NCCL_GRAPH_REGISTER":  "0", // nor while a graph is captured: not every rank captures when others do
	} {
		if os.Getenv(name) == "" {
			os.Setenv(name, value) // in C's environment, too
		}
	}
	path := C.CString(file)
	defer C.free(unsafe.Pointer(path))
	if why := C.nccl_open(path); why != nil {
		return fmt.Errorf("nccl: want NCCL 2.18 or later (libnccl.so.2, or the file that CHULENGO_NCCL names): %s", C.GoString(why))
	}
	var version C.int
	if err := result("version", C.nccl_version(&version)); err != nil {
		return err
	}
	if v := int(version); v < minVersion {
		return fmt.Errorf("nccl: %s: want NCCL 2.18 or later, got %d", file, v)
	}
	return nil
})

func result(what string, rc C.int) error {
	if rc == 0 {
		return nil
	}
	return fmt.Errorf("nccl: %s: %s (%d)", what, C.GoString(C.nccl_error_text(rc)), int(rc))
}

// ID is what all ranks of a communicator must know.
type ID [128]byte

// NewID makes one. The process that does must live as long as others join.
func NewID() (id ID, err error) {
	if err := Open(); err != nil {
		return id, err
	}
	return id, result("unique id", C.nccl_unique_id((*C.char)(unsafe.Pointer(&id))))
}

// Comm is a rank's place among others.
type Comm struct {
	mu     sync.Mutex // held while a call is under way
	handle C.handle   // null: aborted or closed
	why    error
}

// ErrAborted is what the methods of a communicator give after Abort, wrapped.
var ErrAborted = errors.New("nccl: the exchange was given up")

// Join comes back when all ranks have called it, each with its GPU current.
func Join(id ID, ranks, rank int) (*Comm, error) {
	if err := Open(); err != nil {
		return nil, err
	}
	c := &Comm{}
	if err := result(fmt.Sprintf("rank %d of %d", rank, ranks), C.nccl_init_rank(&c.handle, C.int(ranks), (*C.char)(unsafe.Pointer(&id)), C.int(rank))); err != nil {
		return nil, err
	}
	return c, nil
}

// AllGather enqueues: to [ranks][floats] = from [floats] of every rank.
func (c *Comm) AllGather(to, from driver.Ptr, floats int, s *driver.Stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == nil {
		return c.why
	}
	return result("all-gather", C.nccl_all_gather(pointer(from), pointer(to), C.size_t(floats), c.handle, C.handle(s.Handle())))
}

// pointer is a device address as C writes it.
func pointer(p driver.Ptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

// Check asks whether something went wrong while nobody looked: another host that is gone, above all.
func (c *Comm) Check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == nil {
		return c.why
	}
	var code C.int
	if err := result("state", C.nccl_async_error(c.handle, &code)); err != nil {
		return err
	}
	const inProgress = 7
	if code == inProgress {
		return nil
	}
	return result("state", code)
}

// Abort ends what is enqueued, wherever it stands, and the communicator. It may be called while another goroutine is stuck in
// AllGather, which it gives a second to come back.
func (c *Comm) Abort(why error) {
	locked := false
	for range 100 {
		if locked = c.mu.TryLock(); locked {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	handle := c.handle
	c.handle, c.why = nil, fmt.Errorf("%w: %w", ErrAborted, why)
	if locked {
		c.mu.Unlock()
	}
	if handle != nil {
		C.nccl_abort(handle)
	}
}

// Aborted is why, or nil.
func (c *Comm) Aborted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// Close ends the communicator when its work is done.
func (c *Comm) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handle == nil {
		return nil
	}
	handle := c.handle
	c.handle, c.why = nil, ErrAborted
	return result("destroy", C.nccl_destroy(handle))
}
