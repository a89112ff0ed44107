package guard

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Options configure a Guard. The zero value admits everybody who names the server by an IP address or localhost.
type Options struct {
	Keys    []string       // secrets; none: no key is asked for
	Hosts   []string       // further names that clients may use in Host; "*": any, ".example.org": names below it
	Origins []string       // origins (scheme://host[:port]) whose pages may use the API; "*": any
	Proxies []netip.Prefix // peers whose X-Forwarded-* are believed
	Rate    float64        // requests a second of each key, or of each address without keys; 0: no limit
	Burst   int            // requests at once before Rate counts; 0: Rate rounded up, at least 1
}

// OptionError says which option is wrong. Keys are named by their number: nobody should find one in a log.
type OptionError struct {
	Option         string // as the command spells it
	Got            string
	WantZH, WantEN string
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("guard: %s %s: want %s", e.Option, e.Got, e.WantEN)
}

// Guard checks requests. Its methods may be called concurrently.
type Guard struct {
	options Options
	keys    [][sha256.Size]byte
	rates   *rates // nil: no limit
	logins  *rates // attempts to guess a key
}

// New checks the options.
func New(o Options) (*Guard, error) {
	g := &Guard{options: o, logins: newRates(0.5, 10)}
	for i, key := range o.Keys {
		if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return nil, &OptionError{"api-key", fmt.Sprintf("%d", i+1), "由可见的 ASCII 字符组成，不含空格", "visible ASCII characters without spaces"}
		}
		g.keys = append(g.keys, sha256.Sum256([]byte(key)))
	}
	for _, origin := range o.Origins {
		u, err := url.Parse(origin)
		if origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil) {
			return nil, &OptionError{"cors-origin", fmt.Sprintf("%q", origin), "https://chat.example.org 这样的来源（可带端口），或 *",
				"scheme://host or scheme://host:port, such as https://chat.example.org, or *"}
		}
	}
	for _, host := range o.Hosts {
		if host == "" || strings.ContainsAny(host, "/@ ") {
			return nil, &OptionError{"allowed-host", fmt.Sprintf("%q", host), "chat.example.org 这样的主机名、表示其下各名的 .example.org，或 *",
				"a name such as chat.example.org, .example.org for all names below it, or *"}
		}
	}
	if !(o.Rate >= 0 && o.Rate <= 1e6) { // nor NaN
		return nil, &OptionError{"rate-limit", fmt.Sprint(o.Rate), "每秒请求数，从 0 到 1000000", "a number of requests a second from 0 to 1000000"}
	}
	if o.Burst < 0 {
		return nil, &OptionError{"rate-burst", fmt.Sprint(o.Burst), "不小于 0 的请求数", "a number of requests of at least 0"}
	}
	if o.Rate > 0 {
		g.rates = newRates(o.Rate, o.Burst)
	}
	return g, nil
}

// NeedsKey says whether keys are set.
func (g *Guard) NeedsKey() bool { return len(g.keys) > 0 }

// Client is whom a request comes from, as far as it may be believed.
type Client struct {
	Addr   netip.Addr // of the client; the zero Addr where the peer has none
	Host   string     // as the client named us, with its port
	Secure bool       // by TLS, to us or to a trusted proxy
}

// Client finds out whom a request comes from. A chain of proxies is followed back to the first one that is not trusted.
func (g *Guard) Client(r *http.Request) Client {
	c := Client{Host: r.Host, Secure: r.TLS != nil}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.Addr = peer.Addr().Unmap().WithZone("")
	}
	if !g.trusts(c.Addr) {
		return c
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		addr, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		c.Addr = addr.Unmap().WithZone("")
		if !g.trusts(c.Addr) {
			break
		}
	}
	// What the proxy next to us says stands last.
	if host := last(r.Header, "X-Forwarded-Host"); host != "" {
		c.Host = host
	}
	if proto := last(r.Header, "X-Forwarded-Proto"); proto != "" {
		c.Secure = strings.EqualFold(proto, "https")
	}
	return c
}

// last gives the last item of a list in a header; "" where there is none.
func last(h http.Header, name string) string {
	list := strings.Join(h.Values(name), ",")
	return strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:])
}

func (g *Guard) trusts(a netip.Addr) bool {
	for _, p := range g.options.Proxies {
		if a.IsValid() && p.Contains(a) {
			return true
		}
	}
	return false
}

// ParseProxy reads an address or a range of addresses, such as 10.0.0.0/8.
func ParseProxy(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, &OptionError{"trusted-proxy", fmt.Sprintf("%q", s), "IP 地址，或 10.0.0.0/8 这样的网段", "an IP address or a range such as 10.0.0.0/8"}
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// Host says whether a client may call us by a name; the port does not matter.
func (g *Guard) Host(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	if name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") { // "": HTTP/1.0, no browser's
		return true
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	for _, allowed := range g.options.Hosts {
		allowed = strings.ToLower(strings.TrimSuffix(allowed, "."))
		if allowed == "*" || allowed == name || strings.HasPrefix(allowed, ".") && strings.HasSuffix(name, allowed) {
			return true
		}
	}
	return false
}

// Key gives the key that a request carries, if it is one of ours; "" for none is wanted. ok is false where one is
// wanted and missing or wrong. How long it takes tells nothing about the keys.
func (g *Guard) Key(r *http.Request) (key string, ok bool) {
	if !g.NeedsKey() {
		return "", true
	}
	sent := strings.TrimSpace(r.Header.Get("X-Api-Key"))
	if scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " "); found && strings.EqualFold(scheme, "Bearer") {
		if token = strings.TrimSpace(token); g.Knows(token) || sent == "" {
			sent = token
		}
	}
	return sent, g.Knows(sent)
}

// Knows says whether a text is one of the keys.
func (g *Guard) Knows(key string) bool {
	sum, found := sha256.Sum256([]byte(key)), 0
	for _, ours := range g.keys {
		found |= subtle.ConstantTimeCompare(sum[:], ours[:])
	}
	return found == 1
}

// Login gives the mark by which a session remembers that it was opened with a key: it ends when the key is withdrawn.
// secret is the server's own, without which a mark tells nothing about the key.
func Login(secret []byte, key, session string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("chulengo login 1\n" + session + "\n" + key))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// LoggedIn checks a mark that Login gave.
func (g *Guard) LoggedIn(secret []byte, mark, session string) bool {
	found := 0
	for _, key := range g.options.Keys {
		found |= subtle.ConstantTimeCompare([]byte(mark), []byte(Login(secret, key, session)))
	}
	return found == 1
}

// Wait takes one request out of a client's bucket; 0 where there was one, else how long until there is.
func (g *Guard) Wait(key string, a netip.Addr) time.Duration {
	if g.rates == nil {
		return 0
	}
	if key == "" {
		key = block(a)
	}
	return g.rates.take(key, time.Now())
}

// WaitLogin is Wait for attempts to log in, of which nobody needs many.
func (g *Guard) WaitLogin(a netip.Addr) time.Duration { return g.logins.take(block(a), time.Now()) }

// block names the addresses that count as one client.
func block(a netip.Addr) string {
	if a.Is6() {
		p, _ := a.Prefix(64) // cannot fail: 64 ≤ 128
		a = p.Addr()
	}
	return a.String()
}

// Listed says whether a name is one of the operator's own, "*" apart: pages of it are ours, whatever a proxy has made
// of Host.
func (g *Guard) Listed(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return slices.ContainsFunc(g.options.Hosts, func(allowed string) bool { return strings.EqualFold(allowed, host) })
}
