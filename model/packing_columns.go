package model

import (
	"fmt"
	"slices"

	"chulengo/kernels"
	"chulengo/safetensors"
)

// gptq reads qweight I32 [K/8, N]: input 8r+j of an output is bits 4j to 4j+3 of word r; scales [K/g, N]; qzeros I32
// [K/g, N/8], packed along the outputs.
func (r *reader) gptq(name string, w *safetensors.Tensor, n, k int) (*source, error) {
	s, t, zeros, groups, err := r.columns(name, w, n, k)
	if s == nil {
		return nil, err
	}
	if err := r.groups(s, name+".g_idx", k, groups); err != nil {
		return nil, err
	}
	less := r.quant == nil || r.quant.stored1
	// A checkpoint that says it is symmetric has the zeros of symmetric codes, which need not be kept.
	symmetric := r.quant != nil && len(r.quant.Schemes) == 1 && !r.quant.Schemes[0].Zeros
	s.coding.Zeros = !symmetric
	coding := s.coding
	s.read = func() (kernels.Matrix, error) {
		m := kernels.Matrix{Format: kernels.Int4, N: n, K: k, Data: make([]byte, n*k/2), Coding: coding}
		transpose(m.Data, w.Data, k/8, n, n, 4)
		err := r.grid(&m, t, zeros, func(row, g int) uint8 {
			z := uint8(word(zeros, g*(n/8)+row/8) >> (row % 8 * 4) & 15)
			if less {
				z++
			}
			return z
		})
		return m, err
	}
	return s, nil
}

// awqOrder is the output, of 8, whose code a word's nibble has.
var awqOrder = [8]int{0, 2, 4, 6, 1, 3, 5, 7}

// awq reads qweight I32 [K, N/8], packed along the outputs in the order of awqOrder, as qzeros [K/g, N/8] is; scales [K/g, N].
func (r *reader) awq(name string, w *safetensors.Tensor, n, k int) (*source, error) {
	s, t, zeros, _, err := r.columns(name, w, n, k)
	if s == nil {
		return nil, err
	}
	if k%2 != 0 {
		return nil, bad(w, "an even number of inputs")
	}
	var place [8]int // the inverse of awqOrder
	for nibble, output := range awqOrder {
		place[output] = nibble
	}
	s.coding.Zeros = true
	coding := s.coding
	s.read = func() (kernels.Matrix, error) {
		m := kernels.Matrix{Format: kernels.Int4, N: n, K: k, Data: make([]byte, n*k/2), Coding: coding}
		const tile = 16 // words: a cache line of w
		for first := 0; first < n/8; first += tile {
			for row := 0; row < k; row += 2 {
				for c := first; c < min(first+tile, n/8); c++ {
					even, odd := word(w, row*(n/8)+c), word(w, (row+1)*(n/8)+c)
					for nibble, output := range awqOrder {
						m.Data[((8*c+output)*k+row)/2] = byte(even>>(4*nibble)&15 | odd>>(4*nibble)&15<<4)
					}
				}
			}
		}
		err := r.grid(&m, t, zeros, func(row, g int) uint8 {
			return uint8(word(zeros, g*(n/8)+row/8) >> (4 * place[row%8]) & 15)
		})
		return m, err
	}
	return s, nil
}

// columns takes scales [K/g, N] and qzeros [K/g, N/8] of a module whose outputs are the columns.
func (r *reader) columns(name string, w *safetensors.Tensor, n, k int) (s *source, scales, zeros *safetensors.Tensor, groups int, err error) {
	scales, f, err := r.scaleTensor(name+".scales", fmt.Sprintf("[groups, %d]", n))
	zeros = r.take(name+".qzeros", fmt.Sprintf("I32 [groups, %s]", eighth(n)))
	if err != nil || scales == nil || zeros == nil {
		return nil, nil, nil, 0, err
	}
	if len(scales.Shape) != 2 || scales.Shape[1] != n {
		return nil, nil, nil, 0, bad(scales, fmt.Sprintf("[groups, %d]", n))
	}
	groups = scales.Shape[0]
	c, err := groupCoding(scales, f, k, groups)
	if err != nil {
		return nil, nil, nil, 0, err
	}
	if n%8 != 0 || zeros.DType != safetensors.I32 || !slices.Equal(zeros.Shape, []int{groups, n / 8}) {
		return nil, nil, nil, 0, bad(zeros, fmt.Sprintf("I32 [%d, %s]", groups, eighth(n)))
	}
	return &source{coding: c, tensors: []*safetensors.Tensor{w, scales, zeros}}, scales, zeros, groups, nil
}

// grid fills in scales [N, groups] from a tensor [groups, N], and zeros, which must be 8 where the coding has none.
func (r *reader) grid(m *kernels.Matrix, scales, zeros *safetensors.Tensor, zero func(row, group int) uint8) error {
	values, err := scales.Float32s()
	if err != nil {
		return err
	}
	groups := scales.Shape[0]
	m.Scales = make([]float32, m.N*groups)
	if m.Coding.Zeros {
		m.Zeros = make([]uint8, m.N*groups)
	}
	for row := range m.N {
		for g := range groups {
			at := row*groups + g
			m.Scales[at] = values[g*m.N+row]
			switch z := zero(row, g); {
			case m.Coding.Zeros:
				m.Zeros[at] = z
			case z != 8:
				return &TensorError{Tensor: zeros.Name, File: zeros.File, Want: "the zero 8 (quantization_config says that codes are symmetric)",
					Got: fmt.Sprintf("%d in group %d of output %d", z, g, row)}
			}
		}
	}
	return nil
}
