//go:build cuda

package driver

// #include "native.h"
import "C"

import (
	"fmt"

	"gorgonia.org/cu"
)

// Problem says why there is no GPU to work with.
type Problem int

const (
	NoDriver  Problem = iota // libcuda.so.1 is not there
	OldDriver                // older than this program needs
	NoDevice                 // a driver, but no GPU; or CUDA_VISIBLE_DEVICES hides it
	NoOrdinal                // fewer GPUs than asked for
	TooOld                   // a GPU before compute capability 8.0
	Broken                   // the driver cannot start
)

// UnavailableError is the reason why a GPU cannot be used.
type UnavailableError struct {
	Problem Problem
	Detail  string
}

func (e *UnavailableError) Error() string {
	what := map[Problem]string{
		NoDriver: "no NVIDIA driver", OldDriver: "the NVIDIA driver is too old", NoDevice: "no NVIDIA GPU", NoOrdinal: "no such NVIDIA GPU",
		TooOld: "the GPU is too old", Broken: "the NVIDIA driver does not start",
	}[e.Problem]
	if e.Detail == "" {
		return "cuda: " + what
	}
	return "cuda: " + what + ": " + e.Detail
}

// Error is a code of the driver.
type Error int

func (e Error) Error() string {
	name, text := C.GoString(C.native_error_name(C.int(e))), C.GoString(C.native_error_text(C.int(e)))
	if name == "" {
		return fmt.Sprintf("cuda: error %d", int(e))
	}
	return fmt.Sprintf("cuda: %s (%s)", text, name)
}

// OutOfMemory is the code for no memory on the device.
const OutOfMemory = Error(cu.OutOfMemory)

// MemoryError says how much was asked for and how much there was.
type MemoryError struct{ Want, Free, Total int64 }

func (e *MemoryError) Error() string {
	return fmt.Sprintf("cuda: out of memory: want %d MiB, free are %d of %d MiB", (e.Want+1<<20-1)>>20, e.Free>>20, e.Total>>20)
}

func result(rc C.int) error {
	if rc == 0 {
		return nil
	}
	return Error(rc)
}
