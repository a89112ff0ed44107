//go:build cuda

package cuda

import (
	"fmt"

	"chulengo/kernels"
)

// kv is key/value memory: for each group one run of pages, [page][layers][k, v][KvH][PageTokens][Hd] of bfloat16 or, without scales,
// of 8-bit floats. Where the fast kernels can read it (tiled), a head's [PageTokens][Hd] lies in swizzled lines (attend.cuh).
type kv struct {
	dev    *Device
	spec   kernels.KVSpec
	tiled  bool
	data   [kernels.Groups]ptr
	closed bool
}

// NewKV allocates every page. Format: BF16 or F8E4M3, which has no scales: a byte is the number nearest to the value, at most 448.
// Heads have 8 to 128 values, a multiple of 8 (in FP8: of 16), and at most 16 share a key/value head.
func (d *Device) NewKV(s kernels.KVSpec) (kernels.KV, error) {
	if s.Format != kernels.BF16 && s.Format != kernels.F8E4M3 {
		return nil, fmt.Errorf("kernels/cuda: keys and values: want format BF16 or F8_E4M3, got %v", s.Format)
	}
	if least := 16 / s.Format.Size(); s.PageTokens < 1 || s.KVHeads < 1 || s.HeadDim < least || s.HeadDim > 128 || s.HeadDim%least != 0 {
		return nil, fmt.Errorf("kernels/cuda: keys and values in %v: want pages of at least 1 token and 1 head of %d to 128 dimensions, a multiple of %d, got %d, %d, %d",
			s.Format, least, least, s.PageTokens, s.KVHeads, s.HeadDim)
	}
	defer d.gpu.enter()()
	m := &kv{dev: d, spec: s, tiled: d.fast() && s.HeadDim == 128 && s.PageTokens >= 16 && s.PageTokens&(s.PageTokens-1) == 0}
	for g, n := range s.Pages {
		if n < 0 || s.Layers[g] < 0 || n*s.PageTokens > 1<<31-1 {
			return nil, fmt.Errorf("kernels/cuda: keys and values: group %d: want 0 or more layers and pages of fewer than 2³¹ tokens, got %d, %d", g, s.Layers[g], n)
		}
		if n*s.PageBytes(g) == 0 {
			continue
		}
		var err error
		if m.data[g], err = d.gpu.alloc(n * s.PageBytes(g)); err != nil {
			m.release()
			return nil, fmt.Errorf("kernels/cuda: keys and values: %d pages of %d bytes: %w", n, s.PageBytes(g), err)
		}
	}
	return m, nil
}

// layerAt is the first element of a layer's keys in a page of its group; its values follow.
func (m *kv) layerAt(slot int) uint64 {
	return uint64(slot) * 2 * uint64(m.spec.KVHeads*m.spec.PageTokens*m.spec.HeadDim)
}

func (m *kv) pages(l *kernels.Attn, table ptr) pagesParams {
	return pagesParams{
		data: m.data[l.Group], pageStride: m.pageStride(l.Group), layerAt: m.layerAt(l.Slot), table: table,
		pageTokens: int32(m.spec.PageTokens), kvHeads: int32(m.spec.KVHeads), headDim: int32(m.spec.HeadDim), tiled: m.layout(),
	}
}

// pageStride is the number of values of a page.
func (m *kv) pageStride(g int) uint64 { return uint64(m.spec.PageBytes(g) / m.spec.Format.Size()) }

// coded says that the pages hold 8-bit floats.
func (m *kv) coded() bool { return m.spec.Format == kernels.F8E4M3 }

// attend is the name of an attention kernel that reads them: attend_decode_90, attend_decode_e4m3_90.
func (m *kv) attend(phase, variant string) string {
	if m.coded() {
		phase += "_e4m3"
	}
	return "attend_" + phase + "_" + variant
}

// layout is what kernels call tiled.
func (m *kv) layout() int32 {
	if m.tiled {
		return 1
	}
	return 0
}

// queryRows is how many rows a block of prefill attention takes.
func (m *kv) queryRows() int32 {
	if m.tiled {
		return 128
	}
	return 64
}

// at checks a page and gives its address.
func (m *kv) at(g int, p kernels.Page, buffer int) (ptr, error) {
	if m.closed || g < 0 || g >= kernels.Groups || p < 0 || int(p) >= m.spec.Pages[g] {
		return 0, fmt.Errorf("kernels/cuda: keys and values: want an open page of %d, got page %d of group %d", m.spec.Pages[min(max(g, 0), kernels.Groups-1)], p, g)
	}
	if buffer >= 0 && buffer != m.spec.PageBytes(g) {
		return 0, fmt.Errorf("kernels/cuda: keys and values: want a buffer of %d bytes, got %d", m.spec.PageBytes(g), buffer)
	}
	return m.data[g] + ptr(int(p)*m.spec.PageBytes(g)), nil
}

// Copy copies a page on the device.
func (m *kv) Copy(g int, dst, src kernels.Page) error {
	to, err := m.at(g, dst, -1)
	if err != nil {
		return err
	}
	from, err := m.at(g, src, -1)
	if err != nil {
		return err
	}
	defer m.dev.gpu.enter()()
	m.dev.gpu.copyWithin(to, from, m.spec.PageBytes(g))
	return m.dev.gpu.sync()
}

// Save reads a page back.
func (m *kv) Save(g int, p kernels.Page, to []byte) error {
	at, err := m.at(g, p, len(to))
	if err != nil || len(to) == 0 {
		return err
	}
	defer m.dev.gpu.enter()()
	return m.dev.gpu.copyOutNow(to, at)
}

// Load is the inverse of Save.
func (m *kv) Load(g int, p kernels.Page, from []byte) error {
	at, err := m.at(g, p, len(from))
	if err != nil || len(from) == 0 {
		return err
	}
	defer m.dev.gpu.enter()()
	return m.dev.gpu.copyInNow(at, from)
}

// Close frees the pages.
func (m *kv) Close() error {
	if m.closed {
		return nil
	}
	defer m.dev.gpu.enter()()
	m.release()
	return nil
}

func (m *kv) release() {
	m.closed = true
	for g, at := range m.data {
		if at != 0 {
			m.dev.gpu.free(at)
			m.data[g] = 0
		}
	}
	for key := range m.dev.graphs {
		if key.kv == m {
			m.dev.dropGraphs()
			break
		}
	}
}
