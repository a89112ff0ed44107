//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"unsafe"

	"chulengo/kernels"
)

// Quantised weights: codes in the order of the tensor cores' fragments, with the scales of their groups (codes.cuh). Decode
// multiplies the codes and scales sums in float32; prefill multiplies what the codes are worth, rounded to bfloat16.

const codeRows = 128 // rows of a tile of codes

// codes are the code numbers of codes.cuh.
var codes = map[kernels.Format]int32{kernels.F8E4M3: 1, kernels.Int4: 2, kernels.Table4: 3}

// coded is what a quantised weight has beside its codes.
type coded struct {
	name   string // in the kernels' names
	bits   int
	coding coding // of all experts
}

// newCoded lays a quantised weight out; its memory comes later.
func newCoded(s kernels.WeightSpec, tiles int) (*coded, error) {
	c := s.Coding
	q := &coded{name: map[kernels.Format]string{kernels.F8E4M3: "e4m3", kernels.Int4: "int4", kernels.Table4: "table4"}[c.Format], bits: 4}
	if c.Format == kernels.F8E4M3 {
		q.bits = 8
	}
	q.coding = coding{code: codes[c.Format], scaleBytes: 4, groups: 1}
	if c.Scale == kernels.BF16 {
		q.coding.scaleBytes = 2
	}
	if c.Table != nil {
		q.coding.table = *c.Table
	}
	switch {
	case c.Cols == 0 || c.Cols >= s.K:
	case c.Cols == tile/2:
		q.coding.groups, q.coding.fine = int32(2*tiles), 1
	case c.Cols%tile == 0:
		q.coding.groups = int32(ceil(tiles, c.Cols/tile))
	default:
		return nil, fmt.Errorf("kernels/cuda: %s: want scales for 32 inputs, a multiple of 64 or all of them, got %d", s.Tensor(0), c.Cols)
	}
	if q.coding.groups > 1 {
		q.coding.groupStep = uint32(ceil(1<<31, c.Cols/(tile/2)))
	}
	if c.Zeros || c.Format == kernels.Table4 || q.coding.groups > 1 && (c.Format == kernels.F8E4M3 || c.Cols%(2*tile) != 0) {
		q.coding.fine = 1
	}
	return q, nil
}

// scaleCount is the number of scales of one expert's matrix.
func (w *weight) scaleCount() int { return w.rows * int(w.coded.coding.groups) }

// allocCodes reserves the scales and zeros of all experts; their padding is 0.
func (w *weight) allocCodes() error {
	g, c, n := w.dev.gpu, &w.coded.coding, w.scaleCount()*w.spec.Experts
	c.expertScales = uint64(w.scaleCount())
	var err error
	if c.scales, err = g.alloc(n * int(c.scaleBytes)); err != nil {
		return err
	}
	g.zero(c.scales, n*int(c.scaleBytes))
	if w.spec.Coding.Zeros {
		if c.zeros, err = g.alloc(n); err != nil {
			return err
		}
		g.zero(c.zeros, n)
	}
	return nil
}

// place is where a part of an expert's matrix lies, for the packing kernels; raw is somebody else's.
func (w *weight) place(part, expert int) codesParams {
	c := w.coded.coding
	p := codesParams{
		codes: w.data + ptr(uint64(expert)*w.expertBytes()), scales: c.scales + ptr(expert*w.scaleCount()*int(c.scaleBytes)),
		n: int32(w.spec.Parts[part]), k: int32(w.spec.K), tiles: int32(w.tiles), first: int32(w.first[part]),
		code: c.code, groups: c.groups, scaleBytes: c.scaleBytes,
	}
	if c.zeros != 0 {
		p.zeros = c.zeros + ptr(expert*w.scaleCount())
	}
	if w.pairs {
		p.group = 8
	}
	return p
}

// rawBytes are the sizes of rows of codes, scales and zeros as they come and go, each aligned for the next.
func (w *weight) rawBytes(rows int) (codes, scales, zeros int) {
	groups := int(w.coded.coding.groups)
	codes = (rows*w.spec.Coding.Format.Bytes(w.spec.K) + 15) &^ 15
	if w.coded.coding.zeros != 0 {
		zeros = rows * groups
	}
	return codes, rows * groups * 4, zeros
}

// at sets where raw parts of so many rows lie.
func (p *codesParams) at(raw ptr, codes, scales, zeros int) {
	p.raw, p.rawScales = raw, raw+ptr(codes)
	if zeros > 0 {
		p.rawZeros = raw + ptr(codes+scales)
	}
}

// putCodes sends a quantised matrix to the device, some rows at a time.
func (w *weight) putCodes(part, expert int, m kernels.Matrix) error {
	if err := m.CheckCodes(); err != nil {
		return fmt.Errorf("kernels/cuda: %s: %w", w.spec.Place(part, expert), err)
	}
	groups, line := int(w.coded.coding.groups), m.Format.Bytes(m.K)
	rows := stagingBytes / (line + 5*groups + 1) / tile * tile
	if rows == 0 {
		return fmt.Errorf("kernels/cuda: %s: want rows of at most %d bytes, got %d", w.spec.Place(part, expert), stagingBytes/tile, line)
	}
	each := m.Coding.Rows
	if each == 0 {
		each = m.N
	}
	_, grid := m.Coding.Grid(m.N, m.K)
	for from := 0; from < m.N; from += rows {
		n := min(rows, m.N-from)
		codes, scales, zeros := w.rawBytes(n)
		p := w.place(part, expert)
		p.n = int32(n)
		if w.pairs {
			p.first += int32(2 * from)
		} else {
			p.first += int32(from)
		}
		w.dev.loader.put(codes+scales+zeros, func(staging []byte) {
			for r := range n {
				copy(staging[r*line:][:line], m.Data[m.Format.Bytes((from+r)*m.RowStride()):])
			}
			values := unsafe.Slice((*float32)(unsafe.Pointer(&staging[codes])), n*groups)
			clear(values)
			for r := range n {
				copy(values[r*groups:][:groups], m.Scales[(from+r)/each*grid:][:grid])
				if zeros > 0 {
					copy(staging[codes+scales+r*groups:][:groups], m.Zeros[(from+r)/each*grid:][:grid])
				}
			}
		}, func(s *staging) error {
			p.at(s.device, codes, scales, zeros)
			return s.stream.launch("pack_codes", w.tiles, ceil(n, tile), 0, unsafe.Pointer(&p), unsafe.Sizeof(p))
		})
	}
	return nil
}

// raw is memory for a part as it comes and goes, and where its pieces lie. The caller frees it.
func (w *weight) raw(part, expert int) (p codesParams, codes, scales, zeros int, err error) {
	p = w.place(part, expert)
	codes, scales, zeros = w.rawBytes(int(p.n))
	at, err := w.dev.gpu.alloc(codes + scales + zeros)
	p.at(at, codes, scales, zeros)
	return p, codes, scales, zeros, err
}

// fillCodes makes random values and quantises them on the device. The caller has the GPU.
func (w *weight) fillCodes(part, expert int, f kernels.Fill) error {
	c := w.spec.Coding
	cols := c.Cols
	if cols == 0 {
		cols = w.spec.K
	}
	if c.Rows != 1 || c.Zeros || c.Format == kernels.Table4 {
		return fmt.Errorf("kernels/cuda: %s: want F8_E4M3 or INT4 with scales for each output to fill, got %v", w.spec.Place(part, expert), c)
	}
	g := w.dev.gpu
	p, _, _, _, err := w.raw(part, expert)
	if err != nil {
		return err
	}
	defer g.free(p.raw)
	fill := fillCodesParams{to: p, fill: filled(f), cols: int32(cols)}
	if c.Cols == 0 {
		fill.before, fill.behind = int32(f.Before), int32(f.Behind)
	}
	if err := g.launch("fill_codes", ceil(int(p.n*p.groups), 8), 1, 0, unsafe.Pointer(&fill), unsafe.Sizeof(fill)); err != nil {
		return err
	}
	if err := g.launch("pack_codes", w.tiles, ceil(int(p.n), tile), 0, unsafe.Pointer(&p), unsafe.Sizeof(p)); err != nil {
		return err
	}
	return g.sync() // before the memory is freed
}

// filled is the kernels' form of a Fill.
func filled(f kernels.Fill) fillValues {
	return fillValues{seed: f.Seed, index: f.Index, nStep: f.NStep, kStep: f.KStep, std: f.Std}
}

// getCodes reads a quantised matrix back: m is what was put, without its numbers. The caller has the GPU.
func (w *weight) getCodes(part, expert int, m kernels.Matrix) (kernels.Matrix, error) {
	g, groups := w.dev.gpu, int(w.coded.coding.groups)
	p, codes, scales, zeros, err := w.raw(part, expert)
	if err != nil {
		return m, err
	}
	defer g.free(p.raw)
	if err := g.launch("unpack_codes", w.tiles, ceil(m.N, tile), 0, unsafe.Pointer(&p), unsafe.Sizeof(p)); err != nil {
		return m, err
	}
	out := make([]byte, codes+scales+zeros)
	if err := g.copyOutNow(out, p.raw); err != nil {
		return m, err
	}
	m.Data = out[:m.N*m.Format.Bytes(m.K)]
	each := m.Coding.Rows
	if each == 0 {
		each = m.N
	}
	rows, grid := m.Coding.Grid(m.N, m.K)
	m.Scales = make([]float32, rows*grid)
	if zeros > 0 {
		m.Zeros = make([]uint8, rows*grid)
	}
	for i := range m.Scales {
		at := i/grid*each*groups + i%grid
		m.Scales[i] = math.Float32frombits(uint32(out[codes+4*at]) | uint32(out[codes+4*at+1])<<8 | uint32(out[codes+4*at+2])<<16 | uint32(out[codes+4*at+3])<<24)
		if zeros > 0 {
			m.Zeros[i] = out[codes+scales+at]
		}
	}
	return m, nil
}
