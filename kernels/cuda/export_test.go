//go:build cuda

package cuda

import "chulengo/kernels"

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
