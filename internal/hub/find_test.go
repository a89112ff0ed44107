package hub

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestParseRef(t *testing.T) {
	for in, want := range map[string]Ref{
		"ms://LLM-Research/Llama-4-Scout":       {ModelScope, "LLM-Research", "Llama-4-Scout", ""},
		"hf://meta-llama/Llama-4.1_x@refs/pr/3": {HuggingFace, "meta-llama", "Llama-4.1_x", "refs/pr/3"},
		"hf://a/b@main":                         {HuggingFace, "a", "b", ""},
		"ms://a/b@main":                         {ModelScope, "a", "b", "main"},
		" a/b@v1 ":                              {"", "a", "b", "v1"},
		"https://huggingface.co/a/b/tree/dev":   {HuggingFace, "a", "b", "dev"},
		"https://www.modelscope.cn/models/LLM-Research/b/files": {ModelScope, "LLM-Research", "b", ""},
	} {
		got, err := ParseRef(in)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", in, got, err, want)
		}
		if again, err := ParseRef(got.String()); err != nil || again != got {
			t.Errorf("%q: String gives %q, which reads as %+v, %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "a", "a/", "/b", "a/b/c", "../b", "a/..", "ftp://a/b", "hf://", "hf://a", "a/b@", "a/b@..", "a/b@x/../y", "https://example.com/a/b",
		"https://huggingface.co/a", "./a/b", "a/b c", "-a/b", `a\b/c`, "a/b..c"} {
		ref, err := ParseRef(in)
		if err == nil {
			t.Errorf("%q: got %+v, want an error", in, ref)
			continue
		}
		wantError(t, err, ErrBadRef, "is not a model reference", "不是模型引用")
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"ms://a/b", "hf://a/b@c/d", "https://hf.co/a/b/tree/x", "a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseRef(s)
		if err != nil {
			return
		}
		if again, err := ParseRef(ref.String()); err != nil || again != ref {
			t.Errorf("%q gives %+v, whose string gives %+v, %v", s, ref, again, err)
		}
		if !filepath.IsLocal(filepath.FromSlash(ref.Repo())) {
			t.Errorf("%q leaves the folder", s)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"*.json", "a/b.json", true}, {"*.json", "a.jsonl", false}, {"original/", "original/a/b", true}, {"?.txt", "a.txt", true},
		{"?.txt", "ab.txt", false}, {"[!a]x", "bx", true}, {"[!a]x", "ax", false}, {"[a-c]", "b", true}, {"[]]", "]", true},
		{"[", "[", true}, {"a[b", "a[b", true}, {"a+(b)", "a+(b)", true}, {"模型*", "模型-1", true}, {"A", "a", false},
	} {
		re, err := compileGlob(c.glob)
		if err != nil || re.MatchString(c.path) != c.want {
			t.Errorf("%q on %q: want %v (%v)", c.glob, c.path, c.want, err)
		}
	}
	_, err := newFilter([]string{"[z-a]"}, nil)
	wantError(t, err, ErrPattern, `pattern "[z-a]"`, "通配符")
}

// writeCheckpoint fills dir with the checkpoint as a pull leaves it, less the files named in without.
func writeCheckpoint(t *testing.T, dir string, without ...string) {
	t.Helper()
	for _, f := range wanted(checkpoint()) {
		skip := false
		for _, name := range without {
			skip = skip || f.path == name
		}
		path := filepath.Join(dir, filepath.FromSlash(f.path))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if !skip {
			if err := os.WriteFile(path, f.data, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestFind(t *testing.T) {
	const org, name = "LLM-Research", "Llama-4.1-Tiny"
	commit := strings.Repeat("ab", 20)
	for _, c := range []struct {
		dir  string // below the home folder
		ref  string
		env  string // variable = folder below home
		refs string // file below home that holds the commit
	}{
		{dir: ".cache/modelscope/hub/models/LLM-Research/Llama-4___1-Tiny", ref: "LLM-Research/Llama-4.1-Tiny"},
		{dir: ".cache/modelscope/hub/LLM-Research/Llama-4___1-Tiny", ref: "ms://LLM-Research/Llama-4.1-Tiny"},
		{dir: ".cache/modelscope/hub/LLM-Research/Llama-4.1-Tiny", ref: "ms://LLM-Research/Llama-4.1-Tiny"},
		{dir: ".cache/modelscope/models/LLM-Research--Llama-4.1-Tiny/snapshots/master", ref: "ms://LLM-Research/Llama-4.1-Tiny"},
		{dir: "elsewhere/models/LLM-Research/Llama-4___1-Tiny", ref: "LLM-Research/Llama-4.1-Tiny", env: "MODELSCOPE_CACHE=elsewhere"},
		{dir: ".cache/huggingface/hub/models--LLM-Research--Llama-4.1-Tiny/snapshots/" + commit, ref: "LLM-Research/Llama-4.1-Tiny",
			refs: ".cache/huggingface/hub/models--LLM-Research--Llama-4.1-Tiny/refs/main"},
		{dir: "hfhome/hub/models--LLM-Research--Llama-4.1-Tiny/snapshots/" + commit, ref: "hf://LLM-Research/Llama-4.1-Tiny@v2", env: "HF_HOME=hfhome",
			refs: "hfhome/hub/models--LLM-Research--Llama-4.1-Tiny/refs/v2"},
		{dir: "blobs/models--LLM-Research--Llama-4.1-Tiny/snapshots/" + commit, ref: "hf://LLM-Research/Llama-4.1-Tiny@" + commit[:8], env: "HF_HUB_CACHE=blobs"},
		{dir: ".cache/chulengo/hub/hf/LLM-Research/Llama-4.1-Tiny", ref: "LLM-Research/Llama-4.1-Tiny"},
		{dir: ".cache/chulengo/hub/ms/LLM-Research/Llama-4.1-Tiny@v2", ref: "ms://LLM-Research/Llama-4.1-Tiny@v2"},
	} {
		t.Run(c.dir, func(t *testing.T) {
			home := isolate(t, nil)
			if k, v, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(k, filepath.Join(home, v))
			}
			if c.refs != "" {
				path := filepath.Join(home, filepath.FromSlash(c.refs))
				if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(commit+"\n"), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			ref, err := ParseRef(c.ref)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Find(ref)
			wantError(t, err, ErrNotFound, "download it with: chulengo pull", "请下载：chulengo pull")
			dir := filepath.Join(home, filepath.FromSlash(c.dir))
			writeCheckpoint(t, dir, "model-00002-of-00002.safetensors")
			_, err = Find(ref)
			wantError(t, err, ErrIncomplete, "missing model-00002-of-00002.safetensors", "缺少 model-00002-of-00002.safetensors")
			writeCheckpoint(t, dir)
			if got, err := Find(ref); err != nil || got != dir {
				t.Errorf("got %q, %v; want %q", got, err, dir)
			}
			other := ref
			other.Name = "Other"
			_, err = Find(other)
			wantError(t, err, ErrNotFound, "Other", "Other")
		})
	}
	t.Run("incomplete passed over", func(t *testing.T) {
		home := isolate(t, nil)
		writeCheckpoint(t, filepath.Join(home, ".cache/modelscope/hub/models", org, "Llama-4___1-Tiny"), "config.json")
		want := filepath.Join(home, ".cache/huggingface/hub/models--"+org+"--"+name, "snapshots", commit)
		writeCheckpoint(t, want)
		if got, err := Find(Ref{Org: org, Name: name}); err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	})
	t.Run("dangling links", func(t *testing.T) {
		home := isolate(t, nil)
		dir := filepath.Join(home, ".cache/huggingface/hub/models--"+org+"--"+name, "snapshots", commit)
		writeCheckpoint(t, dir, "model-00001-of-00002.safetensors")
		link(t, "../../blobs/unfinished", filepath.Join(dir, "model-00001-of-00002.safetensors"))
		_, err := Find(Ref{Org: org, Name: name})
		wantError(t, err, ErrIncomplete, "missing model-00001-of-00002", "缺少 model-00001-of-00002")
	})
}

// TestReuseOfCaches: what the hub's own client has downloaded is linked in, not fetched again.
func TestReuseOfCaches(t *testing.T) {
	bothHubs(t, func(t *testing.T, ref Ref) {
		files := checkpoint()
		h := newFakeHub(t, repo, files...)
		home := isolate(t, h)
		cache := filepath.Join(home, ".cache/modelscope/hub/models/meta-llama/Llama-4-Tiny")
		if ref.Hub == HuggingFace {
			cache = filepath.Join(home, ".cache/huggingface/hub/models--meta-llama--Llama-4-Tiny/snapshots/abc1234")
		}
		writeCheckpoint(t, cache)
		shard := "model-00002-of-00002.safetensors"
		if err := os.WriteFile(filepath.Join(cache, shard), noise(99, 100<<10), 0o666); err != nil {
			t.Fatal(err) // a damaged one, of the right size
		}
		dir, err := Pull(t.Context(), ref, small(Options{}))
		if err != nil {
			t.Fatal(err)
		}
		compare(t, dir, wanted(files))
		for _, r := range h.log {
			if !strings.Contains(r.URL.String(), shard) {
				t.Errorf("%s was fetched although the cache has it", r.URL)
			}
		}
		if h.requests() == 0 {
			t.Error("the damaged file of the cache was taken over")
		}
	})
}

// TestTerminal feeds both forms concurrently; it must neither deadlock nor race, and end with the sums.
func TestTerminal(t *testing.T) {
	for _, tty := range []bool{false, true} {
		var out lockedBuffer
		term := NewTerminal(&out, tty, "zh_CN")
		term.Plan(8, 8000)
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				name := strings.Repeat("模型", 30) + string(rune('a'+i))
				for done := int64(0); done <= 1000; done += 100 {
					term.File(name, Downloading, done, 1000)
					time.Sleep(20 * time.Millisecond)
				}
				term.File(name, Verifying, 500, 1000)
				term.File(name, Done, 1000, 1000)
			})
		}
		group.Wait()
		term.Close()
		if got := out.String(); !strings.Contains(got, "8.0 kB / 8.0 kB（100%），8 / 8 个文件") {
			t.Errorf("tty %v: got %q", tty, got)
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestTally(t *testing.T) {
	start := time.Unix(0, 0)
	y := newTally(start)
	y.files, y.bytes = 2, 4e9
	y.file("a", Checking, 5e8, 2e9)
	y.file("a", Done, 2e9, 2e9)
	y.file("b", Downloading, 5e8, 2e9) // left by an earlier run
	y.file("b", Downloading, 7e8, 2e9)
	y.sample(start.Add(10 * time.Second))
	if got, want := y.line(false), "2.7 GB of 4.0 GB (68%), 1 of 2 files, 20.0 MB/s, 1m5s left"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	y.file("b", Downloading, 0, 2e9) // starts over
	if y.done != 2e9 {
		t.Errorf("after starting over %d bytes count as done, want 2e9", y.done)
	}
}
