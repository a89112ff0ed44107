package serve

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/guard"
	"chulengo/serve/ollama"
)

// OptionError says which of the server's options cannot be used.
type OptionError struct {
	Option string // as the command spells it: trusted-proxy
	text   message
}

func (e *OptionError) Error() string { return "serve: --" + e.Option + ": " + e.text.en }

// Text is one sentence for the person who started the server.
func (e *OptionError) Text(lang Lang) string {
	if lang == English {
		return "--" + e.Option + ": " + e.text.en
	}
	return "--" + e.Option + " " + e.text.zh
}

// optionError gives a guard's error as this package's.
func optionError(err error) error {
	var bad *guard.OptionError
	if !errors.As(err, &bad) {
		return err
	}
	return &OptionError{bad.Option, message{"的值 " + bad.Got + " 不合适：应为 " + bad.WantZH, "want " + bad.WantEN + ", got " + bad.Got}}
}

// newGuard gives the guard that the options describe. Errors are *OptionError.
func newGuard(o Options) (*guard.Guard, error) {
	g := guard.Options{Keys: o.APIKeys, Hosts: o.AllowedHosts, Origins: o.Origins, Rate: o.RateLimit, Burst: o.RateBurst}
	for _, text := range o.TrustedProxies {
		p, err := guard.ParseProxy(text)
		if err != nil {
			return nil, optionError(err)
		}
		g.Proxies = append(g.Proxies, p)
	}
	if host, _, err := net.SplitHostPort(o.Addr); err == nil && host != "" && net.ParseIP(host) == nil && !strings.Contains(host, "%") {
		g.Hosts = append(g.Hosts[:len(g.Hosts):len(g.Hosts)], host) // --addr box.example:5000 is found by that name
	}
	if o.Addr == "" && len(g.Hosts) == 0 {
		g.Hosts = []string{"*"} // behind Handler lies a server of others, which knows its names
	}
	made, err := guard.New(g)
	return made, optionError(err)
}

// visitor is whom a request comes from, in its context.
type visitor struct {
	guard.Client
	guard *guard.Guard // nil: the request has not passed observe
}

type visitorKey struct{}

func visitorOf(r *http.Request) visitor {
	if v, ok := r.Context().Value(visitorKey{}).(visitor); ok {
		return v
	}
	return visitor{Client: guard.Client{Host: r.Host, Secure: r.TLS != nil}}
}

var (
	errHost = &httpError{status: http.StatusForbidden, text: message{
		"本服务器不认识请求中的主机名;请用 IP 地址或 localhost 访问,或在启动时加上 --allowed-host",
		"this server does not go by the name in the request's Host header; use an IP address or localhost, or start it with --allowed-host"}}
	errKey = &httpError{status: http.StatusUnauthorized, fields: map[string]any{"login": true},
		header: map[string]string{"WWW-Authenticate": "Bearer"}, text: message{
			"需要 API 密钥:请登录,或发送 Authorization: Bearer 密钥",
			"an API key is needed: log in, or send Authorization: Bearer KEY"}}
	errWrongKey = &httpError{status: http.StatusUnauthorized, text: message{"密钥不正确", "this is not one of the keys"}}
	errOrigin   = &httpError{status: http.StatusForbidden, text: message{"不能从别的网站登录", "one cannot log in from another site"}}
)

// errRate says when to come again.
func errRate(wait time.Duration) *httpError {
	seconds := strconv.Itoa(int(math.Ceil(wait.Seconds())))
	return &httpError{status: http.StatusTooManyRequests, header: map[string]string{"Retry-After": seconds},
		text: message{"请求太频繁,请在 " + seconds + " 秒后再试", "too many requests; please try again in " + seconds + " s"}}
}

// needsNoKey says which routes need no key and count for no rate: what watches the server, and the page's files.
func (s *Server) needsNoKey(c echo.Context) bool {
	switch path := strings.TrimPrefix(c.Request().URL.Path, s.options.BasePath); {
	case path == "/health" || path == "/readyz" || path == "/version" || path == "/favicon.ico" || path == "" || path == "/":
		return true
	default:
		return strings.HasPrefix(path, "/static/")
	}
}

// admit lets a request through, answers it itself, or gives the error that it gets.
func (s *Server) admit(c echo.Context) (answered bool, err error) {
	r, who := c.Request(), visitorOf(c.Request())
	if !s.guard.Host(r.Host) || !s.guard.Host(who.Host) {
		return false, errHost
	}
	if s.guard.CORS(r, c.Response().Header()) {
		return true, c.NoContent(http.StatusNoContent)
	}
	if s.needsNoKey(c) {
		return false, nil
	}
	path := strings.TrimPrefix(r.URL.Path, s.options.BasePath)
	if path == "/api/login" || path == "/api/logout" {
		return false, nil
	}
	key, ok := s.guard.Key(r)
	if !ok {
		if key, ok = s.loggedIn(r), true; key == "" {
			return false, errKey
		}
	}
	if looks := r.Method == http.MethodGet && strings.HasPrefix(path, "/api/") && !ollama.Owns(path); looks {
		return false, nil // the page looks often at what is there, and it costs little
	}
	if wait := s.guard.Wait(key, who.Addr); wait > 0 {
		return false, errRate(wait)
	}
	return false, nil
}

const loginCookie = "chulengo_login"

// loggedIn gives the name of the session that a request acts for, if it was opened with a key; "" otherwise.
func (s *Server) loggedIn(r *http.Request) string {
	who := s.session(r)
	if who.owner == "" {
		return ""
	}
	for _, cookie := range r.CookiesNamed(loginCookie) {
		if s.guard.LoggedIn(s.keys.key, cookie.Value, who.owner) {
			return who.owner
		}
	}
	return ""
}

// login is POST /api/login: {"key"} as JSON → {"success": true}, or the login form's → the page.
func (s *Server) login(c echo.Context) error {
	r, who := c.Request(), visitorOf(c.Request())
	if !sameOrigin(r) {
		return errOrigin
	}
	form := strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
	key := ""
	if form {
		r.Body = http.MaxBytesReader(c.Response(), r.Body, 64<<10)
		key = r.PostFormValue("key")
	} else {
		f, err := s.fields(c)
		if err != nil {
			return err
		}
		if key, err = f.text("key"); err != nil {
			return err
		}
	}
	if wait := s.guard.WaitLogin(who.Addr); wait > 0 {
		return errRate(wait)
	}
	if s.guard.NeedsKey() && !s.guard.Knows(strings.TrimSpace(key)) {
		if form {
			return s.loginForm(c, errWrongKey.text.in(language(c)))
		}
		return errWrongKey
	}
	session, known, others := s.keys.read(r)
	if !known {
		session = newSession()
	}
	s.keys.write(c.Response(), r, s.options.BasePath+"/", session, others)
	s.setLogin(c, guard.Login(s.keys.key, strings.TrimSpace(key), session.owner), int(cookieAge/time.Second))
	if form {
		return c.Redirect(http.StatusSeeOther, "../")
	}
	return c.JSON(http.StatusOK, map[string]any{"success": true})
}

// logout is POST /api/logout. The session and its chats stay.
func (s *Server) logout(c echo.Context) error {
	if !sameOrigin(c.Request()) {
		return errOrigin
	}
	s.setLogin(c, "", -1)
	return c.JSON(http.StatusOK, map[string]any{"success": true})
}

func (s *Server) setLogin(c echo.Context, mark string, age int) {
	c.SetCookie(&http.Cookie{Name: loginCookie, Value: mark, Path: s.options.BasePath + "/", MaxAge: age,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: visitorOf(c.Request()).Secure})
}

// text is a string that must be there.
func (f fields) text(name string) (string, error) {
	if raw := f[name]; len(raw) == 0 || raw[0] != '"' {
		return "", badRequest("字段 %s 必须是字符串", "field %s must be a string", name)
	}
	return unquote(f[name]), nil
}

// loginForm is the page for those who have not given a key: no script, so that it works whatever the page is.
func (s *Server) loginForm(c echo.Context, wrong string) error {
	say := func(zh, en string) string { return html.EscapeString(message{zh, en}.in(language(c))) }
	action := "api/login"
	if c.Request().Method == http.MethodPost {
		action = "login" // the form's own address is /api/login by now
	}
	h := c.Response().Header()
	h.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-store")
	alert := ""
	if wrong != "" {
		alert = `<p role="alert">` + html.EscapeString(wrong) + "</p>\n"
	}
	return c.HTML(http.StatusUnauthorized, fmt.Sprintf(`<!doctype html>
<html lang="%s">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>%s</title>
<h1>%s</h1>
%s<form method="post" action="%s?lang=%s">
<p><label>%s<br><input name="key" type="password" autocomplete="current-password" required autofocus></label></p>
<p><button>%s</button></p>
</form>
</html>
`, language(c), say("登录", "Log in"), say("登录", "Log in"), alert, action, language(c), say("API 密钥", "API key"), say("登录", "Log in")))
}

// mostLogged is how much of a body joins the log.
const mostLogged = 64 << 10

// logBody writes the beginning of a request's body to the log once a handler has read it.
func logBody(r *http.Request, log *slog.Logger) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	r.Body = &loggedBody{ReadCloser: r.Body, log: log}
}

type loggedBody struct {
	io.ReadCloser
	log  *slog.Logger
	text bytes.Buffer
	done bool
}

func (b *loggedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.text.Write(p[:min(n, mostLogged-b.text.Len())])
	if err != nil && !b.done {
		b.done = true
		b.log.Info("body", "text", strings.ToValidUTF8(b.text.String(), "\uFFFD"))
	}
	return n, err
}
