package safetensors

import (
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

const canMap = true

// mapFile maps the first size bytes of file, read-only; size > 0.
func mapFile(file *os.File, size int) ([]byte, error) {
	handle, err := windows.CreateFileMapping(windows.Handle(file.Fd()), nil, windows.PAGE_READONLY, 0, 0, nil)
	if err != nil {
		return nil, os.NewSyscallError("CreateFileMapping", err)
	}
	defer windows.CloseHandle(handle) // the view keeps the mapping alive
	addr, err := windows.MapViewOfFile(handle, windows.FILE_MAP_READ, 0, 0, uintptr(size))
	if err != nil {
		return nil, os.NewSyscallError("MapViewOfFile", err)
	}
	// The address is not of Go's heap, so turning it into a pointer this way is safe; vet objects to the direct way.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&addr)), size), nil
}

func unmapFile(data []byte) error {
	return os.NewSyscallError("UnmapViewOfFile", windows.UnmapViewOfFile(uintptr(unsafe.Pointer(unsafe.SliceData(data)))))
}

// adviseNeed does nothing: the reads of Touch suffice.
func adviseNeed([]byte) {}
