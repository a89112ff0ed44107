package fetch

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"code.dny.dev/ssrf"
)

// local lets tests reach servers of their own.
func local(limit int64) *Fetcher {
	return New(limit, ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.1/32")))
}

func TestGet(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("picture")) })
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 101)) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("u"), http.StatusFound)
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	s := httptest.NewServer(mux)
	defer s.Close()
	f := local(100)
	for address, want := range map[string]string{
		"/ok":                                "",
		"/to?u=/ok":                          "",
		"/none":                              "answered 404",
		"/large":                             "at most 100 bytes",
		"/endless":                           "at most 100 bytes",
		"/loop":                              "more than 3 redirects",
		"/to?u=file:///etc/passwd":           "want an http or https address",
		"/to?u=http://127.0.0.2/":            "a public one",
		"/to?u=http://10.0.0.1/":             "a public one",
		"/to?u=http://169.254.169.254/":      "a public one",
		"/to?u=http://[::1]/":                "a public one",
		"/to?u=http://[::ffff:169.254.1.1]/": "a public one",
		"/to?u=http://2130706434/":           "", // whatever a resolver makes of it
	} {
		file, err := f.Get(context.Background(), s.URL+address)
		switch {
		case strings.HasSuffix(address, "2130706434/"):
			if err == nil {
				t.Errorf("%s: want an error", address)
			}
		case want == "" && (err != nil || string(file) != "picture"):
			t.Errorf("%s: got %q, %v", address, file, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", address, err, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Get(ctx, s.URL+"/ok"); err == nil {
		t.Error("cancelled: want an error")
	}
}

// Nothing within the server's own networks is reached, by number or by name, whatever the port.
func TestPrivate(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	f := New(100)
	for _, address := range []string{
		s.URL, "http://localhost/", "http://127.0.0.1/", "http://127.1.2.3/", "http://0.0.0.0/", "http://10.1.2.3/", "http://172.16.0.1/",
		"http://192.168.1.1/", "http://169.254.169.254/latest", "http://100.64.0.1/", "http://[::1]/", "http://[fe80::1]/", "http://[fc00::1]/",
		"http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://198.18.0.1/", "http://224.0.0.1/", "http://1.1.1.1:22/",
	} {
		if _, err := f.Get(context.Background(), address); err == nil || !strings.Contains(err.Error(), "a public one") {
			t.Errorf("%s: got %v", address, err)
		}
	}
	for _, address := range []string{"", "file:///etc/passwd", "ftp://1.1.1.1/", "http:///x", "//1.1.1.1/", "http://a:b@1.1.1.1/", "http://a b/", "%"} {
		if _, err := f.Get(context.Background(), address); err == nil {
			t.Errorf("%q: want an error", address)
		}
	}
}
