package model

import (
	"encoding/binary"
	"fmt"
	"slices"

	"chulengo/kernels"
	"chulengo/safetensors"
)

// The ways in which tools store a quantised module [N, K]. All of them become codes [N, K] with scales on a grid, as package
// kernels has them.

// packing is the name of one.
type packing string

const (
	packFloat      packing = "FP8 with weight_scale"
	packCompressed packing = "weight_packed of compressed-tensors"
	packGPTQ       packing = "qweight of GPTQ"
	packAWQ        packing = "qweight of AWQ"
	packNF4        packing = "4-bit blocks of bitsandbytes"
)

// module finds a linear layer [n, k] by the tensors that are there; plain is for one that is not quantised.
func (r *reader) module(name string, n, k int, plain func() *source) *source {
	var s *source
	var p packing
	var err error
	weight, _ := r.ckpt.Tensor(name + ".weight")
	switch {
	case r.has(name + ".weight_packed"):
		p = packCompressed
		s, err = r.compressed(name, n, k)
	case r.has(name + ".qweight"):
		t := r.take(name+".qweight", "")
		// GPTQ packs along the inputs, AWQ along the outputs.
		switch {
		case k%8 == 0 && t.DType == safetensors.I32 && slices.Equal(t.Shape, []int{k / 8, n}):
			p = packGPTQ
			s, err = r.gptq(name, t, n, k)
		case n%8 == 0 && t.DType == safetensors.I32 && slices.Equal(t.Shape, []int{k, n / 8}):
			p = packAWQ
			s, err = r.awq(name, t, n, k)
		default:
			err = bad(t, fmt.Sprintf("I32 [%s, %d] (GPTQ) or [%d, %s] (AWQ)", eighth(k), n, k, eighth(n)))
		}
	case weight != nil && weight.DType == safetensors.F8_E4M3:
		p = packFloat
		s, err = r.float(name, n, k)
	case weight != nil && weight.DType == safetensors.U8:
		p = packNF4
		s, err = r.blocks(name, n, k)
	default:
		return plain()
	}
	if err == nil && s != nil {
		err = r.quant.check(name, p, s.coding, n, k)
	}
	if err != nil {
		r.fault(err)
		return nil
	}
	if s != nil {
		s.module, s.share, s.stored = name, 1, s.coding
	}
	return s
}

func eighth(n int) string {
	if n%8 != 0 {
		return fmt.Sprintf("%d/8", n)
	}
	return fmt.Sprint(n / 8)
}

// scaleTensor takes the scales of a module and gives the format of their values.
func (r *reader) scaleTensor(name, want string) (*safetensors.Tensor, kernels.Format, error) {
	t := r.take(name, want)
	if t == nil {
		return nil, 0, nil
	}
	f, ok := formats[t.DType]
	if !ok {
		return nil, 0, bad(t, want+" of BF16, F16 or F32")
	}
	return t, f, nil
}

// float reads weight F8_E4M3 [N, K] with weight_scale: one, one for each output, for each group of inputs, or for each block.
func (r *reader) float(name string, n, k int) (*source, error) {
	w := r.take(name+".weight", "")
	if !slices.Equal(w.Shape, []int{n, k}) {
		return nil, bad(w, shapeText([]int{n, k}))
	}
	from := name + ".weight_scale"
	if !r.has(from) && r.has(from+"_inv") {
		from += "_inv" // the same factor: the inverse of what the quantiser multiplied by
	}
	block := 128
	if r.quant != nil {
		block = r.quant.block
	}
	rows, cols := (n+block-1)/block, (k+block-1)/block
	t, f, err := r.scaleTensor(from, fmt.Sprintf("[1], [%d, 1] or [%d, %d]", n, rows, cols))
	if t == nil {
		return nil, err
	}
	c := kernels.Coding{Format: kernels.F8E4M3, Scale: f}
	switch {
	case t.Len() == 1:
	case t.Len() == n && len(t.Shape) <= 2 && t.Shape[0] == n:
		c.Rows = 1
	case slices.Equal(t.Shape, []int{rows, cols}):
		c.Rows, c.Cols = block, block
	default:
		return nil, bad(t, fmt.Sprintf("[1], [%d, 1] or [%d, %d]", n, rows, cols))
	}
	return &source{coding: c, tensors: []*safetensors.Tensor{w, t}, read: func() (kernels.Matrix, error) {
		scales, err := t.Float32s()
		return kernels.Matrix{Format: kernels.F8E4M3, N: n, K: k, Data: w.Data, Coding: c, Scales: scales}, err
	}}, nil
}

// fusedFloat reads fused experts F8_E4M3 [E, K, ΣN] with a scale for all of them, for each expert, or for each of its outputs. A
// quantised matrix is [N, K]: the bytes are turned.
func (r *reader) fusedFloat(w *weight, want *Tensor, t *safetensors.Tensor) {
	if !slices.Equal(want.Shape, t.Shape) {
		r.fault(bad(t, shapeText(want.Shape)))
		return
	}
	experts, total, k := w.spec.Experts, want.Shape[2], w.spec.K
	sizes := fmt.Sprintf("[1], [%d] or [%d, 1, %d]", experts, experts, total)
	scale, f, err := r.scaleTensor(want.Name+"_weight_scale", sizes)
	if err != nil {
		r.fault(err)
	}
	if scale == nil {
		return
	}
	c := kernels.Coding{Format: kernels.F8E4M3, Scale: f}
	switch scale.Len() {
	case experts * total:
		c.Rows = 1
	case experts, 1:
	default:
		r.fault(bad(scale, sizes))
		return
	}
	column := 0
	for p, n := range w.spec.Parts {
		if err := r.quant.check(want.Name, packFloat, c, n, k); err != nil {
			r.fault(err)
			return
		}
		for e := range experts {
			from := column
			w.sources[p] = append(w.sources[p], source{module: want.Name, coding: c, stored: c, share: experts * len(w.spec.Parts),
				tensors: []*safetensors.Tensor{t, scale}, read: func() (kernels.Matrix, error) {
					scales, err := scale.Float32s()
					if err != nil {
						return kernels.Matrix{}, err
					}
					switch {
					case c.Rows == 1:
						scales = scales[e*total+from:][:n]
					case len(scales) > 1:
						scales = scales[e : e+1]
					}
					data := make([]byte, n*k)
					transpose(data, t.Data[e*k*total+from:], k, n, total, 1)
					return kernels.Matrix{Format: kernels.F8E4M3, N: n, K: k, Data: data, Coding: c, Scales: scales}, nil
				}})
		}
		column += n
	}
}

// transpose writes rows × cols elements of size bytes, whose rows are stride elements apart in src, as [cols, rows].
func transpose(dst, src []byte, rows, cols, stride, size int) {
	const tile = 32 // elements: lines of both sides stay in the cache
	for r0 := 0; r0 < rows; r0 += tile {
		for c0 := 0; c0 < cols; c0 += tile {
			for r := r0; r < min(r0+tile, rows); r++ {
				for c := c0; c < min(c0+tile, cols); c++ {
					copy(dst[(c*rows+r)*size:][:size], src[(r*stride+c)*size:])
				}
			}
		}
	}
}

// groupCoding is that of Int4 with scales for groups of inputs.
func groupCoding(t *safetensors.Tensor, f kernels.Format, k, groups int) (kernels.Coding, error) {
	c := kernels.Coding{Format: kernels.Int4, Rows: 1, Scale: f}
	if groups == 1 {
		return c, nil
	}
	if groups < 1 || k%groups != 0 || k/groups%2 != 0 {
		return c, bad(t, fmt.Sprintf("scales for groups of an even number of inputs that divides %d", k))
	}
	c.Cols = k / groups
	return c, nil
}

// compressed reads weight_packed I32 [N, K/8]: element 8c+j of a row is bits 4j to 4j+3 of word c, the code of 0 being 8.
func (r *reader) compressed(name string, n, k int) (*source, error) {
	w := r.take(name+".weight_packed", "")
	if w.DType != safetensors.I32 || k%8 != 0 || !slices.Equal(w.Shape, []int{n, k / 8}) {
		return nil, bad(w, fmt.Sprintf("I32 [%d, %s], 8 codes of 4 bits a word", n, eighth(k)))
	}
	t, f, err := r.scaleTensor(name+".weight_scale", fmt.Sprintf("[%d, groups]", n))
	if t == nil {
		return nil, err
	}
	if len(t.Shape) != 2 || t.Shape[0] != n {
		return nil, bad(t, fmt.Sprintf("[%d, groups]", n))
	}
	groups := t.Shape[1]
	c, err := groupCoding(t, f, k, groups)
	if err != nil {
		return nil, err
	}
	s := &source{coding: c, tensors: []*safetensors.Tensor{w, t}}
	shape := r.take(name+".weight_shape", "[2]")
	if shape == nil {
		return nil, nil
	}
	s.tensors = append(s.tensors, shape)
	if got, err := integers(shape); err != nil {
		return nil, err
	} else if !slices.Equal(got, []int{n, k}) {
		return nil, &TensorError{Tensor: shape.Name, File: shape.File, Want: "the values " + shapeText([]int{n, k}), Got: shapeText(got)}
	}
	var zeros *safetensors.Tensor
	if r.has(name + ".weight_zero_point") {
		zeros = r.take(name+".weight_zero_point", "")
		if words := (n + 7) / 8; zeros.DType != safetensors.I32 || !slices.Equal(zeros.Shape, []int{words, groups}) {
			return nil, bad(zeros, fmt.Sprintf("I32 [%d, %d]", words, groups))
		}
		s.coding.Zeros = true
		s.tensors = append(s.tensors, zeros)
	}
	if err := r.groups(s, name+".weight_g_idx", k, groups); err != nil {
		return nil, err
	}
	coding := s.coding
	s.read = func() (kernels.Matrix, error) {
		m := kernels.Matrix{Format: kernels.Int4, N: n, K: k, Data: w.Data, Coding: coding}
		var err error
		if m.Scales, err = t.Float32s(); err != nil {
			return m, err
		}
		if zeros != nil { // word i has the zeros of outputs 8i to 8i+7
			m.Zeros = make([]uint8, n*groups)
			for row := range n {
				for g := range groups {
					m.Zeros[row*groups+g] = uint8(word(zeros, row/8*groups+g) >> (row % 8 * 4) & 15)
				}
			}
		}
		return m, nil
	}
	return s, nil
}

// groups reads the group of every input, where groups are not runs of inputs, as is usual.
func (r *reader) groups(s *source, name string, k, groups int) error {
	if !r.has(name) {
		return nil
	}
	t := r.take(name, "")
	s.tensors = append(s.tensors, t)
	if !slices.Equal(t.Shape, []int{k}) {
		return bad(t, fmt.Sprintf("[%d]", k))
	}
	values, err := integers(t)
	if err != nil {
		return err
	}
	runs, group := true, make([]int32, k)
	for i, g := range values {
		if g < 0 || g >= groups {
			return &TensorError{Tensor: name, File: t.File, Want: fmt.Sprintf("groups from 0 to %d", groups-1), Got: fmt.Sprintf("%d at %d", g, i)}
		}
		runs, group[i] = runs && g == i/(k/groups), int32(g)
	}
	if !runs {
		s.group, s.order = group, sortedInputs(group, groups)
	}
	return nil
}

// word is number i of a tensor of I32.
func word(t *safetensors.Tensor, i int) uint32 { return binary.LittleEndian.Uint32(t.Data[4*i:]) }
