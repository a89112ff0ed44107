package safetensors

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// shardsOf is a checkpoint of two good shards: "a" and "b" in one, "c" in two. Its index is to be added.
func shardsOf(t *testing.T) fstest.MapFS {
	t.Helper()
	one := fileOf(`{"__metadata__":{"format":"pt","x":"1"},"a":`+f32+`,"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}`, 6)
	two := fileOf(`{"__metadata__":{"format":"np","y":"2"},"c":`+f32+`}`, 4)
	return fstest.MapFS{"one.safetensors": {Data: one}, "two.safetensors": {Data: two}}
}

const goodMap = `"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}`

func TestIndex(t *testing.T) {
	for _, c := range []struct {
		what, index        string
		fault              Fault
		file, tensor, says string
		change             func(fstest.MapFS)
		alsoIs             error
	}{
		{what: "no text", index: ``, fault: Syntax, file: IndexName, says: "the index"},
		{what: "cut", index: `{"weight_map":{"a":"one`, fault: Syntax, file: IndexName, tensor: "a", says: "end of the text"},
		{what: "list", index: `[]`, fault: WrongType, file: IndexName, says: "a list"},
		{what: "not UTF-8", index: "{\"\xff\":1}", fault: NotUTF8, file: IndexName},
		{what: "text after the end", index: `{` + goodMap + `} x`, fault: HeaderTrailer, file: IndexName, says: "'x'"},
		{what: "no weight_map", index: `{"metadata":{}}`, fault: MissingKey, file: IndexName, says: "weight_map"},
		{what: "two weight_maps", index: `{` + goodMap + `,` + goodMap + `}`, fault: DuplicateKey, file: IndexName, says: "weight_map"},
		{what: "two keys of metadata", index: `{"metadata":{"n":1,"n":1},` + goodMap + `}`, fault: DuplicateKey, file: IndexName, says: `"n"`},
		{what: "list as weight_map", index: `{"weight_map":[]}`, fault: WrongType, file: IndexName, says: "weight_map"},
		{what: "number as metadata", index: `{"metadata":1,` + goodMap + `}`, fault: WrongType, file: IndexName, says: "metadata"},
		{what: "number as a shard", index: `{"weight_map":{"a":1}}`, fault: WrongType, file: IndexName, tensor: "a", says: "the name of a shard"},
		{what: "null as a shard", index: `{"weight_map":{"a":null}}`, fault: WrongType, file: IndexName, tensor: "a", says: "null"},
		{what: "a bad word", index: `{"x":nil}`, fault: Syntax, file: IndexName, says: "a value"},
		{what: "deep nesting", index: `{"x":` + strings.Repeat("[", 1<<20), fault: Syntax, file: IndexName, says: "at most 100"},
		{what: "one name twice", index: `{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}`, fault: DuplicateTensor, file: IndexName, tensor: "a", says: "weight_map"},
		{what: "parent folder", index: `{"weight_map":{"a":"../one.safetensors"}}`, fault: ShardName, file: IndexName, tensor: "a", says: `"../one.safetensors"`},
		{what: "absolute path", index: `{"weight_map":{"a":"/etc/passwd"}}`, fault: ShardName, file: IndexName, tensor: "a", says: "/etc/passwd"},
		{what: "backslash", index: `{"weight_map":{"a":"..\\one.safetensors"}}`, fault: ShardName, file: IndexName, tensor: "a"},
		{what: "drive", index: `{"weight_map":{"a":"c:one"}}`, fault: ShardName, file: IndexName, tensor: "a"},
		{what: "dots", index: `{"weight_map":{"a":".."}}`, fault: ShardName, file: IndexName, tensor: "a"},
		{what: "subfolder", index: `{"weight_map":{"a":"x/one.safetensors"}}`, fault: ShardName, file: IndexName, tensor: "a"},
		{what: "NUL", index: `{"weight_map":{"a":"one\u0000"}}`, fault: ShardName, file: IndexName, tensor: "a"},
		{what: "no name", index: `{"weight_map":{"a":""}}`, fault: ShardName, file: IndexName, tensor: "a"},
		{what: "missing shard", index: `{` + goodMap + `}`, fault: MissingShard, file: "two.safetensors", tensor: "c", says: IndexName,
			change: func(f fstest.MapFS) { delete(f, "two.safetensors") }, alsoIs: fs.ErrNotExist},
		{what: "truncated shard", index: `{` + goodMap + `}`, fault: Truncated, file: "two.safetensors", tensor: "c", says: "got 3",
			change: func(f fstest.MapFS) { d := f["two.safetensors"].Data; f["two.safetensors"].Data = d[:len(d)-1] }},
		{what: "empty shard", index: `{` + goodMap + `}`, fault: ShortFile, file: "two.safetensors", says: "got 0 bytes",
			change: func(f fstest.MapFS) { f["two.safetensors"].Data = nil }},
		{what: "damaged shard", index: `{` + goodMap + `}`, fault: Syntax, file: "two.safetensors", says: "want",
			change: func(f fstest.MapFS) { f["two.safetensors"].Data = fileOf("{x", 0) }},
		{what: "absent from its shard", index: strings.Replace(`{`+goodMap+`}`, `"c"`, `"d":"two.safetensors","c"`, 1), fault: AbsentTensor, file: "two.safetensors", tensor: "d", says: "no such tensor"},
		{what: "in another shard", index: strings.Replace(`{`+goodMap+`}`, `"b":"one`, `"b":"two`, 1), fault: AbsentTensor, file: "two.safetensors", tensor: "b", says: "it in one.safetensors"},
		{what: "not in the index", index: strings.Replace(`{`+goodMap+`}`, `"b":"one.safetensors",`, ``, 1), fault: UnlistedTensor, file: "one.safetensors", tensor: "b", says: "weight_map"},
		{what: "in two shards", index: `{` + goodMap + `}`, fault: RepeatedTensor, file: "two.safetensors", tensor: "a", says: "it in one.safetensors too",
			change: func(f fstest.MapFS) { f["two.safetensors"].Data = fileOf(`{"a":`+f32+`}`, 4) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			fsys := shardsOf(t)
			fsys[IndexName] = &fstest.MapFile{Data: []byte(c.index)}
			if c.change != nil {
				c.change(fsys)
			}
			_, err := Open(fsys)
			checkFault(t, err, c.fault, c.file, c.tensor, c.says)
			_, err = Open(onDisk(t, fsys))
			checkFault(t, err, c.fault, c.file, c.tensor, c.says)
			if c.alsoIs != nil && !errors.Is(err, c.alsoIs) {
				t.Errorf("%v is not %v", err, c.alsoIs)
			}
		})
	}
}

// onDisk copies fsys into a folder, whose files will be mapped.
func onDisk(t *testing.T, fsys fs.FS) fs.FS {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, fsys); err != nil {
		t.Fatal(err)
	}
	return os.DirFS(dir)
}

func TestOpenSharded(t *testing.T) {
	fsys := shardsOf(t)
	fsys[IndexName] = &fstest.MapFile{Data: []byte("\n{\"metadata\":{\"total_size\":10,\"x\":\"index\"},\"later\":[1,-2.5e3,true,{\"a\":null}]," + goodMap + "}\n")}
	fsys["unrelated.safetensors"] = &fstest.MapFile{Data: []byte("?")}
	for _, sys := range []fs.FS{fsys, onDisk(t, fsys)} {
		c, err := Open(sys)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Names(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("names %q", got)
		}
		if got := c.Files(); !slices.Equal(got, []string{"one.safetensors", "two.safetensors"}) {
			t.Errorf("files %q", got)
		}
		if want := int64(len(fsys["one.safetensors"].Data) + len(fsys["two.safetensors"].Data)); c.Bytes() != want {
			t.Errorf("%d bytes, want %d", c.Bytes(), want)
		}
		for key, want := range map[string]string{"format": "pt", "x": "index", "y": "2", "total_size": "10"} {
			if got := c.Metadata()[key]; got != want {
				t.Errorf("metadata %q is %q, want %q", key, got, want)
			}
		}
		if x, err := c.Tensor("c"); err != nil || x.File != "two.safetensors" || len(x.Data) != 4 {
			t.Errorf("tensor c: %+v, %v", x, err)
		}
		_, err = c.Tensor("d")
		checkFault(t, err, UnknownTensor, "one.safetensors, two.safetensors", "d", "none among 3")
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestOpenSingle(t *testing.T) {
	fsys := fstest.MapFS{SingleName: {Data: fileOf(`{"w":`+f32+`}`, 4)}}
	for _, sys := range []fs.FS{fsys, onDisk(t, fsys)} {
		c, err := Open(sys)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := c.Tensor("w"); err != nil || x.File != SingleName {
			t.Errorf("tensor w: %+v, %v", x, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err := Open(fstest.MapFS{"config.json": {}})
	checkFault(t, err, NoCheckpoint, "", "", IndexName)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
}

// TestDemo opens the checkpoint that the command embeds.
func TestDemo(t *testing.T) {
	dir := filepath.Join("..", "demo", "checkpoint")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("no demo checkpoint beside this package")
	}
	c, err := Open(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var total int
	for _, name := range c.Names() {
		x, err := c.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		values, err := x.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		total += len(values)
		for i, v := range values {
			if v != v || v > 100 || v < -100 {
				t.Fatalf("%s[%d] = %v, want a weight of ordinary size", name, i, v)
			}
		}
	}
	if want := c.Metadata()["total_parameters"]; want != "21607424" || total != 21607424 {
		t.Errorf("%d values, metadata says %q, want 21607424", total, want)
	}
}

func TestTouch(t *testing.T) {
	dir := t.TempDir()
	var tensors []Tensor
	for _, name := range []string{"a", "b", "c"} {
		tensors = append(tensors, Tensor{Name: name, DType: U8, Shape: []int{touchBlock + 12345}, Data: make([]byte, touchBlock+12345)})
	}
	if err := WriteSharded(dir, tensors, touchBlock, nil); err != nil {
		t.Fatal(err)
	}
	c, err := Open(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	var last int64
	err = c.Touch(t.Context(), func(done, total int64) {
		if done <= last || done > total || total != c.Bytes() {
			t.Errorf("progress %d of %d after %d, Bytes is %d", done, total, last, c.Bytes())
		}
		last = done
	})
	if err != nil || last != c.Bytes() {
		t.Errorf("touched %d of %d bytes, error %v", last, c.Bytes(), err)
	}
	if err := c.Touch(t.Context(), nil); err != nil {
		t.Errorf("without progress: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err = c.Touch(ctx, func(done, total int64) { calls++; cancel() })
	if !errors.Is(err, context.Canceled) || calls > touchers {
		t.Errorf("cancelled in the first call: %v after %d calls", err, calls)
	}

	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be truncated here")
	}
	name := c.Files()[1]
	if err := os.Truncate(filepath.Join(dir, name), 4096); err != nil {
		t.Fatal(err)
	}
	checkFault(t, c.Touch(t.Context(), nil), Truncated, name, "", "as when it was opened")
}
