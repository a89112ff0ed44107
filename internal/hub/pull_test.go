package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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

// TestFaults runs one pull of a single file against each misbehaviour of a server.
func TestFaults(t *testing.T) {
	const name = "model.safetensors"
	const length = 300 << 10
	// cut serves the answer but breaks the connection after n bytes of the body.
	cut := func(w http.ResponseWriter, r *http.Request, f *fakeFile, n int) {
		f.serve(&cutter{w, n}, r)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, c := range []struct {
		name   string
		file   fakeFile
		hook   func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool // n counts the requests from 1
		kind   error                                                                 // nil: the pull succeeds
		en, zh string
	}{
		{name: "connections that drop", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n%2 == 0 {
				cut(w, r, f, 10<<10)
			}
			return false
		}},
		{name: "every connection drops", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			cut(w, r, f, 30<<10)
			return true
		}},
		{name: "connections that drop at once", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n > 1 {
				cut(w, r, f, 0)
			}
			return false
		}, kind: ErrNetwork, en: "gave up after 6 tries", zh: "连续 6 次尝试"},
		{name: "500 twice", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n <= 2 {
				http.Error(w, "oops", http.StatusInternalServerError)
			}
			return n <= 2
		}},
		{name: "500 for ever", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			http.Error(w, "oops", http.StatusInternalServerError)
			return true
		}, kind: ErrNetwork, en: "answered 500", zh: "返回 500"},
		{name: "408", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n == 3 {
				w.WriteHeader(http.StatusRequestTimeout)
			}
			return n == 3
		}},
		{name: "429 with a long Retry-After", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			w.Header().Set("Retry-After", "4000")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}, kind: ErrNetwork, en: "asks to wait 1h6m40s", zh: "要求等待 1h6m40s"},
		{name: "no ranges", file: fakeFile{noRanges: true}},
		{name: "no ranges, drops", file: fakeFile{noRanges: true}, hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n > 1 && n < 6 {
				cut(w, r, f, n*10<<10)
			}
			return false
		}},
		{name: "no ranges, drops at the same place", file: fakeFile{noRanges: true}, hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n > 1 {
				cut(w, r, f, 10<<10)
			}
			return false
		}, kind: ErrNetwork, en: "gave up", zh: "已放弃"},
		{name: "wrong SHA-256", file: fakeFile{sha: strings.Repeat("ab", 32)}, kind: ErrCorrupt, en: "want sha256:abab", zh: "应为 sha256:abab"},
		{name: "corrupt once", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n == 2 {
				bad := *f
				bad.data = noise(77, length)
				bad.serve(w, r)
			}
			return n == 2
		}},
		{name: "truncated on the server", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			short := *f
			short.data = f.data[:1000]
			short.serve(w, r)
			return true
		}, kind: ErrCorrupt, en: "want 307200 bytes, the server has 1000", zh: "应有 307200 字节"},
		{name: "truncated on one of several servers", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n == 3 {
				short := *f
				short.data = f.data[:length-1]
				short.serve(w, r)
			}
			return n == 3
		}},
		{name: "body shorter than the range, without an error", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n != 3 {
				return false
			}
			var from, to int
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, length))
			w.Header().Set("ETag", f.etag)
			w.WriteHeader(http.StatusPartialContent)
			w.Write(f.data[from : from+100])
			w.(http.Flusher).Flush() // chunked, so that the end looks regular
			return true
		}},
		{name: "another range than asked for", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			r.Header.Set("Range", "bytes=7-99")
			return false
		}, kind: ErrProtocol, en: "asked for bytes from 0, got Content-Range", zh: "服务器返回 Content-Range"},
		{name: "404", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			http.NotFound(w, r)
			return true
		}, kind: ErrNotFound, en: "not found on 127.0.0.1", zh: "不存在"},
		{name: "401", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			w.Header().Set("X-Error-Code", "GatedRepo")
			w.Header().Set("X-Error-Message", "Access to model\nis restricted")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, kind: ErrGated, en: "(401: Access to model is restricted)", zh: "拒绝访问"},
		{name: "content changes under way", file: fakeFile{noDigest: true}, hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n > 3 {
				return false
			}
			old := *f
			old.data, old.etag = noise(78, length), `"old"`
			old.serve(w, r)
			return true
		}},
		{name: "ETag changes all the time, content vouched for", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			node := *f
			node.etag = fmt.Sprintf(`"node-%d"`, n)
			node.serve(w, r)
			return true
		}},
		{name: "ETag changes all the time, nothing vouches", file: fakeFile{noDigest: true}, hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			node := *f
			node.etag = fmt.Sprintf(`"node-%d"`, n)
			node.serve(w, r)
			return true
		}, kind: ErrProtocol, en: "keeps changing", zh: "不断变化"},
		{name: "silence", hook: func(n int, w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if n == 2 {
				w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+fmt.Sprintf("/%d", length))
				w.WriteHeader(http.StatusPartialContent)
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
			return n == 2
		}},
	} {
		bothHubs(t, func(t *testing.T, ref Ref) {
			t.Run(c.name, func(t *testing.T) {
				file := c.file
				file.path, file.big, file.data = name, true, noise(5, length)
				h := newFakeHub(t, repo, &file)
				var n atomic.Int64
				h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
					return c.hook != nil && c.hook(int(n.Add(1)), w, r, f)
				}
				isolate(t, h)
				dir := t.TempDir()
				o := small(Options{Dir: dir})
				o.tuning.stall = 200 * time.Millisecond
				if c.name == "another range than asked for" {
					o.tuning.perFile = 1
				}
				_, err := Pull(t.Context(), ref, o)
				if c.kind == nil {
					if err != nil {
						t.Fatal(err)
					}
					compare(t, dir, []*fakeFile{&file})
					return
				}
				wantError(t, err, c.kind, c.en, c.zh)
				if _, err := os.Stat(filepath.Join(dir, name)); !os.IsNotExist(err) {
					t.Error("the file is in place after a failure")
				}
			})
		})
	}
}

// cutter passes on n bytes of a body and drops the rest.
type cutter struct {
	http.ResponseWriter
	n int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.n {
		c.ResponseWriter.Write(p[:c.n])
		c.ResponseWriter.(http.Flusher).Flush()
		c.n = 0
		return 0, io.ErrShortWrite
	}
	c.n -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestRetryAfter(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		h := newFakeHub(t, repo, &fakeFile{path: "config.json", data: []byte("{}")})
		var first, second time.Time
		h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if first.IsZero() {
				first = time.Now()
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(status)
				return true
			}
			second = time.Now()
			return false
		}
		isolate(t, h)
		if _, err := Pull(t.Context(), hfRef(repo), small(Options{})); err != nil {
			t.Fatal(err)
		}
		if wait := second.Sub(first); wait < 900*time.Millisecond {
			t.Errorf("%d with Retry-After: 1 was followed by a request after %v, want a second", status, wait)
		}
	}
}

func TestGatedSaysWhatToDo(t *testing.T) {
	refuse := func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
		w.Header().Set("X-Error-Code", "GatedRepo")
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	for _, c := range []struct {
		repo, hub, token, en, zh string
	}{
		{"meta-llama/Llama-4-Scout-17B-16E-Instruct", "hf", "", "set HF_TOKEN to a token of that account", "接受条款"},
		{"meta-llama/Llama-4-Scout-17B-16E-Instruct", "hf", "", "chulengo pull ms://LLM-Research/Llama-4-Scout-17B-16E-Instruct", "chulengo pull ms://LLM-Research/Llama-4-Scout-17B-16E-Instruct"},
		{"meta-llama/Llama-4-Scout-17B-16E-Instruct", "hf", "hf_secret", "the account of your token may not read it", "令牌所属账号无权读取"},
		{"someone/model", "hf", "", "chulengo pull ms://someone/model", "chulengo pull ms://someone/model"},
		{"someone/model", "ms", "", "set MODELSCOPE_API_TOKEN", "设置 MODELSCOPE_API_TOKEN"},
		{"someone/model", "ms", "secret", "does not give access", "没有权限"},
	} {
		h := newFakeHub(t, c.repo, &fakeFile{path: "config.json", data: []byte("{}")})
		h.hook = refuse
		isolate(t, h)
		t.Setenv("HF_TOKEN", c.token)
		t.Setenv("MODELSCOPE_API_TOKEN", c.token)
		ref := hfRef(c.repo)
		ref.Hub = Hub(c.hub)
		_, err := Pull(t.Context(), ref, small(Options{}))
		wantError(t, err, ErrGated, c.en, c.zh)
		if c.token != "" && strings.Contains(err.Error(), c.token) {
			t.Errorf("the token is in the error text: %v", err)
		}
	}
}

func TestListingFaults(t *testing.T) {
	answer := func(status int, header, body string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if k, v, ok := strings.Cut(header, ": "); ok {
				w.Header().Set(k, v)
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
			return true
		}
	}
	for _, c := range []struct {
		name   string
		ref    Ref
		hook   func(w http.ResponseWriter, r *http.Request) bool
		kind   error
		en, zh string
	}{
		{"no such repository", hfRef("someone/else"), nil, ErrNotFound, "not found on 127.0.0.1", "不存在"},
		{"no such repository, ms", msRef("someone/else"), nil, ErrNotFound, "not found on 127.0.0.1", "不存在"},
		{"no such revision", hfRef(repo), answer(404, "X-Error-Code: RevisionNotFound", ""), ErrNotFound, `no revision "main"`, `没有版本 "main"`},
		{"a login page", hfRef(repo), answer(200, "", "<html>Welcome to the hotel"), ErrProtocol, "did not answer with a file listing", "返回的不是文件列表"},
		{"a login page, ms", msRef(repo), answer(200, "", "<html>Welcome to the hotel"), ErrProtocol, "login page", "网络是否需要登录"},
		{"ModelScope's own error", msRef(repo), answer(200, "", `{"Code":10010205001,"Message":"no model","Data":null}`), ErrNotFound, "no model", "no model"},
		{"refused with a message", msRef(repo), answer(403, "Content-Type: application/json", `{"Code":403,"Message":"not yours"}`), ErrGated, "(403: not yours)", "not yours"},
		{"empty", msRef(repo), answer(200, "", `{"Code":200,"Data":{"Files":null}}`), ErrNotFound, "none of its 0 files", "0 个文件"},
		{"circle of pages", hfRef(repo), answer(200, `Link: <http://x/?recursive=true>; rel="next"`, "[]"), ErrProtocol, "in circles", "循环"},
		{"negative size", hfRef(repo), answer(200, "", `[{"type":"file","path":"a","size":-5}]`), ErrProtocol, "the size -5", "大小为 -5"},
		{"503 for ever", hfRef(repo), answer(503, "", ""), ErrNetwork, "answered 503", "返回 503"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newFakeHub(t, repo, checkpoint()...)
			h.listHook = c.hook
			isolate(t, h)
			dir := filepath.Join(t.TempDir(), "never")
			_, err := Pull(t.Context(), c.ref, small(Options{Dir: dir}))
			wantError(t, err, c.kind, c.en, c.zh)
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Error("the folder was made")
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		h := newFakeHub(t, repo)
		isolate(t, h)
		h.Close()
		_, err := Pull(t.Context(), hfRef(repo), small(Options{}))
		wantError(t, err, ErrNetwork, "cannot reach 127.0.0.1", "无法连接 127.0.0.1")
		wantError(t, err, ErrNetwork, "ms://LLM-Research/Llama-4-Tiny", "ms://LLM-Research/Llama-4-Tiny")
	})
	t.Run("no hub", func(t *testing.T) {
		isolate(t, nil)
		_, err := Pull(t.Context(), Ref{Org: "a", Name: "b"}, Options{})
		wantError(t, err, ErrBadRef, "which hub? write ms://a/b", "请写 ms://a/b")
	})
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

// TestSymlinkInside: a link inside the folder, which an earlier program may have left, does not lead a download out.
func TestSymlinkInside(t *testing.T) {
	h := newFakeHub(t, repo, &fakeFile{path: "folder/file", data: []byte("content")})
	isolate(t, h)
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "folder")); err != nil {
		t.Skip(err)
	}
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

// TestCDNRefusal: a content delivery network that answers 403 to an expired address is not the user's fault, and the
// next try starts at the hub again.
func TestCDNRefusal(t *testing.T) {
	file := &fakeFile{path: "model.safetensors", data: noise(6, 1000), big: true}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("n") == "1" {
			http.Error(w, "expired", http.StatusForbidden)
			return
		}
		file.serve(w, r)
	}))
	defer other.Close()
	h := newFakeHub(t, repo, file)
	h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
		http.Redirect(w, r, fmt.Sprintf("%s/?n=%d", other.URL, h.requests()), http.StatusFound)
		return true
	}
	isolate(t, h)
	dir, err := Pull(t.Context(), hfRef(repo), small(Options{}))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, dir, []*fakeFile{file})
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

// TestCancel: a cancelled pull leaves a part that the next one goes on with.
func TestCancel(t *testing.T) {
	bothHubs(t, func(t *testing.T, ref Ref) {
		const length = 300 << 10
		for _, big := range []int64{64 << 10, 1 << 20} { // in segments, and whole
			file := &fakeFile{path: "model.safetensors", data: noise(7, length), big: true}
			h := newFakeHub(t, repo, file)
			ctx, cancel := context.WithCancel(t.Context())
			h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
				if r.Header.Get("Range") == "bytes=0-0" {
					return false
				}
				f.serve(&cutter{w, 20 << 10}, r)
				time.AfterFunc(50*time.Millisecond, cancel)
				<-r.Context().Done()
				return true
			}
			isolate(t, h)
			dir := t.TempDir()
			o := small(Options{Dir: dir})
			o.tuning.segment = big
			_, err := Pull(ctx, ref, o)
			cancel()
			wantError(t, err, ErrStopped, "it continues where it was", "断点继续")
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v is not context.Canceled", err)
			}
			state, ok := parts(t, dir, file.path)
			if got := sum(state.Done); !ok || got < 20<<10 || got >= length {
				t.Fatalf("the part holds %d bytes, want some", got)
			}
			arrived := sum(state.Done)
			// Now the rest, and nothing but the rest, under the condition that the file is the same.
			var served atomic.Int64
			h.set(func() {
				h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
					if r.Header.Get("Range") == "" || r.Header.Get("If-Range") != f.etag {
						t.Errorf("Range %q, If-Range %q: want both", r.Header.Get("Range"), r.Header.Get("If-Range"))
					}
					f.serve(&counter{w, &served}, r)
					return true
				}
			})
			if _, err := Pull(t.Context(), ref, o); err != nil {
				t.Fatal(err)
			}
			compare(t, dir, []*fakeFile{file})
			if served.Load() != length-arrived {
				t.Errorf("%d bytes were served after %d had arrived, want %d", served.Load(), arrived, length-arrived)
			}
		}
	})
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// TestResumeAfterChange: parts of content that is no longer on the hub are thrown away.
func TestResumeAfterChange(t *testing.T) {
	for _, noDigest := range []bool{false, true} {
		old := &fakeFile{path: "model.safetensors", data: noise(7, 100<<10), big: true, noDigest: noDigest}
		h := newFakeHub(t, repo, old)
		ctx, cancel := context.WithCancel(t.Context())
		h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			f.serve(&cutter{w, 20 << 10}, r)
			time.AfterFunc(50*time.Millisecond, cancel)
			<-r.Context().Done()
			return true
		}
		isolate(t, h)
		dir := t.TempDir()
		_, err := Pull(ctx, hfRef(repo), small(Options{Dir: dir}))
		cancel()
		wantError(t, err, ErrStopped, "stopped", "已停止")
		changed := &fakeFile{path: old.path, data: noise(8, 100<<10), big: true, noDigest: noDigest}
		changed.etag = `"` + changed.id() + `"`
		h.set(func() { h.hook, h.files[old.path] = nil, changed })
		if _, err := Pull(t.Context(), hfRef(repo), small(Options{Dir: dir})); err != nil {
			t.Fatal(err)
		}
		compare(t, dir, []*fakeFile{changed})
	}
}

// TestHelperProcess is not a test: it is what other tests run in a process of its own.
func TestHelperProcess(t *testing.T) {
	dir := os.Getenv("CHULENGO_TEST_PULL")
	if dir == "" {
		t.Skip("run by other tests only")
	}
	if _, err := Pull(t.Context(), hfRef(repo), small(Options{Dir: dir})); err != nil {
		t.Fatal(err)
	}
}

func helper(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperProcess$")
	cmd.Env = append(append(os.Environ(), "CHULENGO_TEST_PULL="+dir), env...)
	return cmd
}

// TestKill: a pull that is killed without warning is taken up by the next one, which needs no lock file removed.
func TestKill(t *testing.T) {
	const length = 2 << 20
	file := &fakeFile{path: "model.safetensors", data: noise(7, length), big: true}
	h := newFakeHub(t, repo, file)
	h.set(func() {
		h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			f.serve(&slow{w}, r)
			return true
		}
	})
	isolate(t, h)
	dir := t.TempDir()
	cmd := helper(t, dir, "HF_TOKEN=of-the-dead-process")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the other process got nowhere")
		}
		if state, ok := parts(t, dir, file.path); ok && sum(state.Done) > length/8 {
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // its status is that it was killed
	state, ok := parts(t, dir, file.path)
	if !ok || sum(state.Done) >= length {
		t.Fatalf("killed too late: %v", state)
	}
	var rest atomic.Int64
	h.set(func() {
		h.hook = func(w http.ResponseWriter, r *http.Request, f *fakeFile) bool {
			if r.Header.Get("Authorization") == "" { // not a last request of the dead process
				w = &counter{w, &rest}
			}
			f.serve(w, r)
			return true
		}
	})
	if _, err := Pull(t.Context(), hfRef(repo), small(Options{Dir: dir})); err != nil {
		t.Fatal(err)
	}
	compare(t, dir, []*fakeFile{file})
	if n := rest.Load(); n != length-sum(state.Done) {
		t.Errorf("%d bytes were served after the kill, want the missing %d", n, length-sum(state.Done))
	}
}

// slow sends about 400 kB a second.
type slow struct{ http.ResponseWriter }

func (s *slow) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		n := min(len(p), 4<<10)
		if _, err := s.ResponseWriter.Write(p[:n]); err != nil {
			return total, err
		}
		s.ResponseWriter.(http.Flusher).Flush()
		total, p = total+n, p[n:]
		time.Sleep(10 * time.Millisecond)
	}
	return total, nil
}

// TestProxy: the proxy variables apply. They are read once a process, hence the other process.
func TestProxy(t *testing.T) {
	files := checkpoint()
	h := newFakeHub(t, repo, files...)
	var proxied atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "hub.invalid" {
			t.Errorf("the proxy was asked for %s", r.URL)
		}
		proxied.Add(1)
		h.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	isolate(t, nil)
	dir := t.TempDir()
	out, err := helper(t, dir, "HF_ENDPOINT=http://hub.invalid", "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	compare(t, dir, wanted(files))
	if proxied.Load() < int64(len(wanted(files))) {
		t.Errorf("%d requests went through the proxy", proxied.Load())
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
