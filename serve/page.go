package serve

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/ollama"
)

// chatIDMark is where a page, as the tutorial's Jinja template, wants the conversation's id.
var chatIDMark = regexp.MustCompile(`\{\{[-+]?\s*chat_id\s*[-+]?\}\}`)

// contentPolicy lets the page use what this server gives it and nothing else.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; " +
	"font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// page is GET /: the page, with the id of the session's conversation filled in. The first visit begins a session; each
// visit makes the conversation known.
// Programs that look for Ollama get its greeting.
func (s *Server) page(c echo.Context) error {
	c.Response().Header().Add("Vary", "Accept")
	if ollama.Greets(c.Request()) {
		return c.String(http.StatusOK, ollama.Greeting)
	}
	if _, ok := s.guard.Key(c.Request()); !ok && s.loggedIn(c.Request()) == "" {
		return s.loginForm(c, "")
	}
	text, err := s.pageText()
	if err != nil {
		return err
	}
	header := c.Response().Header()
	if s.options.Page == "" {
		s.protect(header)
	}
	header.Set("Cache-Control", "no-store")

	who, known, others := s.keys.read(c.Request())
	ours := sameOrigin(c.Request())
	if !known || !ours {
		who = newSession()
	}
	if ours { // a page of another site must not replace the session
		s.keys.write(c.Response(), c.Request(), s.options.BasePath+"/", who, others)
		s.visits.add(who)
	}
	return c.HTMLBlob(http.StatusOK, chatIDMark.ReplaceAllLiteral(text, []byte(html.EscapeString(who.chatID))))
}

// pageText is the page before the id is filled in. The user's own is read every time, so that it can be edited.
func (s *Server) pageText() ([]byte, error) {
	if s.options.Page != "" {
		text, err := os.ReadFile(s.options.Page)
		if err != nil {
			return nil, fmt.Errorf("page: %w", err)
		}
		return text, nil
	}
	return fs.ReadFile(s.options.UI, "index.html")
}

// protect sets the headers of our own page; a user's may use what it likes.
func (s *Server) protect(h http.Header) {
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// static is GET /static/…: the page's files, which browsers keep and ask about by their ETag. One that lies there as NAME.gz
// is sent as it lies, except to who does not take that.
func (s *Server) static(c echo.Context) error {
	name := "static" + path.Clean("/"+c.Param("*"))
	if !fs.ValidPath(name) {
		return errNotFound
	}
	h := c.Response().Header()
	data, err := fs.ReadFile(s.options.UI, name)
	if errors.Is(err, fs.ErrNotExist) {
		if packed, packedErr := fs.ReadFile(s.options.UI, name+".gz"); packedErr == nil {
			h.Set("Vary", "Accept-Encoding")
			if data, err = packed, nil; takesGzip(c.Request().Header) {
				h.Set("Content-Encoding", "gzip")
			} else {
				data, err = gunzip(packed)
			}
		}
	}
	if err != nil {
		if info, statErr := fs.Stat(s.options.UI, name); errors.Is(err, fs.ErrNotExist) || statErr == nil && info.IsDir() {
			return errNotFound
		}
		return err
	}
	sum := sha256.Sum256(data)
	s.protect(h)
	h.Set("ETag", `"`+base64.RawURLEncoding.EncodeToString(sum[:16])+`"`)
	h.Set("Cache-Control", "no-cache")
	http.ServeContent(c.Response(), c.Request(), path.Base(name), time.Time{}, bytes.NewReader(data))
	return nil
}

func takesGzip(h http.Header) bool {
	for _, offer := range strings.Split(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(strings.ReplaceAll(offer, " ", ""), ";")
		if q, err := strconv.ParseFloat(strings.TrimPrefix(weight, "q="), 64); strings.EqualFold(name, "gzip") && (err != nil || q > 0) {
			return true
		}
	}
	return false
}

func gunzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// favicon is GET /favicon.ico, for which browsers ask whatever a page says.
func (s *Server) favicon(c echo.Context) error {
	if data, err := fs.ReadFile(s.options.UI, "static/favicon.ico"); err == nil {
		return c.Blob(http.StatusOK, "image/x-icon", data)
	}
	return c.NoContent(http.StatusNoContent)
}
