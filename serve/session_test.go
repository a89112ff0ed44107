package serve

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestKeyring(t *testing.T) {
	dir := t.TempDir()
	k, err := openKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "session.key")
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("files left behind: %v", files)
	}
	s := newSession()
	again, err := openKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	token := k.token(s)
	if got, ok := again.parse(token); !ok || got != s {
		t.Errorf("the key did not survive: got %v, %v", got, ok)
	}
	other, _ := openKey("")
	if _, ok := other.parse(token); ok {
		t.Error("another key accepts the token")
	}
	for i := range token {
		forged := []byte(token)
		forged[i] ^= 1
		if got, ok := k.parse(string(forged)); ok {
			t.Errorf("byte %d changed: accepted as %v", i, got)
		}
	}
	for _, forged := range []string{"", ".", "..", token + "x", token[:len(token)-1], "a." + token, s.owner + "." + s.chatID + "."} {
		if _, ok := k.parse(forged); ok {
			t.Errorf("%q was accepted", forged)
		}
	}
	for _, damaged := range []string{"", "00", strings.Repeat("zz", 32)} {
		os.WriteFile(path, []byte(damaged), 0o600)
		if _, err := openKey(dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("key %q: got %v, want an error that names the file", damaged, err)
		}
	}
}

// Cookies know no ports: servers on one host name share the cookie and must leave each other's sessions in it.
func TestServersShareACookie(t *testing.T) {
	var keys []keyring
	var sessions []session
	value := ""
	for i := range maxTokens + 2 {
		k, _ := openKey("")
		keys, sessions = append(keys, k), append(sessions, newSession())
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: cookieName, Value: value})
		_, known, others := k.read(r)
		if known {
			t.Fatal("a session appeared from nowhere")
		}
		w := httptest.NewRecorder()
		k.write(w, r, "/", sessions[i], others)
		value = w.Result().Cookies()[0].Value
		if len(value) > 3800 {
			t.Fatalf("the cookie has %d bytes; browsers take 4096", len(value))
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(&http.Cookie{Name: cookieName, Value: value})
	for i, k := range keys {
		got, known, _ := k.read(r)
		if want := i >= len(keys)-maxTokens; known != want || known && got != sessions[i] {
			t.Errorf("server %d: got %v, %v, want %v", i, got, known, want)
		}
	}
}

func TestSameOrigin(t *testing.T) {
	proxies, err := newGuard(Options{TrustedProxies: []string{"192.0.2.1"}}) // httptest's peer
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		method string
		header map[string]string
		want   bool
	}{
		{"a program", "POST", nil, true},
		{"own page, http", "POST", map[string]string{"Origin": "http://nas:5000"}, true},
		{"own page, capitals", "POST", map[string]string{"Origin": "http://NAS:5000"}, true},
		{"own page, localhost", "POST", map[string]string{"Origin": "http://nas:5000", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, true},
		{"typed address", "GET", map[string]string{"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, true},
		{"link on another site", "GET", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, true},
		{"form on another site", "POST", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Origin": "http://evil"}, false},
		{"other port, same host", "POST", map[string]string{"Origin": "http://nas:3000", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, false},
		{"other port, no metadata", "POST", map[string]string{"Origin": "http://nas:3000"}, false},
		{"another site", "POST", map[string]string{"Origin": "http://evil"}, false},
		{"sandboxed", "POST", map[string]string{"Origin": "null"}, false},
		{"nonsense", "POST", map[string]string{"Origin": "::"}, false},
		{"image on another site", "GET", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, false},
		{"behind a proxy", "POST", map[string]string{"Origin": "https://chat.example", "X-Forwarded-Host": "chat.example"}, true},
		{"behind a proxy that nobody trusts", "POST", map[string]string{"Origin": "https://chat.example", "X-Forwarded-Host": "chat.example", "Peer": "192.0.2.2:1"}, false},
		{"behind a proxy that says nothing", "POST", map[string]string{"Origin": "https://chat.example", "Sec-Fetch-Site": "same-origin"}, true},
	} {
		r := httptest.NewRequest(test.method, "http://nas:5000/api/generate", nil)
		for k, v := range test.header {
			r.Header.Set(k, v)
		}
		if peer := r.Header.Get("Peer"); peer != "" {
			r.RemoteAddr = peer
		}
		r = r.WithContext(context.WithValue(r.Context(), visitorKey{}, visitor{proxies.Client(r), proxies}))
		if got := sameOrigin(r); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestVisitsForgetTheOldest(t *testing.T) {
	var v visits
	first, second := newSession(), newSession()
	v.add(first)
	v.add(second)
	v.add(first)
	for range maxVisits - 1 {
		v.add(newSession())
	}
	if _, known := v.owner(first.chatID); known {
		t.Error("the oldest is still known")
	}
	if owner, known := v.owner(second.chatID); !known || owner != second.owner {
		t.Errorf("the second: %q, %v", owner, known)
	}
	v.add(newSession())
	if _, known := v.owner(second.chatID); known || len(v.owners) != maxVisits {
		t.Errorf("%d are known", len(v.owners))
	}
}
