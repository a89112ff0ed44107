//go:build cuda

package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"unsafe"

	"github.com/x448/float16"

	"chulengo/kernels"
)

const (
	tile      = 64 // columns of a tile, rows of a block
	tileBytes = 2 * tile * tile
	lineBytes = 2 * tile
)

// weight implements kernels.Weight: packed tiles on the device (image.cuh), or, with one output, a float32 vector.
type weight struct {
	dev    *Device
	spec   kernels.WeightSpec
	data   ptr
	rows   int // packed rows of one expert, a multiple of 64, or of 128 if it is quantised
	tiles  int // along K
	first  []int
	pairs  bool   // gate and up in turns of 8 rows
	coded  *coded // of a quantised weight, whose tiles are those of codes.cuh
	sealed bool

	mu    sync.Mutex
	given map[[2]int]kernels.Matrix // what was put, without its bytes: Get gives the same layout back
}

// expertBytes is the distance between the matrices of experts.
func (w *weight) expertBytes() uint64 {
	if w.coded != nil {
		return uint64(w.rows) * uint64(w.tiles) * uint64(tile*w.coded.bits/8)
	}
	return uint64(w.rows) * uint64(w.tiles) * lineBytes
}

func (w *weight) vector() bool {
	return len(w.spec.Parts) == 1 && w.spec.Parts[0] == 1 && w.spec.Experts == 1
}

// blocks is the number of blocks of 64 packed rows.
func (w *weight) blocks() int { return w.rows / tile }

// NewWeight implements kernels.Device.
func (d *Device) NewWeight(s kernels.WeightSpec) (kernels.Weight, error) {
	if s.K < 1 || s.Experts < 1 || len(s.Parts) < 1 {
		return nil, fmt.Errorf("kernels/cuda: %s: want at least 1 input, expert and part, got %d, %d, %d", s.Tensor(0), s.K, s.Experts, len(s.Parts))
	}
	w := &weight{dev: d, spec: s, tiles: ceil(s.K, tile), given: map[[2]int]kernels.Matrix{}, pairs: s.Pairs}
	size := 4 * s.K
	if !w.vector() {
		for p, n := range s.Parts {
			if s.Pairs {
				if len(s.Parts) != 2 || n != s.Parts[0] {
					return nil, fmt.Errorf("kernels/cuda: %s: want a pair of equal parts, got %v", s.Tensor(0), s.Parts)
				}
				w.first = append(w.first, 8*p)
				w.rows = 2 * ceil(n, tile) * tile
				continue
			}
			w.first = append(w.first, w.rows)
			w.rows += ceil(n, tile) * tile
		}
		if s.Coding.Format.Quantised() {
			w.rows = ceil(w.rows, codeRows) * codeRows
			var err error
			if w.coded, err = newCoded(s, w.tiles); err != nil {
				return nil, err
			}
			if cols := s.Coding.Cols; d.bothCoded(w) && w.coded.coding.groups > 1 && cols%(2*tile) != 0 {
				return nil, fmt.Errorf("kernels/cuda: %s: activations in F8_E4M3: want scales for a multiple of %d inputs or all of them, got %d", s.Tensor(0), 2*tile, cols)
			}
		}
		size = int(w.expertBytes()) * s.Experts
	}
	defer d.gpu.enter()()
	var err error
	if w.data, err = d.gpu.alloc(size); err != nil {
		return nil, fmt.Errorf("kernels/cuda: %s: %w", s.Tensor(0), err)
	}
	d.gpu.zero(w.data, size) // the padding stays zero
	if w.coded != nil {
		if err := w.allocCodes(); err != nil {
			return nil, fmt.Errorf("kernels/cuda: %s: %w", s.Tensor(0), err)
		}
	}
	return w, d.gpu.sync()
}

// pack is the description of one part's place for the packing kernels.
func (w *weight) pack(part, expert int, m kernels.Matrix) packParams {
	p := packParams{
		packed: w.data + ptr(uint64(expert)*w.expertBytes()), stride: uint64(m.RowStride()),
		n: int32(m.N), k: int32(m.K), tiles: int32(w.tiles), first: int32(w.first[part]),
		format: int32(m.Format), kRows: int32(m.K),
	}
	if w.pairs {
		p.group = 8
	}
	if m.InOut {
		p.inOut = 1
	}
	return p
}

// Put copies a matrix to the device in pieces, through pinned memory; it returns when m.Data may be reused. Faults of
// the copies are reported by Seal. Numbers that are not bfloat16 are rounded to it.
func (w *weight) Put(part, expert int, m kernels.Matrix) error {
	if err := m.Check(w.spec, part, expert); err != nil {
		return err
	}
	w.mu.Lock()
	kept := m
	kept.Data, kept.Scales, kept.Zeros = nil, nil, nil
	w.given[[2]int{part, expert}] = kept
	w.sealed = false
	w.mu.Unlock()
	switch {
	case w.vector():
		return w.putVector(m)
	case w.coded != nil:
		return w.putCodes(part, expert, m)
	}
	size, stride := m.Format.Size(), m.RowStride()
	stored, width := m.N, m.K // rows as they are stored, and what of each is read
	unit := 8                 // pairs are cut between groups of 8 outputs
	if m.InOut {
		stored, width, unit = m.K, m.N, tile
	}
	rows := max(unit, stagingBytes/(width*size)/unit*unit)
	if unit*width*size > stagingBytes {
		return fmt.Errorf("kernels/cuda: %s: want rows of at most %d bytes, got %d", w.spec.Tensor(part), stagingBytes/unit, width*size)
	}
	for from := 0; from < stored; from += rows {
		n := min(rows, stored-from)
		p := w.pack(part, expert, m)
		p.stride = uint64(width)
		if m.InOut {
			p.kFrom, p.kRows = int32(from), int32(n)
		} else {
			p.n = int32(n)
			if w.pairs {
				p.first += int32(2 * from)
			} else {
				p.first += int32(from)
			}
		}
		w.dev.loader.put(n*width*size, func(staging []byte) {
			for r := range n {
				copy(staging[r*width*size:][:width*size], m.Data[(from+r)*stride*size:])
			}
		}, func(s *staging) error {
			p.raw = s.device
			columns := int(p.k)
			if m.InOut {
				columns = int(p.kRows)
			}
			return s.stream.launch("pack_weight", ceil(columns, tile), ceil(int(p.n), tile), 0, unsafe.Pointer(&p), unsafe.Sizeof(p))
		})
	}
	return nil
}

// putVector keeps norms as float32.
func (w *weight) putVector(m kernels.Matrix) error {
	values := make([]float32, w.spec.K)
	for k := range values {
		at := k
		if m.InOut {
			at = k * m.RowStride()
		}
		v := element(m.Format, m.Data[at*m.Format.Size():])
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("kernels/cuda: %s: want finite values, got %v at [%d]", w.spec.Tensor(0), v, k)
		}
		values[k] = v
	}
	return w.setVector(values)
}

// element reads one number.
func element(f kernels.Format, b []byte) float32 {
	switch f {
	case kernels.BF16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	case kernels.F16:
		return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32()
	default:
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	}
}

func (w *weight) setVector(values []float32) error {
	defer w.dev.gpu.enter()()
	return w.dev.gpu.copyInNow(w.data, bytesOf(values))
}

// Fill implements kernels.Weight on the device: no value crosses the bus.
func (w *weight) Fill(part, expert int, f kernels.Fill) error {
	if part < 0 || part >= len(w.spec.Parts) || expert < 0 || expert >= w.spec.Experts {
		return fmt.Errorf("kernels/cuda: %s: want part < %d, expert < %d, got %d, %d", w.spec.Tensor(0), len(w.spec.Parts), w.spec.Experts, part, expert)
	}
	m := kernels.Matrix{Format: kernels.BF16, N: w.spec.Parts[part], K: w.spec.K, InOut: f.KStep != 1}
	if w.coded != nil {
		m.Format, m.Coding, m.InOut = w.spec.Coding.Format, w.spec.Coding, false
	}
	w.mu.Lock()
	w.given[[2]int{part, expert}] = m
	w.sealed = false
	w.mu.Unlock()
	if w.vector() {
		values := make([]float32, w.spec.K)
		for k := range values {
			values[k] = f.Value(0, k)
		}
		return w.setVector(values)
	}
	defer w.dev.gpu.enter()()
	if w.coded != nil {
		return w.fillCodes(part, expert, f)
	}
	p := fillParams{to: w.pack(part, expert, m), fill: filled(f)}
	return w.dev.gpu.launch("fill_weight", w.tiles, ceil(m.N, tile), 0, unsafe.Pointer(&p), unsafe.Sizeof(p))
}

// Seal waits for the copies and looks at every value.
func (w *weight) Seal() error {
	if err := w.dev.loader.flush(); err != nil {
		return fmt.Errorf("kernels/cuda: %s: %w", w.spec.Tensor(0), err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range w.spec.Experts {
		for p := range w.spec.Parts {
			if _, ok := w.given[[2]int{p, e}]; !ok {
				return fmt.Errorf("kernels/cuda: %s expert %d: want a matrix, got nothing", w.spec.Tensor(p), e)
			}
		}
	}
	defer w.dev.gpu.enter()()
	if !w.vector() && w.coded == nil { // codes were looked at when they came
		bad, err := w.dev.gpu.firstBad(w.data, uint64(w.spec.Experts)*w.expertBytes()/16)
		if err != nil {
			return fmt.Errorf("kernels/cuda: %s: %w", w.spec.Tensor(0), err)
		}
		if bad >= 0 {
			part, expert, n, k := w.locate(bad)
			return fmt.Errorf("kernels/cuda: %s expert %d: want finite values, got another at output %d, input %d", w.spec.Tensor(part), expert, n, k)
		}
	}
	w.sealed = true
	return nil
}

// locate is the inverse of the packing: whose value lies at an index.
func (w *weight) locate(at int64) (part, expert, n, k int) {
	per := int64(w.expertBytes() / 2)
	expert, at = int(at/per), at%per
	block, in := int(at/(tileBytes/2)), int(at%(tileBytes/2))
	row := block/w.tiles*tile + in/tile
	piece := in%tile/8 ^ row&7
	k = block%w.tiles*tile + piece*8 + in%8
	if w.pairs {
		return row / 8 % 2, expert, row/16*8 + row%8, k
	}
	for part = len(w.first) - 1; part > 0 && row < w.first[part]; part-- {
	}
	return part, expert, row - w.first[part], k
}

// Get gives back what was put, as bfloat16 (norms: float32), or quantised as it was.
func (w *weight) Get(part, expert int) (kernels.Matrix, error) {
	w.mu.Lock()
	m, ok := w.given[[2]int{part, expert}]
	w.mu.Unlock()
	if !ok {
		return kernels.Matrix{}, fmt.Errorf("kernels/cuda: %s: no matrix at part %d expert %d", w.spec.Tensor(0), part, expert)
	}
	if err := w.dev.loader.flush(); err != nil {
		return kernels.Matrix{}, err
	}
	defer w.dev.gpu.enter()()
	g := w.dev.gpu
	m.Stride = 0
	if w.coded != nil {
		return w.getCodes(part, expert, m)
	}
	if w.vector() {
		m.Format, m.Data = kernels.F32, make([]byte, 4*w.spec.K)
		return m, g.copyOutNow(m.Data, w.data)
	}
	m.Format, m.Data = kernels.BF16, make([]byte, 2*m.N*m.K)
	raw, err := g.alloc(len(m.Data))
	if err != nil {
		return kernels.Matrix{}, err
	}
	defer g.free(raw)
	p := w.pack(part, expert, m)
	p.raw = raw
	if err := g.launch("unpack_weight", w.tiles, ceil(m.N, tile), 0, unsafe.Pointer(&p), unsafe.Sizeof(p)); err != nil {
		return kernels.Matrix{}, err
	}
	return m, g.copyOutNow(m.Data, raw)
}
