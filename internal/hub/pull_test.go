package hub

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const repo = "meta-llama/Llama-4-Tiny"

func bothHubs(t *testing.T, test func(t *testing.T, ref Ref)) {
	for _, ref := range []Ref{hfRef(repo), msRef(repo)} {
		t.Run(string(ref.Hub), func(t *testing.T) { test(t, ref) })
	}
}

func TestPull(t *testing.T) {
	bothHubs(t, func(t *testing.T, ref Ref) {
		files := checkpoint()
		h := newFakeHub(t, repo, files...)
		h.pageSize = 2
		home := isolate(t, h)
		dir, err := Pull(t.Context(), ref, small(Options{}))
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(home, ".cache", "chulengo", "hub", string(ref.Hub), "meta-llama", "Llama-4-Tiny"); dir != want {
			t.Errorf("got folder %s, want %s", dir, want)
		}
		compare(t, dir, wanted(files))
		if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(partsName))); !os.IsNotExist(err) {
			t.Errorf("the folder of unfinished files is still there (%v)", err)
		}
		if ref.Hub == HuggingFace && len(h.lists) != 5 {
			t.Errorf("%d pages were read, want 5", len(h.lists))
		}
		for _, r := range h.log {
			if enc := r.Header.Get("Accept-Encoding"); enc != "identity" {
				t.Errorf("%s: Accept-Encoding %q: want identity", r.URL, enc)
			}
		}
		// The big shard came in ranges.
		ranged := 0
		for _, r := range h.log {
			if r.Header.Get("Range") != "" {
				ranged++
			}
		}
		if ranged != 6 { // a probe and five segments of 64 KiB
			t.Errorf("%d requests for ranges, want 6", ranged)
		}

		// A second pull finds everything in place, by the sizes and times in hashes.json.
		before := h.requests()
		var seen recorder
		if _, err := Pull(t.Context(), ref, small(Options{Progress: &seen})); err != nil {
			t.Fatal(err)
		}
		if n := h.requests() - before; n != 0 {
			t.Errorf("the second pull made %d requests for files, want 0", n)
		}
		if n := seen.count(Checking); n != 0 {
			t.Errorf("the second pull read %d files, want 0", n)
		}
		if seen.count(Done) != len(wanted(files)) || seen.files != len(wanted(files)) {
			t.Errorf("progress saw %d of %d files done, want %d", seen.count(Done), seen.files, len(wanted(files)))
		}

		// Without hashes.json, or with Rehash, they are read, and still kept.
		if _, err := Pull(t.Context(), ref, small(Options{Progress: &seen, Rehash: true})); err != nil {
			t.Fatal(err)
		}
		if seen.count(Checking) == 0 {
			t.Error("Rehash read nothing")
		}
		if err := os.Remove(filepath.Join(dir, filepath.FromSlash(hashesName))); err != nil {
			t.Fatal(err)
		}
		if _, err := Pull(t.Context(), ref, small(Options{})); err != nil {
			t.Fatal(err)
		}
		if n := h.requests() - before; n != 0 {
			t.Errorf("verification made %d requests for files, want 0", n)
		}

		// A file that was changed behind our back, its length kept, is fetched again; so is one that is missing.
		shard := filepath.Join(dir, "model-00002-of-00002.safetensors")
		if err := os.WriteFile(shard, noise(9, 100<<10), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "config.json")); err != nil {
			t.Fatal(err)
		}
		if _, err := Pull(t.Context(), ref, small(Options{})); err != nil {
			t.Fatal(err)
		}
		compare(t, dir, wanted(files))
		if n := h.requests() - before; n != 2 {
			t.Errorf("repairing two files took %d requests, want 2", n)
		}
	})
}

// recorder remembers the reports of a pull.
type recorder struct {
	mu    sync.Mutex
	files int
	bytes int64
	seen  map[Phase]map[string]int64
}

func (r *recorder) Plan(files int, bytes int64) { r.files, r.bytes = files, bytes }

func (r *recorder) File(name string, phase Phase, done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = make(map[Phase]map[string]int64)
	}
	if r.seen[phase] == nil {
		r.seen[phase] = make(map[string]int64)
	}
	r.seen[phase][name] = done
}

func (r *recorder) count(p Phase) int { return len(r.seen[p]) }

func TestPullSelection(t *testing.T) {
	all := checkpoint()
	for _, c := range []struct {
		name             string
		include, exclude []string
		want             []string
	}{
		{"one file", []string{"config.json"}, nil, []string{"config.json"}},
		{"glob", []string{"*.json"}, []string{"*index*"}, []string{"config.json"}},
		{"folder", []string{"folder/"}, nil, []string{"folder/notes and more.txt"}},
		{"default leftovers on request", []string{"original/*", "*.pth"}, nil, []string{"old.pth", "original/consolidated.00.pth"}},
		{"set", []string{"model-0000[!1]*"}, nil, []string{"model-00002-of-00002.safetensors"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newFakeHub(t, repo, all...)
			isolate(t, h)
			dir := t.TempDir()
			got, err := Pull(t.Context(), msRef(repo), small(Options{Dir: dir, Include: c.include, Exclude: c.exclude}))
			if err != nil || got != dir {
				t.Fatalf("got %q, %v; want %q", got, err, dir)
			}
			var want []*fakeFile
			for _, name := range c.want {
				want = append(want, h.files[name])
			}
			compare(t, dir, want)
		})
	}
	t.Run("nothing", func(t *testing.T) {
		h := newFakeHub(t, repo, all...)
		isolate(t, h)
		dir := filepath.Join(t.TempDir(), "never")
		_, err := Pull(t.Context(), hfRef(repo), small(Options{Dir: dir, Include: []string{"*.gguf"}}))
		wantError(t, err, ErrNotFound, "none of its 9 files", "没有一个符合要求")
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Error("the folder was made although nothing was wanted")
		}
	})
}

// wantError checks the class of an error and its text in both languages.
func wantError(t *testing.T, err, kind error, en, zh string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want %q", err, kind)
	}
	var e interface{ Localized(string) string }
	if !errors.As(err, &e) {
		t.Fatalf("%T has no Localized", err)
	}
	if !strings.Contains(err.Error(), en) || !strings.HasPrefix(err.Error(), "hub: ") {
		t.Errorf("got %q, want it to contain %q after hub:", err, en)
	}
	for _, text := range []struct{ lang, want string }{{"en", en}, {"zh_CN.UTF-8", zh}} {
		got := e.Localized(text.lang)
		if !strings.Contains(got, text.want) || strings.Contains(got, "%!") {
			t.Errorf("%s: got %q, want it to contain %q", text.lang, got, text.want)
		}
	}
}

func TestUnsafeNames(t *testing.T) {
	for _, name := range []string{
		"../evil", "a/../../evil", "/etc/passwd", "a//b", "./a", "a/.", "..", "", `..\evil`, `C:\evil\x`, "a\x00b", "a\nb", "\xff",
		".chulengo/lock", ".CHULENGO/hashes.json", strings.Repeat("x", 250),
	} {
		bothHubs(t, func(t *testing.T, ref Ref) {
			h := newFakeHub(t, repo, &fakeFile{path: "config.json", data: []byte("{}")}, &fakeFile{path: name, data: []byte("evil")})
			isolate(t, h)
			parent := t.TempDir()
			dir := filepath.Join(parent, "sub", "dir")
			_, err := Pull(t.Context(), ref, small(Options{Dir: dir}))
			if name == "\xff" {
				return // JSON cannot carry it: the name arrives as U+FFFD, which is harmless
			}
			wantError(t, err, ErrUnsafeName, "nothing was downloaded", "没有下载任何文件")
			if entries, _ := os.ReadDir(parent); len(entries) != 0 || h.requests() != 0 {
				t.Errorf("%q: something was written or asked for", name)
			}
		})
	}
}

// link makes a symbolic link, and ends the test where the file system has none.
func link(t *testing.T, to, at string) {
	t.Helper()
	err := os.Symlink(to, at)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSymlinkInside: a link inside the folder, which an earlier program may have left, does not lead a download out.
func TestSymlinkInside(t *testing.T) {
	h := newFakeHub(t, repo, &fakeFile{path: "folder/file", data: []byte("content")})
	isolate(t, h)
	outside, dir := t.TempDir(), t.TempDir()
	link(t, outside, filepath.Join(dir, "folder"))
	_, err := Pull(t.Context(), hfRef(repo), small(Options{Dir: dir}))
	wantError(t, err, ErrDisk, "folder", "folder")
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Error("the download left the folder through the link")
	}
}

func TestTokenStaysHome(t *testing.T) {
	const token = "secret-token"
	bothHubs(t, func(t *testing.T, ref Ref) {
		file := &fakeFile{path: "model.safetensors", data: noise(6, 200<<10), big: true}
		var mu sync.Mutex
		var leaks, cdn int
		// Another port of the same address is another host; so is a subdomain, for which net/http would keep the header.
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			cdn++
			if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" || strings.Contains(r.URL.String()+r.Referer(), token) {
				leaks++
			}
			mu.Unlock()
			file.serve(w, r)
		}))
		defer other.Close()
		h := newFakeHub(t, repo, file)
		h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			http.Redirect(w, r, other.URL+"/signed?key=1", http.StatusFound)
			return true
		}
		isolate(t, h)
		t.Setenv("HF_TOKEN", token)
		t.Setenv("MODELSCOPE_SDK_TOKEN", token)
		dir, err := Pull(t.Context(), ref, small(Options{}))
		if err != nil {
			t.Fatal(err)
		}
		compare(t, dir, []*fakeFile{file})
		if cdn < 4 || leaks != 0 {
			t.Errorf("%d requests at the other host, %d with the token; want at least 4, none with it", cdn, leaks)
		}
		for _, r := range append(h.log, h.lists...) {
			if got := r.Header.Get("Authorization"); got != "Bearer "+token {
				t.Errorf("%s: Authorization %q at the hub, want the token", r.URL.Path, got)
			}
		}
	})
	t.Run("subdomain and downgrade", func(t *testing.T) {
		for _, c := range []struct {
			from, to string
			keeps    bool
		}{
			{"https://huggingface.co/a", "https://cdn.huggingface.co/a", false},
			{"https://huggingface.co/a", "http://huggingface.co/a", false},
			{"https://huggingface.co/a", "https://huggingface.co:8443/a", false},
			{"https://huggingface.co/a", "https://huggingface.co/b", true},
		} {
			first := &http.Request{URL: mustURL(t, c.from)}
			next := &http.Request{URL: mustURL(t, c.to), Header: http.Header{"Authorization": {"x"}, "Cookie": {"y"}}}
			if err := checkRedirect(next, []*http.Request{first}); err != nil {
				t.Fatal(err)
			}
			if kept := len(next.Header) == 2; kept != c.keeps {
				t.Errorf("%s → %s: credentials kept: %v, want %v", c.from, c.to, kept, c.keeps)
			}
		}
	})
}

func TestNoSpace(t *testing.T) {
	h := newFakeHub(t, repo, checkpoint()...)
	isolate(t, h)
	o := small(Options{Dir: t.TempDir(), free: func(string) (int64, error) { return 400 << 10, nil }})
	_, err := Pull(t.Context(), hfRef(repo), o)
	wantError(t, err, ErrNoSpace, "409.8 kB more needed, 409.6 kB free", "还需要 409.8 kB，仅剩 409.6 kB")
	if h.requests() != 0 {
		t.Error("files were asked for although they do not fit")
	}
	o.free = func(string) (int64, error) { return 500 << 10, nil }
	if _, err := Pull(t.Context(), hfRef(repo), o); err != nil {
		t.Fatal(err)
	}
	// What is there needs no space.
	o.free = func(string) (int64, error) { return 0, nil }
	if _, err := Pull(t.Context(), hfRef(repo), o); err != nil {
		t.Fatal(err)
	}
}

func TestBusy(t *testing.T) {
	h := newFakeHub(t, repo, checkpoint()...)
	isolate(t, h)
	dir := t.TempDir()
	f, err := openFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Pull(t.Context(), hfRef(repo), small(Options{Dir: dir}))
	wantError(t, err, ErrBusy, fmt.Sprintf("another chulengo (process %d)", os.Getpid()), "另一个 chulengo")
	f.Close()
	if _, err := Pull(t.Context(), hfRef(repo), small(Options{Dir: dir})); err != nil {
		t.Fatal(err)
	}
}

func TestOffline(t *testing.T) {
	h := newFakeHub(t, repo, checkpoint()...)
	isolate(t, h)
	t.Setenv("HF_HUB_OFFLINE", "1")
	_, err := Pull(t.Context(), hfRef(repo), small(Options{}))
	wantError(t, err, ErrOffline, "HF_HUB_OFFLINE is set", "已设置 HF_HUB_OFFLINE")
	if len(h.lists) != 0 {
		t.Error("the hub was asked")
	}
	t.Setenv("HF_HUB_OFFLINE", "0")
	want, err := Pull(t.Context(), hfRef(repo), small(Options{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HF_HUB_OFFLINE", "yes")
	if got, err := Pull(t.Context(), hfRef(repo), small(Options{})); err != nil || got != want {
		t.Errorf("got %q, %v; want what was downloaded before, %q", got, err, want)
	}
}

// TestForeignObjectIDs: mirrors list ids that are not git's; the size is then all there is.
func TestForeignObjectIDs(t *testing.T) {
	file := &fakeFile{path: "config.json", data: []byte(`{"a":1}`), etag: `"some-other-kind"`}
	h := newFakeHub(t, repo, file)
	h.listHook = func(w http.ResponseWriter, r *http.Request) bool {
		io.WriteString(w, `[{"type":"file","path":"config.json","size":7,"oid":"`+strings.Repeat("0", 40)+`"}]`)
		return true
	}
	isolate(t, h)
	for range 2 {
		dir, err := Pull(t.Context(), hfRef(repo), small(Options{}))
		if err != nil {
			t.Fatal(err)
		}
		compare(t, dir, []*fakeFile{file})
	}
	if n := h.requests(); n != 1 {
		t.Errorf("%d requests for the file in two pulls, want 1", n)
	}
}
