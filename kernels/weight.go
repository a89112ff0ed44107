package kernels

import "fmt"

// Weight is a group of matrices that read one input: the parts q, k, v, or gate and up, of every expert.
type Weight interface {
	// Put hands over one matrix as the checkpoint has it, in any order, from any goroutine. The device cuts, packs or
	// copies it as it needs; the CPU keeps m.Data in place, so it must stay mapped until the device is closed.
	Put(part, expert int, m Matrix) error
	// Fill makes every part random, normal with deviation std, the same for a seed on every device: for timing without
	// a checkpoint.
	Fill(seed uint64, std float32) error
	// Seal checks that everything is there and finite. A weight must be sealed before a stage reads it.
	Seal() error
	// Get is the inverse of Put: the matrix in the layout in which it came. Values are exact.
	Get(part, expert int) (Matrix, error)
}

// WeightSpec says what a Weight will hold.
type WeightSpec struct {
	Names   []string // tensors in the checkpoint, for errors: one for each part, or one that holds all parts
	Parts   []int    // outputs N of each part
	K       int      // inputs
	Experts int      // at least 1
	Split   Split    // how several ranks share it
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
		return fmt.Errorf("kernels: %s expert %d: want [%d, %d], got [%d, %d]", s.Tensor(part), expert, s.Parts[part], s.K, m.N, m.K)
	}
	rows, cols := m.N, m.K
	if m.InOut {
		rows, cols = m.K, m.N
	}
	if m.RowStride() < cols {
		return fmt.Errorf("kernels: %s expert %d: want a row stride of at least %d, got %d", s.Tensor(part), expert, cols, m.RowStride())
	}
	if want := ((rows-1)*m.RowStride() + cols) * m.Format.Size(); rows > 0 && len(m.Data) < want {
		return fmt.Errorf("kernels: %s expert %d: want %d bytes, got %d", s.Tensor(part), expert, want, len(m.Data))
	}
	return nil
}

// Format is how numbers are stored.
type Format uint8

const (
	BF16 Format = iota
	F16
	F32
)

// Size is the number of bytes of one element.
func (f Format) Size() int {
	if f == F32 {
		return 4
	}
	return 2
}

func (f Format) String() string {
	switch f {
	case BF16:
		return "BF16"
	case F16:
		return "F16"
	case F32:
		return "F32"
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}
