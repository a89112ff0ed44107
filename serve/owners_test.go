package serve_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"chulengo/serve"
)

// listed gives the ids that a client's list shows.
func (c *client) listed() string {
	c.t.Helper()
	_, got := c.do("GET", "/api/conversations", nil)
	var ids []string
	for _, one := range got["conversations"].([]any) {
		ids = append(ids, one.(object)["id"].(string))
	}
	return strings.Join(ids, " ")
}

// Who reaches which conversation: its browser session and programs that know the id, never another browser session.
func TestOwners(t *testing.T) {
	s := ready(t, serve.Options{}, says("secret answer"))
	mine, theirs, program := s.browser(), s.browser(), s.program()
	foreign := s.browser() // a browser in which another site's page makes the requests
	foreign.http.Jar = mine.http.Jar
	foreign.header.Set("Origin", "http://evil.example")

	mine.post("/api/generate", object{"user_input": "Q", "chat_id": "mine"})
	program.post("/api/generate", object{"user_input": "Q", "chat_id": "nobody's"})

	if got := mine.listed(); got != "mine" {
		t.Errorf("my list: %q", got)
	}
	for name, c := range map[string]*client{"another browser": theirs, "a program": program, "another site": foreign} {
		if got := c.listed(); got != "" {
			t.Errorf("%s lists %q", name, got)
		}
	}
	status := func(c *client, method, path string, body any) int { s, _ := c.do(method, path, body); return s }
	for _, test := range []struct {
		method, path string
		body         any
	}{
		{"GET", "/api/conversations/mine", nil},
		{"GET", "/api/conversations/mine/stream", nil},
		{"PATCH", "/api/conversations/mine", object{"title": "t"}},
		{"POST", "/api/generate", object{"user_input": "Q2", "chat_id": "mine"}},
		{"DELETE", "/api/conversations/mine", nil},
	} {
		if got := status(theirs, test.method, test.path, test.body); got != 404 {
			t.Errorf("another browser: %s %s: %d", test.method, test.path, got)
		}
		if got := status(theirs, test.method, strings.Replace(test.path, "mine", "unknown", 1), nil); test.method == "GET" && got != 404 {
			t.Errorf("unknown: %s %s: %d", test.method, test.path, got)
		}
	}
	if got := status(theirs, "POST", "/api/clear_history", object{"chat_id": "mine"}); got != 400 {
		t.Errorf("another browser clears: %d", got)
	}
	if got := len(mine.messages("mine")); got != 2 {
		t.Fatalf("the conversation has %d messages", got)
	}
	// The id is enough for a program, and for all where no session owns the conversation.
	if got := program.messages("mine"); len(got) != 2 {
		t.Errorf("a program reads %q", got)
	}
	if got := status(program, "POST", "/api/generate", object{"user_input": "Q2", "chat_id": "mine"}); got != 200 {
		t.Errorf("a program continues: %d", got)
	}
	if got := theirs.messages("nobody's"); len(got) != 2 {
		t.Errorf("a browser reads nobody's: %q", got)
	}
	if got := mine.listed(); got != "mine" {
		t.Errorf("my list: %q", got)
	}
	// A forged cookie is none.
	forged := s.program()
	forged.header.Set("Cookie", "chulengo_session=0.0.0")
	if got := forged.listed(); got != "" {
		t.Errorf("a forged cookie lists %q", got)
	}
	// Another site's requests do not fall back to the session's conversation.
	id := uuidIn(t, mine.page())
	if _, got := foreign.post("/api/generate", object{"user_input": "Q"}); got["chat_id"] == id {
		t.Error("another site spoke in the session's conversation")
	}
	if got := status(foreign, "POST", "/api/clear_history", object{}); got != 400 {
		t.Errorf("another site cleared the session's conversation: %d", got)
	}
}

// Another site's page cannot end an answer of the session's conversation, nor can another browser.
func TestOnlyOwnersStop(t *testing.T) {
	s := ready(t, serve.Options{}, held("a"))
	mine, theirs := s.browser(), s.browser()
	done := make(chan object, 1)
	go func() {
		_, got := mine.post("/api/generate", object{"user_input": "Q", "chat_id": "mine"})
		done <- got
	}()
	eventually(t, "the answer", func() bool { running, _, _ := s.backend.Counts(); return running == 1 })
	if _, got := theirs.post("/api/stop", object{"chat_id": "mine"}); got["stopped"] != false {
		t.Errorf("another browser: %v", got)
	}
	mine.header.Set("Origin", "http://evil.example")
	if _, got := mine.post("/api/stop", object{}); got["stopped"] != false {
		t.Errorf("another site: %v", got)
	}
	s.speak(1)
	if got := <-done; got["response"] != "a" {
		t.Errorf("got %v", got)
	}
}

func TestConversationRoutes(t *testing.T) {
	s := ready(t, serve.Options{}, says("A"))
	c := s.browser()
	status, made := c.post("/api/conversations", nil)
	id, _ := made["id"].(string)
	if status != 201 || !uuidPattern.MatchString(id) {
		t.Fatalf("got %d %v", status, made)
	}
	if got := c.listed(); got != "" {
		t.Errorf("a silent conversation is listed: %q", got)
	}
	c.post("/api/generate", object{"user_input": "What  is\nthis?", "chat_id": id})
	_, got := c.do("GET", "/api/conversations/"+id, nil)
	if got["id"] != id || got["title"] != "What is this?" || got["running"] != false || len(got["messages"].([]any)) != 2 {
		t.Errorf("got %v", got)
	}
	for _, bad := range []any{object{}, object{"title": 5}, object{"title": nil}, "{"} {
		if status, _ := c.do("PATCH", "/api/conversations/"+id, bad); status != 400 {
			t.Errorf("%v: got %d", bad, status)
		}
	}
	for _, title := range []string{"My talk", ""} {
		if status, got := c.do("PATCH", "/api/conversations/"+id, object{"title": title}); status != 200 || got["success"] != true {
			t.Errorf("got %d %v", status, got)
		}
		want := title
		if title == "" {
			want = "What is this?"
		}
		if _, got := c.do("GET", "/api/conversations/"+id, nil); got["title"] != want {
			t.Errorf("title %v, want %q", got["title"], want)
		}
	}
	if status, got := c.do("DELETE", "/api/conversations/"+id, nil); status != 200 || got["success"] != true {
		t.Errorf("got %d %v", status, got)
	}
	if status, got := c.do("GET", "/api/conversations/"+id, nil); status != 404 || got["error"] != "会话不存在" {
		t.Errorf("got %d %v", status, got)
	}
	// Ids that a client chose are reached through the path, whatever is in them.
	const odd = "a/b c?d#e%2F好"
	c.post("/api/generate", object{"user_input": "Q", "chat_id": odd})
	if got := c.messages("a%2Fb%20c%3Fd%23e%252F%E5%A5%BD"); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestCookie(t *testing.T) {
	s := launch(t, serve.Options{})
	c := s.browser()
	first := uuidIn(t, c.page())
	if again := uuidIn(t, c.page()); again != first {
		t.Errorf("the session's id changed from %s to %s", first, again)
	}
	response, err := http.Get(s.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	cookies := response.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("got %v", cookies)
	}
	k := cookies[0]
	if k.Name != "chulengo_session" || !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Secure || k.Path != "/" || k.MaxAge < 86400 {
		t.Errorf("got %v", k)
	}
	// A request that another site causes must not replace the session.
	c.header.Set("Sec-Fetch-Site", "same-site")
	other := uuidIn(t, c.page())
	c.header.Del("Sec-Fetch-Site")
	if other == first || uuidIn(t, c.page()) != first {
		t.Errorf("ids: %s, then %s", first, other)
	}
}

// Visits alone write nothing, but what they name is known, and its browser's.
func TestVisits(t *testing.T) {
	s := ready(t, serve.Options{}, says("A"))
	mine := s.browser()
	id := uuidIn(t, mine.page())
	program := s.program()
	for _, c := range []*client{mine, program} {
		if status, got := c.do("GET", "/api/conversations/"+id, nil); status != 200 || len(got["messages"].([]any)) != 0 {
			t.Errorf("got %d %v", status, got)
		}
	}
	if status, _ := s.browser().do("GET", "/api/conversations/"+id, nil); status != 404 {
		t.Errorf("another browser: %d", status)
	}
	program.post("/api/generate", object{"user_input": "Q", "chat_id": id})
	if got := mine.listed(); got != id {
		t.Errorf("my list: %q", got)
	}
	other := s.browser()
	id = uuidIn(t, other.page())
	if status, _ := other.do("PATCH", "/api/conversations/"+id, object{"title": "t"}); status != 200 {
		t.Errorf("rename: %d", status)
	}
	if _, got := other.do("GET", "/api/conversations/"+id, nil); got["title"] != "t" {
		t.Errorf("got %v", got)
	}
}

func TestPages(t *testing.T) {
	ui := fstest.MapFS{
		"index.html":       {Data: []byte("<p>{{ chat_id }}</p><script src=static/app.js></script>")},
		"static/app.js":    {Data: []byte("let a = 1")},
		"static/lib/x.css": {Data: []byte("a{}")},
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write([]byte("let b = 2"))
	w.Close()
	ui["static/lib/b.js.gz"] = &fstest.MapFile{Data: packed.Bytes()}
	s := launch(t, serve.Options{UI: ui, BasePath: "chat/"})
	get := func(path, etag string) *http.Response {
		r, _ := http.NewRequest("GET", s.url+path, nil)
		r.Header.Set("If-None-Match", etag)
		response, err := (&http.Transport{}).RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response
	}
	page := get("/chat/", "")
	policy := page.Header.Get("Content-Security-Policy")
	if page.StatusCode != 200 || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "script-src 'self'") ||
		page.Header.Get("Cache-Control") != "no-store" || page.Header.Get("X-Content-Type-Options") != "nosniff" || page.Cookies()[0].Path != "/chat/" {
		t.Errorf("page: %d %v", page.StatusCode, page.Header)
	}
	script := get("/chat/static/app.js", "")
	if script.StatusCode != 200 || !strings.HasPrefix(script.Header.Get("Content-Type"), "text/javascript") {
		t.Errorf("script: %d %v", script.StatusCode, script.Header)
	}
	if again := get("/chat/static/app.js", script.Header.Get("ETag")); again.StatusCode != 304 {
		t.Errorf("with its ETag: %d", again.StatusCode)
	}
	if other := get("/chat/static/lib/x.css", script.Header.Get("ETag")); other.StatusCode != 200 {
		t.Errorf("another file: %d", other.StatusCode)
	}
	tags := map[string]bool{}
	for accept, encoding := range map[string]string{"": "", "br": "", "gzip;q=0": "", "br, gzip": "gzip", "GZIP; q=0.5": "gzip"} {
		r, _ := http.NewRequest("GET", s.url+"/chat/static/lib/b.js", nil)
		r.Header.Set("Accept-Encoding", accept)
		response, err := (&http.Transport{DisableCompression: true}).RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		want := map[string]string{"": "let b = 2", "gzip": packed.String()}[encoding]
		if err != nil || string(body) != want || response.Header.Get("Content-Encoding") != encoding || response.Header.Get("Vary") != "Accept-Encoding" ||
			!strings.HasPrefix(response.Header.Get("Content-Type"), "text/javascript") {
			t.Errorf("packed file for %q: %v, %q, %v", accept, response.Header, body, err)
		}
		tags[response.Header.Get("ETag")] = true
	}
	if len(tags) != 2 {
		t.Errorf("want an ETag for each of the two encodings, got %v", tags)
	}
	for path, want := range map[string]int{
		"/chat": 301, "/chat/static/": 404, "/chat/static/lib": 404, "/chat/static/none": 404, "/": 404, "/static/app.js": 404,
		"/chat/static/../index.html": 404, "/chat/static/%2e%2e/index.html": 404, "/chat/static/..%2findex.html": 404, "/chat/index.html": 404,
		"/chat/favicon.ico": 204, "/chat/api/none": 404, "/chat/api/generate": 405, "/chat/api/status": 200,
	} {
		if got := get(path, "").StatusCode; got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
	for _, bad := range []string{"/a:b", "/a*", "/a b"} {
		if _, err := serve.New(serve.Options{BasePath: bad}); err == nil {
			t.Errorf("base path %q was accepted", bad)
		}
	}
}

func TestOwnPage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "index.html")
	if err := os.WriteFile(file, []byte("<b>{{ chat_id }}</b>{{chat_id}} {{-  chat_id -}} {{ other }}<script>1</script>"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := launch(t, serve.Options{Page: file})
	c := s.browser()
	text := c.page()
	id := uuidIn(t, text)
	if want := fmt.Sprintf("<b>%s</b>%s %s {{ other }}<script>1</script>", id, id, id); text != want {
		t.Errorf("got %q, want %q", text, want)
	}
	response, err := http.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if got := response.Header.Get("Content-Security-Policy"); got != "" {
		t.Errorf("the user's page has a policy: %q", got)
	}
	os.WriteFile(file, []byte("edited"), 0o600)
	if got := c.page(); got != "edited" {
		t.Errorf("got %q", got)
	}
	if _, err := serve.New(serve.Options{Page: file + "x"}); err == nil || !strings.Contains(err.Error(), file+"x") {
		t.Errorf("a missing page: %v", err)
	}
}
