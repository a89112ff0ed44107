package hub

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeHub speaks the protocols of both hubs for one repository, and misbehaves where a test's hook says so.
type fakeHub struct {
	*httptest.Server
	repo string

	mu       sync.Mutex
	files    map[string]*fakeFile
	pageSize int                                                                      // entries of a page of the Hugging Face listing; 0: all
	hook     func(w http.ResponseWriter, r *http.Request, f *fakeFile) (handled bool) // before a file is served
	listHook func(w http.ResponseWriter, r *http.Request) (handled bool)              // before the listing is served
	log      []*http.Request                                                          // of files
	lists    []*http.Request                                                          // of listings
}

type fakeFile struct {
	path     string
	data     []byte
	etag     string // with quotes; "": none
	big      bool   // listed with a SHA-256 on Hugging Face
	noDigest bool   // listed without any digest
	noRanges bool   // served whole, whatever is asked
	listed   *int64 // size in the listing, if it lies
	sha      string // in the listing, if it lies
}

func newFakeHub(t *testing.T, repo string, files ...*fakeFile) *fakeHub {
	t.Helper()
	h := &fakeHub{repo: repo, files: make(map[string]*fakeFile)}
	for _, f := range files {
		if f.etag == "" {
			f.etag = `"` + f.id() + `"`
		}
		h.files[f.path] = f
	}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

// id is what Hugging Face uses as the ETag: the SHA-256 of big files, the git object id of others.
func (f *fakeFile) id() string {
	if f.big {
		return sha(f.data)
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(f.data))
	h.Write(f.data)
	return hex.EncodeToString(h.Sum(nil))
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (f *fakeFile) listedSize() int64 {
	if f.listed != nil {
		return *f.listed
	}
	return int64(len(f.data))
}

func (f *fakeFile) listedSHA() string {
	if f.sha != "" {
		return f.sha
	}
	return sha(f.data)
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	switch {
	case path == "/api/v1/models/"+h.repo+"/repo/files", strings.HasPrefix(path, "/api/models/"+h.repo+"/tree/"):
		h.mu.Lock()
		h.lists = append(h.lists, r)
		hook := h.listHook
		h.mu.Unlock()
		if hook != nil && hook(w, r) {
			return
		}
		h.list(w, r)
	case path == "/api/v1/models/"+h.repo+"/repo":
		h.serve(w, r, r.URL.Query().Get("FilePath"))
	case strings.HasPrefix(path, "/"+h.repo+"/resolve/"):
		_, name, _ := strings.Cut(strings.TrimPrefix(path, "/"+h.repo+"/resolve/"), "/")
		h.serve(w, r, name)
	default:
		w.Header().Set("X-Error-Code", "RepoNotFound")
		w.Header().Set("X-Error-Message", "Repository not found")
		w.WriteHeader(http.StatusNotFound)
	}
}

func (h *fakeHub) list(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for name := range h.files {
		names = append(names, name)
	}
	slices.Sort(names)
	w.Header().Set("Content-Type", "application/json")
	if strings.HasPrefix(r.URL.Path, "/api/v1/") {
		if r.URL.Query().Get("Recursive") != "True" || r.URL.Query().Get("Revision") == "" {
			http.Error(w, "bad query", http.StatusBadRequest)
			return
		}
		files := []map[string]any{{"Name": "folder", "Path": "folder", "Type": "tree", "Size": 0}}
		for _, name := range names {
			f := h.files[name]
			entry := map[string]any{"Name": filepath.Base(name), "Path": name, "Type": "blob", "Size": f.listedSize()}
			if !f.noDigest {
				entry["Sha256"] = f.listedSHA()
			}
			files = append(files, entry)
		}
		json.NewEncoder(w).Encode(map[string]any{"Code": 200, "Success": true, "Message": "success", "Data": map[string]any{"Files": files}})
		return
	}
	from := 0
	fmt.Sscan(r.URL.Query().Get("cursor"), &from)
	to := len(names)
	if h.pageSize > 0 && from+h.pageSize < to {
		to = from + h.pageSize
		// A mirror passes on the link to the original host: it must not be followed there.
		w.Header().Set("Link", fmt.Sprintf(`<https://hub.invalid%s?recursive=true&cursor=%d>; rel="next"`, r.URL.Path, to))
	}
	entries := []map[string]any{{"type": "directory", "oid": "0123", "size": 0, "path": "folder"}}
	for _, name := range names[from:to] {
		f := h.files[name]
		entry := map[string]any{"type": "file", "size": f.listedSize(), "path": name, "oid": f.id()}
		switch {
		case f.noDigest:
			delete(entry, "oid")
		case f.big:
			entry["oid"] = "ffffffffffffffffffffffffffffffffffffffff" // the pointer's
			entry["lfs"] = map[string]any{"oid": f.listedSHA(), "size": f.listedSize(), "pointerSize": 134}
		}
		entries = append(entries, entry)
	}
	json.NewEncoder(w).Encode(entries)
}

func (h *fakeHub) serve(w http.ResponseWriter, r *http.Request, name string) {
	h.mu.Lock()
	h.log = append(h.log, r)
	f, hook := h.files[name], h.hook
	h.mu.Unlock()
	if f == nil {
		w.Header().Set("X-Error-Code", "EntryNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if hook != nil && hook(w, r, f) {
		return
	}
	f.serve(w, r)
}

// serve answers as a file server does: ranges, If-Range, 416.
func (f *fakeFile) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", f.etag)
	if f.noRanges {
		w.Header().Set("Content-Length", fmt.Sprint(len(f.data)))
		w.Write(f.data)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.data))
}

// requests returns how often files were asked for.
func (h *fakeHub) requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.log)
}

func (h *fakeHub) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// isolate empties the environment of everything that this package reads, points both hubs at h (which may be nil) and
// returns a fresh home folder.
func isolate(t *testing.T, h *fakeHub) string {
	t.Helper()
	for _, name := range []string{
		"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE",
		"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "MODELSCOPE_CACHE", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", "MODELSCOPE_SDK_TOKEN",
	} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	t.Setenv("LocalAppData", filepath.Join(home, ".cache"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, ".cache"))
	if h != nil {
		t.Setenv("HF_ENDPOINT", h.URL+"/")
		t.Setenv("MODELSCOPE_DOMAIN", h.URL)
	} else {
		t.Setenv("HF_ENDPOINT", "")
		t.Setenv("MODELSCOPE_DOMAIN", "")
	}
	return home
}

// small makes segments of 64 KiB and pauses of a millisecond.
func small(o Options) Options {
	o.tuning = &tuning{segment: 64 << 10, perFile: 4, pause: time.Millisecond, stall: 2 * time.Second}
	return o
}

// noise returns n reproducible bytes.
func noise(seed uint64, n int) []byte {
	data := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return data
}

// checkpoint is a repository with everything a Llama checkpoint has: small text files, two shards and their index, and
// what is left out by default.
func checkpoint() []*fakeFile {
	index, err := json.Marshal(map[string]any{"weight_map": map[string]string{
		"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}})
	if err != nil {
		panic(err)
	}
	return []*fakeFile{
		{path: "config.json", data: []byte(`{"model_type":"llama4"}`)},
		{path: "model.safetensors.index.json", data: index},
		{path: "folder/notes and more.txt", data: []byte("100 % {[notes]} + more\n")},
		{path: "empty.txt", data: []byte{}},
		{path: "model-00001-of-00002.safetensors", data: noise(1, 300<<10+17), big: true},
		{path: "model-00002-of-00002.safetensors", data: noise(2, 100<<10), big: true},
		{path: "original/consolidated.00.pth", data: noise(3, 1000), big: true},
		{path: "old.pth", data: noise(4, 1000), big: true},
		{path: ".gitattributes", data: []byte("*.safetensors lfs\n")},
	}
}

// wanted returns the files that a pull of checkpoint brings by default.
func wanted(files []*fakeFile) []*fakeFile {
	return slices.DeleteFunc(slices.Clone(files), func(f *fakeFile) bool {
		return strings.HasSuffix(f.path, ".pth") || f.path == ".gitattributes"
	})
}

// compare fails the test unless dir holds exactly these files, and no unfinished ones.
func compare(t *testing.T, dir string, files []*fakeFile) {
	t.Helper()
	want := make(map[string]bool)
	for _, f := range files {
		want[f.path] = true
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.path)))
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
		} else if !bytes.Equal(got, f.data) {
			t.Errorf("%s: got %d bytes that differ from the %d bytes wanted", f.path, len(got), len(f.data))
		}
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		rel = filepath.ToSlash(rel)
		if err != nil || d.IsDir() || want[rel] || rel == lockName || rel == hashesName {
			return err
		}
		t.Errorf("unexpected file %s", rel)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// parts returns the state of the unfinished file name.
func parts(t *testing.T, dir, name string) (s partState, ok bool) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(partName(name)+".json")))
	if err != nil {
		return s, false
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s, true
}

func sum(ns []int64) (total int64) {
	for _, n := range ns {
		total += n
	}
	return total
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func hfRef(repo string) Ref {
	org, name, _ := strings.Cut(repo, "/")
	return Ref{Hub: HuggingFace, Org: org, Name: name}
}

func msRef(repo string) Ref {
	ref := hfRef(repo)
	ref.Hub = ModelScope
	return ref
}
