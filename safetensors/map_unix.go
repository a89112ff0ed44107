//go:build unix && !aix && !solaris

package safetensors

import (
	"os"

	"golang.org/x/sys/unix"
)

const canMap = true

// mapFile maps the first size bytes of file, read-only; size > 0.
func mapFile(file *os.File, size int) ([]byte, error) {
	data, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return data, nil
}

func unmapFile(data []byte) error { return os.NewSyscallError("munmap", unix.Munmap(data)) }

// adviseNeed asks the kernel to begin reading data, a part of a mapping that begins at a page border. Advice may be
// refused, so there is no error.
func adviseNeed(data []byte) { _ = unix.Madvise(data, unix.MADV_WILLNEED) }
