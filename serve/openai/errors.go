package openai

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/completion"
)

// errorBody is what an error looks like on the wire.
type errorBody struct {
	Error errorObject `json:"error"`
}

type errorObject struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
	Prompt  int     `json:"n_prompt_tokens,omitempty"` // llama-server's names
	Context int     `json:"n_ctx,omitempty"`
}

// describe gives an error's body.
func describe(e *completion.Error, zh bool) errorBody {
	o := errorObject{Message: e.Text(zh), Type: "invalid_request_error"}
	if e.Param != "" {
		o.Param = &e.Param
	}
	code := ""
	switch e.Kind {
	case completion.KindContext:
		o.Type, code = "exceed_context_size_error", "context_length_exceeded"
		o.Prompt, o.Context = e.Sizes.Prompt, e.Sizes.Context
	case completion.KindNotFound:
		o.Type = "not_found_error"
		if e.Param == "model" {
			code = "model_not_found"
		}
	case completion.KindNotSupported:
		o.Type = "not_supported_error"
	case completion.KindBusy:
		o.Type = "overloaded_error"
	case completion.KindLoading, completion.KindDraining:
		o.Type = "unavailable_error"
	case completion.KindAuth:
		o.Type, code = "authentication_error", "invalid_api_key"
	case completion.KindForbidden:
		o.Type = "permission_error"
	case completion.KindRate:
		o.Type, code = "rate_limit_error", "rate_limit_exceeded"
	case completion.KindTimeout:
		o.Type = "timeout_error"
	case completion.KindInternal:
		o.Type = "server_error"
	}
	if code != "" {
		o.Code = &code
	}
	return errorBody{o}
}

// WriteError answers a request with an error, if its response is still free. Errors that are no *completion.Error are
// the server's own; the caller logs them.
func WriteError(c echo.Context, err error) error {
	if c.Response().Committed {
		return nil
	}
	if c.Request().Context().Err() != nil && errors.Is(err, context.Canceled) {
		c.Response().Status = 499 // for the log: the client is gone
		return nil
	}
	e := completion.Public(err)
	h := c.Response().Header()
	h.Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	if status := e.Status(); status < 500 && status != http.StatusTooManyRequests || status == http.StatusNotImplemented || status == http.StatusGatewayTimeout {
		h.Set("X-Should-Retry", "false") // the same request will fail again; clients retry what is ≥ 500
	}
	return c.JSON(e.Status(), describe(e, completion.Chinese(c.Request())))
}

// fail answers with an error and logs what its client may not read.
func (a *api) fail(c echo.Context, err error) error {
	if e := completion.Public(err); e.Kind == completion.KindInternal && !errors.Is(err, context.Canceled) {
		a.host.Log(c.Request()).Error("request failed", "route", c.Path(), "error", e.Cause)
	}
	return WriteError(c, err)
}
