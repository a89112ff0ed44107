package serve

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
)

// lookEvery is how often a server looks how far the answer of another one is.
const lookEvery = 300 * time.Millisecond

// elsewhereEvent is the end of an answer that another server gave.
type elsewhereEvent struct {
	Done     bool     `json:"done"`
	Response string   `json:"response"`
	ChatID   string   `json:"chat_id"`
	Finish   string   `json:"finish_reason"`
	Parent   *int64   `json:"parent"`
	Question *int64   `json:"question_id"`
	Message  *int64   `json:"message_id"`
	Numbers  *Numbers `json:"numbers"`
}

// followElsewhere streams what another server answers, as it saves it, after the reader's first bytes. The reader may
// be ahead: it had them from that server itself.
func (s *Server) followElsewhere(c echo.Context, id string, open *OpenRound, from int) error {
	ctx := c.Request().Context()
	e := newEvents(c)
	if e.open() != nil {
		return nil
	}
	defer func() { _ = e.control.SetWriteDeadline(time.Time{}) }()
	ping, look := time.NewTicker(s.options.KeepAlive), time.NewTicker(lookEvery)
	defer ping.Stop()
	defer look.Stop()
	// tell sends what the reader does not have, and says whether it is still there.
	tell := func(text string) bool {
		for from > 0 && from < len(text) && !utf8.RuneStart(text[from]) {
			from-- // half a character cannot be sent
		}
		if from >= len(text) {
			return true
		}
		err := e.send(deltaEvent{text[from:]})
		from = len(text)
		return err == nil
	}
	for {
		if !tell(open.Answer) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.life.Done():
			return nil // its reader asks another server
		case <-ping.C:
			if e.ping() != nil {
				return nil
			}
			continue
		case <-look.C:
		}
		now, err := s.store.Elsewhere(ctx, id)
		if err != nil {
			return e.send(s.public(c, err).body(language(c)))
		}
		if now == nil || now.ID != open.ID {
			break
		}
		open = now
	}
	question, answer, err := s.ended(c, id, open)
	switch {
	case err != nil:
		return e.send(s.public(c, err).body(language(c)))
	case strings.HasPrefix(answer.Content, open.Answer) && !tell(answer.Content):
		return nil
	}
	return e.send(elsewhereEvent{true, answer.Content, id, answer.Finish, orNull(question.Parent), &question.ID, &answer.ID, answer.Numbers})
}

// ended finds a round of another server in the history, or gives the reason why it is not there.
func (s *Server) ended(c echo.Context, id string, open *OpenRound) (question, answer StoredMessage, err error) {
	ctx := c.Request().Context()
	messages, err := s.store.Tree(ctx, id)
	if err != nil {
		return question, answer, err
	}
	t := newTree(messages)
	for i := len(messages) - 1; i >= 0; i-- {
		answer = messages[i]
		at, ok := t.at[answer.Parent]
		if answer.Role != RoleAssistant || !ok {
			continue
		}
		question = messages[at]
		if question.Parent == open.Question.Parent && question.Content == open.Question.Content && !answer.Created.Before(open.Question.Created) {
			return question, answer, nil
		}
	}
	failure, err := s.store.Failure(ctx, id)
	if err == nil && failure != nil {
		err = &httpError{status: errUnfinished.status, text: message{failure.ZH, failure.EN}}
	} else if err == nil {
		err = errUnfinished
	}
	return question, answer, err
}
