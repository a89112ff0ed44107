package safetensors

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func pack(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A packed file has the tensors of what was packed, alone and as a shard; the file itself comes first where both are there.
func TestPacked(t *testing.T) {
	const single = `{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}`
	text := append([]byte{byte(len(single)), 0, 0, 0, 0, 0, 0, 0}, single...)
	one, two := append(slices.Clone(text), 1, 2, 3, 4), append(slices.Clone(text), 5, 6, 7, 8)
	index := []byte(`{"weight_map":{"a":"s.safetensors"}}`)
	for name, dir := range map[string]fstest.MapFS{
		"single": {"model.safetensors.gz": {Data: pack(t, one)}},
		"shard":  {IndexName: {Data: index}, "s.safetensors.gz": {Data: pack(t, one)}},
		"both":   {"model.safetensors": {Data: one}, "model.safetensors.gz": {Data: pack(t, two)}},
	} {
		c, err := Open(dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if a, err := c.Tensor("a"); err != nil || !bytes.Equal(a.Data, []byte{1, 2, 3, 4}) {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
	for _, x := range []struct {
		name string
		data []byte
		want string
	}{
		{"no gzip", []byte("plain"), "model.safetensors.gz: want a file packed by gzip"},
		{"cut", pack(t, one)[:40], "model.safetensors.gz: unpacking, after"},
		{"too large", pack(t, make([]byte, 1<<20)), "times its own, got more"},
		{"damaged inside", pack(t, one[:5]), "model.safetensors"},
	} {
		if _, err := Open(fstest.MapFS{"model.safetensors.gz": {Data: x.data}}); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: want an error with %q, got %v", x.name, x.want, err)
		}
	}
}

// A folder that is shown unpacked has its packed files under their own names, whole, and unpacks each once.
func TestUnpacked(t *testing.T) {
	dir := fstest.MapFS{"a.bin.gz": {Data: pack(t, []byte("what was packed"))}, "b": {Data: []byte("as it is")}, "c/d.gz": {Data: pack(t, nil)}, "broken.gz": {Data: []byte("not packed")}}
	shown := Unpacked(dir)
	for round := range 2 {
		for name, want := range map[string]string{"a.bin": "what was packed", "b": "as it is", "c/d": ""} {
			got, err := fs.ReadFile(shown, name)
			if err != nil || string(got) != want {
				t.Errorf("round %d, %s: %q, %v, want %q", round, name, got, err, want)
			}
			if info, err := fs.Stat(shown, name); err != nil || info.Size() != int64(len(want)) || info.Name() != path.Base(name) || !info.Mode().IsRegular() {
				t.Errorf("round %d, %s: %v, %v", round, name, info, err)
			}
		}
		delete(dir, "a.bin.gz") // it is kept
	}
	if _, err := shown.Open("nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v, want an error that it is not there", err)
	}
	if _, err := shown.Open("broken"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("broken: %v, want an error that says why", err)
	}
}
