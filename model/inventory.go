package model

import (
	"slices"

	"chulengo/kernels"
	"chulengo/safetensors"
)

// Inventory is what a checkpoint holds.
type Inventory struct {
	Tensors    []Tensor // that the model reads, in the order of the forward pass
	Modules    []Module
	Notes      []Note
	Parameters int64
}

// Module is the matrices of one kind that are stored in one way.
type Module struct {
	Name       string // of the kind: "attention", "experts", …
	DType      string // of the numbers or codes
	Scales     string // of a quantised module: dtype and geometry
	Tensors    int    // scales and zeros among them
	Parameters int64
	Bytes      int64 // in the checkpoint
}

// Inspect lists what a checkpoint of this configuration holds, after checking that all of it is there. Tensors that nothing needs
// (see SkippedScales) are in the notes alone.
func Inspect(ckpt *safetensors.Checkpoint, c *Config) (*Inventory, error) {
	found, err := describe(c).resolve(ckpt)
	if err != nil {
		return nil, err
	}
	inv := &Inventory{Notes: found.notes}
	listed := map[*safetensors.Tensor]bool{}
	at := map[[3]string]int{}
	for _, row := range found.rows {
		for part, experts := range row.sources {
			for _, s := range experts {
				m := Module{Name: row.tensors[0].Module, DType: s.tensors[0].DType.String()}
				if s.stored.Format.Quantised() {
					m.DType, m.Scales = s.stored.Format.String(), s.stored.Geometry()
				}
				key := [3]string{m.Name, m.DType, m.Scales}
				i, ok := at[key]
				if !ok {
					i = len(inv.Modules)
					at[key] = i
					inv.Modules = append(inv.Modules, m)
				}
				n := row.parameters(part)
				inv.Parameters += n
				inv.Modules[i].Parameters += n
				inv.Modules[i].Bytes += s.bytes()
				for _, t := range s.tensors {
					if !listed[t] {
						listed[t] = true
						inv.Modules[i].Tensors++
						inv.Tensors = append(inv.Tensors, Tensor{Name: t.Name, Shape: t.Shape, Module: m.Name})
					}
				}
			}
		}
	}
	return inv, nil
}

// parameters is the size of one matrix of a part.
func (w weight) parameters(part int) int64 {
	if len(w.spec.Parts) == 0 { // only checked
		n := int64(1)
		for _, d := range w.tensors[part].Shape {
			n *= int64(d)
		}
		return n
	}
	return int64(w.spec.Parts[part]) * int64(w.spec.K)
}

// DeviceBytes is the size of the weights on a device that keeps plain ones in BF16: of a checkpoint, or, where ckpt is nil, of
// LoadDummy. r quantises them; "": as they are stored. Of several devices that share them (ranks) it is that of the one that has most.
func DeviceBytes(ckpt *safetensors.Checkpoint, c *Config, r Recipe, ranks int) (n int64, err error) {
	rows, err := deviceRows(ckpt, c, r)
	for _, row := range rows {
		if ranks > 1 {
			if row.spec, err = row.spec.Rank(ranks, 0); err != nil {
				return 0, err
			}
		}
		n += row.deviceBytes()
	}
	return n, err
}

// LayersCoded says whether any matrix of the layers, the router aside, is in a format on such a device.
func LayersCoded(ckpt *safetensors.Checkpoint, c *Config, r Recipe, f kernels.Format) (bool, error) {
	rows, err := deviceRows(ckpt, c, r)
	return slices.ContainsFunc(rows, func(w weight) bool {
		switch w.tensors[0].Module {
		case "attention", "experts", "shared expert", "dense feed-forward":
			return w.spec.Coding.Format == f
		}
		return false
	}), err
}

// ValueBytes is the size of one value on such a device, its share of scales included, by module.
func ValueBytes(ckpt *safetensors.Checkpoint, c *Config, r Recipe) (map[string]float64, error) {
	rows, err := deviceRows(ckpt, c, r)
	sizes, values := map[string]float64{}, map[string]float64{}
	for _, row := range rows {
		sizes[row.tensors[0].Module] += float64(row.deviceBytes())
		values[row.tensors[0].Module] += float64(row.dummyBytes() / 2)
	}
	for module := range sizes {
		sizes[module] /= values[module]
	}
	return sizes, err
}

// deviceRows are the weights that Load or LoadDummy puts on a device.
func deviceRows(ckpt *safetensors.Checkpoint, c *Config, r Recipe) ([]weight, error) {
	m := describe(c)
	found := &resolved{rows: m.table(layouts[0])}
	if ckpt != nil {
		var err error
		if found, err = m.resolve(ckpt); err != nil {
			return nil, err
		}
	}
	if err := found.apply(r); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found.rows, func(w weight) bool { return w.into == nil }), nil
}

// deviceBytes is the size of one weight on a GPU, which keeps scales as bfloat16 or float32.
func (w weight) deviceBytes() (n int64) {
	c, k := w.spec.Coding, w.spec.K
	for _, part := range w.spec.Parts {
		one := int64(c.Format.Bytes(part * k))
		if c.Format.Quantised() {
			rows, cols := c.Grid(part, k)
			scale := c.Scale
			if scale == kernels.F16 {
				scale = kernels.F32
			}
			one += int64(scale.Bytes(rows * cols))
			if c.Zeros {
				one += int64(rows * cols)
			}
		}
		n += one * int64(w.spec.Experts)
	}
	return n
}
