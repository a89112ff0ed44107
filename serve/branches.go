package serve

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/engine"
)

// place says where a question stands, or which is answered again.
type place struct {
	under int64 // a message, AtHead or AtRoot
	again int64 // a question, or an answer to it; 0: none
}

// place reads "parent" and "regenerate".
func (f fields) place() (p place, err error) {
	if raw, ok := f["parent"]; ok {
		if string(raw) == "null" {
			p.under = AtRoot
		} else if json.Unmarshal(raw, &p.under) != nil || p.under <= 0 {
			return p, badRequest("字段 parent 必须是消息的编号或 null", "field parent must be a message's id or null")
		}
	}
	if raw, ok := f["regenerate"]; ok && string(raw) != "null" {
		if json.Unmarshal(raw, &p.again) != nil || p.again <= 0 {
			return p, badRequest("字段 regenerate 必须是消息的编号", "field regenerate must be a message's id")
		}
	}
	if p.again != 0 && p.under != AtHead {
		return p, badRequest("字段 parent 和 regenerate 不能同时使用", "fields parent and regenerate exclude each other")
	}
	return p, nil
}

// locate gives a request's question, with its id if it is answered again, and the messages before it.
func (s *Server) locate(ctx context.Context, q ask) (question StoredMessage, history []StoredMessage, err error) {
	limit := 2*q.settings.Rounds - 1
	if again := q.place.again; again != 0 {
		path, err := s.store.Branch(ctx, q.chatID, again, limit+2)
		if errors.Is(err, ErrNoMessage) {
			return question, nil, badRequest("字段 regenerate:这个会话里没有编号为 %d 的消息", "field regenerate: the conversation has no message %d", again)
		}
		if err != nil {
			return question, nil, err
		}
		if n := len(path); n > 1 && path[n-1].Role == RoleAssistant {
			path = path[:n-1]
		}
		n := len(path) - 1
		if question = path[n]; question.Role != RoleUser {
			return question, nil, badRequest("字段 regenerate:消息 %d 没有对应的问题", "field regenerate: message %d answers no question", again)
		}
		return question, path[max(0, n-limit):n], nil
	}
	question = StoredMessage{Role: RoleUser, Content: q.question, Created: time.Now(), Pictures: ids(q.pictures)}
	history, err = s.store.Branch(ctx, q.chatID, q.place.under, limit)
	if errors.Is(err, ErrNoMessage) {
		return question, nil, badRequest("字段 parent:这个会话里没有编号为 %d 的消息", "field parent: the conversation has no message %d", q.place.under)
	}
	if n := len(history); err == nil && n > 0 {
		if question.Parent = history[n-1].ID; history[n-1].Role != RoleAssistant {
			return question, nil, badRequest("字段 parent:消息 %d 不是回答", "field parent: message %d is no answer", question.Parent)
		}
	}
	return question, history, err
}

// system is the system message that a request brings; nil where it brings none.
func (f fields) system() (text *string, err error) {
	if raw, ok := f["system"]; ok && json.Unmarshal(raw, &text) != nil {
		return nil, badRequest("字段 system 必须是字符串", "field system must be a string")
	}
	return text, nil
}

// sampling reads what a request says of it. The result changes only what was said.
func (f fields) sampling() (func(*engine.Sampling), error) {
	var changes []func(*engine.Sampling)
	for _, one := range []struct {
		name   string
		lo, hi float64
		whole  bool
		set    func(*engine.Sampling, float64)
	}{
		{"temperature", 0, 100, false, func(s *engine.Sampling, v float64) { s.Temperature = float32(v) }},
		{"top_p", 0, 1, false, func(s *engine.Sampling, v float64) { s.TopP = float32(v) }},
		{"top_k", 0, 1 << 20, true, func(s *engine.Sampling, v float64) { s.TopK = int(v) }},
		{"min_p", 0, 1, false, func(s *engine.Sampling, v float64) { s.MinP = float32(v) }},
		{"repetition_penalty", 0.01, 100, false, func(s *engine.Sampling, v float64) { s.RepetitionPenalty = float32(v) }},
		{"frequency_penalty", -2, 2, false, func(s *engine.Sampling, v float64) { s.FrequencyPenalty = float32(v) }},
		{"presence_penalty", -2, 2, false, func(s *engine.Sampling, v float64) { s.PresencePenalty = float32(v) }},
		{"seed", 0, 1 << 53, true, func(s *engine.Sampling, v float64) { s.Seed = uint64(v) }},
	} {
		raw, ok := f[one.name]
		if !ok || string(raw) == "null" {
			continue
		}
		var v float64
		if json.Unmarshal(raw, &v) != nil || v < one.lo || v > one.hi || one.whole && v != math.Trunc(v) {
			kindZH, kind := "数", "a number"
			if one.whole {
				kindZH, kind = "整数", "an integer"
			}
			return nil, badRequest("字段 %[1]s 必须是 %[3]g 到 %[4]g 之间的%[2]s", "field %[1]s must be %[5]s from %[3]g to %[4]g",
				one.name, kindZH, one.lo, one.hi, kind)
		}
		changes = append(changes, func(s *engine.Sampling) { one.set(s, v) })
	}
	if changes == nil {
		return nil, nil
	}
	return func(s *engine.Sampling) {
		for _, change := range changes {
			change(s)
		}
	}, nil
}

// tree knows the places of a conversation's messages.
type tree struct {
	messages []StoredMessage
	at       map[int64]int      // by id: index into messages
	under    map[[2]any][]int64 // by parent and role: ids, the oldest first
}

func newTree(messages []StoredMessage) *tree {
	t := &tree{messages, map[int64]int{}, map[[2]any][]int64{}}
	for i, m := range messages {
		t.at[m.ID] = i
		t.under[[2]any{m.Parent, m.Role}] = append(t.under[[2]any{m.Parent, m.Role}], m.ID)
	}
	return t
}

// siblings are the messages that stand where m does.
func (t *tree) siblings(m StoredMessage) []int64 { return t.under[[2]any{m.Parent, m.Role}] }

// branch is the path that ends with a message; 0: the empty one.
func (t *tree) branch(end int64) []StoredMessage {
	var path []StoredMessage
	for i, ok := t.at[end]; ok; i, ok = t.at[t.messages[i].Parent] {
		path = append(path, t.messages[i])
	}
	for i, j := 0, len(path)-1; i < j; i, j = i+1, j-1 {
		path[i], path[j] = path[j], path[i]
	}
	return path
}

func (t *tree) items(messages []StoredMessage) []messageItem {
	items := make([]messageItem, 0, len(messages)+1)
	for _, m := range messages {
		one := itemOf(m)
		one.Siblings = t.siblings(m)
		items = append(items, one)
	}
	return items
}

// showConversation is GET /api/conversations/{id}: the active branch. While an answer is running its question is the
// last message; the answer itself comes from the stream.
func (s *Server) showConversation(c echo.Context) error {
	found, err := s.named(c)
	if err != nil {
		return err
	}
	return s.show(c, found)
}

func (s *Server) show(c echo.Context, found Conversation) error {
	ctx := c.Request().Context()
	// The answer first: one that ends in between is then in the messages.
	running := s.running.running(found.ID)
	if now, err := s.store.Conversation(ctx, found.ID); err == nil {
		found = now
	} else if !errors.Is(err, ErrNoConversation) { // known from a visit alone
		return err
	}
	messages, err := s.store.Tree(ctx, found.ID)
	if err != nil {
		return err
	}
	if running != nil && s.running.running(found.ID) != running {
		running = nil
	}
	var question *StoredMessage // of the running answer
	elsewhere := false
	if running != nil {
		question = &running.question
	} else if open, err := s.store.Elsewhere(ctx, found.ID); err != nil {
		return err
	} else if open != nil {
		question, elsewhere = &open.Question, true
	}
	t := newTree(messages)
	head := found.Head
	if question != nil {
		head = question.Parent
	}
	items := t.items(t.branch(head))
	if question != nil {
		q := itemOf(*question)
		q.Siblings = t.siblings(*question)
		items = append(items, q)
	}
	body := map[string]any{"id": found.ID, "title": found.Title, "messages": items, "head": orNull(head),
		"running": question != nil, "elsewhere": elsewhere}
	if question == nil {
		failure, err := s.store.Failure(ctx, found.ID)
		if err != nil {
			return err
		}
		if failure != nil {
			body["failure"] = map[string]any{"content": failure.Question, "parent": orNull(failure.Parent), "pictures": failure.Pictures,
				"error": message{failure.ZH, failure.EN}.in(language(c)), "created_at": failure.At.UTC()}
		}
	}
	return c.JSON(http.StatusOK, body)
}

// showTree is GET /api/conversations/{id}/tree.
func (s *Server) showTree(c echo.Context) error {
	found, err := s.named(c)
	if err != nil {
		return err
	}
	messages, err := s.store.Tree(c.Request().Context(), found.ID)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"messages": newTree(messages).items(messages), "head": orNull(found.Head)})
}

// chooseBranch is PUT /api/conversations/{id}/branch.
func (s *Server) chooseBranch(c echo.Context) error {
	f, err := s.fields(c)
	if err != nil {
		return err
	}
	var id int64
	if raw, ok := f["message"]; !ok || json.Unmarshal(raw, &id) != nil || id <= 0 {
		return badRequest("字段 message 必须是消息的编号", "field message must be a message's id")
	}
	found, err := s.named(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	if err := s.running.acquire(ctx, found.ID, false); err != nil {
		return err
	}
	defer s.running.release(found.ID)
	free, err := s.claim(ctx, found.ID, false)
	if err != nil {
		return err
	}
	err = s.store.Choose(ctx, found.ID, id)
	free()
	if errors.Is(err, ErrNoMessage) {
		return errNoMessage
	}
	if err != nil {
		return err
	}
	return s.show(c, found)
}

// forgetFailure is DELETE /api/conversations/{id}/failure.
func (s *Server) forgetFailure(c echo.Context) error {
	found, err := s.named(c)
	if err != nil {
		return err
	}
	if err := s.store.ForgetFailure(c.Request().Context(), found.ID); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string]any{"success": true})
}
