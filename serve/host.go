package serve

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/engine"
	"chulengo/serve/anthropic"
	"chulengo/serve/internal/completion"
	"chulengo/serve/internal/fetch"
	"chulengo/serve/ollama"
	"chulengo/serve/openai"
)

// host is what the protocols for programs get of the server.
func (s *Server) host() *completion.Host {
	return &completion.Host{
		Begin:     s.beginProtocol,
		Ready:     s.readyProtocol,
		Log:       requestLogger(s.log),
		BodyLimit: 16 * s.options.BodyLimit, // programs send whole histories, schemas and token ids
		KeepAlive: s.options.KeepAlive,
		Version:   s.options.Version,
	}
}

// fetch gets pictures from the net, if that is allowed.
func (s *Server) fetch() func(context.Context, string) ([]byte, error) {
	if !s.options.FetchImages {
		return nil
	}
	return fetch.New(engine.MaxPictureBytes).Get
}

// newCore gives the core of a loaded model. sampling (nil: the model's own) is the server's.
func newCore(b Backend, sampling *engine.Sampling, get func(context.Context, string) ([]byte, error)) *completion.Core {
	info := b.Info()
	o := completion.Options{Name: info.Name, Aliases: []string{info.Name, info.Display}, Root: info.Root, Created: time.Now(),
		Context: info.Context, Sampling: info.Sampling, StopIDs: info.StopIDs, ChatTemplate: info.ChatTemplate,
		Sequences: info.Sequences, Pictures: info.Pictures, Fetch: get,
		Meta: completion.Meta{TrainContext: info.TrainContext, Dim: info.Dim, Params: info.Params, Bytes: info.Bytes}}
	if info.NoPictures != "" {
		o.NoPictures = " (" + info.NoPictures + ")"
	}
	if sampling != nil {
		o.Sampling = *sampling
	}
	return completion.New(b, o)
}

// readyProtocol gives the core once the model is there.
func (s *Server) readyProtocol() (*completion.Core, error) {
	if _, err := s.ready(); err != nil {
		return nil, asProtocol(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core, nil
}

// beginProtocol counts an answer in. Its context ends with the request's, and with the server's life.
func (s *Server) beginProtocol(ctx context.Context) (*completion.Core, context.Context, func(), error) {
	core, err := s.readyProtocol()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := s.enter(); err != nil {
		return nil, nil, nil, asProtocol(err)
	}
	stop := context.CancelFunc(func() {})
	if s.options.AnswerTimeout > 0 {
		ctx, stop = context.WithTimeout(ctx, s.options.AnswerTimeout)
	}
	answer, end := context.WithCancelCause(ctx)
	release := context.AfterFunc(s.life, func() { end(completion.Draining()) })
	return core, answer, func() {
		release()
		end(nil)
		stop()
		s.leave()
	}, nil
}

// loggerKey is where a request's context has its logger.
type loggerKey struct{}

// requestLogger finds a request's own logger.
func requestLogger(otherwise *slog.Logger) func(*http.Request) *slog.Logger {
	return func(r *http.Request) *slog.Logger {
		if log, ok := r.Context().Value(loggerKey{}).(*slog.Logger); ok {
			return log
		}
		return otherwise
	}
}

// writer writes errors in the shape of the protocol that a request's path belongs to; nil: in the page's own.
func (s *Server) writer(c echo.Context) func(echo.Context, error) error {
	switch path := strings.TrimPrefix(c.Request().URL.Path, s.options.BasePath); {
	case anthropic.Owns(path):
		return anthropic.WriteError
	case ollama.Owns(path):
		return ollama.WriteError
	case openai.Owns(path):
		return openai.WriteError
	}
	return nil
}

// asProtocol gives one of this package's errors as the protocols know it.
func asProtocol(err error) error {
	var own *httpError
	if errors.As(err, &own) {
		return own.protocol()
	}
	return err
}

func (e *httpError) protocol() *completion.Error {
	p := &completion.Error{ZH: e.text.zh, EN: e.text.en, Cause: e.cause}
	switch e.status {
	case http.StatusBadRequest:
		p.Kind = completion.KindInvalid
	case http.StatusNotFound:
		p.Kind = completion.KindNotFound
	case http.StatusRequestEntityTooLarge:
		p.Kind = completion.KindTooLarge
	case http.StatusMethodNotAllowed:
		p.Kind = completion.KindMethod
	case http.StatusUnauthorized:
		p.Kind = completion.KindAuth
	case http.StatusForbidden:
		p.Kind = completion.KindForbidden
	case http.StatusTooManyRequests:
		p.Kind = completion.KindRate
		seconds, _ := strconv.Atoi(e.header["Retry-After"])
		p.RetryAfter = time.Duration(seconds) * time.Second
	case http.StatusServiceUnavailable:
		p.Kind, p.RetryAfter = completion.KindLoading, 5*time.Second
		if e == errDraining {
			return completion.Draining()
		}
	}
	return p
}
