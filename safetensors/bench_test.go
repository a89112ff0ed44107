package safetensors

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// BenchmarkParse reads the header of a file of 1,000 tensors; the rate is of the header's bytes.
func BenchmarkParse(b *testing.B) {
	var tensors []Tensor
	for i := range 1000 {
		tensors = append(tensors, Tensor{Name: fmt.Sprintf("language_model.model.layers.%d.self_attn.q_proj.weight", i), DType: BF16, Shape: []int{1, 1}, Data: make([]byte, 2)})
	}
	var buf bytes.Buffer
	if _, err := WriteTo(&buf, tensors, nil); err != nil {
		b.Fatal(err)
	}
	header, _, _ := splitHeader("", buf.Bytes())
	b.SetBytes(int64(len(header)))
	for b.Loop() {
		if _, err := Parse("f", buf.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTouch touches 256 MiB that are in the page cache: the bound that is left when the disk is not one.
func BenchmarkTouch(b *testing.B) {
	dir := b.TempDir()
	const size = 256 << 20
	w, err := Create(dir+"/"+SingleName, []Tensor{{Name: "w", DType: U8, Shape: []int{size}}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := w.Put("w", make([]byte, size)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		c, err := Open(os.DirFS(dir))
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Touch(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
