package hub

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

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
