package serve_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"chulengo/serve"
)

func TestSearchSettingsExportImport(t *testing.T) {
	s := ready(t, serve.Options{}, echoes())
	c := s.browser()
	c.answers(object{"user_input": "人民广场在哪里? <b>&"})
	c.answers(object{"user_input": "B"})
	c.answers(object{"regenerate": c.ids("x")[3]})
	c.post("/api/generate", object{"user_input": "other", "chat_id": "y"})

	_, found := c.do("GET", "/api/conversations?q=民广", nil)
	list := found["conversations"].([]any)
	if len(list) != 1 || list[0].(object)["id"] != "x" || !strings.Contains(list[0].(object)["snippet"].(string), "人民广场") || list[0].(object)["message"] == nil {
		t.Errorf("search: %v", found)
	}
	if _, got := s.browser().do("GET", "/api/conversations?q=民广", nil); len(got["conversations"].([]any)) != 0 {
		t.Errorf("another browser finds %v", got)
	}
	if status, _ := c.do("GET", "/api/conversations?q="+strings.Repeat("x", 300), nil); status != 400 {
		t.Errorf("a long query: %d", status)
	}

	want := object{"current": object{"temperature": 0.5}, "presets": []any{object{"name": "精确"}}}
	if _, got := c.do("GET", "/api/settings", nil); got["settings"] != nil {
		t.Errorf("settings %v", got)
	}
	if status, got := c.do("PUT", "/api/settings", object{"settings": want}); status != 200 {
		t.Errorf("settings: %d %v", status, got)
	}
	if _, got := c.do("GET", "/api/settings", nil); !reflect.DeepEqual(got["settings"], want) {
		t.Errorf("settings %v", got)
	}
	for body, status := range map[string]int{`{}`: 400, `{"settings": []}`: 400, `{"settings": null}`: 400,
		`{"settings": {"a": "` + strings.Repeat("x", 70000) + `"}}`: 400} {
		if got, _ := c.do("PUT", "/api/settings", body); got != status {
			t.Errorf("%.40s: %d", body, got)
		}
	}
	if status, _ := s.program().do("PUT", "/api/settings", object{"settings": object{}}); status != 401 {
		t.Errorf("settings of no session: %d", status)
	}

	_, one := c.do("GET", "/api/conversations/x/export", nil)
	_, all := c.do("GET", "/api/export?format=json", nil)
	if n := len(all["conversations"].([]any)); n != 2 || len(one["conversations"].([]any)) != 1 {
		t.Fatalf("exports: %v", all)
	}
	response, err := c.http.Get(c.url + "/api/conversations/x/export?format=markdown&lang=en")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text := make([]byte, 4096)
	n, _ := response.Body.Read(text)
	if doc := string(text[:n]); !strings.HasPrefix(doc, "# 人民广场在哪里? <b>&\n") || strings.Count(doc, "\n## User\n") != 2 || strings.Count(doc, "\n## Assistant\n") != 2 ||
		!strings.Contains(response.Header.Get("Content-Disposition"), ".md") {
		t.Errorf("markdown %q", doc)
	}
	if status, _ := c.do("GET", "/api/export?format=pdf", nil); status != 400 {
		t.Errorf("format pdf: %d", status)
	}

	// Another browser imports it: the same trees under new ids.
	other := s.browser()
	status, got := other.post("/api/import", all)
	if status != 200 || got["imported"] != 2.0 || len(got["skipped"].([]any)) != 0 {
		t.Fatalf("import: %d %v", status, got)
	}
	_, again := other.do("GET", "/api/export", nil)
	if plain, want := comparable(t, again), comparable(t, all); plain != want {
		t.Errorf("exported again:\n%s\nwant\n%s", plain, want)
	}
	broken := all["conversations"].([]any)
	broken = append(broken, object{"messages": 5}, object{"messages": []any{}}, "text", object{"messages": []any{object{"id": 1, "role": "assistant", "content": "x"}}},
		object{"messages": []any{object{"id": 1, "role": "user", "content": "x"}, object{"id": 2, "parent": 3, "role": "assistant"}}})
	status, got = other.post("/api/import", object{"format": "chulengo-chats", "version": 1, "conversations": broken})
	skipped := got["skipped"].([]any)
	if status != 200 || got["imported"] != 2.0 || len(skipped) != 5 || !strings.Contains(skipped[4].(object)["error"].(string), "messages[1].parent") ||
		!strings.Contains(skipped[0].(object)["error"].(string), "messages") || strings.Contains(fmt.Sprint(skipped), "Go ") {
		t.Errorf("import of broken ones: %d %v", status, got)
	}
	for body, field := range map[string]string{`{}`: "format", `{"format": "x"}`: "format", `{"format": "chulengo-chats"}`: "version",
		`{"format": "chulengo-chats", "version": 2}`: "version", `{"format": "chulengo-chats", "version": 1, "conversations": {}}`: "conversations"} {
		if status, got := other.post("/api/import", body); status != 400 || !strings.Contains(got["error"].(string), field) {
			t.Errorf("%s: %d %v", body, status, got)
		}
	}
}

// comparable is an export without what differs from one to the next: ids become places.
func comparable(t *testing.T, export object) string {
	t.Helper()
	delete(export, "exported_at")
	for _, c := range export["conversations"].([]any) {
		c := c.(object)
		place := map[any]int{nil: 0}
		for i, m := range c["messages"].([]any) {
			m := m.(object)
			place[m["id"]] = i + 1
			m["id"] = i + 1
			if m["parent"] != nil {
				m["parent"] = place[m["parent"]]
			}
		}
		c["head"] = place[c["head"]]
	}
	text, err := json.Marshal(export)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
