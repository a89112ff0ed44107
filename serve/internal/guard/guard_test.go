package guard

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func newGuard(t *testing.T, o Options) *Guard {
	t.Helper()
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Keys: []string{"good", ""}}, "api-key 2"},
		{Options{Keys: []string{"with space"}}, "api-key 1"},
		{Options{Keys: []string{"钥匙"}}, "api-key 1"},
		{Options{Origins: []string{"example.org"}}, `cors-origin "example.org"`},
		{Options{Origins: []string{"https://example.org/"}}, "origin"},
		{Options{Hosts: []string{"https://x"}}, "allowed-host"},
		{Options{Rate: -1}, "rate-limit -1"},
		{Options{Rate: math.NaN()}, "rate-limit NaN"},
		{Options{Rate: 1, Burst: -1}, "rate-burst -1"},
	} {
		if _, err := New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
	if _, err := New(Options{Keys: []string{"bad key"}}); strings.Contains(err.Error(), "bad key") {
		t.Errorf("a key is in an error: %v", err)
	}
}

func TestHost(t *testing.T) {
	g := newGuard(t, Options{Hosts: []string{"Chat.example.org", ".lan"}})
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "a.localhost": true, "127.0.0.1:5000": true, "[::1]:5000": true, "[::1]": true,
		"192.168.1.2": true, "chat.example.org": true, "CHAT.example.org.:80": true, "box.lan:1": true, "": true,
		"example.org": false, "evil.example": false, "chat.example.org.evil.example": false, "lan": false, "127.0.0.1.evil.example": false,
	} {
		if g.Host(host) != want {
			t.Errorf("Host(%q) = %v", host, !want)
		}
	}
	if !newGuard(t, Options{Hosts: []string{"*"}}).Host("evil.example") {
		t.Error("* does not admit every name")
	}
}

func TestKey(t *testing.T) {
	g := newGuard(t, Options{Keys: []string{"one", "two"}})
	for _, c := range []struct {
		authorization, apiKey string
		key                   string
		ok                    bool
	}{
		{"Bearer one", "", "one", true},
		{"bearer  two", "", "two", true},
		{"", "two", "two", true},
		{"Bearer wrong", "one", "one", true}, // clients that send both
		{"Bearer one", "wrong", "one", true},
		{"Bearer wrong", "", "", false},
		{"Basic one", "", "", false},
		{"one", "", "", false},
		{"", "", "", false},
		{"Bearer ", "", "", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", c.authorization)
		r.Header.Set("X-Api-Key", c.apiKey)
		if key, ok := g.Key(r); ok != c.ok || ok && key != c.key {
			t.Errorf("%+v: %q, %v", c, key, ok)
		}
	}
	if _, ok := newGuard(t, Options{}).Key(httptest.NewRequest("GET", "/", nil)); !ok {
		t.Error("a key is wanted though none is set")
	}
}

func TestLogin(t *testing.T) {
	g := newGuard(t, Options{Keys: []string{"one", "two"}})
	secret := []byte("secret")
	mark := Login(secret, "two", "session")
	if !g.LoggedIn(secret, mark, "session") || g.LoggedIn(secret, mark, "other") || g.LoggedIn(secret, "", "session") || g.LoggedIn(nil, mark, "session") {
		t.Error("a login holds for its session alone")
	}
	if newGuard(t, Options{Keys: []string{"one"}}).LoggedIn(secret, mark, "session") {
		t.Error("a login outlives its key")
	}
}

func TestClient(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32")}
	g := newGuard(t, Options{Proxies: proxies})
	for _, c := range []struct {
		peer, forwarded, host, proto string
		want                         string
	}{
		{"1.2.3.4:1", "9.9.9.9", "evil.example", "https", "{1.2.3.4 direct false}"},
		{"127.0.0.1:1", "9.9.9.9", "chat.example", "https", "{9.9.9.9 chat.example true}"},
		{"[::ffff:127.0.0.1]:1", "9.9.9.9", "", "http", "{9.9.9.9 direct false}"},
		{"127.0.0.1:1", "6.6.6.6, 9.9.9.9, 10.1.1.1", "a, b", "", "{9.9.9.9 b false}"},
		{"127.0.0.1:1", "6.6.6.6, rubbish, 10.1.1.1", "", "", "{10.1.1.1 direct false}"},
		{"127.0.0.1:1", "", "", "", "{127.0.0.1 direct false}"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Host: "direct", Header: http.Header{}}
		for name, value := range map[string]string{"X-Forwarded-For": c.forwarded, "X-Forwarded-Host": c.host, "X-Forwarded-Proto": c.proto} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		if got := fmt.Sprint(g.Client(r)); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	for text, want := range map[string]string{"10.1.2.3": "10.1.2.3/32", "10.1.2.3/8": "10.0.0.0/8", "::1": "::1/128", "x": "", "": "", "fe80::1%eth0": ""} {
		p, err := ParseProxy(text)
		if (err != nil) != (want == "") || err == nil && p.String() != want {
			t.Errorf("ParseProxy(%q) = %v, %v", text, p, err)
		}
	}
}

func TestCORS(t *testing.T) {
	for _, c := range []struct {
		origins []string
		origin  string
		want    string
	}{
		{nil, "https://a.example", ""},
		{[]string{"https://a.example"}, "https://a.example", "https://a.example"},
		{[]string{"https://a.example"}, "https://b.example", ""},
		{[]string{"https://a.example"}, "http://a.example", ""},
		{[]string{"*"}, "https://b.example", "*"},
		{[]string{"*"}, "", ""},
	} {
		r := httptest.NewRequest("OPTIONS", "/", nil)
		r.Header.Set("Origin", c.origin)
		r.Header.Set("Access-Control-Request-Method", "POST")
		h := http.Header{}
		preflight := newGuard(t, Options{Origins: c.origins}).CORS(r, h)
		if got := h.Get("Access-Control-Allow-Origin"); got != c.want || preflight != (c.want != "") || h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%+v: %v %v", c, preflight, h)
		}
	}
}

func TestRates(t *testing.T) {
	r := newRates(2, 0) // bursts of 2
	now := time.Unix(0, 0)
	for i, want := range []time.Duration{0, 0, time.Second / 2, time.Second / 2} {
		if got := r.take("a", now); got != want {
			t.Errorf("request %d waits %v, want %v", i, got, want)
		}
	}
	if got := r.take("b", now); got != 0 {
		t.Errorf("another client waits %v", got)
	}
	if got := r.take("a", now.Add(time.Second/2)); got != 0 {
		t.Errorf("after half a second a request waits %v", got)
	}
	for i := range mostBuckets + 1 {
		r.take(fmt.Sprint(i), now)
	}
	if len(r.buckets) > mostBuckets {
		t.Errorf("%d buckets", len(r.buckets))
	}
	g := newGuard(t, Options{Rate: 1})
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	if g.Wait("", a) != 0 || g.Wait("", b) == 0 || g.Wait("key", b) != 0 {
		t.Error("addresses of one /64 share a bucket; keys have their own")
	}
}
