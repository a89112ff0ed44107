package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
)

// shared returns a path of the material beside the repository, and skips the test where there is none.
func shared(t testing.TB, path ...string) string {
	t.Helper()
	name := filepath.Join(append([]string{"..", "..", "shared"}, path...)...)
	if _, err := os.Stat(name); err != nil {
		t.Skipf("optional material is not there: %v", err)
	}
	return name
}

func readGzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, fsys fs.FS, o Options) *Tokenizer {
	t.Helper()
	tok, err := LoadWith(fsys, o)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

var demoDir = os.DirFS("../demo/checkpoint")

var loadedDemo = sync.OnceValues(func() (*Tokenizer, error) { return Load(demoDir) })

func demo(t testing.TB) *Tokenizer {
	t.Helper()
	tok, err := loadedDemo()
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// llama4Files returns both layouts of Llama 4's tokenizer, by name.
func llama4Files(t testing.TB) map[string]fs.FS {
	t.Helper()
	model, err := os.ReadFile(shared(t, "llama4", "tokenizer.model"))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]fs.FS{
		"tokenizer.json":  fstest.MapFS{"tokenizer.json": {Data: readGzip(t, shared(t, "llama4", "tokenizer.json.gz"))}},
		"tokenizer.model": fstest.MapFS{"tokenizer.model": {Data: model}},
	}
}

var (
	llama4Once sync.Once
	llama4Tok  *Tokenizer
)

// llama4 returns Llama 4's tokenizer, read from tokenizer.model.
func llama4(t testing.TB) *Tokenizer {
	t.Helper()
	dir := filepath.Dir(shared(t, "llama4", "tokenizer.model"))
	llama4Once.Do(func() { llama4Tok = load(t, os.DirFS(dir), Options{}) })
	if llama4Tok == nil {
		t.Fatal("the tokenizer did not load")
	}
	return llama4Tok
}
