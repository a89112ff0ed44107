package hub

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"
)

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
