package serve

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
)

// status is GET /api/status.
func (s *Server) status(c echo.Context) error {
	s.mu.Lock()
	state, failure := "loading", ""
	switch {
	case s.failure != nil:
		state, failure = "failed", errModelFailed.text.in(language(c))
	case s.backend != nil:
		state = "ready"
	}
	done, total, m := s.done, s.total, s.model
	s.mu.Unlock()
	percent := 0
	switch {
	case state == "ready":
		percent = 100
	case total > 0:
		percent = int(min(max(done*100/total, 0), 100))
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusOK, map[string]any{
		"state": state, "done": done, "total": total, "percent": percent, "error": failure,
		"model": map[string]any{"name": m.Name, "display": m.Display, "llama": m.Llama, "scout": m.Scout,
			"demo": m.Demo, "context": m.Context, "vision": m.Pictures != nil},
		"version": s.options.Version,
	})
}

// conversationItem is a conversation as lists show it.
type conversationItem struct {
	ID      string    `json:"id"`
	Title   string    `json:"title"`
	Created time.Time `json:"created_at"`
	Updated time.Time `json:"updated_at"`
}

// messageItem is a message as the page shows it.
type messageItem struct {
	ID       *int64    `json:"id"`     // null: it joins the history with its answer
	Parent   *int64    `json:"parent"` // null: a first question
	Role     string    `json:"role"`
	Content  string    `json:"content"`
	Created  time.Time `json:"created_at"`
	Finish   string    `json:"finish_reason,omitempty"`
	Numbers  *Numbers  `json:"numbers,omitempty"`
	Pictures []string  `json:"pictures,omitempty"` // ids; the files are at …/pictures/{picture}
	Siblings []int64   `json:"siblings,omitempty"` // all that stand at its place, the oldest first
}

func itemOf(m StoredMessage) messageItem {
	return messageItem{orNull(m.ID), orNull(m.Parent), m.Role, m.Content, m.Created.UTC(), m.Finish, m.Numbers, m.Pictures, nil}
}

func item(c Conversation) conversationItem {
	return conversationItem{c.ID, c.Title, c.Created.UTC(), c.Updated.UTC()}
}

// listConversations is GET /api/conversations: the browser session's own; with ?q=, those with all its words.
func (s *Server) listConversations(c echo.Context) error {
	if q := c.QueryParam("q"); strings.TrimSpace(q) != "" {
		return s.search(c, q)
	}
	items := []conversationItem{}
	if who := s.session(c.Request()); who.owner != "" {
		list, err := s.store.List(c.Request().Context(), who.owner)
		if err != nil {
			return err
		}
		for _, one := range list {
			items = append(items, item(one))
		}
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusOK, map[string]any{"conversations": items})
}

// newConversation is POST /api/conversations: an id that nobody has, known and the session's own.
func (s *Server) newConversation(c echo.Context) error {
	made, err := s.store.Touch(c.Request().Context(), uuid.NewString(), s.session(c.Request()).owner)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusCreated, item(made))
}

// named gives the conversation in the request's path.
func (s *Server) named(c echo.Context) (Conversation, error) {
	id := c.Param("id")
	if c.Request().URL.RawPath != "" { // then echo matched the escaped path
		plain, err := url.PathUnescape(id)
		if err != nil {
			return Conversation{}, errNoConversation
		}
		id = plain
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return s.conversation(c, id)
}

// renameConversation is PATCH /api/conversations/{id}. An empty title brings back the first question.
func (s *Server) renameConversation(c echo.Context) error {
	f, err := s.fields(c)
	if err != nil {
		return err
	}
	var title *string
	if json.Unmarshal(f["title"], &title) != nil || title == nil {
		return badRequest("字段 title 必须是字符串", "field title must be a string")
	}
	found, err := s.named(c)
	if err != nil {
		return err
	}
	if _, err := s.store.Touch(c.Request().Context(), found.ID, found.Owner); err != nil {
		return err
	}
	if err := s.store.Rename(c.Request().Context(), found.ID, *title); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"success": true})
}

// deleteConversation is DELETE /api/conversations/{id}; a running answer ends.
func (s *Server) deleteConversation(c echo.Context) error {
	found, err := s.named(c)
	if err != nil {
		return err
	}
	s.endAnswer(c.Request().Context(), found.ID, errCleared)
	if err := s.store.Delete(c.Request().Context(), found.ID); err != nil && !errors.Is(err, ErrNoConversation) {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"success": true})
}

// reattach is GET /api/conversations/{id}/stream?from=N: the running answer after its first N bytes of UTF-8.
func (s *Server) reattach(c echo.Context) error {
	from := 0
	if text := c.QueryParam("from"); text != "" {
		v, ok := pythonDigits(strings.TrimSpace(text))
		if !ok || v.Sign() < 0 || !v.IsInt64() {
			return badRequest("参数 from 必须是非负整数", "parameter from must be a non-negative integer")
		}
		from = int(v.Int64())
	}
	found, err := s.named(c)
	if err != nil {
		return err
	}
	a := s.running.running(found.ID)
	if a == nil {
		open, err := s.store.Elsewhere(c.Request().Context(), found.ID)
		if err != nil {
			return err
		}
		if open != nil {
			return s.followElsewhere(c, found.ID, open, from)
		}
		return c.NoContent(http.StatusNoContent)
	}
	if n := len(a.state().text); from > n {
		return badRequest("参数 from 超出了正在生成的回答:它目前只有 %d 字节",
			"parameter from is beyond the running answer, which has %d bytes so far", n)
	}
	return s.follow(c, a, reader{from: from, atOnce: true, progress: c.QueryParam("progress") == "1"})
}
