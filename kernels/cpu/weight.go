package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/x448/float16"

	"chulengo/kernels"
)

// weight implements kernels.Weight: views of the matrices as they were put.
type weight struct {
	spec   kernels.WeightSpec
	mu     sync.Mutex
	sealed bool
	parts  [][]kernels.Matrix // [expert][part]
	vector []float32          // [K] of a weight with one output: norms, converted once
}

// NewWeight implements kernels.Device.
func (d *Device) NewWeight(s kernels.WeightSpec) (kernels.Weight, error) {
	if s.K < 1 || s.Experts < 1 || len(s.Parts) < 1 {
		return nil, fmt.Errorf("kernels/cpu: %s: want at least 1 input, expert and part, got %d, %d, %d", s.Tensor(0), s.K, s.Experts, len(s.Parts))
	}
	w := &weight{spec: s, parts: make([][]kernels.Matrix, s.Experts)}
	for e := range w.parts {
		w.parts[e] = make([]kernels.Matrix, len(s.Parts))
	}
	return w, nil
}

// Put keeps m: its bytes are read in place.
func (w *weight) Put(part, expert int, m kernels.Matrix) error {
	if err := m.Check(w.spec, part, expert); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parts[expert][part] = m
	w.sealed = false
	return nil
}

// Seal scans every value once; it also brings the bytes into memory.
func (w *weight) Seal() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range w.parts {
		for p, m := range w.parts[e] {
			if m.Data == nil {
				return fmt.Errorf("kernels/cpu: %s: want a matrix, got nothing", w.spec.Place(p, e))
			}
			if err := checkValues(m); err != nil {
				return fmt.Errorf("kernels/cpu: %s: %w", w.spec.Place(p, e), err)
			}
		}
	}
	if len(w.spec.Parts) == 1 && w.spec.Parts[0] == 1 && w.spec.Experts == 1 {
		w.vector = make([]float32, w.spec.K)
		m := w.parts[0][0]
		if m.InOut {
			for k := range w.vector {
				w.vector[k] = value(m.Format, m.Data[k*m.RowStride()*m.Format.Size():])
			}
		} else {
			readRow(w.vector, &m, 0)
		}
	}
	w.sealed = true
	return nil
}

// Get gives back what was put.
func (w *weight) Get(part, expert int) (kernels.Matrix, error) {
	if part < 0 || part >= len(w.spec.Parts) || expert < 0 || expert >= w.spec.Experts || w.parts[expert][part].Data == nil {
		return kernels.Matrix{}, fmt.Errorf("kernels/cpu: %s: no matrix at part %d expert %d", w.spec.Tensor(0), part, expert)
	}
	return w.parts[expert][part], nil
}

// Fill implements kernels.Weight.
func (w *weight) Fill(part, expert int, f kernels.Fill) error {
	if part < 0 || part >= len(w.spec.Parts) || expert < 0 || expert >= w.spec.Experts {
		return fmt.Errorf("kernels/cpu: %s: want part < %d, expert < %d, got %d, %d", w.spec.Tensor(0), len(w.spec.Parts), w.spec.Experts, part, expert)
	}
	m, err := f.Filled(w.spec.Parts[part], w.spec.K, w.spec.Coding)
	if err != nil {
		return fmt.Errorf("kernels/cpu: %s: %w", w.spec.Place(part, expert), err)
	}
	return w.Put(part, expert, m)
}

// checkValues scans every value for what is no finite number.
func checkValues(m kernels.Matrix) error {
	if m.Format.Quantised() {
		return m.CheckCodes()
	}
	rows, cols, size := m.N, m.K, m.Format.Size()
	if m.InOut {
		rows, cols = m.K, m.N
	}
	for r := range rows {
		if c := firstNotFinite(m.Format, m.Data[r*m.RowStride()*size:][:cols*size]); c >= 0 {
			return fmt.Errorf("want finite values, got %v at [%d, %d]", value(m.Format, m.Data[(r*m.RowStride()+c)*size:]), r, c)
		}
	}
	return nil
}

// value reads one number.
func value(f kernels.Format, b []byte) float32 {
	switch f {
	case kernels.BF16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	case kernels.F16:
		return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32()
	default:
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	}
}

// convert reads a row of numbers.
func convert(dst []float32, f kernels.Format, b []byte) {
	switch f {
	case kernels.BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		}
	case kernels.F16:
		for i := range dst {
			dst[i] = float16.Frombits(binary.LittleEndian.Uint16(b[2*i:])).Float32()
		}
	default:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
}

// firstNotFinite is the index of the first NaN or infinity in b, -1 if there is none.
func firstNotFinite(f kernels.Format, b []byte) int {
	var exponent, lowest, highest uint64 // all-ones exponents, and the lowest and highest bit of every lane
	switch f {
	case kernels.BF16:
		exponent, lowest, highest = 0x7f807f807f807f80, 0x0001000100010001, 0x8000800080008000
	case kernels.F16:
		exponent, lowest, highest = 0x7c007c007c007c00, 0x0001000100010001, 0x8000800080008000
	default:
		exponent, lowest, highest = 0x7f8000007f800000, 0x0000000100000001, 0x8000000080000000
	}
	whole := len(b) &^ 7
	at := whole
	for i := 0; i < whole; i += 8 {
		// A lane whose exponent is all ones becomes zero; the rest is the test for a zero lane.
		x := binary.LittleEndian.Uint64(b[i:])&exponent ^ exponent
		if (x-lowest)&^x&highest != 0 {
			at = i
			break
		}
	}
	for size := f.Size(); at < len(b); at += size {
		if v := float64(value(f, b[at:])); math.IsNaN(v) || math.IsInf(v, 0) {
			return at / size
		}
	}
	return -1
}

// weightOf is the weight behind a handle.
func weightOf(h kernels.Weight) *weight {
	w, ok := h.(*weight)
	if !ok || !w.sealed {
		panic(fmt.Sprintf("want a sealed weight of this device, got %T", h))
	}
	return w
}
