package serve

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/anthropic"
	"chulengo/serve/internal/guard"
	"chulengo/serve/ollama"
	"chulengo/serve/openai"
	"chulengo/serve/responses"
)

// routes builds the echo instance.
func (s *Server) routes() *echo.Echo {
	e := echo.New()
	e.HTTPErrorHandler = s.fail
	e.Use(s.observe)
	g := e.Group(s.options.BasePath)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		g.Add(method, "/", s.page)
		g.Add(method, "/static/*", s.static)
		g.Add(method, "/favicon.ico", s.favicon)
	}
	if s.options.BasePath != "" {
		e.GET(s.options.BasePath, func(c echo.Context) error {
			return c.Redirect(http.StatusMovedPermanently, s.options.BasePath+"/")
		})
	}
	g.GET("/api/status", s.status)
	host := s.host()
	g.POST("/api/generate", s.generateOf(ollama.Register(g, host), host.BodyLimit))
	g.POST("/api/clear_history", s.clearHistory)
	g.POST("/api/stop", s.stop)
	g.GET("/api/conversations", s.listConversations)
	g.POST("/api/conversations", s.newConversation)
	g.GET("/api/conversations/:id", s.showConversation)
	g.PATCH("/api/conversations/:id", s.renameConversation)
	g.DELETE("/api/conversations/:id", s.deleteConversation)
	g.GET("/api/conversations/:id/stream", s.reattach)
	g.GET("/api/conversations/:id/pictures/:picture", s.showPicture)
	g.GET("/api/conversations/:id/tree", s.showTree)
	g.PUT("/api/conversations/:id/branch", s.chooseBranch)
	g.DELETE("/api/conversations/:id/failure", s.forgetFailure)
	g.GET("/api/conversations/:id/export", s.exportConversation)
	g.GET("/api/export", s.exportAll)
	g.POST("/api/import", s.importConversations)
	g.GET("/api/settings", s.settings)
	g.PUT("/api/settings", s.setSettings)
	g.POST("/api/login", s.login)
	g.POST("/api/logout", s.logout)
	g.GET("/health", s.health)
	g.GET("/readyz", s.readyz)
	g.GET("/version", s.version)
	g.GET("/metrics", s.showMetrics)
	openai.Register(g, host)
	responses.Register(g, host)
	anthropic.Register(g, host)
	return e
}

// cleanBasePath gives a base path as /a/b, or "" for the root.
func cleanBasePath(p string) (string, error) {
	clean := strings.TrimSuffix(path.Clean("/"+p), "/")
	if strings.ContainsAny(clean, ":*?#% ") {
		return "", &OptionError{"base-path", message{fmt.Sprintf("的值 %q 不合适：应为 /chat 这样的路径", p), fmt.Sprintf("want a plain path such as /chat, got %q", p)}}
	}
	return clean, nil
}

// observe wraps every request: an id, a log line without contents, and recovery from panics.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		began := time.Now()
		id := guard.RequestID(c.Request())
		if id == "" {
			random := make([]byte, 8)
			rand.Read(random)
			id = hex.EncodeToString(random)
		}
		log := s.log.With("request", id)
		header := c.Response().Header()
		header.Set(echo.HeaderXRequestID, id)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "same-origin")
		c.Set("log", log)
		who := visitor{s.guard.Client(c.Request()), s.guard}
		ctx := context.WithValue(context.WithValue(c.Request().Context(), loggerKey{}, log), visitorKey{}, who)
		c.SetRequest(c.Request().WithContext(ctx))
		if c.Request().Body != http.NoBody {
			_ = http.NewResponseController(c.Response()).SetReadDeadline(began.Add(bodyTime)) // where there are deadlines
		}
		c.Set("lang", requestLang(c.Request()))
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				log.Error("panic", "route", c.Path(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				s.fail(errInternal, c)
			}
			level := slog.LevelInfo
			if c.Request().Method == http.MethodGet && c.Response().Status < 400 {
				level = slog.LevelDebug // the page asks for its status again and again
			}
			// The route, not the path: an id is what opens a conversation.
			log.Log(context.Background(), level, "request", "method", c.Request().Method, "route", c.Path(),
				"status", c.Response().Status, "bytes", c.Response().Size, "duration", time.Since(began), "client", who.Addr)
		}()
		if s.options.LogPrompts {
			logBody(c.Request(), log)
		}
		answered, err := s.admit(c)
		if err == nil && !answered {
			err = next(c)
		}
		if err != nil {
			s.fail(err, c)
		}
		return nil
	}
}

// logger is the request's.
func (s *Server) logger(c echo.Context) *slog.Logger {
	if log, ok := c.Get("log").(*slog.Logger); ok {
		return log
	}
	return s.log
}

// language is that of the request's error texts.
func language(c echo.Context) Lang {
	lang, _ := c.Get("lang").(Lang)
	return lang
}

// fail answers a request with an error.
func (s *Server) fail(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	if c.Request().Context().Err() != nil && errors.Is(err, context.Canceled) {
		c.Response().Status = 499 // for the log: the client is gone
		return
	}
	e := s.public(c, err)
	for name, value := range e.header {
		c.Response().Header().Set(name, value)
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	switch write := s.writer(c); {
	case write != nil:
		err = write(c, e.protocol())
	case c.Request().Method == http.MethodHead:
		err = c.NoContent(e.status)
	default:
		err = c.JSON(e.status, e.body(language(c)))
	}
	if err != nil {
		s.logger(c).Debug("an error could not be sent", "error", err)
	}
}

// public turns an error into what its client may read, and logs the rest.
func (s *Server) public(c echo.Context, err error) *httpError {
	own, theirs := (*httpError)(nil), (*echo.HTTPError)(nil)
	switch {
	case errors.As(err, &own):
		if own.cause != nil {
			s.logger(c).Error("request failed", "route", c.Path(), "error", own.cause)
		}
		return own
	case errors.Is(err, ErrNoConversation):
		return errNoConversation
	case errors.Is(err, ErrNoMessage):
		return errNoMessage
	case errors.As(err, &theirs) && theirs.Code == http.StatusNotFound:
		return errNotFound
	case errors.As(err, &theirs) && theirs.Code == http.StatusMethodNotAllowed:
		return errMethod
	}
	s.logger(c).Error("request failed", "route", c.Path(), "error", err)
	return errInternal
}

// bodyTime is how long a client may take to send its body.
const bodyTime = time.Minute

// largerBody is the key under which a request keeps the limit of a body with pictures.
const largerBody = "larger body"

// fields reads the request's JSON object and takes note of its language.
func (s *Server) fields(c echo.Context) (fields, error) {
	limit := s.options.BodyLimit
	if larger, ok := c.Get(largerBody).(int64); ok {
		limit = larger
	}
	f, err := readFields(c.Response(), c.Request(), limit)
	if err != nil {
		return nil, err
	}
	// A deadline that outlived the body would end the request's context in the midst of an answer.
	_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Time{})
	c.Set("lang", f.lang(language(c)))
	return f, nil
}

// session is the browser session that a request acts for; the zero session where it acts for none.
func (s *Server) session(r *http.Request) session {
	if !sameOrigin(r) {
		return session{}
	}
	who, _, _ := s.keys.read(r)
	return who
}

// conversation gives a conversation that the request may use; ErrNoConversation if it is not known, errNoConversation
// if it is another browser session's. Whoever is no browser session, or asks for a conversation that none made, needs
// the id alone. One that is known only from a visit to the page is in the history when something is said.
func (s *Server) conversation(c echo.Context, id string) (Conversation, error) {
	who := s.session(c.Request())
	found, err := s.store.Conversation(c.Request().Context(), id)
	if errors.Is(err, ErrNoConversation) && id != "" {
		owner, visited := s.visits.owner(id)
		if id == who.chatID {
			owner, visited = who.owner, true
		}
		if visited {
			now := time.Now()
			found, err = Conversation{ID: id, Owner: owner, Created: now, Updated: now}, nil
		}
	}
	if err != nil {
		return Conversation{}, err
	}
	if found.Owner != "" && who.owner != "" && found.Owner != who.owner {
		return Conversation{}, errNoConversation
	}
	return found, nil
}
