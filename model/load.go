package model

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"chulengo/kernels"
	"chulengo/safetensors"
)

// TensorError is a tensor that is missing, unknown, or not as the configuration says.
type TensorError struct {
	Tensor string
	File   string // where it lies; "" if it is missing
	Want   string
	Got    string
}

func (e *TensorError) Error() string {
	in := ""
	if e.File != "" {
		in = " in " + e.File
	}
	return fmt.Sprintf("model: tensor %s%s: want %s, got %s", e.Tensor, in, e.Want, e.Got)
}

// LoadOptions are the ways in which a checkpoint is brought to a device.
type LoadOptions struct {
	// Progress is told how many bytes of weights have been handed over, from several goroutines. nil: nobody asks.
	Progress func(done, total int64)
}

// Load brings a checkpoint to a device. Every tensor of the model must be there with its shape, and no other: a missing,
// unknown or misshapen tensor is a *TensorError before anything is put on the device. Weights must be finite. The
// checkpoint must stay open as long as the device is used.
func Load(ctx context.Context, ckpt *safetensors.Checkpoint, c *Config, dev kernels.Device, o LoadOptions) (*Model, error) {
	m := describe(c)
	rows, total, err := m.resolve(ckpt)
	if err != nil {
		return nil, err
	}
	if _, ok := dev.(kernels.Viewer); !ok && m.Vision != nil {
		m.blind(rows)
	}
	var done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, row := range rows {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := row.put(ckpt, dev)
			if d := done.Add(n); err == nil && o.Progress != nil {
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

// Tensors lists the tensors that a checkpoint of this configuration has, in the order of the forward pass, under the
// prefixes that ckpt uses, after checking that they are there.
func Tensors(ckpt *safetensors.Checkpoint, c *Config) ([]Tensor, error) {
	rows, _, err := describe(c).resolve(ckpt)
	var list []Tensor
	for _, row := range rows {
		list = append(list, row.tensors...)
	}
	return list, err
}

// maxFaults bounds how many tensors one error lists.
const maxFaults = 8

// resolve holds the weight table against the tensors that are there. total is the number of bytes of the weights.
func (m *Model) resolve(ckpt *safetensors.Checkpoint) (rows []weight, total int64, err error) {
	names := ckpt.Names()
	unread := make(map[string]bool, len(names))
	for _, name := range names {
		unread[name] = true
	}
	prefixes, err := findLayout(func(name string) bool { return unread[name] })
	if err != nil {
		return nil, 0, err
	}
	var faults []error
	rows = m.table(prefixes)
	for _, row := range rows {
		for _, want := range row.tensors {
			if !unread[want.Name] {
				faults = append(faults, &TensorError{Tensor: want.Name, Want: shapeText(want.Shape), Got: "nothing: the checkpoint lacks it"})
				continue
			}
			delete(unread, want.Name)
			got, err := ckpt.Tensor(want.Name)
			if err == nil {
				err = want.check(got)
			}
			if err != nil {
				faults = append(faults, err)
				continue
			}
			total += int64(len(got.Data))
		}
	}
	for _, name := range names {
		if unread[name] {
			e := &TensorError{Tensor: name, Want: "no such tensor (nothing in config.json reads it)", Got: "one"}
			if t, err := ckpt.Tensor(name); err == nil {
				e.File, e.Got = t.File, fmt.Sprintf("%v %s", t.DType, shapeText(t.Shape))
			}
			faults = append(faults, e)
		}
	}
	if n := len(faults); n > maxFaults {
		faults = append(faults[:maxFaults], fmt.Errorf("model: and %d more tensors", n-maxFaults))
	}
	return rows, total, errors.Join(faults...)
}

func (want Tensor) check(got *safetensors.Tensor) error {
	if _, ok := formats[got.DType]; !ok {
		return &TensorError{Tensor: want.Name, File: got.File, Want: "BF16, F16 or F32", Got: got.DType.String()}
	}
	if !slices.Equal(want.Shape, got.Shape) {
		return &TensorError{Tensor: want.Name, File: got.File, Want: shapeText(want.Shape), Got: shapeText(got.Shape)}
	}
	return nil
}

var formats = map[safetensors.DType]kernels.Format{
	safetensors.BF16: kernels.BF16,
	safetensors.F16:  kernels.F16,
	safetensors.F32:  kernels.F32,
}

func shapeText(shape []int) string {
	words := make([]string, len(shape))
	for i, n := range shape {
		words[i] = fmt.Sprint(n)
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// put hands one weight to the device and returns its bytes.
func (w weight) put(ckpt *safetensors.Checkpoint, dev kernels.Device) (n int64, err error) {
	var dst kernels.Weight
	if w.into != nil {
		if dst, err = dev.NewWeight(w.spec); err != nil {
			return 0, err
		}
		*w.into = dst
	}
	for _, want := range w.tensors {
		t, err := ckpt.Tensor(want.Name)
		if err != nil {
			return n, err
		}
		n += int64(len(t.Data))
		if dst == nil {
			continue
		}
		if want.fused {
			err = w.putExperts(dst, t)
		} else {
			part := want.part
			err = dst.Put(part, 0, kernels.Matrix{Format: formats[t.DType], N: w.spec.Parts[part], K: w.spec.K, Data: t.Data})
		}
		if err != nil {
			return n, err
		}
	}
	if dst != nil {
		err = dst.Seal()
	}
	return n, err
}

// putExperts hands over the views of a fused tensor [E, K, ΣN]: part p of expert e is a band of columns.
func (w weight) putExperts(dst kernels.Weight, t *safetensors.Tensor) error {
	size, total := t.DType.Size(), t.Shape[2]
	for e := range w.spec.Experts {
		rows := t.Data[e*w.spec.K*total*size:][:w.spec.K*total*size]
		column := 0
		for p, n := range w.spec.Parts {
			m := kernels.Matrix{Format: formats[t.DType], N: n, K: w.spec.K, InOut: true, Stride: total, Data: rows[column*size:]}
			if err := dst.Put(p, e, m); err != nil {
				return err
			}
			column += n
		}
	}
	return nil
}
