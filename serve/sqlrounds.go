package serve

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"
)

// Rounds of a sqlStore.

func (s *sqlStore) Begin(ctx context.Context, id string, q Question) (int64, error) {
	id = s.plain(id)
	var round int64
	err := s.change(ctx, func(tx *sql.Tx) error {
		now := time.Now().UnixMilli()
		var head int64
		err := tx.QueryRow("UPDATE conversations SET updated = $1 WHERE id = $2 RETURNING coalesce(head, 0)", now, id).Scan(&head)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoConversation
		}
		if err != nil {
			return err
		}
		text, parent, pictures := s.plain(q.Text), q.Under, strings.Join(q.Pictures, " ")
		switch {
		case q.Answers != 0:
			err = tx.QueryRow("SELECT content, coalesce(parent, 0), pictures FROM messages WHERE conversation = $1 AND seq = $2 AND role = 'user'",
				id, q.Answers).Scan(&text, &parent, &pictures)
		case q.Under == AtHead:
			parent = head
		case q.Under == AtRoot:
			parent = 0
		default:
			err = tx.QueryRow("SELECT seq FROM messages WHERE conversation = $1 AND seq = $2", id, q.Under).Scan(&parent)
		}
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoMessage
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec("DELETE FROM failures WHERE conversation = $1", id); err != nil {
			return err
		}
		if err := insertPictures(tx, id, q.Files); err != nil {
			return err
		}
		return tx.QueryRow(`INSERT INTO rounds (conversation, parent, existing, question, asked, answered, server, pictures)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id`,
			id, null(parent), null(q.Answers), text, now, now, s.server, pictures).Scan(&round)
	})
	return round, err
}

func (s *sqlStore) Save(ctx context.Context, round int64, answer string) error {
	var stop int
	err := s.queryRow(ctx, "UPDATE rounds SET answer = $1, answered = $2 WHERE id = $3 RETURNING stop",
		s.plain(answer), time.Now().UnixMilli(), round).Scan(&stop)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrRoundGone
	case err == nil && stop != 0:
		return ErrRoundStopped
	}
	return err
}

func (s *sqlStore) Finish(ctx context.Context, round int64, a Answer) (done Round, err error) {
	a.Text = s.plain(a.Text)
	err = s.change(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec("UPDATE rounds SET answered = $1 WHERE id = $2", time.Now().UnixMilli(), round); err != nil {
			return err
		}
		done, err = finish(tx, round, a)
		return err
	})
	return done, err
}

// openRound is a row that leaves the table of rounds.
type openRound struct {
	conversation     string
	parent, existing int64
	question         string
	pictures         string
	asked, answered  time.Time
}

// take removes a round, so that one caller alone has it; false if it is gone.
func take(tx *sql.Tx, round int64) (r openRound, ok bool, err error) {
	var asked, answered int64
	err = tx.QueryRow(`DELETE FROM rounds WHERE id = $1
		RETURNING conversation, coalesce(parent, 0), coalesce(existing, 0), question, asked, answered, pictures`, round).
		Scan(&r.conversation, &r.parent, &r.existing, &r.question, &asked, &answered, &r.pictures)
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, nil
	}
	r.asked, r.answered = time.UnixMilli(asked), time.UnixMilli(answered)
	return r, err == nil, err
}

// finish moves a round into the history.
func finish(tx *sql.Tx, round int64, a Answer) (done Round, err error) {
	r, ok, err := take(tx, round)
	if err != nil || !ok {
		return Round{}, err
	}
	done = Round{Parent: r.parent, Question: r.existing}
	if r.existing == 0 {
		if done.Question, err = insert(tx, r.conversation, r.parent,
			StoredMessage{Role: RoleUser, Content: r.question, Created: r.asked, Pictures: strings.Fields(r.pictures)}); err != nil {
			return Round{}, err
		}
	}
	if done.Answer, err = insert(tx, r.conversation, done.Question, StoredMessage{Role: RoleAssistant, Content: a.Text,
		Finish: a.Reason, Numbers: a.Numbers, Created: r.answered}); err != nil {
		return Round{}, err
	}
	_, err = tx.Exec("UPDATE conversations SET updated = $1, head = $2 WHERE id = $3", r.answered.UnixMilli(), done.Answer, r.conversation)
	return done, err
}

func (s *sqlStore) Abandon(ctx context.Context, round int64) error {
	_, err := s.exec(ctx, "DELETE FROM rounds WHERE id = $1", round)
	return err
}

func (s *sqlStore) Fail(ctx context.Context, round int64, zh, en string) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		r, ok, err := take(tx, round)
		if err != nil || !ok {
			return err
		}
		_, err = tx.Exec(`INSERT INTO failures (conversation, parent, question, zh, en, failed, pictures) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (conversation) DO UPDATE SET parent = excluded.parent, question = excluded.question,
				zh = excluded.zh, en = excluded.en, failed = excluded.failed, pictures = excluded.pictures`,
			r.conversation, null(r.parent), r.question, zh, en, time.Now().UnixMilli(), r.pictures)
		return err
	})
}

func (s *sqlStore) Failure(ctx context.Context, id string) (*Failure, error) {
	var f Failure
	var at int64
	var pictures string
	err := s.queryRow(ctx, "SELECT coalesce(parent, 0), question, zh, en, failed, pictures FROM failures WHERE conversation = $1", s.plain(id)).
		Scan(&f.Parent, &f.Question, &f.ZH, &f.EN, &at, &pictures)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	f.At, f.Pictures = time.UnixMilli(at), strings.Fields(pictures)
	return &f, err
}

func (s *sqlStore) ForgetFailure(ctx context.Context, id string) error {
	_, err := s.exec(ctx, "DELETE FROM failures WHERE conversation = $1", s.plain(id))
	return err
}
