package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// patience bounds every wait of the tests; only a failure reaches it.
const patience = 25 * time.Second

// site is a running server.
type site struct {
	t       testing.TB
	server  *serve.Server
	url     string
	backend *fake.Backend
	log     *logs
	end     context.CancelFunc // ends Run gracefully
	ended   chan error         // what Run returned
}

// logs collects what a server logs.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// launch starts a server on a real listener; its model is still loading.
func launch(t testing.TB, o serve.Options) *site {
	t.Helper()
	s := &site{t: t, log: &logs{}, ended: make(chan error, 1)}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	server, err := serve.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.server, s.url = server, "http://"+server.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	s.end = cancel
	go func() { s.ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		server.Close()
		select {
		case err := <-s.ended:
			s.ended <- err
		case <-time.After(patience):
			t.Error("the server did not end")
		}
	})
	return s
}

// ready starts a server whose model is b.
func ready(t testing.TB, o serve.Options, b *fake.Backend) *site {
	t.Helper()
	s := launch(t, o)
	s.backend = b
	s.server.SetReady(b)
	return s
}

// says is a backend that always gives the same pieces.
func says(pieces ...string) *fake.Backend {
	return &fake.Backend{Script: func(string) ([]string, error) { return pieces, nil }}
}

// object is JSON.
type object = map[string]any

// client talks to a site; with a jar it is a browser, without one a program.
type client struct {
	*site
	http   *http.Client
	header http.Header
}

func (s *site) program() *client {
	return &client{s, &http.Client{Transport: &http.Transport{}}, http.Header{}}
}

// browser has opened the page.
func (s *site) browser() *client {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	c := s.program()
	c.http.Jar = jar
	if status, _ := c.do("GET", "/", nil); status != 200 {
		s.t.Fatalf("GET /: %d", status)
	}
	return c
}

// request makes a request; body is JSON, or a string to be sent as it is.
func (c *client) request(ctx context.Context, method, path string, body any) *http.Request {
	c.t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	default:
		data, err := json.Marshal(body)
		if err != nil {
			c.t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, reader)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header = c.header.Clone()
	if body != nil && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// do gives a response's status and, if it is JSON, its object.
func (c *client) do(method, path string, body any) (int, object) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	response, err := c.http.Do(c.request(ctx, method, path, body))
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
		return 0, nil
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
	}
	var o object
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(data, &o); err != nil {
			c.t.Errorf("%s %s: %v in %q", method, path, err, data)
		}
	}
	return response.StatusCode, o
}

func (c *client) post(path string, body any) (int, object) {
	c.t.Helper()
	return c.do("POST", path, body)
}

// page gives the text of the page.
func (c *client) page() string {
	c.t.Helper()
	response, err := c.http.Do(c.request(context.Background(), "GET", "/", nil))
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

// messages gives a conversation's contents: "role: content (finish)" each.
func (c *client) messages(id string) []string {
	c.t.Helper()
	status, o := c.do("GET", "/api/conversations/"+id, nil)
	if status != 200 {
		c.t.Fatalf("conversation %s: %d %v", id, status, o)
	}
	list := []string{}
	for _, m := range o["messages"].([]any) {
		m := m.(object)
		text := m["role"].(string) + ": " + m["content"].(string)
		if finish, ok := m["finish_reason"]; ok {
			text += " (" + finish.(string) + ")"
		}
		list = append(list, text)
	}
	return list
}

// stream is an open event stream.
type stream struct {
	t        testing.TB
	response *http.Response
	lines    *bufio.Scanner
	cancel   context.CancelFunc
	text     string // deltas so far
	comments int
}

// open sends a request and takes the response for a stream.
func (c *client) open(method, path string, body any) *stream {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	response, err := c.http.Do(c.request(ctx, method, path, body))
	if err != nil {
		cancel()
		c.t.Fatal(err)
	}
	s := &stream{t: c.t, response: response, lines: bufio.NewScanner(response.Body), cancel: cancel}
	c.t.Cleanup(s.close)
	return s
}

// close is what a client does that goes away.
func (s *stream) close() {
	s.cancel()
	s.response.Body.Close()
}

// next gives the next event; nil at the end.
func (s *stream) next() object {
	s.t.Helper()
	for s.lines.Scan() {
		line := s.lines.Text()
		switch {
		case line == "":
		case strings.HasPrefix(line, ":"):
			s.comments++
		case strings.HasPrefix(line, "data: "):
			var o object
			if err := json.Unmarshal([]byte(line[6:]), &o); err != nil {
				s.t.Fatalf("%v in %q", err, line)
			}
			if delta, ok := o["delta"].(string); ok {
				s.text += delta
			}
			return o
		default:
			s.t.Fatalf("a line that is no event: %q", line)
		}
	}
	return nil
}

// rest reads to the end and gives the last event.
func (s *stream) rest() object {
	s.t.Helper()
	var last object
	for o := s.next(); o != nil; o = s.next() {
		last = o
	}
	return last
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
