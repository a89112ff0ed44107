package serve

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/labstack/echo/v4"

	"chulengo/serve/ollama"
)

// generateOf gives the handler of /api/generate, where two protocols meet: the body decides.
func (s *Server) generateOf(theirs echo.HandlerFunc, limit int64) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		data, err := io.ReadAll(http.MaxBytesReader(c.Response(), r.Body, limit))
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return errTooLarge
		}
		if bytes.Contains(data, []byte(`"images"`)) {
			c.Set(largerBody, limit)
		}
		rest := io.Reader(http.NoBody)
		if err != nil {
			rest = broken{err} // the handler says it in its own words
		}
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(data), rest))
		if err == nil && ollama.Wants(data) {
			return theirs(c)
		}
		return s.generate(c)
	}
}

// broken is the end of a body that did not arrive whole.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
