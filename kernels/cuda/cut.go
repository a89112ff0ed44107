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
	of    []*weight       // of each rank
	parts [][]kernels.Cut // of each rank: its outputs of every part
	k     []kernels.Cut   // of each rank: its inputs
}

// NewWeight implements kernels.Device.
func (g *Group) NewWeight(s kernels.WeightSpec) (kernels.Weight, error) {
	w := &cutWeight{spec: s}
	for rank, d := range g.ranks {
		parts, k, err := s.Cuts(len(g.ranks), rank)
		if err != nil {
			return nil, err
		}
		own, err := s.Rank(len(g.ranks), rank)
		if err != nil {
			return nil, err
		}
		one, err := d.NewWeight(own)
		if err != nil {
			return nil, err
		}
		w.of, w.parts, w.k = append(w.of, one.(*weight)), append(w.parts, parts), append(w.k, k)
	}
	return w, nil
}

// Put implements kernels.Weight: each rank reads its part of the matrix where it lies.
func (w *cutWeight) Put(part, expert int, m kernels.Matrix) error {
	if err := m.Check(w.spec, part, expert); err != nil {
		return err
	}
	for rank, of := range w.of {
		if err := of.Put(part, expert, m.Cut(w.parts[rank][part], w.k[rank])); err != nil {
			return err
		}
	}
	return nil
}

// Fill implements kernels.Weight.
func (w *cutWeight) Fill(part, expert int, f kernels.Fill) error {
	if part < 0 || part >= len(w.spec.Parts) || expert < 0 || expert >= w.spec.Experts {
		return fmt.Errorf("kernels/cuda: %s: want part < %d, expert < %d, got %d, %d", w.spec.Tensor(0), len(w.spec.Parts), w.spec.Experts, part, expert)
	}
	for rank, of := range w.of {
		if err := of.Fill(part, expert, f.Cut(w.parts[rank][part], w.k[rank], w.spec.K)); err != nil {
			return err
		}
	}
	return nil
}

// Seal implements kernels.Weight.
func (w *cutWeight) Seal() error {
	for rank, of := range w.of {
		if err := of.Seal(); err != nil {
			return fmt.Errorf("rank %d: %w", rank, err)
		}
	}
	return nil
}

// Get implements kernels.Weight. Quantised weights that are cut cannot be put together again: their scales may be shared.
func (w *cutWeight) Get(part, expert int) (kernels.Matrix, error) {
	if w.spec.Split == kernels.Replicated {
		return w.of[0].Get(part, expert)
	}
	var whole kernels.Matrix
	for rank, of := range w.of {
		m, err := of.Get(part, expert)
		if err != nil {
			return m, err
		}
		if m.Format.Quantised() {
			return m, fmt.Errorf("kernels/cuda: %s: want a plain weight, or one that every rank has", w.spec.Place(part, expert))
		}
		if rank == 0 {
			whole = m
			whole.N, whole.K, whole.Data = w.spec.Parts[part], w.spec.K, make([]byte, w.spec.Parts[part]*w.spec.K*m.Format.Size())
		}
		rows, cols, width := w.parts[rank][part], w.k[rank], whole.K
		if m.InOut {
			rows, cols, width = cols, rows, whole.N
		}
		size := m.Format.Size()
		for r := range rows.Len() {
			copy(whole.Data[((rows.From+r)*width+cols.From)*size:], m.Data[r*cols.Len()*size:][:cols.Len()*size])
		}
	}
	return whole, nil
}

// cutKV is the key/value memory of a group: every rank keeps the heads that it computes.
type cutKV struct {
	of   []*kv
	spec kernels.KVSpec // as it was asked for
}

// NewKV implements kernels.Device.
func (g *Group) NewKV(s kernels.KVSpec) (kernels.KV, error) {
	m := &cutKV{spec: s}
	for rank, d := range g.ranks {
		heads, err := kernels.CutHeads(s.KVHeads, s.HeadDim, len(g.ranks), rank)
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
