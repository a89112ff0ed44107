package demo

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"testing"
	"testing/fstest"
)

func pack(t *testing.T, text string) *fstest.MapFile {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &fstest.MapFile{Data: b.Bytes()}
}

// A folder with packed files is a file system like any other, and has what was packed.
func TestPacked(t *testing.T) {
	dir := packed{fstest.MapFS{"a.bin.gz": pack(t, "what was packed"), "b": {Data: []byte("as it is")}, "c/d.gz": pack(t, ""), "broken.gz": {Data: []byte("not packed")}}}
	sound, err := fs.Sub(dir, "c")
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(sound, "d"); err != nil {
		t.Error(err)
	}
	delete(dir.FS.(fstest.MapFS), "broken.gz")
	if err := fstest.TestFS(dir, "a.bin", "b", "c/d"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"a.bin": "what was packed", "b": "as it is", "c/d": ""} {
		if got, err := fs.ReadFile(dir, name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := dir.Open("nothing"); !os.IsNotExist(err) {
		t.Errorf("nothing: %v, want an error that it is not there", err)
	}
	dir.FS.(fstest.MapFS)["broken.gz"] = &fstest.MapFile{Data: []byte("not packed")}
	if _, err := dir.Open("broken"); err == nil {
		t.Error("a file that is not packed was opened")
	}
}

// The checkpoint is the same from the program and from the disk.
func TestFolder(t *testing.T) {
	disk := packed{os.DirFS("checkpoint")}
	list, err := fs.ReadDir(disk, ".")
	if err != nil || len(list) < 10 {
		t.Fatalf("%d files, %v", len(list), err)
	}
	for _, e := range list {
		a, err := fs.ReadFile(FS(), e.Name())
		if err != nil {
			t.Fatal(err)
		}
		b, err := fs.ReadFile(disk, e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if info, err := e.Info(); err != nil || info.Size() != int64(len(a)) || !bytes.Equal(a, b) {
			t.Errorf("%s: %d bytes in the program, %d on disk, of size %v (%v)", e.Name(), len(a), len(b), info, err)
		}
	}
}
