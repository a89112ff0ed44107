package guard

import (
	"net/http"
	"slices"
	"strings"
)

// CORS sets the headers that let pages of the allowed origins read the answer. preflight says that the request only
// asks whether another may follow: it is to be answered with 204 and nothing else.
//
// Cookies are not for other origins: Access-Control-Allow-Credentials is never sent.
func (g *Guard) CORS(r *http.Request, h http.Header) (preflight bool) {
	origin := r.Header.Get("Origin")
	if origin == "" || len(g.options.Origins) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	switch {
	case slices.Contains(g.options.Origins, "*"):
		h.Set("Access-Control-Allow-Origin", "*")
	case slices.ContainsFunc(g.options.Origins, func(o string) bool { return strings.EqualFold(o, origin) }):
		h.Set("Access-Control-Allow-Origin", origin)
	default:
		return false
	}
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, X-Should-Retry")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
		h.Add("Vary", "Access-Control-Request-Headers")
		h.Set("Access-Control-Allow-Headers", asked)
	}
	h.Set("Access-Control-Max-Age", "600")
	return true
}

// RequestID gives the id that a request brought, if it is short and plain enough for logs; "" otherwise.
func RequestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	const longest = 128
	if len(id) > longest || strings.ContainsFunc(id, func(c rune) bool {
		return !(c == '-' || c == '_' || c == '.' || c == ':' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	}) {
		return ""
	}
	return id
}
