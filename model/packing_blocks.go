package model

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"chulengo/kernels"
	"chulengo/safetensors"
)

// blockState is quant_state of bitsandbytes.
type blockState struct {
	Type       string  `json:"quant_type"`
	Block      int     `json:"blocksize"`
	Shape      []int   `json:"shape"`
	Nested     int     `json:"nested_blocksize"`
	NestedZero float32 `json:"nested_offset"`
}

// blocks reads the 4-bit codes of bitsandbytes: weight U8 [N·K/2, 1], the even element in the high half, with a scale for each block of
// elements: absmax as F32, or as codes of 8 bits that have a table and scales of their own.
func (r *reader) blocks(name string, n, k int) (*source, error) {
	name += ".weight"
	w := r.take(name, "")
	if w.Len() != (n*k+1)/2 || n*k%2 != 0 {
		return nil, bad(w, fmt.Sprintf("U8 [%d, 1], two codes of [%d, %d] a byte", (n*k+1)/2, n, k))
	}
	kind := "nf4"
	if r.has(name + ".quant_state.bitsandbytes__fp4") {
		kind = "fp4"
	}
	about := r.take(name+".quant_state.bitsandbytes__"+kind, "JSON")
	absmax := r.take(name+".absmax", "U8 or F32")
	table := r.take(name+".quant_map", "F32 [16]")
	if about == nil || absmax == nil || table == nil {
		return nil, nil
	}
	var state blockState
	if err := json.Unmarshal(about.Data, &state); err != nil {
		return nil, &TensorError{Tensor: about.Name, File: about.File, Want: "JSON", Got: err.Error()}
	}
	switch {
	case state.Type != kind || !slices.Equal(state.Shape, []int{n, k}):
		return nil, &TensorError{Tensor: about.Name, File: about.File, Want: fmt.Sprintf("%s %s", kind, shapeText([]int{n, k})), Got: fmt.Sprintf("%s %s", state.Type, shapeText(state.Shape))}
	case state.Block < 2 || state.Block%2 != 0 || k%state.Block != 0:
		return nil, &TensorError{Tensor: about.Name, File: about.File, Want: fmt.Sprintf("blocks of an even number of inputs that divides %d", k), Got: fmt.Sprintf("blocks of %d", state.Block)}
	case table.DType != safetensors.F32 || table.Len() != 16:
		return nil, bad(table, "F32 [16]")
	}
	count := n * k / state.Block
	s := &source{tensors: []*safetensors.Tensor{w, absmax, table, about}}
	scales, err := r.blockScales(s, name, absmax, state, count)
	if scales == nil {
		return nil, err
	}
	s.coding = kernels.Coding{Format: kernels.Table4, Rows: 1, Cols: state.Block, Scale: kernels.F32, Table: r.table(table)}
	coding := s.coding
	s.read = func() (kernels.Matrix, error) {
		m := kernels.Matrix{Format: kernels.Table4, N: n, K: k, Data: make([]byte, n*k/2), Coding: coding}
		for i, b := range w.Data {
			m.Data[i] = b<<4 | b>>4
		}
		var err error
		m.Scales, err = scales()
		return m, err
	}
	return s, nil
}

// table gives one address to equal tables, so that codings compare.
func (r *reader) table(t *safetensors.Tensor) *[16]float32 {
	var values [16]float32
	for i := range values {
		values[i] = math.Float32frombits(word(t, i))
	}
	if r.tables == nil {
		r.tables = map[[16]float32]*[16]float32{}
	}
	if r.tables[values] == nil {
		r.tables[values] = &values
	}
	return r.tables[values]
}

// blockScales takes what the scales of count blocks are made of.
func (r *reader) blockScales(s *source, name string, absmax *safetensors.Tensor, state blockState, count int) (func() ([]float32, error), error) {
	if absmax.Len() != count || absmax.DType != safetensors.F32 && absmax.DType != safetensors.U8 {
		return nil, bad(absmax, fmt.Sprintf("U8 or F32 [%d]", count))
	}
	if absmax.DType == safetensors.F32 {
		return absmax.Float32s, nil
	}
	outer, table := r.take(name+".nested_absmax", "F32"), r.take(name+".nested_quant_map", "F32 [256]")
	if outer == nil || table == nil {
		return nil, nil
	}
	s.tensors = append(s.tensors, outer, table)
	if state.Nested < 1 {
		return nil, fmt.Errorf("model: tensor %s.quant_state: want a nested_blocksize of at least 1, got %d", strings.TrimSuffix(name, ".weight"), state.Nested)
	}
	if want := (count + state.Nested - 1) / state.Nested; outer.DType != safetensors.F32 || outer.Len() != want {
		return nil, bad(outer, fmt.Sprintf("F32 [%d]", want))
	}
	if table.DType != safetensors.F32 || table.Len() != 256 {
		return nil, bad(table, "F32 [256]")
	}
	return func() ([]float32, error) {
		codes, err := table.Float32s()
		if err != nil {
			return nil, err
		}
		scales := make([]float32, count)
		for i, code := range absmax.Data {
			scales[i] = float32(codes[code]*math.Float32frombits(word(outer, i/state.Nested))) + state.NestedZero // rounded twice, as its makers do
		}
		return scales, nil
	}, nil
}
