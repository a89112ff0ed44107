package model

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"chulengo/kernels"
	"chulengo/safetensors"
)

// source is one matrix of a weight as a checkpoint holds it: a view of a tensor, or codes with their scales.
type source struct {
	module  string                // its name in the checkpoint, without .weight
	coding  kernels.Coding        // as it is read
	stored  kernels.Coding        // as the checkpoint has it: the same, unless it becomes numbers on reading
	group   []int32               // of every input, where the groups of a scale are scattered (act-order) and are not sorted; nil: they are runs
	order   []int32               // of the inputs in which they are runs; nil: as stored, or in none
	tensors []*safetensors.Tensor // all that it is made of, the weight first
	share   int                   // sources that the tensors are divided among: experts of a fused one
	read    func() (kernels.Matrix, error)
}

// bytes is what the source takes in the checkpoint.
func (s source) bytes() (n int64) {
	for _, t := range s.tensors {
		n += int64(len(t.Data))
	}
	return n / int64(s.share)
}

// Reason says why a quantised module is kept as BF16 numbers, or what of it is left aside.
type Reason uint8

const (
	AsStored        Reason = iota
	ActivationOrder        // groups of inputs are scattered (act-order), and cannot be sorted
	MixedParts             // of one weight, not all matrices are quantised, or not in the same way
	PlainRouter            // a router is never quantised
	SkippedScales          // scales of activations or of keys and values: weights alone are quantised here
)

// Note is what a load did to modules, beyond bringing them to the device.
type Note struct {
	Reason  Reason
	Modules []string // names of modules, or of tensors that were left aside
}

// reader finds the tensors of a checkpoint's modules. Every tensor that belongs to one is marked as read.
type reader struct {
	ckpt   *safetensors.Checkpoint
	quant  *Quantization
	unread map[string]bool
	tables map[[16]float32]*[16]float32
	faults []error
	notes  map[Reason][]string
	coded  string // a quantised module; "": none was found
}

func (r *reader) has(name string) bool {
	_, err := r.ckpt.Tensor(name)
	return err == nil
}

// take gives a tensor and marks it as read; nil and a fault if it is missing.
func (r *reader) take(name, want string) *safetensors.Tensor {
	t, err := r.ckpt.Tensor(name)
	if err != nil {
		r.fault(&TensorError{Tensor: name, Want: want, Got: "nothing: the checkpoint lacks it"})
		return nil
	}
	delete(r.unread, name)
	return t
}

func (r *reader) fault(err error) { r.faults = append(r.faults, err) }

// bad is the error of a tensor that is not as it should be.
func bad(t *safetensors.Tensor, want string) error {
	return &TensorError{Tensor: t.Name, File: t.File, Want: want, Got: fmt.Sprintf("%v %s", t.DType, shapeText(t.Shape))}
}

// sources finds all matrices of a weight: [part][expert].
func (r *reader) sources(w *weight) {
	w.sources = make([][]source, max(1, len(w.spec.Parts)))
	for i := range w.tensors {
		want := &w.tensors[i]
		switch {
		case !want.fused:
			s := r.matrix(want)
			if s != nil {
				w.sources[want.part] = []source{*s}
			}
		case r.has(want.Name):
			r.fused(w, want)
		default:
			r.unfused(w, want)
		}
	}
}

// matrix finds a tensor that the table names, or the quantised module in its place.
func (r *reader) matrix(want *Tensor) *source {
	module, linear := strings.CutSuffix(want.Name, ".weight")
	if !linear || len(want.Shape) != 2 {
		return r.plain(want)
	}
	n, k := want.Shape[0], want.Shape[1]
	return r.module(module, n, k, func() *source { return r.plain(want) })
}

// plain takes a tensor of numbers. Its matrix is [N, K]; a vector is one row.
func (r *reader) plain(want *Tensor) *source {
	t := r.take(want.Name, shapeText(want.Shape))
	if t == nil {
		return nil
	}
	if err := want.check(t); err != nil {
		r.fault(err)
		return nil
	}
	n, k := 1, want.Shape[len(want.Shape)-1]
	if len(want.Shape) > 1 {
		n = t.Len() / max(k, 1)
	}
	return &source{module: strings.TrimSuffix(want.Name, ".weight"), tensors: []*safetensors.Tensor{t}, share: 1, read: func() (kernels.Matrix, error) {
		return kernels.Matrix{Format: formats[t.DType], N: n, K: k, Data: t.Data}, nil
	}}
}

// unfused finds the experts one by one: experts.{e}.{gate,up,down}_proj, each [out, in].
func (r *reader) unfused(w *weight, fused *Tensor) {
	prefix := fused.Name[:strings.LastIndex(fused.Name, ".")+1]
	one := false // expert has tensors of its own
	for name := range r.unread {
		rest, ok := strings.CutPrefix(name, prefix)
		one = one || ok && rest != "" && '0' <= rest[0] && rest[0] <= '9'
	}
	if !one {
		r.take(fused.Name, shapeText(fused.Shape)+", or experts one by one")
		return
	}
	w.spec.Names = nil
	for p, n := range w.spec.Parts {
		w.spec.Names = append(w.spec.Names, expertName(fused.Name, "*", w.spec.Parts, p)+".weight")
		for e := range w.spec.Experts {
			s := r.matrix(&Tensor{Name: expertName(fused.Name, strconv.Itoa(e), w.spec.Parts, p) + ".weight", Shape: []int{n, w.spec.K}})
			if s != nil {
				w.sources[p] = append(w.sources[p], *s)
			}
		}
	}
}

// expertName is the module of one expert's matrix, where experts are stored one by one, from the name of the fused tensor.
func expertName(fused, expert string, parts []int, part int) string {
	leaf := "down_proj"
	if len(parts) == 2 {
		leaf = []string{"gate_proj", "up_proj"}[part]
	}
	return fused[:strings.LastIndex(fused, ".")+1] + expert + "." + leaf
}

// fused finds the views of a fused tensor [E, K, ΣN]: part p of expert e is a band of columns.
func (r *reader) fused(w *weight, want *Tensor) {
	t := r.take(want.Name, shapeText(want.Shape))
	if t.DType == safetensors.F8_E4M3 {
		r.fusedFloat(w, want, t)
		return
	}
	if err := want.check(t); err != nil {
		r.fault(err)
		return
	}
	column, total := 0, want.Shape[2]
	format, k := formats[t.DType], w.spec.K
	for p, n := range w.spec.Parts {
		for e := range w.spec.Experts {
			from := e*k*total + column
			w.sources[p] = append(w.sources[p], source{module: want.Name, tensors: []*safetensors.Tensor{t}, share: w.spec.Experts * len(w.spec.Parts),
				read: func() (kernels.Matrix, error) {
					data := t.Data[from*format.Size() : (from+(k-1)*total+n)*format.Size()]
					return kernels.Matrix{Format: format, N: n, K: k, InOut: true, Stride: total, Data: data}, nil
				}})
		}
		column += n
	}
}

// settle chooses the coding of a weight: that of its matrices if they agree, else none, and they become numbers.
func (r *reader) settle(w *weight) {
	var all []source
	for _, list := range w.sources {
		all = append(all, list...)
	}
	if len(all) == 0 {
		return
	}
	first, same := all[0].coding, true
	for _, s := range all {
		same = same && s.coding == first
		if s.stored.Format.Quantised() {
			r.coded = s.module
		}
	}
	reason := MixedParts
	switch {
	case !same:
	case first.Format.Quantised() && w.tensors[0].Module == "router":
		reason = PlainRouter
	default:
		w.spec.Coding = first
		reason = AsStored
	}
	for _, s := range all {
		if reason != AsStored && s.coding.Format.Quantised() {
			r.note(reason, s.module)
		}
	}
}

func (r *reader) note(why Reason, name string) {
	if r.notes == nil {
		r.notes = map[Reason][]string{}
	}
	r.notes[why] = append(r.notes[why], name)
}

// skipped are the ends of names of tensors that a checkpoint may have and that nobody needs here: scales of activations, and of
// keys and values, for runtimes that quantise those too, and a stray tensor of an AWQ tool.
var skipped = []string{".input_scale", "_input_scale", ".output_scale", ".k_scale", ".v_scale", ".activation_fn.scales"}

// skip leaves such tensors aside.
func (r *reader) skip() {
	if r.coded == "" {
		return
	}
	for _, name := range r.ckpt.Names() {
		if r.unread[name] && slices.ContainsFunc(skipped, func(end string) bool { return strings.HasSuffix(name, end) }) {
			delete(r.unread, name)
			r.note(SkippedScales, name)
		}
	}
}

// widen makes numbers of a quantised matrix, rounded to BF16.
func widen(m kernels.Matrix) kernels.Matrix {
	if !m.Format.Quantised() {
		return m
	}
	out := kernels.Matrix{Format: kernels.BF16, N: m.N, K: m.K, Data: make([]byte, 2*m.N*m.K)}
	row := make([]float32, m.K)
	for n := range m.N {
		m.Decode(row, n)
		safetensors.Float32ToBF16(out.Data[2*n*m.K:][:2*m.K], row)
	}
	return out
}

// widenScattered is widen for inputs whose group is given for each, [K].
func widenScattered(m kernels.Matrix, group []int32) kernels.Matrix {
	out := kernels.Matrix{Format: kernels.BF16, N: m.N, K: m.K, Data: make([]byte, 2*m.N*m.K)}
	row, scales, zeros := make([]float32, m.K), make([]float32, m.K), make([]uint8, m.K)
	_, groups := m.Coding.Grid(m.N, m.K)
	one := m // a row, with a scale for every input
	one.N, one.Scales, one.Zeros = 1, scales, zeros
	one.Coding.Rows, one.Coding.Cols = 1, 1
	for n := range m.N {
		for k, g := range group {
			scales[k], zeros[k] = m.Scales[n*groups+int(g)], 8
			if m.Zeros != nil {
				zeros[k] = m.Zeros[n*groups+int(g)]
			}
		}
		one.Data = m.Data[n*m.K/2:]
		one.Decode(row, 0)
		safetensors.Float32ToBF16(out.Data[2*n*m.K:][:2*m.K], row)
	}
	return out
}

// integers reads a tensor of I32 or I64.
func integers(t *safetensors.Tensor) ([]int, error) {
	out := make([]int, t.Len())
	for i := range out {
		switch t.DType {
		case safetensors.I32:
			out[i] = int(int32(binary.LittleEndian.Uint32(t.Data[4*i:])))
		case safetensors.I64:
			out[i] = int(int64(binary.LittleEndian.Uint64(t.Data[8*i:])))
		default:
			return nil, bad(t, "I32 or I64")
		}
	}
	return out, nil
}
