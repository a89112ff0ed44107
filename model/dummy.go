package model

import (
	"context"
	"encoding/binary"
	"math"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"chulengo/kernels"
)

// LoadDummy builds a model of c with random weights in place of a checkpoint's: for timing shapes for which no weights are
// at hand. The values are a function of the seed, the tensor's name and the place in it (kernels.Fill), so that all
// devices have the same ones; norms are 1. Their sizes keep activations near 1 over many layers and spread tokens over
// the experts. o.Progress counts bytes as a bfloat16 checkpoint would have them.
func LoadDummy(ctx context.Context, c *Config, dev kernels.Device, seed uint64, o LoadOptions) (*Model, error) {
	m := describe(c)
	found := &resolved{rows: m.table(layouts[0])}
	if _, ok := dev.(kernels.Viewer); !ok && m.Vision != nil {
		m.blind(found.rows)
	}
	if err := found.apply(o.Recipe); err != nil {
		return nil, err
	}
	var done atomic.Int64
	var total int64
	for _, row := range found.rows {
		total += row.dummyBytes()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, row := range found.rows {
		if row.into == nil {
			continue
		}
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := row.fill(dev, seed)
			if d := done.Add(row.dummyBytes()); err == nil && o.Progress != nil {
				o.Progress(d, total)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if c.TiedHead {
		m.Head.Out = m.Embed
	}
	return m, nil
}

// Parameters is the number of weights of a model of c, without the vision tower.
func Parameters(c *Config) (n int64) {
	for _, row := range describe(c).table(layouts[0]) {
		if row.tensors[0].Module != visionModule {
			n += row.dummyBytes() / 2
		}
	}
	return n
}

// dummyBytes is the size of a weight in bfloat16; nothing is made of what is only checked.
func (w weight) dummyBytes() (n int64) {
	if w.into == nil {
		return 0
	}
	for _, part := range w.spec.Parts {
		n += 2 * int64(part) * int64(w.spec.K) * int64(w.spec.Experts)
	}
	return n
}

// fill makes one weight.
func (w weight) fill(dev kernels.Device, seed uint64) error {
	dst, err := dev.NewWeight(w.spec)
	if err != nil {
		return err
	}
	*w.into = dst
	if w.std == 0 {
		ones := make([]byte, 2*w.spec.K)
		for i := 0; i < len(ones); i += 2 {
			binary.LittleEndian.PutUint16(ones[i:], uint16(math.Float32bits(1)>>16))
		}
		if err := dst.Put(0, 0, kernels.Matrix{Format: kernels.BF16, N: 1, K: w.spec.K, Data: ones}); err != nil {
			return err
		}
		return dst.Seal()
	}
	for e := range w.spec.Experts {
		column := 0
		for part, n := range w.spec.Parts {
			f := kernels.Fill{Seed: kernels.FillSeed(seed, w.spec.Tensor(part)), NStep: uint64(w.spec.K), KStep: 1, Std: float32(w.std)}
			if t := w.tensors[0]; t.fused { // [E, K, ΣN]
				f.Index, f.NStep, f.KStep = uint64(e)*uint64(t.Shape[1])*uint64(t.Shape[2])+uint64(column), 1, uint64(t.Shape[2])
			}
			if err := dst.Fill(part, e, f); err != nil {
				return err
			}
			column += n
		}
	}
	return dst.Seal()
}
