package openai

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

// api is what the handlers share.
type api struct {
	host *completion.Host

	mu    sync.Mutex
	noted map[string]bool // unknown fields that were logged
}

// Register adds the routes to a group.
func Register(g *echo.Group, h *completion.Host) {
	a := &api{host: h, noted: map[string]bool{}}
	g.POST("/v1/chat/completions", a.chat)
	g.POST("/v1/completions", a.completions)
	g.GET("/v1/models", a.models)
	g.GET("/v1/models/*", a.model)
	g.POST("/tokenize", a.tokenize)
	g.POST("/detokenize", a.detokenize)
	g.POST("/apply-template", a.applyTemplate)
	g.GET("/props", a.props)
	g.GET("/slots", a.slots)
}

// Owns says whether errors of a path (behind the server's base path) have OpenAI's shape even where no handler of this
// package wrote them: unknown addresses, wrong methods, panics.
func Owns(path string) bool {
	switch path {
	case "/tokenize", "/detokenize", "/apply-template", "/props", "/slots":
		return true
	}
	return strings.HasPrefix(path, "/v1/")
}

// ignored are fields that clients send and that change nothing here.
var ignored = map[string]bool{"user": true, "metadata": true, "store": true, "service_tier": true, "priority": true,
	"safety_identifier": true, "prompt_cache_key": true, "prompt_cache_retention": true, "reasoning_effort": true,
	"verbosity": true, "prediction": true, "chat_template_kwargs": true, "request_id": true, "timings_per_token": true,
	"modalities": true, "return_tokens_as_token_ids": true, "spaces_between_special_tokens": true}

// note logs unknown fields, each once; in all at most so many that nobody can fill the memory with names.
func (a *api) note(c echo.Context, names []string) {
	const most, longest = 256, 64
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range names {
		if len(name) > longest || ignored[name] || a.noted[name] || len(a.noted) >= most {
			continue
		}
		a.noted[name] = true
		a.host.Log(c.Request()).Warn("a request has a field that is not known here; it is ignored, this time and from now on", "route", c.Path(), "field", name)
	}
}

// read gives the body of a request.
func (a *api) read(c echo.Context) (body.Value, error) {
	return body.Read(c.Response(), c.Request(), a.host.BodyLimit)
}

// fingerprint names what an answer depends on besides its request.
func (a *api) fingerprint(core *completion.Core) string {
	o := core.Options()
	sum := sha256.Sum256([]byte(fmt.Sprint(a.host.Version, "\x00", o.Name, "\x00", o.Root, "\x00", o.Meta)))
	return "fp_" + hex.EncodeToString(sum[:6])
}

// newID makes the id of an object.
func newID(prefix string) string { return prefix + strings.ReplaceAll(uuid.NewString(), "-", "") }
