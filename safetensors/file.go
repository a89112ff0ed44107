package safetensors

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
)

// Tensor is one tensor of a file, or one to be written.
type Tensor struct {
	Name  string
	DType DType
	Shape []int  // outermost dimension first; empty for a scalar
	Data  []byte // [Shape...] DType, little-endian, row-major; a read-only view of the file, valid until Close
	File  string // where it was read from, for errors
}

// Len returns the number of elements: 1 for a scalar.
func (t *Tensor) Len() int {
	n := 1
	for _, dim := range t.Shape {
		n *= dim
	}
	return n
}

// check tells whether the fields agree with one another, as they do for every tensor that was read.
func (t *Tensor) check() error {
	bad := func(want, got string) error {
		return &Error{Fault: BadTensor, File: t.File, Tensor: t.Name, Want: want, Got: got}
	}
	if !t.DType.valid() {
		return bad("a dtype of the format", t.DType.String())
	}
	size, ok := byteSize(t.DType, t.Shape)
	if !ok {
		return bad(fmt.Sprintf("dimensions ≥ 0 and at most %d bytes", math.MaxInt), describe(t.DType, t.Shape))
	}
	if len(t.Data) != size {
		return bad(fmt.Sprintf("%d bytes for %s", size, describe(t.DType, t.Shape)), fmt.Sprintf("%d", len(t.Data)))
	}
	return nil
}

// File is an open safetensors file. Its methods may be called from several goroutines; Close only once they are done.
type File struct {
	name     string
	data     []byte // the whole file
	tensors  map[string]*Tensor
	names    []string // sorted
	metadata map[string]string
	mapped   bool // data is a mapping, to be released by Close
}

// Parse reads a whole file that is in memory; name stands for it in errors. The File keeps data: its tensors are
// views of it. All errors are *Error.
func Parse(name string, data []byte) (*File, error) {
	text, body, err := splitHeader(name, data)
	if err != nil {
		return nil, err
	}
	entries, metadata, err := parseHeader(name, text)
	if err != nil {
		return nil, err
	}
	if err := layout(name, entries, len(body)); err != nil {
		return nil, err
	}
	f := &File{name: name, data: data, metadata: metadata, tensors: make(map[string]*Tensor, len(entries))}
	all := make([]Tensor, len(entries))
	for i, e := range entries {
		// The capacity ends with the tensor, so that an append cannot run into the next one.
		all[i] = Tensor{Name: e.name, DType: e.dtype, Shape: e.shape, Data: body[e.begin:e.end:e.end], File: name}
		f.tensors[e.name] = &all[i]
		f.names = append(f.names, e.name)
	}
	slices.Sort(f.names)
	return f, nil
}

// OpenFile maps the file at path and reads its header. Errors are *Error for what the file holds and *fs.PathError for
// what the file system says.
func OpenFile(path string) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	defer file.Close()
	return open(path, file)
}

// open maps an *os.File, takes what is in memory where it lies, and reads any other file whole. The caller closes file: a mapping outlives it.
func open(name string, file fs.File) (*File, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("safetensors: %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("safetensors: %s: want a regular file, got mode %v", name, info.Mode())
	}
	if info.Size() > math.MaxInt {
		return nil, fmt.Errorf("safetensors: %s: want at most %d bytes on this machine, got %d", name, math.MaxInt, info.Size())
	}
	var data []byte
	mapped := false
	if osFile, ok := file.(*os.File); ok && canMap && info.Size() > 0 {
		data, err = mapFile(osFile, int(info.Size()))
		mapped = true
	} else if inside, ok := file.(*inMemory); ok {
		data = inside.data
	} else {
		data = make([]byte, info.Size())
		_, err = io.ReadFull(file, data)
	}
	if err != nil {
		return nil, fmt.Errorf("safetensors: %s: reading %d bytes: %w", name, info.Size(), err)
	}
	f, err := Parse(name, data)
	if err != nil {
		if mapped {
			unmapFile(data) // the header's error matters more than one of unmapping
		}
		return nil, err
	}
	f.mapped = mapped
	return f, nil
}

// Names returns the names of all tensors, sorted.
func (f *File) Names() []string { return slices.Clone(f.names) }

// Tensor returns the tensor of that name; the error for a name that the file does not hold is UnknownTensor.
// The result is shared: its fields and bytes must not be changed.
func (f *File) Tensor(name string) (*Tensor, error) {
	if t, ok := f.tensors[name]; ok {
		return t, nil
	}
	return nil, &Error{Fault: UnknownTensor, File: f.name, Tensor: name,
		Want: "one of the file's names", Got: fmt.Sprintf("none among %d", len(f.names))}
}

// Metadata returns the header's __metadata__, nil where it has none. The map is shared: it must not be changed.
func (f *File) Metadata() map[string]string { return f.metadata }

// Close releases the mapping; all views of the file become invalid. A second Close does nothing.
func (f *File) Close() error {
	data := f.data
	f.data, f.tensors, f.names = nil, nil, nil
	if !f.mapped {
		return nil
	}
	f.mapped = false
	if err := unmapFile(data); err != nil {
		return fmt.Errorf("safetensors: %s: %w", f.name, err)
	}
	return nil
}
