// Package ollama speaks Ollama's API as a thin translation onto package completion:
//
//	POST /api/chat      an answer to messages, as lines of JSON unless "stream" is false
//	POST /api/generate  the same to a prompt, where the body is not the tutorial's (Wants says which it is)
//	GET  /api/tags      the model, and so does GET /api/ps
//	POST /api/show      what there is to know of it
//	POST /api/pull      success if it is the model that is here
//	GET  /api/version
//
// Other addresses of Ollama's (embeddings, making and deleting models) answer 501. Durations are nanoseconds. Errors are
// {"error": text} and name the field in Ollama's spelling, in a line of their own where the answer has begun.
//
// keep_alive changes nothing, since the model stays loaded, and neither does num_ctx. Ollama's users send bodies without
// saying that they are JSON (curl -d); such bodies are taken from programs alone. A browser lets a page of any site send
// them, and says JSON, after asking us, where the site may.
package ollama

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

type api struct{ host *completion.Host }

// routes are Ollama's addresses that are not the tutorial's as well.
var routes = []struct {
	method, path string
	handle       func(*api, echo.Context) error
}{
	{http.MethodGet, "/api/tags", (*api).tags},
	{http.MethodGet, "/api/ps", (*api).ps},
	{http.MethodGet, "/api/version", (*api).version},
	{http.MethodPost, "/api/show", (*api).show},
	{http.MethodPost, "/api/chat", (*api).chat},
	{http.MethodPost, "/api/pull", (*api).pull},
	{http.MethodPost, "/api/push", (*api).unsupported},
	{http.MethodPost, "/api/create", (*api).unsupported},
	{http.MethodPost, "/api/copy", (*api).unsupported},
	{http.MethodDelete, "/api/delete", (*api).unsupported},
	{http.MethodPost, "/api/embed", (*api).unsupported},
	{http.MethodPost, "/api/embeddings", (*api).unsupported},
}

// Register adds the routes to a group, all but /api/generate, whose handler it returns.
func Register(g *echo.Group, h *completion.Host) (generate echo.HandlerFunc) {
	a := &api{h}
	for _, r := range routes {
		g.Add(r.method, r.path, func(c echo.Context) error { return r.handle(a, c) })
	}
	return a.generate
}

// Owns says whether errors of a path (behind the server's base path) have Ollama's shape.
func Owns(path string) bool {
	for _, r := range routes {
		if r.path == path {
			return true
		}
	}
	return false
}

// Wants says whether a body of /api/generate is Ollama's: it has no user_input, but model or prompt.
func Wants(data []byte) bool {
	var f map[string]json.RawMessage
	if json.Unmarshal(data, &f) != nil {
		return false
	}
	_, tutorial := f["user_input"]
	_, model := f["model"]
	_, prompt := f["prompt"]
	return !tutorial && (model || prompt)
}

// Greets says whether a request for / is by a program that looks for Ollama, and not for a page: it takes neither HTML
// nor just anything.
func Greets(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return accept != "" && !strings.Contains(accept, "text/html") && !strings.Contains(accept, "*/*") && !strings.Contains(accept, "text/*")
}

// Greeting is the answer to it.
const Greeting = "Ollama is running"

type fields = map[string]any

// read reads a request's body.
func (a *api) read(c echo.Context) (body.Value, error) {
	read := body.ReadUntyped
	if fromBrowser(c.Request()) {
		read = body.Read
	}
	return read(c.Response(), c.Request(), a.host.BodyLimit)
}

// fromBrowser says whether a browser may have sent a request, perhaps for another site's page. Such a page has no means to
// take all of these marks away.
func fromBrowser(r *http.Request) bool {
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Referer", "Cookie"} {
		if r.Header.Get(name) != "" {
			return true
		}
	}
	return strings.HasPrefix(r.UserAgent(), "Mozilla/")
}
