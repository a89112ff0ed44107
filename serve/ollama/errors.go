package ollama

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/completion"
)

func (a *api) log(c echo.Context, err error) {
	if e := completion.Public(err); e.Kind == completion.KindInternal && !errors.Is(err, context.Canceled) {
		a.host.Log(c.Request()).Error("request failed", "route", c.Path(), "error", e.Cause)
	}
}

func (a *api) fail(c echo.Context, err error) error {
	if !errors.Is(err, context.Canceled) {
		a.log(c, err)
	}
	return WriteError(c, err)
}

// WriteError answers a request with an error, if its response is still free.
func WriteError(c echo.Context, err error) error {
	if c.Response().Committed {
		return nil
	}
	if c.Request().Context().Err() != nil && errors.Is(err, context.Canceled) {
		c.Response().Status = 499 // for the log: the client is gone
		return nil
	}
	e := completion.Public(err)
	c.Response().Header().Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		c.Response().Header().Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	return c.JSON(e.Status(), fields{"error": e.Text(completion.Chinese(c.Request()))})
}

// names are Ollama's for the fields that errors of package completion name.
var names = map[string]string{
	"max_tokens": "options.num_predict", "stop": "options.stop", "seed": "options.seed", "temperature": "options.temperature",
	"top_k": "options.top_k", "top_p": "options.top_p", "min_p": "options.min_p", "repetition_penalty": "options.repeat_penalty",
	"presence_penalty": "options.presence_penalty", "frequency_penalty": "options.frequency_penalty",
}

var picture = regexp.MustCompile(`^(messages\[\d+\])\.content(\[\d+\])$`)

// translate gives an error of package completion with the field as Ollama calls it.
func (r *request) translate(err error) error {
	var e *completion.Error
	if !errors.As(err, &e) || e.Param == "" {
		return err
	}
	own := *e
	if name, ok := names[e.Param]; ok {
		own.Param = name
	} else if m := picture.FindStringSubmatch(e.Param); m != nil { // texts are never wrong, and pictures come before them
		own.Param = m[1] + ".images" + m[2]
		if !r.chat {
			own.Param = "images" + m[2]
		}
	} else if !r.chat && strings.HasPrefix(e.Param, "messages") {
		own.Param = "prompt"
	}
	return &own
}
