package safetensors

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// samples has three tensors of every dtype, a matrix, a scalar and an empty one, with random bytes.
func samples() []Tensor {
	rng := rand.New(rand.NewPCG(1, 2))
	var all []Tensor
	for _, d := range DTypes() {
		for _, shape := range [][]int{{3, 5}, {}, {4, 0, 2}} {
			size, _ := byteSize(d, shape)
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			name := d.String() + []string{"/scalar", "", "/matrix \"é😀\"\n", "/empty\\"}[len(shape)]
			all = append(all, Tensor{Name: name, DType: d, Shape: shape, Data: data})
		}
	}
	return all
}

// lookup is what File and Checkpoint share.
type lookup interface {
	Names() []string
	Tensor(string) (*Tensor, error)
}

func checkEqual(t *testing.T, got lookup, want []Tensor) {
	t.Helper()
	if len(got.Names()) != len(want) {
		t.Errorf("%d tensors, want %d", len(got.Names()), len(want))
	}
	for _, w := range want {
		g, err := got.Tensor(w.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		if g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) || !bytes.Equal(g.Data, w.Data) {
			t.Errorf("tensor %q: got %v %x, want %v %x", w.Name, describe(g.DType, g.Shape), g.Data, describe(w.DType, w.Shape), w.Data)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	tensors, metadata := samples(), map[string]string{"format": "pt", "quote\"\x01": "\\ü\u2028"}
	var buf bytes.Buffer
	n, err := WriteTo(&buf, tensors, metadata)
	if err != nil || n != int64(buf.Len()) {
		t.Fatalf("wrote %d bytes, said %d, error %v", buf.Len(), n, err)
	}
	f, err := Parse("buffer", buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, f, tensors)
	if !maps.Equal(f.Metadata(), metadata) {
		t.Errorf("metadata %q, want %q", f.Metadata(), metadata)
	}
	header, _, _ := splitHeader("", buf.Bytes())
	if len(header)%8 != 0 {
		t.Errorf("header of %d bytes, want a multiple of 8", len(header))
	}
	entries, _, err := parseHeader("", header)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.begin%e.dtype.Size() != 0 {
			t.Errorf("tensor %q begins at %d, not a multiple of %d", e.name, e.begin, e.dtype.Size())
		}
	}

	// The same bytes in any order, and through a file.
	shuffled := slices.Clone(tensors)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	path := filepath.Join(t.TempDir(), "f.safetensors")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, shuffled, metadata); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, buf.Bytes()) {
		t.Errorf("the file differs from the buffer, error %v", err)
	}
	checkAlone(t, path)
	mapped, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, mapped, tensors)
	if err := mapped.Close(); err != nil {
		t.Error(err)
	}
}

// checkAlone demands that path is all its folder holds: no temporary file is left.
func checkAlone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

func TestWriteSharded(t *testing.T) {
	tensors := samples()
	for _, c := range []struct {
		maxBytes int64
		files    int
	}{{0, 1}, {1 << 40, 1}, {100, 10}, {1, 30}} {
		dir := t.TempDir()
		if err := WriteSharded(dir, tensors, c.maxBytes, map[string]string{"format": "pt"}); err != nil {
			t.Fatal(err)
		}
		ckpt, err := Open(os.DirFS(dir))
		if err != nil {
			t.Fatal(err)
		}
		checkEqual(t, ckpt, tensors)
		if len(ckpt.Files()) != c.files {
			t.Errorf("at most %d bytes: %d files, want %d", c.maxBytes, len(ckpt.Files()), c.files)
		}
		for _, f := range ckpt.files {
			var data int64
			for _, name := range f.names {
				data += int64(len(f.tensors[name].Data))
			}
			if c.maxBytes > 1 && data > c.maxBytes && len(f.names) > 1 {
				t.Errorf("%s has %d bytes of data, want at most %d", f.name, data, c.maxBytes)
			}
		}
		if got := ckpt.Metadata(); got["format"] != "pt" || got["total_size"] != "784" {
			t.Errorf("metadata %q, want format pt and total_size 784", got)
		}
		ckpt.Close()
	}
	err := WriteSharded(t.TempDir(), append(tensors, tensors[0]), 1, nil)
	checkFault(t, err, DuplicateTensor, "model-00031-of-00031.safetensors", tensors[0].Name, "another in model-00001")
}

func TestWriteErrors(t *testing.T) {
	good := Tensor{Name: "w", DType: U8, Shape: []int{2}, Data: []byte{1, 2}}
	with := func(change func(*Tensor)) []Tensor {
		bad := good
		change(&bad)
		return []Tensor{{Name: "v", DType: F32, Shape: []int{0}}, bad}
	}
	for _, c := range []struct {
		what     string
		tensors  []Tensor
		metadata map[string]string
		fault    Fault
		tensor   string
	}{
		{"no dtype", with(func(t *Tensor) { t.DType = 0 }), nil, BadTensor, "w"},
		{"dtype out of range", with(func(t *Tensor) { t.DType = 200 }), nil, BadTensor, "w"},
		{"name not UTF-8", with(func(t *Tensor) { t.Name = "\xff" }), nil, BadTensor, "\xff"},
		{"name of the metadata", with(func(t *Tensor) { t.Name = "__metadata__" }), nil, BadTensor, "__metadata__"},
		{"a byte too few", with(func(t *Tensor) { t.Data = t.Data[:1] }), nil, BadTensor, "w"},
		{"a byte too many", with(func(t *Tensor) { t.Shape = []int{1} }), nil, BadTensor, "w"},
		{"two of a name", append(with(func(*Tensor) {}), good), nil, DuplicateTensor, "w"},
		{"metadata not UTF-8", with(func(*Tensor) {}), map[string]string{"a": "\xff"}, BadMetadata, ""},
		{"metadata key not UTF-8", with(func(*Tensor) {}), map[string]string{"\xff": ""}, BadMetadata, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			var buf bytes.Buffer
			_, err := WriteTo(&buf, c.tensors, c.metadata)
			checkFault(t, err, c.fault, "", c.tensor, "want")
			path := filepath.Join(t.TempDir(), "f.safetensors")
			err = Write(path, c.tensors, c.metadata)
			checkFault(t, err, c.fault, path, c.tensor, "want")
			if buf.Len() > 0 {
				t.Errorf("%d bytes were written", buf.Len())
			}
			checkAlone(t, path)
			if _, err := os.Stat(path); err == nil {
				t.Error("a file was written")
			}
		})
	}
	for _, shape := range [][]int{{-1}, {-1, -2}, {1 << 30, 1 << 30, 1 << 30}} {
		_, err := WriteTo(&bytes.Buffer{}, with(func(t *Tensor) { t.Shape = shape }), nil)
		checkFault(t, err, BadTensor, "", "w", "dimensions ≥ 0")
		_, err = Create("f", with(func(t *Tensor) { t.Shape = shape }), nil)
		checkFault(t, err, Overflow, "f", "w", "dimensions ≥ 0")
	}
	_, err := WriteTo(&fullDisk{left: 65}, []Tensor{good}, nil)
	if !errors.Is(err, errFull) || !strings.Contains(err.Error(), "byte 65 of 66") {
		t.Errorf("full disk: %v", err)
	}
	if err := Write(filepath.Join(t.TempDir(), "none", "f"), []Tensor{good}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing folder: %v, want ErrNotExist", err)
	}
}

var errFull = errors.New("disk full")

// fullDisk takes left bytes and no more.
type fullDisk struct{ left int }

func (d *fullDisk) Write(p []byte) (int, error) {
	n := min(d.left, len(p))
	d.left -= n
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

// TestWriter puts tensors in any order from several goroutines and gets the bytes of WriteTo.
func TestWriter(t *testing.T) {
	tensors := samples()
	path := filepath.Join(t.TempDir(), "f.safetensors")
	var infos []Tensor
	for _, x := range tensors {
		infos = append(infos, Tensor{Name: x.Name, DType: x.DType, Shape: x.Shape})
	}
	w, err := Create(path, infos, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkFault(t, w.Put("none", nil), UnknownTensor, path, "none", "Create")
	checkFault(t, w.Put(tensors[0].Name, nil), BadTensor, path, tensors[0].Name, "got 0")
	var wg sync.WaitGroup
	for _, x := range slices.Backward(tensors) {
		wg.Go(func() {
			if err := w.Put(x.Name, x.Data); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkFault(t, w.Put(tensors[0].Name, tensors[0].Data), UnknownTensor, path, tensors[0].Name, "not yet put")
	if _, err := os.Stat(path); err == nil {
		t.Error("the file has its name before Close")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if _, err := WriteTo(&want, tensors, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the file differs from WriteTo's, error %v", err)
	}
	checkAlone(t, path)

	other := filepath.Join(t.TempDir(), "g.safetensors")
	w, err = Create(other, infos[:1], nil)
	if err != nil {
		t.Fatal(err)
	}
	checkFault(t, w.Close(), BadTensor, other, infos[0].Name, "before Close")
	checkAlone(t, other)
}
