package cpu

import (
	"encoding/binary"
	"fmt"
	"math"

	"chulengo/kernels"
	"chulengo/kernels/cpu/simd"
)

// kv is key/value memory. Pages come into being when they are first written, so that a large context costs nothing until
// it is used. A page of a group is [layers][k, v][KvH][PageTokens][Hd]: the keys of one head lie together.
type kv struct {
	spec   kernels.KVSpec
	pages  [kernels.Groups][]page
	closed bool
}

// page holds values in the format of the spec: one of the three is used.
type page struct {
	f32  []float32
	bf16 []uint16
	e4m3 []byte
}

// NewKV reserves page numbers; memory follows with use. Formats: F32, BF16, and F8E4M3, which has no scales: a byte is the number nearest
// to the value, at most 448. Normed keys and the demo checkpoint's values lie where that keeps 4 significant bits (bench/LOG.md).
func (d *Device) NewKV(s kernels.KVSpec) (kernels.KV, error) {
	if s.Format != kernels.F32 && s.Format != kernels.BF16 && s.Format != kernels.F8E4M3 {
		return nil, fmt.Errorf("kernels/cpu: keys and values: want format F32, BF16 or F8_E4M3, got %v", s.Format)
	}
	if s.PageTokens < 1 || s.KVHeads < 1 || s.HeadDim < 1 {
		return nil, fmt.Errorf("kernels/cpu: keys and values: want pages of at least 1 token, head and dimension, got %d, %d, %d", s.PageTokens, s.KVHeads, s.HeadDim)
	}
	m := &kv{spec: s}
	for g, n := range s.Pages {
		if n < 0 || s.Layers[g] < 0 {
			return nil, fmt.Errorf("kernels/cpu: keys and values: group %d: want no fewer than 0 pages and layers, got %d, %d", g, n, s.Layers[g])
		}
		m.pages[g] = make([]page, n)
	}
	return m, nil
}

// values is the number of values in a page of group g.
func (m *kv) values(g int) int { return m.spec.PageBytes(g) / m.spec.Format.Size() }

func (m *kv) page(g int, p kernels.Page) *page {
	x := &m.pages[g][p]
	if x.f32 == nil && x.bf16 == nil && x.e4m3 == nil {
		switch m.spec.Format {
		case kernels.F32:
			x.f32 = make([]float32, m.values(g))
		case kernels.BF16:
			x.bf16 = make([]uint16, m.values(g))
		default:
			x.e4m3 = make([]byte, m.values(g))
		}
	}
	return x
}

// block is the offset of the slots of one head: which is 0 for keys, 1 for values.
func (m *kv) block(layer, which, head int) int {
	return ((layer*2+which)*m.spec.KVHeads + head) * m.spec.PageTokens * m.spec.HeadDim
}

// write stores the value of one head at a slot.
func (m *kv) write(g int, s *kernels.Span, slot, layer, which, head int, x []float32) {
	p := m.page(g, s.Pages[slot/m.spec.PageTokens])
	at := m.block(layer, which, head) + slot%m.spec.PageTokens*m.spec.HeadDim
	switch {
	case p.f32 != nil:
		copy(p.f32[at:at+len(x)], x)
	case p.bf16 != nil:
		for i, v := range x {
			p.bf16[at+i] = toBF16(v)
		}
	default:
		for i, v := range x {
			p.e4m3[at+i] = kernels.E4M3(v)
		}
	}
}

// read gives the first n slots of one head in a page, [n, Hd]; scratch, at least as large, may be used for it.
func (m *kv) read(g int, number kernels.Page, layer, which, head, n int, scratch []float32) []float32 {
	p := m.page(g, number)
	at := m.block(layer, which, head)
	if p.f32 != nil {
		return p.f32[at : at+n*m.spec.HeadDim]
	}
	out := scratch[:n*m.spec.HeadDim]
	if p.e4m3 != nil {
		simd.DecodeE4M3(out, p.e4m3[at:at+len(out)], 1)
		return out
	}
	for i, v := range p.bf16[at : at+len(out)] {
		out[i] = math.Float32frombits(uint32(v) << 16)
	}
	return out
}

func (m *kv) checkPage(g int, p kernels.Page) error {
	if m.closed || g < 0 || g >= kernels.Groups || p < 0 || int(p) >= len(m.pages[g]) {
		return fmt.Errorf("kernels/cpu: keys and values: want an open page of %d, got page %d of group %d", len(m.pages[min(max(g, 0), kernels.Groups-1)]), p, g)
	}
	return nil
}

// Copy copies a page.
func (m *kv) Copy(g int, dst, src kernels.Page) error {
	if err := m.checkPage(g, dst); err != nil {
		return err
	}
	if err := m.checkPage(g, src); err != nil {
		return err
	}
	to, from := m.page(g, dst), m.page(g, src)
	copy(to.f32, from.f32)
	copy(to.bf16, from.bf16)
	copy(to.e4m3, from.e4m3)
	return nil
}

// Save writes a page's values, little-endian in the stored format.
func (m *kv) Save(g int, p kernels.Page, to []byte) error {
	if err := m.checkPage(g, p); err != nil {
		return err
	}
	if len(to) != m.spec.PageBytes(g) {
		return fmt.Errorf("kernels/cpu: keys and values: want a buffer of %d bytes, got %d", m.spec.PageBytes(g), len(to))
	}
	x := m.page(g, p)
	for i, v := range x.f32 {
		binary.LittleEndian.PutUint32(to[4*i:], math.Float32bits(v))
	}
	for i, v := range x.bf16 {
		binary.LittleEndian.PutUint16(to[2*i:], v)
	}
	copy(to, x.e4m3)
	return nil
}

// Load is the inverse of Save.
func (m *kv) Load(g int, p kernels.Page, from []byte) error {
	if err := m.checkPage(g, p); err != nil {
		return err
	}
	if len(from) != m.spec.PageBytes(g) {
		return fmt.Errorf("kernels/cpu: keys and values: want %d bytes, got %d", m.spec.PageBytes(g), len(from))
	}
	x := m.page(g, p)
	for i := range x.f32 {
		x.f32[i] = math.Float32frombits(binary.LittleEndian.Uint32(from[4*i:]))
	}
	for i := range x.bf16 {
		x.bf16[i] = binary.LittleEndian.Uint16(from[2*i:])
	}
	copy(x.e4m3, from)
	return nil
}

// Close frees the pages.
func (m *kv) Close() error {
	m.closed = true
	m.pages = [kernels.Groups][]page{}
	return nil
}

// toBF16 rounds to nearest even; NaN stays NaN.
func toBF16(v float32) uint16 {
	b := math.Float32bits(v)
	if v != v {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
