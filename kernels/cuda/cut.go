//go:build cuda

package cuda

import (
	"errors"
	"fmt"

	"chulengo/kernels"
)

// cutWeight is a weight of a group: every rank has a part of it, or all of it (kernels.Split).
type cutWeight struct {
	spec  kernels.WeightSpec
	of    []*weight       // of each rank of this process
	first int             // the first of them
	parts [][]kernels.Cut // of each rank: its outputs of every part
	k     []kernels.Cut   // of each rank: its inputs
}

// NewWeight implements kernels.Device.
func (g *Group) NewWeight(s kernels.WeightSpec) (kernels.Weight, error) {
	w := &cutWeight{spec: s, first: g.first}
	for rank := range g.size {
		parts, k, err := s.Cuts(g.size, rank)
		if err != nil {
			return nil, err
		}
		w.parts, w.k = append(w.parts, parts), append(w.k, k)
	}
	for _, d := range g.ranks {
		own, err := s.Rank(g.size, d.rank)
		if err != nil {
			return nil, err
		}
		one, err := d.NewWeight(own)
		if err != nil {
			return nil, err
		}
		w.of = append(w.of, one.(*weight))
	}
	return w, nil
}

// each runs f for every rank of this process with its outputs of a part, and its inputs.
func (w *cutWeight) each(part int, f func(of *weight, rows, cols kernels.Cut) error) error {
	for i, of := range w.of {
		if err := f(of, w.parts[w.first+i][part], w.k[w.first+i]); err != nil {
			return err
		}
	}
	return nil
}

// Put implements kernels.Weight: each rank reads its part of the matrix where it lies.
func (w *cutWeight) Put(part, expert int, m kernels.Matrix) error {
	if err := m.Check(w.spec, part, expert); err != nil {
		return err
	}
	return w.each(part, func(of *weight, rows, cols kernels.Cut) error { return of.Put(part, expert, m.Cut(rows, cols)) })
}

// Fill implements kernels.Weight.
func (w *cutWeight) Fill(part, expert int, f kernels.Fill) error {
	if part < 0 || part >= len(w.spec.Parts) || expert < 0 || expert >= w.spec.Experts {
		return fmt.Errorf("kernels/cuda: %s: want part < %d, expert < %d, got %d, %d", w.spec.Tensor(0), len(w.spec.Parts), w.spec.Experts, part, expert)
	}
	return w.each(part, func(of *weight, rows, cols kernels.Cut) error {
		return of.Fill(part, expert, f.Cut(rows, cols, w.spec.K))
	})
}

// Seal implements kernels.Weight.
func (w *cutWeight) Seal() error {
	for i, of := range w.of {
		if err := of.Seal(); err != nil {
			return fmt.Errorf("rank %d: %w", w.first+i, err)
		}
	}
	return nil
}

// Get implements kernels.Weight. Quantised weights that are cut cannot be put together again: their scales may be shared. Nor can
// those of which other processes have parts.
func (w *cutWeight) Get(part, expert int) (kernels.Matrix, error) {
	if w.spec.Split == kernels.Replicated {
		return w.of[0].Get(part, expert)
	}
	var whole kernels.Matrix
	if len(w.of) < len(w.parts) {
		return whole, fmt.Errorf("kernels/cuda: %s: want a weight that this process has all of", w.spec.Place(part, expert))
	}
	err := w.each(part, func(of *weight, rows, cols kernels.Cut) error {
		m, err := of.Get(part, expert)
		if err != nil {
			return err
		}
		if m.Format.Quantised() {
			return fmt.Errorf("kernels/cuda: %s: want a plain weight, or one that every rank has", w.spec.Place(part, expert))
		}
		if whole.Data == nil {
			whole = m
			whole.N, whole.K, whole.Data = w.spec.Parts[part], w.spec.K, make([]byte, w.spec.Parts[part]*w.spec.K*m.Format.Size())
		}
		width, size := whole.K, m.Format.Size()
		if m.InOut {
			rows, cols, width = cols, rows, whole.N
		}
		for r := range rows.Len() {
			copy(whole.Data[((rows.From+r)*width+cols.From)*size:], m.Data[r*cols.Len()*size:][:cols.Len()*size])
		}
		return nil
	})
	return whole, err
}

// cutKV is the key/value memory of a group: every rank keeps the heads that it computes.
type cutKV struct {
	of   []*kv
	spec kernels.KVSpec // as it was asked for
}

// NewKV implements kernels.Device.
func (g *Group) NewKV(s kernels.KVSpec) (kernels.KV, error) {
	m := &cutKV{spec: s}
	for _, d := range g.ranks {
		heads, err := kernels.CutHeads(s.KVHeads, s.HeadDim, g.size, d.rank)
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("kernels/cuda: keys and values: %w", err)
		}
		own := s
		own.KVHeads = heads.Len() / s.HeadDim
		one, err := d.NewKV(own)
		if err != nil {
			m.Close()
			return nil, err
		}
		m.of = append(m.of, one.(*kv))
	}
	return m, nil
}

// each runs f on every rank with its piece of a page's bytes.
func (m *cutKV) each(g int, page []byte, f func(m *kv, page []byte) error) error {
	for _, of := range m.of {
		n := 0
		if page != nil {
			n = min(of.spec.PageBytes(g), len(page))
		}
		if err := f(of, page[:n:n]); err != nil {
			return err
		}
		page = page[n:]
	}
	return nil
}

// Copy implements kernels.KV.
func (m *cutKV) Copy(g int, dst, src kernels.Page) error {
	return m.each(g, nil, func(m *kv, _ []byte) error { return m.Copy(g, dst, src) })
}

// Save implements kernels.KV: the ranks' pieces, one behind the other. Where all keep the same head, the page has it once.
func (m *cutKV) Save(g int, p kernels.Page, to []byte) error {
	if m.common() {
		return m.of[0].Save(g, p, to)
	}
	return m.each(g, to, func(m *kv, page []byte) error { return m.Save(g, p, page) })
}

// Load implements kernels.KV.
func (m *cutKV) Load(g int, p kernels.Page, from []byte) error {
	if m.common() {
		for _, of := range m.of {
			if err := of.Load(g, p, from); err != nil {
				return err
			}
		}
		return nil
	}
	return m.each(g, from, func(m *kv, page []byte) error { return m.Load(g, p, page) })
}

// common says that the model has one key/value head, which every rank keeps.
func (m *cutKV) common() bool { return m.spec.KVHeads == 1 }

// Close implements kernels.KV.
func (m *cutKV) Close() error {
	var errs []error
	for _, of := range m.of {
		errs = append(errs, of.Close())
	}
	return errors.Join(errs...)
}
