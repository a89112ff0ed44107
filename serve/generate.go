package serve

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"chulengo/engine"
	"chulengo/serve/internal/completion"
)

// generate is POST /api/generate. The order of the checks is the tutorial's.
func (s *Server) generate(c echo.Context) error {
	backend, err := s.ready()
	if err != nil {
		return err
	}
	if s.drain.Err() != nil {
		return errDraining
	}
	f, err := s.fields(c)
	if err != nil {
		return err
	}
	var set settings
	if set.NewTokens, err = f.integer("max_new_tokens", defaultNewTokens, minNewTokens, maxNewTokens); err != nil {
		return err
	}
	if set.Rounds, err = f.integer("max_history_length", defaultRounds, minRounds, maxRounds); err != nil {
		return err
	}
	place, err := f.place()
	if err != nil {
		return err
	}
	question, pictures := "", []shown(nil)
	if place.again == 0 {
		if pictures, err = s.pictures(backend, f); err != nil {
			return err
		}
		if question, err = f.userInput(); err != nil && (len(pictures) == 0 || err != error(errEmptyInput)) {
			return err
		}
	}
	if set.Sampling, err = f.sampling(); err != nil {
		return err
	}
	if set.System, err = f.system(); err != nil {
		return err
	}
	stream, err := f.flag("stream")
	if err != nil {
		return err
	}
	detach, err := f.flag("detach")
	if err != nil {
		return err
	}
	progress, err := f.flag("progress")
	if err != nil {
		return err
	}
	id, err := f.chatID()
	if err != nil {
		return err
	}
	who := s.session(c.Request())
	if id == "" {
		if id = who.chatID; id == "" {
			id = uuid.NewString()
		}
	}
	found, err := s.conversation(c, id)
	switch {
	case errors.Is(err, ErrNoConversation):
		found.Owner = who.owner
	case err != nil:
		return err
	}
	ctx := c.Request().Context()
	if detach {
		ctx = context.WithoutCancel(ctx) // not even while the question is being written down
	}
	a, err := s.ask(ctx, backend, ask{id, found.Owner, question, pictures, place, set, detach})
	if err != nil {
		return err
	}
	if stream {
		return s.follow(c, a, reader{tied: !detach, progress: progress})
	}
	select {
	case <-a.done:
	case <-c.Request().Context().Done():
		if !detach {
			a.end(errGone)
		}
		return c.Request().Context().Err()
	}
	state := a.state()
	if state.failure != nil {
		return state.failure
	}
	if state.finish == FinishInterrupted {
		return errDraining
	}
	return c.JSON(200, a.reply(state.text))
}

// reply is the tutorial's answer.
type reply struct {
	Response string `json:"response"`
	ChatID   string `json:"chat_id"`
	Tokens   int    `json:"max_new_tokens"`
	Rounds   int    `json:"max_history_length"`
}

func (a *answer) reply(text string) reply {
	return reply{text, a.chatID, a.settings.NewTokens, a.settings.Rounds}
}

// ask is a checked request for an answer.
type ask struct {
	chatID   string
	owner    string // of the conversation, if it is new
	question string
	pictures []shown
	place    place
	settings settings
	detach   bool // the answer goes on without its client
}

// ask starts an answer when it is its conversation's turn. Errors come before the history is touched.
func (s *Server) ask(ctx context.Context, backend Backend, q ask) (*answer, error) {
	waiting, endWait := context.WithCancelCause(ctx)
	defer endWait(nil)
	defer context.AfterFunc(s.drain, func() { endWait(errDraining) })()
	if err := s.running.acquire(waiting, q.chatID, !q.detach); err != nil {
		return nil, err
	}
	free, err := s.claim(waiting, q.chatID, !q.detach)
	if err != nil {
		s.running.release(q.chatID)
		return nil, err
	}
	a, err := s.begin(ctx, backend, q, free)
	if err != nil {
		free()
		s.running.release(q.chatID)
		return nil, err
	}
	return a, nil
}

// claimEvery is how often a request looks whether another server has ended its answer.
const claimEvery = 200 * time.Millisecond

// claim gets a conversation from the other servers, waiting where they answer in it; without wait, it gives errBusy.
func (s *Server) claim(ctx context.Context, id string, wait bool) (free func(), err error) {
	for {
		free, err := s.store.Claim(ctx, id)
		switch {
		case !errors.Is(err, ErrClaimed):
			return free, err
		case !wait:
			return nil, errBusy
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(claimEvery):
		}
	}
}

// begin starts an answer; the caller holds the conversation's turn, which passes to the answer.
func (s *Server) begin(ctx context.Context, backend Backend, q ask, free func()) (*answer, error) {
	asked := time.Now()
	question, history, err := s.locate(ctx, q)
	if err != nil {
		return nil, err
	}
	info := backend.Info()
	system := s.options.System
	if q.settings.System != nil {
		system = *q.settings.System
	}
	messages, err := s.illustrate(ctx, backend, q, window(history, question, q.settings.Rounds))
	if err != nil {
		return nil, err
	}
	request, err := s.fit(backend, info.Context, system, messages, q.settings.NewTokens)
	if err != nil {
		return nil, err
	}
	request.Sampling = info.Sampling
	if s.options.Sampling != nil {
		request.Sampling = *s.options.Sampling
	}
	if q.settings.Sampling != nil {
		q.settings.Sampling(&request.Sampling)
	}
	if request.Sampling.Seed == 0 {
		request.Sampling.Seed = rand.Uint64()
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	round, err := s.record(ctx, q, question)
	if err != nil {
		s.leave()
		if errors.Is(err, ErrNoMessage) && q.place == (place{}) {
			return s.begin(ctx, backend, q, free) // the conversation was cleared since its head was read
		}
		return nil, err
	}
	alive, end := context.WithCancelCause(s.life)
	a := newAnswer(q, question, free, end)
	a.report(progress{Queue: backend.Stats().Queued, Prompt: len(request.Prompt)})
	s.running.start(a)
	go s.run(alive, backend, request, a, round, newMeter(asked, len(request.Prompt), info.Context))
	return a, nil
}

// record writes the question down.
func (s *Server) record(ctx context.Context, q ask, question StoredMessage) (round int64, err error) {
	if _, err := s.store.Touch(ctx, q.chatID, q.owner); err != nil {
		return 0, err
	}
	under := question.Parent
	if under == 0 {
		under = AtRoot
	}
	return s.store.Begin(ctx, q.chatID, Question{Text: question.Content, Under: under, Answers: question.ID,
		Pictures: question.Pictures, Files: files(q.pictures)})
}

// window gives the messages of a prompt: the last 2·rounds, the question included. It never begins with an answer,
// which a full history would make it do, and leaves out rounds that were ended before a word was said.
func window(history []StoredMessage, question StoredMessage, rounds int) []StoredMessage {
	var list []StoredMessage
	for _, m := range history {
		if m.Role == RoleAssistant && m.Content == "" && (m.Finish == FinishStopRequested || m.Finish == FinishInterrupted) {
			if n := len(list); n > 0 && list[n-1].Role == RoleUser {
				list = list[:n-1]
			}
			continue
		}
		list = append(list, m)
	}
	list = append(list, question)
	list = list[max(0, len(list)-2*rounds):]
	for list[0].Role == RoleAssistant {
		list = list[1:]
	}
	return list
}

// fit renders the prompt, without the oldest rounds where there are too many for the context (0: without bound) to
// leave room for an answer: for newTokens, or a quarter of the context where that is less. A question that does not fit
// by itself is an error.
func (s *Server) fit(backend Backend, limit int, system string, messages []Message, newTokens int) (engine.Request, error) {
	for {
		whole := messages
		if system != "" {
			whole = append([]Message{{Role: RoleSystem, Content: system}}, messages...)
		}
		prompt, err := backend.Prompt(whole)
		if err != nil {
			return engine.Request{}, fmt.Errorf("prompt: %w", err)
		}
		prompt, media, err := expand(backend, prompt, messages)
		if err != nil {
			return engine.Request{}, fmt.Errorf("prompt: %w", err)
		}
		switch {
		case limit == 0 || len(prompt)+min(newTokens, limit/4) <= limit:
		case len(messages) > 1:
			messages = messages[1:]
			for messages[0].Role == RoleAssistant {
				messages = messages[1:]
			}
			continue
		case len(prompt) >= limit:
			return engine.Request{}, errTooLong(len(prompt), limit)
		}
		if limit > 0 {
			newTokens = min(newTokens, limit-len(prompt))
		}
		return engine.Request{Prompt: prompt, Media: media, MaxTokens: newTokens}, nil
	}
}

// run generates an answer and settles what becomes of it:
//
//	ended by the model, its bounds, or a request to stop: joins the history
//	the server ends: joins the history as interrupted
//	its client is gone, the conversation was cleared, or it failed: forgotten, the question too
//	it was detached and failed: a note beside the history, for a client that is not there to hear of it
func (s *Server) run(ctx context.Context, backend Backend, request engine.Request, a *answer, round int64, m meter) {
	defer s.leave()
	defer a.end(nil)
	saved := s.saveWhileRunning(a, round)
	finish, err := s.converse(ctx, backend, request, a, m)
	saved()

	var failure *httpError
	switch cause := context.Cause(ctx); {
	case err == nil && finish != string(engine.FinishCancelled):
	case cause == nil && err == nil:
		finish = FinishInterrupted // the backend gave up on its own
	case cause == nil:
		failure = s.explain(err)
	case errors.Is(cause, errGone):
		failure = errInternal // nobody reads it
	case errors.Is(cause, errShutdown):
		finish = FinishInterrupted
	default:
		finish = FinishStopRequested
	}
	// The history is kept even when the server is ending.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var placed Round
	switch state := a.state(); {
	case failure != nil && a.detached:
		err = s.store.Fail(ctx, round, failure.text.zh, failure.text.en)
	case failure != nil:
		err = s.store.Abandon(ctx, round)
	default:
		placed, err = s.store.Finish(ctx, round, Answer{state.text, finish, &state.numbers})
	}
	if err != nil {
		s.log.Error("the history cannot be written", "error", err)
	}
	a.free()
	s.running.release(a.chatID) // before readers hear of the end: the next question may follow at once
	a.close(finish, failure, placed)
}

// converse lets the model speak into the answer. A panic of the backend is an error.
func (s *Server) converse(ctx context.Context, backend Backend, request engine.Request, a *answer, m meter) (finish string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	var clean cleaner
	var raw strings.Builder
	request.Progress = func(p engine.Progress) { a.report(progress{p.Queue, p.Prompt, p.Cached, p.Read}) }
	result, err := backend.Generate(ctx, request, func(e engine.Event) error {
		raw.WriteString(e.Text)
		a.count(m.token(time.Now()))
		a.append(clean.Write(e.Text))
		return context.Cause(ctx)
	})
	if err == nil {
		// The result may have text at its end that no event had: what might have become a stop string, say.
		if rest, ok := strings.CutPrefix(result.Text, raw.String()); ok {
			a.append(clean.Write(rest))
		}
		finish = string(result.Finish)
		a.count(m.end(result))
	}
	a.append(clean.Close())
	return finish, err
}

// saveWhileRunning writes the answer down while it grows, until the function that it returns is called.
func (s *Server) saveWhileRunning(a *answer, round int64) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(s.options.SaveEvery)
		defer tick.Stop()
		saved := 0
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			text := a.state().text
			if len(text) == saved && !s.store.Shared() {
				continue
			}
			switch err := s.store.Save(context.Background(), round, text); {
			case errors.Is(err, ErrRoundGone):
				a.end(errCleared)
			case errors.Is(err, ErrRoundStopped):
				a.end(errStopped)
			case err != nil:
				s.log.Warn("a running answer cannot be saved", "error", err)
			}
			saved = len(text)
		}
	}()
	return func() { close(stop); <-stopped }
}

// explain turns an error into one that a client may read. What is not meant for clients goes to the log.
func (s *Server) explain(err error) *httpError {
	if typed := (*httpError)(nil); errors.As(err, &typed) {
		return typed
	}
	if tooLong := (*engine.ContextError)(nil); errors.As(err, &tooLong) {
		return errTooLong(tooLong.Prompt, tooLong.Context)
	}
	if bad := (*engine.PictureError)(nil); errors.As(err, &bad) {
		return publicly(completion.Unreadable("images", bad.Err))
	}
	switch {
	case errors.Is(err, engine.ErrBusy):
		return errOverloaded
	case errors.Is(err, engine.ErrClosed) && s.drain.Err() != nil:
		return errDraining
	}
	s.log.Error("an answer failed", "error", err)
	return errInternal
}

// clearHistory is POST /api/clear_history.
func (s *Server) clearHistory(c echo.Context) error {
	f, err := s.fields(c)
	if err != nil {
		return unsuccessful(err)
	}
	id, err := f.chatID()
	if err != nil {
		return unsuccessful(err)
	}
	who := s.session(c.Request())
	if id == "" {
		id = who.chatID
	}
	if _, err = s.conversation(c, id); errors.Is(err, ErrNoConversation) || errors.Is(err, errNoConversation) {
		return unsuccessful(&httpError{status: 400, text: textInvalidID})
	}
	if err == nil {
		s.endAnswer(c.Request().Context(), id, errCleared)
		err = s.store.Clear(c.Request().Context(), id)
	}
	if err != nil && !errors.Is(err, ErrNoConversation) { // nothing was ever said in it
		return unsuccessful(err)
	}
	return c.JSON(200, map[string]any{"success": true, "message": textCleared.in(language(c))})
}

// unsuccessful adds "success": false to an error.
func unsuccessful(err error) error {
	typed := (*httpError)(nil)
	if !errors.As(err, &typed) {
		return &httpError{status: errInternal.status, text: errInternal.text,
			fields: map[string]any{"success": false}, cause: err}
	}
	e := *typed
	e.fields = map[string]any{"success": false}
	return &e
}

// stop is POST /api/stop.
func (s *Server) stop(c echo.Context) error {
	f, err := s.fields(c)
	if err != nil {
		return err
	}
	id, err := f.chatID()
	if err != nil {
		return err
	}
	if id == "" {
		id = s.session(c.Request()).chatID
	}
	stopped := false
	if _, err := s.conversation(c, id); err == nil {
		if stopped = s.endAnswer(c.Request().Context(), id, errStopped); !stopped {
			if stopped, err = s.store.Stop(c.Request().Context(), id); err != nil {
				return err
			}
		}
	}
	return c.JSON(200, map[string]any{"success": true, "stopped": stopped})
}

// endAnswer ends the running answer of a conversation, if there is one, and waits a while until the history has it.
func (s *Server) endAnswer(ctx context.Context, id string, cause error) bool {
	a := s.running.running(id)
	if a == nil {
		return false
	}
	a.end(cause)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	select {
	case <-a.done:
	case <-ctx.Done():
	}
	return true
}
