package openai_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// patience bounds every wait of the tests; only a failure reaches it.
const patience = time.Minute

// object is JSON.
type object = map[string]any

// site is a running server.
type site struct {
	t      testing.TB
	server *serve.Server
	url    string
	log    *logs
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

// launch starts a server whose model still loads.
func launch(t testing.TB, o serve.Options) *site {
	t.Helper()
	s := &site{t: t, log: &logs{}}
	o.Logger = slog.New(slog.NewTextHandler(s.log, nil))
	o.Version = "test"
	server, err := serve.New(o)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server.Handler())
	s.server, s.url = server, web.URL
	t.Cleanup(func() {
		web.Close()
		server.Close()
	})
	return s
}

// with starts a server with a fake model.
func with(t testing.TB, b *fake.Backend) *site {
	t.Helper()
	if b.Model.Name == "" {
		b.Model.Name, b.Model.Context = "fake", 2000
	}
	b.Model.StopIDs = []int32{fake.EOT}
	s := launch(t, serve.Options{})
	s.server.SetReady(b)
	return s
}

// says is a model that always gives the same pieces.
func says(pieces ...string) *fake.Backend {
	return &fake.Backend{Script: func(string) ([]string, error) { return pieces, nil }}
}

// send makes a request; body is JSON, or a string to be sent as it is.
func (s *site) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	s.t.Helper()
	text, ok := body.(string)
	if !ok && body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		text = string(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(r)
}

// do gives a response with its body.
func (s *site) do(method, path string, body any) (*http.Response, string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	response, err := s.send(ctx, method, path, body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return response, string(data)
}

// post gives the status and the object of an answer.
func (s *site) post(path string, body any) (int, object) {
	s.t.Helper()
	response, text := s.do("POST", path, body)
	return response.StatusCode, parse(s.t, text)
}

func parse(t testing.TB, text string) object {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return o
}

// at follows a path of names and indices into JSON.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			o, ok := v.(object)
			if !ok {
				return nil
			}
			v = o[step]
		case int:
			list, ok := v.([]any)
			if !ok || step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

// chat is a request with one question.
func chat(question string, fields object) object {
	o := object{"model": "fake", "messages": []object{{"role": "user", "content": question}}}
	for name, v := range fields {
		o[name] = v
	}
	return o
}

var (
	ids         = regexp.MustCompile(`"id":"(chatcmpl|cmpl)-[0-9a-f]{32}"`)
	created     = regexp.MustCompile(`"created":[0-9]+`)
	fingerprint = regexp.MustCompile(`"fp_[0-9a-f]{12}"`)
	times       = regexp.MustCompile(`"timings":\{[^}]*\}`)
)

// stable takes out of a text what differs from run to run.
func stable(text string) string {
	text = ids.ReplaceAllString(text, `"id":"$1-…"`)
	text = created.ReplaceAllString(text, `"created":…`)
	text = fingerprint.ReplaceAllString(text, `"fp_…"`)
	return times.ReplaceAllString(text, `"timings":{…}`)
}

// frames gives the data lines of a stream; anything else but empty lines and comments fails the test.
func frames(t testing.TB, text string) []string {
	t.Helper()
	var list []string
	for frame := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		data, ok := strings.CutPrefix(frame, "data: ")
		if strings.HasPrefix(frame, ":") {
			continue
		}
		if !ok || strings.Contains(data, "\n") {
			t.Fatalf("not one data line: %q", frame)
		}
		list = append(list, data)
	}
	if !strings.HasSuffix(text, "\n\n") {
		t.Fatalf("the stream does not end with an empty line: %q", text)
	}
	return list
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
