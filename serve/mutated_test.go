package serve_test

import (
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"testing"

	"chulengo/serve"
)

// Whatever bytes come as a body or in a path, the answer is no failure of the server's, and what was kept stays whole.
func TestMutatedRequests(t *testing.T) {
	server, err := serve.New(serve.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetReady(says("A"))
	handler := server.Handler()
	page := httptest.NewRecorder()
	handler.ServeHTTP(page, httptest.NewRequest("GET", "http://localhost/", nil))
	send := func(method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://localhost/", strings.NewReader(body))
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(path, "?")
		r.Header.Set("Content-Type", "application/json")
		r.AddCookie(page.Result().Cookies()[0])
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	for range 3 {
		send("POST", "/api/generate", `{"user_input": "Q", "chat_id": "kept"}`)
	}
	export := send("GET", "/api/conversations/kept/export", "").Body.String()
	seeds := []struct{ method, path, body string }{
		{"POST", "/api/generate", `{"user_input": "Q", "chat_id": "x", "parent": 2, "progress": true, "stream": true, "temperature": 0.5, "top_k": 3, "seed": 1, "system": "S"}`},
		{"POST", "/api/generate", `{"regenerate": 2, "chat_id": "x", "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.1, "lang": "en"}`},
		{"PUT", "/api/conversations/x/branch", `{"message": 2}`},
		{"PUT", "/api/settings", `{"settings": {"temperature": [1, 2, {"a": null}]}}`},
		{"POST", "/api/import", export},
		{"GET", "/api/conversations?q=A%25_", ""},
		{"GET", "/api/conversations/x/stream?from=3&progress=1", ""},
		{"GET", "/api/conversations/x/export?format=markdown", ""},
		{"DELETE", "/api/conversations/x/failure", ""},
		{"PATCH", "/api/conversations/x", `{"title": "T"}`},
		{"POST", "/api/clear_history", `{"chat_id": "x"}`},
		{"POST", "/api/stop", `{"chat_id": "x"}`},
	}
	splices := []string{"null", "-1", "1e999", "NaN", "\xff", "\x00", "\\u0000", "\\ud800", "[[[[", "{", "}", `"`, "0", "9223372036854775808", "好", "true", "%00", "%", "'"}
	random := rand.New(rand.NewPCG(4, 2026))
	statuses := map[int]int{}
	for i := range 10_000 {
		seed := seeds[random.IntN(len(seeds))]
		mutate := func(text string) string {
			for range 1 + random.IntN(3) {
				at := random.IntN(len(text) + 1)
				end := min(len(text), at+random.IntN(4))
				text = text[:at] + splices[random.IntN(len(splices))] + text[end:]
			}
			return text
		}
		path, body := seed.path, seed.body
		if body == "" || i%10 == 0 {
			path = "/api/" + mutate(strings.TrimPrefix(path, "/api/"))
		} else {
			body = mutate(body)
		}
		w := send(seed.method, path, body)
		statuses[w.Code]++
		if w.Code >= 500 {
			t.Errorf("%s %q %q: %d %s", seed.method, path, body, w.Code, w.Body)
		}
		if w.Code >= 400 && w.Body.Len() > 0 && !strings.Contains(w.Body.String(), `"error"`) {
			t.Errorf("%s %q %q: %d without an error: %s", seed.method, path, body, w.Code, w.Body)
		}
	}
	if statuses[200] < 500 || statuses[400] < 3000 {
		t.Errorf("statuses %v: the mutations reach too little", statuses)
	}
	if got := send("GET", "/api/conversations/kept", "").Body.String(); strings.Count(got, `"content":"A"`) != 3 {
		t.Errorf("afterwards: %s", got)
	}
}
