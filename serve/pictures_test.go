package serve_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"chulengo/engine"
	"chulengo/internal/recorded"
	"chulengo/serve"
)

// post sends JSON and gives the status and the answer.
func post(t *testing.T, url string, v any) (int, string) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.Post(url, "application/json", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// TestRecordedPictures: in every protocol the demo checkpoint says of the two pictures what the reference said.
func TestRecordedPictures(t *testing.T) {
	s, e := demoSite(t, serve.Options{}, engine.Options{})
	for i, p := range recorded.Pictures() {
		data := "data:image/png;base64," + p.Base64
		text := func(kind string) object { return object{"type": kind, "text": p.Question} }
		user := func(parts ...object) []object { return []object{{"role": "user", "content": parts}} }
		openai := user(object{"type": "image_url", "image_url": object{"url": data}}, text("text"))
		bare := user(object{"type": "image_url", "image_url": data}, text("text"))
		for name, c := range map[string]struct {
			path string
			body object
		}{
			"openai":        {"/v1/chat/completions", object{"messages": openai, "temperature": 0}},
			"openai, bare":  {"/v1/chat/completions", object{"messages": bare, "temperature": 0}},
			"openai stream": {"/v1/chat/completions", object{"messages": openai, "temperature": 0, "stream": true}},
			"responses":     {"/v1/responses", object{"input": user(object{"type": "input_image", "image_url": data}, text("input_text")), "temperature": 0, "store": false}},
			"anthropic": {"/v1/messages", object{"max_tokens": 50, "temperature": 0, "messages": user(
				object{"type": "image", "source": object{"type": "base64", "media_type": "image/png", "data": p.Base64}}, text("text"))}},
			"ollama": {"/api/chat", object{"model": "chulengo-demo", "stream": false, "options": object{"temperature": 0},
				"messages": []object{{"role": "user", "content": p.Question, "images": []string{p.Base64}}}}},
			"ollama generate": {"/api/generate", object{"model": "chulengo-demo", "stream": false, "options": object{"temperature": 0},
				"prompt": p.Question, "images": []string{p.Base64}}},
		} {
			status, answer := post(t, s.url+c.path, c.body)
			if name == "openai stream" {
				answer = streamed(answer)
			}
			if status != 200 || !strings.Contains(answer, p.Answer) {
				t.Errorf("picture %d, %s: %d %s, want %q", i, name, status, answer, p.Answer)
			}
		}
	}
	if _, answer := post(t, s.url+"/api/show", object{"model": "chulengo-demo"}); !strings.Contains(answer, `"vision"`) {
		t.Errorf("Ollama's show does not name vision: %s", answer)
	}
	if n := e.Stats().Pictures.Encoded; n != 2 {
		t.Errorf("two pictures were encoded %d times", n)
	}
}

// streamed joins the pieces of an OpenAI stream.
func streamed(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		var event struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		if data, ok := strings.CutPrefix(line, "data: {"); ok && json.Unmarshal([]byte("{"+data), &event) == nil && len(event.Choices) > 0 {
			out.WriteString(event.Choices[0].Delta.Content)
		}
	}
	return out.String()
}

func TestPictureFields(t *testing.T) {
	s, _ := demoSite(t, serve.Options{}, engine.Options{})
	png := recorded.Pictures()[0]
	encode := func(file []byte) string {
		text, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Trim(string(text), `"`)
	}
	openai := func(url string) object {
		return object{"messages": []object{{"role": "system", "content": "x"}, {"role": "user", "content": []object{
			{"type": "text", "text": "a"}, {"type": "image_url", "image_url": object{"url": url}}}}}}
	}
	many := []object{}
	for range 65 {
		many = append(many, object{"type": "image_url", "image_url": "data:image/png;base64," + png.Base64})
	}
	for _, c := range []struct {
		path string
		body object
		want []string
	}{
		{"/v1/chat/completions", openai("data:image/png;base64,A!"), []string{"messages[1].content[1]", "base64"}},
		{"/v1/chat/completions", openai("data:image/png;base64,AAAA"), []string{"messages[1].content[1]", "another kind of file"}},
		{"/v1/chat/completions", openai("data:image/png;base64,"), []string{"messages[1].content[1]", "an empty one"}},
		{"/v1/chat/completions", openai("data:image/png,x"), []string{"messages[1].content[1]", "want data:image"}},
		{"/v1/chat/completions", openai("https://example.com/a.png"), []string{"messages[1].content[1]", "--fetch-images"}},
		{"/v1/chat/completions", openai("data:;base64," + encode(png.PNG[:400])), []string{"messages[1].content[1]", "cut off"}},
		{"/v1/chat/completions", object{"stream": true, "messages": openai("data:;base64," + encode(png.PNG[:401]))["messages"]}, []string{"messages[1].content[1]", "cut off"}},
		{"/v1/chat/completions", object{"messages": []object{{"role": "user", "content": many}}}, []string{"messages[0].content[64]", "at most 64"}},
		{"/v1/messages", object{"max_tokens": 5, "messages": []object{{"role": "user", "content": []object{
			{"type": "image", "source": object{"type": "base64", "media_type": "image/png", "data": "AAAA"}}}}}}, []string{"messages", "another kind of file"}},
		{"/api/chat", object{"model": "chulengo-demo", "messages": []object{{"role": "user", "content": "a", "images": []string{"AAAA"}}}}, []string{"messages[0].images[0]", "another kind of file"}},
		{"/v1/responses", object{"input": []object{{"role": "user", "content": []object{{"type": "input_image", "image_url": "http://127.0.0.1/"}}}}}, []string{"--fetch-images"}},
	} {
		status, answer := post(t, s.url+c.path, c.body)
		for _, want := range c.want {
			if status != 400 || !strings.Contains(answer, want) {
				t.Errorf("%s: %d %.300s, want 400 with %q", c.path, status, answer, want)
			}
		}
	}
	// What a user types is text.
	typed := "<|image|><|patch|><|image_start|>"
	_, plain := post(t, s.url+"/tokenize", object{"messages": []object{{"role": "user", "content": typed}}})
	id := strings.TrimSpace(plain)
	_, special := post(t, s.url+"/tokenize", object{"content": "<|patch|>", "add_special": false})
	var ids struct{ Tokens []int }
	if err := json.Unmarshal([]byte(special), &ids); err != nil || len(ids.Tokens) != 1 {
		t.Fatalf("the token itself: %s, %v", special, err)
	}
	var prompt struct{ Tokens []int }
	if err := json.Unmarshal([]byte(id), &prompt); err != nil || len(prompt.Tokens) < 20 {
		t.Fatalf("%s: %v", id, err)
	}
	for _, got := range prompt.Tokens {
		if got == ids.Tokens[0] {
			t.Errorf("a typed <|patch|> became the special token: %v", prompt.Tokens)
		}
	}
}

// With FetchImages addresses are fetched, but not from the server's own networks.
func TestFetchImages(t *testing.T) {
	s, _ := demoSite(t, serve.Options{FetchImages: true}, engine.Options{})
	for _, address := range []string{s.url + "/favicon.ico", "http://169.254.169.254/latest/meta-data", "http://[::1]/a.png", "file:///etc/passwd"} {
		status, answer := post(t, s.url+"/v1/chat/completions", object{"messages": []object{{"role": "user", "content": []object{
			{"type": "image_url", "image_url": object{"url": address}}}}}})
		if status != 400 || !strings.Contains(answer, "messages[0].content[0]") || !strings.Contains(answer, "cannot fetch the picture") {
			t.Errorf("%s: %d %s", address, status, answer)
		}
	}
}

// The page's conversations keep their pictures: for later questions, other answers, edits, exports and imports.
func TestConversationPictures(t *testing.T) {
	s, _ := demoSite(t, serve.Options{BodyLimit: 1500}, engine.Options{})
	c := s.browser()
	p := recorded.Pictures()
	data := func(i int) string { return "data:image/png;base64," + p[i].Base64 }
	ask := func(want string, o object) {
		t.Helper()
		o["temperature"] = 0
		if status, got := c.do("POST", "/api/generate", o); status != 200 || got["response"] != want {
			t.Errorf("%v: %d %v, want %q", o["user_input"], status, got, want)
		}
	}
	ask(p[0].Answer, object{"user_input": p[0].Question, "chat_id": "a", "images": []string{data(0)}})
	ask(p[1].Answer, object{"user_input": p[1].Question, "chat_id": "b", "images": []string{data(1)}})
	_, shown := c.do("GET", "/api/conversations/a", nil)
	first := shown["messages"].([]any)[0].(object)
	id, _ := first["pictures"].([]any)[0].(string)
	ask(p[0].Answer, object{"regenerate": first["id"], "chat_id": "a"})
	ask(p[0].Answer, object{"user_input": p[0].Question, "chat_id": "a", "parent": nil, "images": []string{id}})

	response, err := c.http.Get(s.url + "/api/conversations/a/pictures/" + id)
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(response.Body)
	response.Body.Close()
	if h := response.Header; err != nil || !bytes.Equal(file, p[0].PNG) || h.Get("Content-Type") != "image/png" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("the file: %d bytes, %v, %v", len(file), h, err)
	}
	for _, path := range []string{"/api/conversations/b/pictures/" + id, "/api/conversations/a/pictures/x", "/api/conversations/nowhere/pictures/" + id} {
		if status, got := c.do("GET", path, nil); status != 404 {
			t.Errorf("%s: %d %v", path, status, got)
		}
	}
	if status, _ := s.browser().do("GET", "/api/conversations/a/pictures/"+id, nil); status != 404 {
		t.Errorf("another browser gets the picture: %d", status)
	}

	_, exported := c.do("GET", "/api/conversations/a/export", nil)
	status, imported := c.do("POST", "/api/import", exported)
	if status != 200 || imported["imported"] != 1.0 {
		t.Fatalf("import: %d %v", status, imported)
	}
	other := imported["conversations"].([]any)[0].(object)["id"].(string)
	_, shown = c.do("GET", "/api/conversations/"+other, nil)
	again := shown["messages"].([]any)[0].(object)
	if got := again["pictures"].([]any); len(got) != 1 || got[0] != id {
		t.Errorf("imported messages %v", shown)
	}
	ask(p[0].Answer, object{"regenerate": again["id"], "chat_id": other})
	one := exported["conversations"].([]any)[0].(object)
	one["pictures"] = object{id: p[1].Base64}
	if _, got := c.do("POST", "/api/import", exported); got["imported"] != 0.0 {
		t.Errorf("an export with another file under an id: %v", got)
	}

	for _, bad := range []struct {
		images any
		want   string
	}{
		{"x", "must be an array of strings"},
		{[]string{"x"}, "images[0]: want data:image"},
		{[]string{data(0), "data:image/png;base64,AAAA"}, "images[1]: cannot read the picture"},
		{[]string{strings.Repeat("0", 64)}, "the conversation has no picture"},
		{make([]string, 17), "at most 16"},
		{[]string{data(0)[:300] + "AAAA"}, "cut off"},
	} {
		status, got := c.do("POST", "/api/generate?lang=en", object{"user_input": "q", "chat_id": "c", "images": bad.images})
		if text, _ := got["error"].(string); status != 400 || !strings.Contains(text, bad.want) {
			t.Errorf("%.60v: %d %v, want %q", bad.images, status, got, bad.want)
		}
	}
	if status, _ := c.do("POST", "/api/generate", object{"user_input": strings.Repeat("x", 1500), "chat_id": "c"}); status != 413 {
		t.Errorf("a long question: %d", status)
	}
	if _, got := c.do("GET", "/api/status", nil); got["model"].(object)["vision"] != true {
		t.Errorf("status %v", got)
	}
}
