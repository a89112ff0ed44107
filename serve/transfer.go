package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"chulengo/engine"
)

// Exports of chats, and what comes back of them.

const (
	exportFormat  = "chulengo-chats"
	exportVersion = 1
	importLimit   = 16 << 20 // bytes of a body
)

type exportedConversation struct {
	Title    string        `json:"title"`
	Created  time.Time     `json:"created_at"`
	Updated  time.Time     `json:"updated_at"`
	Head     *int64        `json:"head"`
	Messages []messageItem `json:"messages"`

	Pictures map[string][]byte `json:"pictures,omitempty"` // files by id
}

// exportConversation is GET /api/conversations/{id}/export.
func (s *Server) exportConversation(c echo.Context) error {
	found, err := s.named(c)
	if err != nil {
		return err
	}
	return s.export(c, []Conversation{found})
}

// exportAll is GET /api/export: the browser session's own.
func (s *Server) exportAll(c echo.Context) error {
	var list []Conversation
	if who := s.session(c.Request()); who.owner != "" {
		var err error
		if list, err = s.store.List(c.Request().Context(), who.owner); err != nil {
			return err
		}
	}
	return s.export(c, list)
}

// export writes conversations one after the other, so that not all are in memory at a time.
func (s *Server) export(c echo.Context, list []Conversation) error {
	format := c.QueryParam("format")
	if format == "" {
		format = "json"
	}
	kinds := map[string][2]string{"json": {"application/json; charset=utf-8", "json"}, "markdown": {"text/markdown; charset=utf-8", "md"}}
	kind, ok := kinds[format]
	if !ok {
		return badRequest("参数 format 必须是 json 或 markdown", "parameter format must be json or markdown")
	}
	h := c.Response().Header()
	h.Set("Content-Type", kind[0])
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="chulengo-%s.%s"`, time.Now().UTC().Format("20060102-150405"), kind[1]))
	h.Set("Cache-Control", "no-store")
	w := c.Response()
	if format == "json" {
		fmt.Fprintf(w, `{"format":%q,"version":%d,"exported_at":%q,"conversations":[`, exportFormat, exportVersion, time.Now().UTC().Format(time.RFC3339))
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for i, one := range list {
		messages, err := s.store.Tree(c.Request().Context(), one.ID)
		if err != nil {
			return err
		}
		separator := ""
		if format == "markdown" {
			if i > 0 {
				separator = "\n---\n\n"
			}
			_, err = io.WriteString(w, separator+markdown(one, newTree(messages).branch(one.Head), language(c)))
		} else {
			if i > 0 {
				separator = ","
			}
			e := exportedConversation{one.Title, one.Created.UTC(), one.Updated.UTC(), orNull(one.Head), make([]messageItem, len(messages)), nil}
			if e.Pictures, err = s.filesOf(c.Request().Context(), one.ID, messages); err != nil {
				return err
			}
			for k, m := range messages {
				e.Messages[k] = itemOf(m)
			}
			if _, err = io.WriteString(w, separator); err == nil {
				err = encoder.Encode(e)
			}
		}
		if err != nil {
			return err
		}
	}
	if format == "json" {
		_, err := io.WriteString(w, "]}\n")
		return err
	}
	return nil
}

// filesOf gives the files of all pictures in messages.
func (s *Server) filesOf(ctx context.Context, id string, messages []StoredMessage) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, m := range messages {
		for _, picture := range m.Pictures {
			if files[picture] != nil {
				continue
			}
			file, err := s.store.Picture(ctx, id, picture)
			if err != nil && !errors.Is(err, ErrNoPicture) {
				return nil, err
			}
			if err == nil {
				files[picture] = file
			}
		}
	}
	return files, nil
}

// checkPictures compares the files of an export with their ids, and the messages with the files.
func (e *exportedConversation) checkPictures() *httpError {
	for id, file := range e.Pictures {
		if pictureID(file) != id || len(file) > engine.MaxPictureBytes || !pictureKinds[http.DetectContentType(file)] {
			return badRequest("字段 pictures:%.80q 不是该编号的图片", "field pictures: %.80q is not the picture of that id", id)
		}
	}
	for i, m := range e.Messages {
		if len(m.Pictures) > maxShown {
			return badRequest("字段 messages[%d].pictures 太多", "field messages[%d].pictures has too many", i)
		}
		for _, id := range m.Pictures {
			if e.Pictures[id] == nil || m.Role != RoleUser {
				return badRequest("字段 messages[%d].pictures:没有图片 %.80q", "field messages[%d].pictures: there is no picture %.80q", i, id)
			}
		}
	}
	return nil
}

var (
	textUser      = message{"用户", "User"}
	textAssistant = message{"助手", "Assistant"}
	textPictures  = message{"*（图片：%d 张）*", "*(pictures: %d)*"}
	textUntitled  = message{"未命名会话", "Untitled conversation"}
)

// markdown is a conversation's active branch as a document.
func markdown(c Conversation, messages []StoredMessage, lang Lang) string {
	var b strings.Builder
	title := c.Title
	if title == "" {
		title = textUntitled.in(lang)
	}
	fmt.Fprintf(&b, "# %s\n\n*%s*\n", title, c.Created.UTC().Format(time.RFC3339))
	for _, m := range messages {
		who := textAssistant
		if m.Role == RoleUser {
			who = textUser
		}
		fmt.Fprintf(&b, "\n## %s\n\n", who.in(lang))
		if n := len(m.Pictures); n > 0 {
			fmt.Fprintf(&b, textPictures.in(lang)+"\n\n", n)
		}
		fmt.Fprintf(&b, "%s\n", strings.TrimRight(m.Content, "\n"))
	}
	return b.String()
}

// importConversations is POST /api/import. What cannot be taken is named; the rest comes in.
func (s *Server) importConversations(c echo.Context) error {
	who := s.session(c.Request())
	f, err := readFields(c.Response(), c.Request(), max(importLimit, s.options.BodyLimit))
	if err != nil {
		return err
	}
	_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Time{})
	c.Set("lang", f.lang(language(c)))
	var format string
	var version int
	var list []json.RawMessage
	switch {
	case json.Unmarshal(f["format"], &format) != nil || format != exportFormat:
		return badRequest("字段 format:不是 chulengo 导出的会话(应为 %q)", "field format: not chats that chulengo exported (want %q)", exportFormat)
	case json.Unmarshal(f["version"], &version) != nil || version < 1:
		return badRequest("字段 version 必须是正整数", "field version must be a positive integer")
	case version > exportVersion:
		return badRequest("字段 version:由更新版本的 chulengo 导出(%d,此版本只认识 %d)", "field version: exported by a newer chulengo (%d, this one knows %d)", version, exportVersion)
	case json.Unmarshal(f["conversations"], &list) != nil:
		return badRequest("字段 conversations 必须是数组", "field conversations must be an array")
	}
	type skip struct {
		Index int    `json:"index"`
		Error string `json:"error"`
	}
	made, skipped := []conversationItem{}, []skip{}
	for i, raw := range list {
		conversation, messages, pictures, problem := readExported(raw)
		if problem != nil {
			skipped = append(skipped, skip{i, problem.text.in(language(c))})
			continue
		}
		conversation, err := s.store.Import(c.Request().Context(), who.owner, conversation, messages, pictures)
		if err != nil {
			return err
		}
		made = append(made, item(conversation))
	}
	return c.JSON(http.StatusOK, map[string]any{"imported": len(made), "conversations": made, "skipped": skipped})
}

// readExported checks one conversation of an export: parents come before their children, questions under answers and
// answers under questions.
func readExported(raw json.RawMessage) (Conversation, []StoredMessage, map[string][]byte, *httpError) {
	var e exportedConversation
	if err := json.Unmarshal(raw, &e); err != nil {
		if typed := (*json.UnmarshalTypeError)(nil); errors.As(err, &typed) && typed.Field != "" {
			return Conversation{}, nil, nil, badRequest("字段 %s 的类型不对:%s", "field %s has the wrong type: %s", typed.Field, typed.Value)
		}
		return Conversation{}, nil, nil, badRequest("不是会话", "not a conversation")
	}
	if bad := e.checkPictures(); bad != nil {
		return Conversation{}, nil, nil, bad
	}
	now := time.Now()
	moment := func(t time.Time) time.Time { // what a clock may have said
		if t.Year() < 1970 || t.After(now) {
			return now
		}
		return t
	}
	c := Conversation{ID: uuid.NewString(), Title: e.Title, Created: moment(e.Created), Updated: moment(e.Updated)}
	roles := map[int64]string{}
	messages := make([]StoredMessage, 0, len(e.Messages))
	for i, m := range e.Messages {
		wrong := func(field, zh, en string) *httpError {
			return badRequest("字段 messages[%[1]d].%[2]s %[3]s", "field messages[%[1]d].%[2]s %[4]s", i, field, zh, en)
		}
		var parent int64
		if m.Parent != nil {
			parent = *m.Parent
		}
		switch {
		case m.ID == nil || *m.ID <= 0 || roles[*m.ID] != "":
			return c, nil, nil, wrong("id", "必须是不重复的正整数", "must be a positive integer that no other has")
		case m.Role != RoleUser && m.Role != RoleAssistant:
			return c, nil, nil, wrong("role", "必须是 user 或 assistant", "must be user or assistant")
		case m.Parent != nil && (roles[parent] == "" || roles[parent] == m.Role):
			return c, nil, nil, wrong("parent", "必须是前面一条对方的消息", "must be an earlier message of the other side")
		case m.Parent == nil && m.Role != RoleUser:
			return c, nil, nil, wrong("parent", "必须有:回答不能没有问题", "must be there: an answer has a question")
		case !utf8.ValidString(m.Content):
			return c, nil, nil, wrong("content", "不是有效的 UTF-8", "is no valid UTF-8")
		}
		roles[*m.ID] = m.Role
		messages = append(messages, StoredMessage{ID: *m.ID, Parent: parent, Role: m.Role, Content: m.Content, Finish: m.Finish,
			Numbers: m.Numbers, Created: moment(m.Created), Pictures: m.Pictures})
	}
	switch {
	case len(messages) == 0:
		return c, nil, nil, badRequest("字段 messages 是空的", "field messages is empty")
	case e.Head == nil:
		c.Head = messages[len(messages)-1].ID
	case roles[*e.Head] == "":
		return c, nil, nil, badRequest("字段 head:没有编号为 %d 的消息", "field head: there is no message %d", *e.Head)
	default:
		c.Head = *e.Head
	}
	// A question without an answer would be followed by another question.
	if roles[c.Head] == RoleUser {
		return c, nil, nil, badRequest("字段 head:消息 %d 不是回答", "field head: message %d is no answer", c.Head)
	}
	return c, messages, e.Pictures, nil
}

// search answers GET /api/conversations?q=.
func (s *Server) search(c echo.Context, q string) error {
	const maxQuery = 200
	if utf8.RuneCountInString(q) > maxQuery || !utf8.ValidString(q) {
		return badRequest("参数 q 太长(最多 %d 个字)", "parameter q is too long (at most %d characters)", maxQuery)
	}
	words := strings.Fields(q)
	type found struct {
		conversationItem
		Snippet string `json:"snippet,omitempty"`
		Message *int64 `json:"message,omitempty"`
	}
	items := []found{}
	if who := s.session(c.Request()); who.owner != "" {
		hits, err := s.store.Search(c.Request().Context(), who.owner, words)
		if err != nil {
			return err
		}
		for _, h := range hits {
			items = append(items, found{item(h.Conversation), snippet(h.Content, words[0]), orNull(h.Message)})
		}
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusOK, map[string]any{"conversations": items})
}

// snippet is one line of a text around the first place of a word.
func snippet(text, word string) string {
	const before, length = 20, 80 // characters
	runes := []rune(strings.Join(strings.Fields(text), " "))
	lower, sought := []rune(strings.ToLower(string(runes))), []rune(strings.ToLower(word))
	at := 0
	if len(lower) == len(runes) { // else a letter changed its length, and places would not agree
		if i := strings.Index(string(lower), string(sought)); i >= 0 {
			at = utf8.RuneCountInString(string(lower)[:i])
		}
	}
	from := max(0, at-before)
	to := min(len(runes), from+length)
	line := string(runes[from:to])
	if from > 0 {
		line = "…" + line
	}
	if to < len(runes) {
		line += "…"
	}
	return line
}

// maxSettings bounds what is kept for a session, in bytes of JSON.
const maxSettings = 64 << 10

// settings is GET /api/settings: what the page keeps for its browser session.
func (s *Server) settings(c echo.Context) error {
	var value any
	if who := s.session(c.Request()); who.owner != "" {
		text, err := s.store.Settings(c.Request().Context(), who.owner)
		if err != nil {
			return err
		}
		if text != "" {
			value = json.RawMessage(text)
		}
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusOK, map[string]any{"settings": value})
}

// setSettings is PUT /api/settings.
func (s *Server) setSettings(c echo.Context) error {
	f, err := s.fields(c)
	if err != nil {
		return err
	}
	var value map[string]json.RawMessage
	raw := f["settings"]
	if json.Unmarshal(raw, &value) != nil || value == nil {
		return badRequest("字段 settings 必须是对象", "field settings must be an object")
	}
	if len(raw) > maxSettings {
		return badRequest("字段 settings 太大(最多 %d 字节)", "field settings is too large (at most %d bytes)", maxSettings)
	}
	who := s.session(c.Request())
	if who.owner == "" {
		return errNoSession
	}
	if err := s.store.SetSettings(c.Request().Context(), who.owner, string(raw)); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"success": true})
}
