package sse_test

import (
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/sse"
)

// stream gives what a handler's writer sends to a client that reads to the end.
func stream(t *testing.T, silence time.Duration, handler func(w *sse.Writer)) (*http.Response, string) {
	t.Helper()
	e := echo.New()
	e.GET("/", func(c echo.Context) error {
		w := sse.New(c, silence)
		defer w.Close()
		handler(w)
		if !w.Quiet() {
			return c.String(http.StatusTeapot, "free")
		}
		return nil
	})
	server := httptest.NewServer(e)
	defer server.Close()
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

func TestSend(t *testing.T) {
	response, text := stream(t, time.Hour, func(w *sse.Writer) {
		if err := errors.Join(w.Send("", map[string]string{"a": "<b>\n"}), w.Send("named", 1), w.Raw("[DONE]")); err != nil {
			t.Error(err)
		}
		if w.Send("", math.Inf(1)) == nil {
			t.Error("infinity is no JSON")
		}
	})
	if want := "data: {\"a\":\"<b>\\n\"}\n\nevent: named\ndata: 1\n\ndata: [DONE]\n\n"; text != want || response.StatusCode != 200 {
		t.Errorf("got %d %q, want %q", response.StatusCode, text, want)
	}
}

// TestQuiet: before the first event the response is free for something else, after a comment it is not, and after Quiet
// there are no comments.
func TestQuiet(t *testing.T) {
	if response, text := stream(t, time.Hour, func(*sse.Writer) {}); response.StatusCode != http.StatusTeapot || text != "free" {
		t.Errorf("got %d %q", response.StatusCode, text)
	}
	response, text := stream(t, 2*time.Millisecond, func(w *sse.Writer) {
		time.Sleep(50 * time.Millisecond)
		w.Quiet()
		if err := w.Raw("end"); err != nil {
			t.Error(err)
		}
		time.Sleep(20 * time.Millisecond)
	})
	pings, ok := strings.CutSuffix(text, "data: end\n\n")
	if n := strings.Count(pings, ": ping\n\n"); !ok || response.StatusCode != 200 || n == 0 || len(pings) != n*len(": ping\n\n") {
		t.Errorf("got %d %q", response.StatusCode, text)
	}
}

// TestConcurrent: events and comments do not mix.
func TestConcurrent(t *testing.T) {
	_, text := stream(t, time.Microsecond, func(w *sse.Writer) {
		for range 200 {
			if err := w.Send("", "x"); err != nil {
				t.Error(err)
			}
		}
	})
	text = strings.ReplaceAll(text, ": ping\n\n", "")
	if want := strings.Repeat("data: \"x\"\n\n", 200); text != want {
		t.Errorf("got %q", text)
	}
}
