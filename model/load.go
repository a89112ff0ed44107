package model

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	// Recipe quantises a checkpoint that is not quantised; "": as it is stored.
	Recipe Recipe
	// Notes is told what of the checkpoint is not kept as it is stored, before any weight is read. nil: nobody asks.
	Notes func(Note)
}

// Load brings a checkpoint to a device. Every tensor of the model must be there with its shape, and no other: a missing,
// unknown or misshapen tensor is a *TensorError before anything is put on the device. Weights must be finite. The
// checkpoint must stay open as long as the device is used.
func Load(ctx context.Context, ckpt *safetensors.Checkpoint, c *Config, dev kernels.Device, o LoadOptions) (*Model, error) {
	m := describe(c)
	found, err := m.resolve(ckpt)
	if err != nil {
		return nil, err
	}
	if _, ok := dev.(kernels.Viewer); !ok && m.Vision != nil {
		m.blind(found.rows)
	}
	if err := found.apply(o.Recipe); err != nil {
		return nil, err
	}
	if o.Notes != nil {
		for _, n := range found.notes {
			o.Notes(n)
		}
	}
	var done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, row := range found.rows {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := row.put(dev)
			if d := done.Add(n); err == nil && o.Progress != nil {
				o.Progress(d, found.bytes)
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

// maxFaults bounds how many tensors one error lists.
const maxFaults = 8

// resolve holds the weight table against the tensors that are there.
func (m *Model) resolve(ckpt *safetensors.Checkpoint) (*resolved, error) {
	names := ckpt.Names()
	r := &reader{ckpt: ckpt, quant: m.Config.Quantization, unread: make(map[string]bool, len(names))}
	for _, name := range names {
		r.unread[name] = true
	}
	prefixes, err := findLayout(func(name string) bool { return r.unread[name] })
	if err != nil {
		return nil, err
	}
	found := &resolved{rows: m.table(prefixes)}
	for i := range found.rows {
		row := &found.rows[i]
		r.sources(row)
		r.settle(row)
		for _, list := range row.sources {
			for _, s := range list {
				found.bytes += s.bytes()
			}
		}
	}
	r.arrange(found.rows)
	r.skip()
	if q := m.Config.Quantization; q != nil && r.coded == "" && len(r.faults) == 0 {
		r.fault(&ConfigError{File: "config.json", Key: "quantization_config", Want: "quantised tensors (" + q.Method + ")", Got: "plain ones only"})
	}
	for _, name := range names {
		if r.unread[name] {
			e := &TensorError{Tensor: name, Want: "no such tensor (nothing in config.json reads it)", Got: "one"}
			if t, err := ckpt.Tensor(name); err == nil {
				e.File, e.Got = t.File, fmt.Sprintf("%v %s", t.DType, shapeText(t.Shape))
			}
			r.fault(e)
		}
	}
	if n := len(r.faults); n > maxFaults {
		r.faults = append(r.faults[:maxFaults], fmt.Errorf("model: and %d more tensors", n-maxFaults))
	}
	found.coded = r.coded
	for _, why := range slices.Sorted(maps.Keys(r.notes)) {
		found.notes = append(found.notes, Note{why, r.notes[why]})
	}
	return found, errors.Join(r.faults...)
}

// resolved is a weight table whose sources were found.
type resolved struct {
	rows  []weight
	bytes int64  // of the weights in the checkpoint
	coded string // a module that is quantised; "": none
	notes []Note
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

// put hands one weight to the device and returns its bytes in the checkpoint.
func (w weight) put(dev kernels.Device) (n int64, err error) {
	var dst kernels.Weight
	if w.into != nil {
		if dst, err = dev.NewWeight(w.spec); err != nil {
			return 0, err
		}
		*w.into = dst
	}
	for part, experts := range w.sources {
		for expert, s := range experts {
			n += s.bytes()
			if dst == nil {
				continue
			}
			m, err := w.matrix(expert, s)
			if err != nil {
				return n, err
			}
			if err := dst.Put(part, expert, m); err != nil {
				return n, err
			}
		}
	}
	if dst != nil {
		err = dst.Seal()
	}
	return n, err
}

// matrix reads a matrix in the coding of its weight, and in its orders.
func (w weight) matrix(expert int, s source) (kernels.Matrix, error) {
	m, err := s.read()
	if err != nil {
		return m, err
	}
	rows, cols := w.orders(expert)
	switch {
	case m.Coding == w.spec.Coding:
		if s.order != nil {
			cols = s.order
		}
		return m.Arranged(rows, cols), nil
	case s.group != nil:
		return widenScattered(m, s.group).Arranged(rows, cols), nil
	case m.Format.Quantised():
		return widen(m).Arranged(rows, cols), nil
	}
	q, err := kernels.Quantise(m, w.spec.Coding)
	if err != nil {
		return q, fmt.Errorf("model: tensor %s: %w", s.module, err)
	}
	return q, nil
}
