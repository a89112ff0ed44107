package safetensors

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
)

// plan is what a file will hold: the header's bytes, its length before it, and the tensors in the order of their data.
type plan struct {
	header  []byte
	tensors []Tensor
	offset  []int64 // of each tensor, from the start of the file
	size    int64   // of the file
}

// newPlan lays out a file. Wide elements come first, then names count, so that the same tensors always give the same
// bytes, and every tensor begins at a multiple of its element's size. Data is not looked at.
func newPlan(file string, tensors []Tensor, metadata map[string]string) (*plan, error) {
	p := &plan{tensors: slices.Clone(tensors)}
	slices.SortFunc(p.tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(b.DType.Size(), a.DType.Size()), cmp.Compare(a.Name, b.Name))
	})
	fail := func(f Fault, tensor, want, got string) error {
		return &Error{Fault: f, File: file, Tensor: tensor, Want: want, Got: got}
	}
	text := append(make([]byte, lengthBytes), '{')
	if len(metadata) > 0 {
		text = append(text, `"`+metadataKey+`":{`...)
		for i, key := range slices.Sorted(maps.Keys(metadata)) {
			if !utf8.ValidString(key) || !utf8.ValidString(metadata[key]) {
				return nil, fail(BadMetadata, "", "UTF-8", quote(key)+": "+quote(metadata[key]))
			}
			text = appendJSON(appendComma(text, i), key)
			text = appendJSON(append(text, ':'), metadata[key])
		}
		text = append(text, '}')
	}
	seen := make(map[string]bool, len(tensors))
	var end int64
	for i, t := range p.tensors {
		size, ok := byteSize(t.DType, t.Shape)
		switch {
		case !t.DType.valid():
			return nil, fail(BadTensor, t.Name, "a dtype of the format", t.DType.String())
		case !ok || int64(size) > math.MaxInt64-MaxHeader-lengthBytes-end:
			return nil, fail(Overflow, t.Name, fmt.Sprintf("dimensions ≥ 0 and at most %d bytes", math.MaxInt), describe(t.DType, t.Shape))
		case !utf8.ValidString(t.Name):
			return nil, fail(BadTensor, t.Name, "a name in UTF-8", "other bytes")
		case t.Name == metadataKey:
			return nil, fail(BadTensor, t.Name, "another name", "the one that the format keeps for metadata")
		case seen[t.Name]:
			return nil, fail(DuplicateTensor, t.Name, "one tensor of that name", "two")
		}
		seen[t.Name] = true
		p.offset = append(p.offset, end)
		if i > 0 || len(metadata) > 0 {
			text = append(text, ',')
		}
		text = appendJSON(text, t.Name)
		text = append(text, `:{"dtype":"`+t.DType.String()+`","shape":[`...)
		for j, dim := range t.Shape {
			text = strconv.AppendInt(appendComma(text, j), int64(dim), 10)
		}
		text = strconv.AppendInt(append(text, `],"data_offsets":[`...), end, 10)
		end += int64(size)
		text = strconv.AppendInt(append(text, ','), end, 10)
		text = append(text, "]}"...)
	}
	text = append(text, '}')
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	if n := len(text) - lengthBytes; n > MaxHeader {
		return nil, fail(HeaderTooLong, "", fmt.Sprintf("at most %d bytes", MaxHeader), fmt.Sprintf("%d", n))
	}
	binary.LittleEndian.PutUint64(text, uint64(len(text)-lengthBytes))
	p.header = text
	for i := range p.offset {
		p.offset[i] += int64(len(text))
	}
	p.size = end + int64(len(text))
	return p, nil
}

// appendComma separates element i from the one before.
func appendComma(text []byte, i int) []byte {
	if i > 0 {
		return append(text, ',')
	}
	return text
}

// appendJSON appends s, valid UTF-8, as a JSON string.
func appendJSON(text []byte, s string) []byte {
	text = append(text, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			text = append(text, '\\', c)
		case c < 0x20:
			text = fmt.Appendf(text, `\u%04x`, c)
		default:
			text = append(text, c)
		}
	}
	return append(text, '"')
}

// WriteTo writes a whole file to w and returns the bytes written. Every tensor needs Name, DType, Shape and Data;
// a tensor whose fields disagree, or a name that comes twice, is an error before the first byte is written.
//
// The bytes depend on the tensors and the metadata only, not on their order: tensors stand by element size, the widest
// first, then by name, and the header is padded with spaces, so that every tensor begins at a multiple of its element's
// size.
func WriteTo(w io.Writer, tensors []Tensor, metadata map[string]string) (int64, error) {
	for i := range tensors {
		if err := tensors[i].check(); err != nil {
			return 0, err
		}
	}
	p, err := newPlan("", tensors, metadata)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(p.header)
	written := int64(n)
	for i := 0; i < len(p.tensors) && err == nil; i++ {
		n, err = w.Write(p.tensors[i].Data)
		written += int64(n)
	}
	if err != nil {
		return written, fmt.Errorf("safetensors: writing byte %d of %d: %w", written, p.size, err)
	}
	return written, nil
}

// Write writes a file at path, as WriteTo does. The file appears under its name when it is complete, replacing one that
// was there; mappings of the old file stay valid (on Windows an open mapping keeps it from being replaced).
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	w, err := Create(path, tensors, metadata)
	if err != nil {
		return err
	}
	for i := range tensors {
		if err := w.Put(tensors[i].Name, tensors[i].Data); err != nil {
			w.Abort()
			return err
		}
	}
	return w.Close()
}

// Writer writes a file whose tensors are not all in memory at once: Create states their names, dtypes and shapes, Put
// gives the data of each, in any order and from several goroutines, and Close completes the file.
type Writer struct {
	path  string
	temp  *os.File // beside path, renamed by Close
	plan  *plan
	mu    sync.Mutex
	index map[string]int // into plan's tensors, of those still to come
}

// Create begins a file at path that will hold the given tensors, whose Data it ignores. The bytes are those of WriteTo.
// Every Writer must be ended by Close or Abort.
func Create(path string, tensors []Tensor, metadata map[string]string) (*Writer, error) {
	p, err := newPlan(path, tensors, metadata)
	if err != nil {
		return nil, err
	}
	temp, err := createTemp(path)
	if err != nil {
		return nil, err
	}
	w := &Writer{path: path, temp: temp, plan: p, index: make(map[string]int, len(p.tensors))}
	for i, t := range p.tensors {
		w.index[t.Name] = i
	}
	if _, err = temp.WriteAt(p.header, 0); err == nil {
		err = temp.Truncate(p.size)
	}
	if err != nil {
		w.Abort()
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	return w, nil
}

// createTemp opens a new file beside path, with the rights that path would get.
func createTemp(path string) (*os.File, error) {
	dir, base := filepath.Split(path)
	f, err := os.OpenFile(fmt.Sprintf("%s.%s.%016x.tmp", dir, base, rand.Uint64()), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	return f, nil
}

// Put writes the data of one tensor, [shape...] of its dtype, little-endian. The error is UnknownTensor for a name that
// Create was not given or that was put before, BadTensor for data of another size.
func (w *Writer) Put(name string, data []byte) error {
	w.mu.Lock()
	i, ok := w.index[name]
	if ok {
		t := w.plan.tensors[i]
		t.Data, t.File = data, w.path
		if err := t.check(); err != nil {
			w.mu.Unlock()
			return err
		}
		delete(w.index, name)
	}
	w.mu.Unlock()
	if !ok {
		return &Error{Fault: UnknownTensor, File: w.path, Tensor: name, Want: "a tensor given to Create and not yet put", Got: "another"}
	}
	if _, err := w.temp.WriteAt(data, w.plan.offset[i]); err != nil {
		return fmt.Errorf("safetensors: %s: tensor %s: %w", w.path, quote(name), err)
	}
	return nil
}

// Close completes the file and gives it its name. A tensor that was not put is a BadTensor error; after any error
// nothing is left behind.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.index) > 0 {
		w.Abort()
		return &Error{Fault: BadTensor, File: w.path, Tensor: slices.Sorted(maps.Keys(w.index))[0], Want: "its data before Close", Got: "none"}
	}
	return finish(w.temp, w.path)
}

// finish brings a temporary file to the disk and renames it to path, or removes it.
func finish(temp *os.File, path string) error {
	err := temp.Sync()
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		os.Remove(temp.Name())
		return fmt.Errorf("safetensors: %w", err)
	}
	return nil
}

// Abort gives the file up and removes what was written.
func (w *Writer) Abort() {
	w.temp.Close()
	os.Remove(w.temp.Name())
}
