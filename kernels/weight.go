package kernels

import (
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
)

// Weight is a group of matrices that read one input: the parts q, k, v, or gate and up, of every expert.
type Weight interface {
	// Put hands over one matrix as the checkpoint has it, in any order, from any goroutine. The device cuts, packs or
	// copies it as it needs; the CPU keeps m.Data in place, so it must stay mapped until the device is closed. Of two that
	// take one place without a Seal between them, either may stay.
	Put(part, expert int, m Matrix) error
	// Fill makes one matrix random, the same values on every device: for timing without a checkpoint. Its layout is that
	// of the tensor that f describes; of a quantised weight, it is the quantised form of those values (see Quantise).
	Fill(part, expert int, f Fill) error
	// Seal checks that everything is there and finite. A weight must be sealed before a stage reads it.
	Seal() error
	// Get is the inverse of Put: the matrix in the layout in which it came. Values are exact.
	Get(part, expert int) (Matrix, error)
}

// WeightSpec says what a Weight will hold.
type WeightSpec struct {
	Names   []string // tensors in the checkpoint, for errors: one for each part, or one that holds all parts; * is the expert
	Parts   []int    // outputs N of each part
	K       int      // inputs
	Experts int      // at least 1
	Pairs   bool     // the two parts are gate and up of a feed-forward: output i of one belongs to output i of the other
	Split   Split    // how several ranks share it
	Whole   int      // outputs (or inputs, see Split) that one rank has together: a head's, or a group's of the next weight; 0: any number
	Coding  Coding   // of all matrices; the zero value: numbers in any plain format
}

// Tensor is the name of the checkpoint's tensor that holds a part.
func (s WeightSpec) Tensor(part int) string {
	switch {
	case part >= 0 && part < len(s.Names):
		return s.Names[part]
	case len(s.Names) > 0:
		return s.Names[0]
	}
	return "weight"
}

// Place is the name of one matrix, for errors: the tensor, and the expert where there are several.
func (s WeightSpec) Place(part, expert int) string {
	name := s.Tensor(part)
	if one := strings.Replace(name, "*", strconv.Itoa(expert), 1); one != name || s.Experts == 1 {
		return one
	}
	return fmt.Sprintf("%s expert %d", name, expert)
}

// Split says how the ranks of a group of devices share a weight.
type Split uint8

const (
	Replicated Split = iota // every rank holds all of it
	Outputs                 // cut along N: heads, feed-forward columns, vocabulary
	Inputs                  // cut along K: each rank makes a partial sum
)

// Matrix is a host view of one weight matrix: y [N] = W·x [K].
type Matrix struct {
	Format Format
	N, K   int
	InOut  bool // stored [K, N], as fused experts are; else [N, K]
	Stride int  // elements between the starts of stored rows; 0: rows are adjacent
	Data   []byte

	// Of a quantised format, whose rows are [N, K] (never InOut). One scale covers Coding.Rows outputs and Coding.Cols inputs.
	Coding Coding
	Scales []float32 // [⌈N/Rows⌉, ⌈K/Cols⌉]: values of Coding.Scale's format
	Zeros  []uint8   // Int4 [⌈N/Rows⌉, ⌈K/Cols⌉]: the code that is worth 0; nil: 8 everywhere
}

// RowStride is the distance in elements between the starts of stored rows.
func (m Matrix) RowStride() int {
	switch {
	case m.Stride != 0:
		return m.Stride
	case m.InOut:
		return m.N
	default:
		return m.K
	}
}

// Check compares the matrix with what its weight expects.
func (m Matrix) Check(s WeightSpec, part, expert int) error {
	if part < 0 || part >= len(s.Parts) || expert < 0 || expert >= s.Experts {
		return fmt.Errorf("kernels: %s: part %d expert %d: want part < %d, expert < %d", s.Tensor(part), part, expert, len(s.Parts), s.Experts)
	}
	if m.N != s.Parts[part] || m.K != s.K {
		return fmt.Errorf("kernels: %s: want [%d, %d], got [%d, %d]", s.Place(part, expert), s.Parts[part], s.K, m.N, m.K)
	}
	if err := m.checkCoding(s); err != nil {
		return fmt.Errorf("kernels: %s: %w", s.Place(part, expert), err)
	}
	rows, cols := m.N, m.K
	if m.InOut {
		rows, cols = m.K, m.N
	}
	if m.RowStride() < cols {
		return fmt.Errorf("kernels: %s: want a row stride of at least %d, got %d", s.Place(part, expert), cols, m.RowStride())
	}
	if want := m.Format.Bytes((rows-1)*m.RowStride() + cols); rows > 0 && len(m.Data) < want {
		return fmt.Errorf("kernels: %s: want %d bytes, got %d", s.Place(part, expert), want, len(m.Data))
	}
	return nil
}

// Fill describes random values for a matrix as a function of where each would lie in its checkpoint, so that packing,
// sharding, CPU and GPU agree bit for bit: the value at output n and input k is
//
//	bfloat16(Std · (s - 1020) / 209.02)
//
// where s is the sum of the 8 bytes of number Index + n·NStep + k·KStep of the splitmix64 generator that starts at Seed:
// nearly normal, since a sum of eight uniform bytes has mean 1020 and deviation 209.02.
type Fill struct {
	Seed         uint64 // mixed with the tensor's name (see FillSeed)
	Index        uint64 // of n 0, k 0 in the checkpoint's tensor
	NStep, KStep uint64 // what the next n, the next k adds to it; KStep 1: rows [N, K], else stored [K, N]
	Std          float32

	// Of a part of a matrix (Cut) whose rows have one scale: the inputs of the same rows before and behind it.
	Before, Behind int
}

// FillSeed mixes a seed with the name of a tensor (FNV-1a, 64 bits).
func FillSeed(seed uint64, tensor string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(tensor))
	return seed ^ h.Sum64()
}

// Value is one value, rounded to bfloat16.
func (f Fill) Value(n, k int) float32 {
	z := f.Seed + (f.Index+uint64(n)*f.NStep+uint64(k)*f.KStep+1)*0x9E3779B97F4A7C15
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	z ^= z >> 31
	sum := int32(0)
	for i := range 8 {
		sum += int32(z >> (8 * i) & 255)
	}
	v := math.Float32bits(f.Std * (float32(sum-1020) / 209.02))
	return math.Float32frombits((v + 0x7fff + v>>16&1) &^ 0xffff)
}
