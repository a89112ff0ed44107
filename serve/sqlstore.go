package serve

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// sqlStore is what the stores have in common: statements that SQLite and PostgreSQL understand alike, on the same
// tables. Times are milliseconds since 1970. Statements are short and not interrupted by the contexts of requests: that
// would cost SQLite's one connection, and with it the lock.
type sqlStore struct {
	db     *sql.DB
	server string              // this process, where several share the database; "": it has it alone
	like   string              // LIKE without regard to case
	plain  func(string) string // a text as the database can hold it
}

// forgottenAfter is how long a conversation in which nothing was ever said stays known.
const forgottenAfter = 30 * 24 * time.Hour

// forget deletes conversations in which nothing was said for long.
func forget(tx *sql.Tx) error {
	_, err := tx.Exec(`DELETE FROM conversations WHERE updated < $1 AND title = ''
		AND NOT EXISTS (SELECT 1 FROM messages WHERE conversation = conversations.id)
		AND NOT EXISTS (SELECT 1 FROM failures WHERE conversation = conversations.id)
		AND NOT EXISTS (SELECT 1 FROM rounds WHERE conversation = conversations.id)`,
		time.Now().Add(-forgottenAfter).UnixMilli())
	return err
}

// exec, query and queryRow are db's, uninterrupted.
func (s *sqlStore) exec(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	return s.db.ExecContext(context.WithoutCancel(ctx), statement, args...)
}

func (s *sqlStore) query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return s.db.QueryContext(context.WithoutCancel(ctx), statement, args...)
}

func (s *sqlStore) queryRow(ctx context.Context, statement string, args ...any) *sql.Row {
	return s.db.QueryRowContext(context.WithoutCancel(ctx), statement, args...)
}

// change runs f in a transaction.
func (s *sqlStore) change(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// settle makes a server's rounds without an end part of the history.
func settle(tx *sql.Tx, server string) error {
	rows, err := tx.Query("SELECT id, answer FROM rounds WHERE server = $1 ORDER BY id", server)
	if err != nil {
		return err
	}
	type open struct {
		id     int64
		answer string
	}
	var rounds []open
	for rows.Next() {
		var r open
		if err := rows.Scan(&r.id, &r.answer); err != nil {
			return errors.Join(err, rows.Close())
		}
		rounds = append(rounds, r)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, r := range rounds {
		if _, err := finish(tx, r.id, Answer{Text: strings.TrimSpace(r.answer), Reason: FinishInterrupted}); err != nil {
			return err
		}
	}
	return nil
}

const conversationColumns = `id, owner, created, updated, coalesce(head, 0), CASE WHEN title <> '' THEN title ELSE coalesce(
	(SELECT content FROM messages WHERE conversation = c.id AND role = 'user' ORDER BY seq LIMIT 1),
	(SELECT question FROM rounds WHERE conversation = c.id ORDER BY id LIMIT 1),
	(SELECT question FROM failures WHERE conversation = c.id), '') END`

func scanConversation(row interface{ Scan(...any) error }) (Conversation, error) {
	var c Conversation
	var created, updated int64
	if err := row.Scan(&c.ID, &c.Owner, &created, &updated, &c.Head, &c.Title); err != nil {
		return c, err
	}
	c.Title = shortTitle(c.Title)
	c.Created, c.Updated = time.UnixMilli(created), time.UnixMilli(updated)
	return c, nil
}

// maxTitle is the length of a title in characters.
const maxTitle = 60

// shortTitle makes one line of a text.
func shortTitle(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > maxTitle {
		return string(runes[:maxTitle-1]) + "…"
	}
	return text
}

func (s *sqlStore) Touch(ctx context.Context, id, owner string) (Conversation, error) {
	now := time.Now().UnixMilli()
	_, err := s.exec(ctx, `INSERT INTO conversations (id, owner, created, updated) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO NOTHING`, s.plain(id), owner, now, now)
	if err != nil {
		return Conversation{}, err
	}
	return s.Conversation(ctx, id)
}

func (s *sqlStore) Conversation(ctx context.Context, id string) (Conversation, error) {
	c, err := scanConversation(s.queryRow(ctx, "SELECT "+conversationColumns+" FROM conversations c WHERE id = $1", s.plain(id)))
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoConversation
	}
	return c, err
}

// said holds for conversations in which something was said.
const said = `(EXISTS (SELECT 1 FROM messages WHERE conversation = c.id) OR EXISTS (SELECT 1 FROM rounds WHERE conversation = c.id)
	OR EXISTS (SELECT 1 FROM failures WHERE conversation = c.id))`

func (s *sqlStore) List(ctx context.Context, owner string) ([]Conversation, error) {
	return s.list(ctx, "", owner)
}

// list gives the conversations of args[0] for which a further condition holds.
func (s *sqlStore) list(ctx context.Context, further string, args ...any) ([]Conversation, error) {
	rows, err := s.query(ctx, "SELECT "+conversationColumns+" FROM conversations c WHERE owner = $1 AND "+said+further+
		" ORDER BY updated DESC, created DESC, id", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []Conversation{}
	for rows.Next() {
		c, err := scanConversation(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, rows.Err()
}

// likePattern finds a text anywhere, with \ before what LIKE would take for a sign.
func likePattern(text string) string {
	return "%" + strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(text) + "%"
}

func (s *sqlStore) Search(ctx context.Context, owner string, words []string) ([]Hit, error) {
	args := []any{owner}
	var further strings.Builder
	for _, w := range words {
		args = append(args, likePattern(s.plain(w)))
		like := s.like + " $" + strconv.Itoa(len(args)) + ` ESCAPE '\'`
		further.WriteString(" AND (title " + like + " OR EXISTS (SELECT 1 FROM messages WHERE conversation = c.id AND content " + like + "))")
	}
	list, err := s.list(ctx, further.String(), args...)
	if err != nil {
		return nil, err
	}
	hits := make([]Hit, len(list))
	for i, c := range list {
		hits[i].Conversation = c
		if len(words) == 0 {
			continue
		}
		err := s.queryRow(ctx, "SELECT seq, content FROM messages WHERE conversation = $1 AND content "+s.like+` $2 ESCAPE '\'
			ORDER BY seq DESC LIMIT 1`, c.ID, args[1]).Scan(&hits[i].Message, &hits[i].Content)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return hits, nil
}

func (s *sqlStore) Messages(ctx context.Context, id string, limit int) ([]StoredMessage, error) {
	return s.Branch(ctx, id, AtHead, limit)
}

const messageColumns = "m.seq, coalesce(m.parent, 0), m.role, m.content, m.finish, m.numbers, m.created, m.pictures"

func (s *sqlStore) messages(ctx context.Context, statement string, args ...any) ([]StoredMessage, error) {
	rows, err := s.query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []StoredMessage{}
	for rows.Next() {
		var m StoredMessage
		var created int64
		var numbers, pictures string
		if err := rows.Scan(&m.ID, &m.Parent, &m.Role, &m.Content, &m.Finish, &numbers, &created, &pictures); err != nil {
			return nil, err
		}
		m.Pictures = strings.Fields(pictures)
		if numbers != "" {
			if err := json.Unmarshal([]byte(numbers), &m.Numbers); err != nil {
				return nil, err
			}
		}
		m.Created = time.UnixMilli(created)
		list = append(list, m)
	}
	return list, rows.Err()
}

func (s *sqlStore) Branch(ctx context.Context, id string, end int64, limit int) ([]StoredMessage, error) {
	id = s.plain(id)
	switch end {
	case AtRoot:
		return []StoredMessage{}, nil
	case AtHead:
		err := s.queryRow(ctx, "SELECT coalesce(head, 0) FROM conversations WHERE id = $1", id).Scan(&end)
		if errors.Is(err, sql.ErrNoRows) || err == nil && end == 0 {
			return []StoredMessage{}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if limit <= 0 {
		limit = math.MaxInt32
	}
	list, err := s.messages(ctx, `WITH RECURSIVE path (seq, depth) AS (
			SELECT seq, 1 FROM messages WHERE conversation = $1 AND seq = $2
			UNION ALL
			SELECT m.parent, path.depth + 1 FROM path JOIN messages m ON m.seq = path.seq
				WHERE m.parent IS NOT NULL AND path.depth < $3)
		SELECT `+messageColumns+` FROM path JOIN messages m ON m.seq = path.seq ORDER BY path.depth DESC`, id, end, limit)
	if err == nil && len(list) == 0 {
		err = ErrNoMessage
	}
	return list, err
}

func (s *sqlStore) Tree(ctx context.Context, id string) ([]StoredMessage, error) {
	return s.messages(ctx, "SELECT "+messageColumns+" FROM messages m WHERE conversation = $1 ORDER BY seq", s.plain(id))
}

func (s *sqlStore) Choose(ctx context.Context, id string, message int64) error {
	// What stands under a message is younger, so the youngest of all is a leaf.
	result, err := s.exec(ctx, `WITH RECURSIVE under (seq) AS (
			SELECT seq FROM messages WHERE conversation = $1 AND seq = $2
			UNION ALL
			SELECT m.seq FROM under JOIN messages m ON m.parent = under.seq)
		UPDATE conversations SET head = (SELECT max(seq) FROM under) WHERE id = $1 AND EXISTS (SELECT 1 FROM under)`,
		s.plain(id), message)
	if err = touching(result, err); errors.Is(err, ErrNoConversation) {
		return ErrNoMessage
	}
	return err
}

// touching runs a statement that changes the conversation id, or gives ErrNoConversation.
func touching(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, ErrNoConversation)
	}
	return nil
}

func (s *sqlStore) Rename(ctx context.Context, id, title string) error {
	return touching(s.exec(ctx, "UPDATE conversations SET title = $1 WHERE id = $2", shortTitle(s.plain(title)), s.plain(id)))
}

func (s *sqlStore) Delete(ctx context.Context, id string) error {
	return touching(s.exec(ctx, "DELETE FROM conversations WHERE id = $1", s.plain(id)))
}

func (s *sqlStore) Clear(ctx context.Context, id string) error {
	id = s.plain(id)
	return s.change(ctx, func(tx *sql.Tx) error {
		now := time.Now().UnixMilli()
		if err := touching(tx.Exec("UPDATE conversations SET updated = $1, title = '', head = NULL WHERE id = $2", now, id)); err != nil {
			return err
		}
		for _, table := range []string{"messages", "rounds", "failures", "pictures"} {
			if _, err := tx.Exec("DELETE FROM "+table+" WHERE conversation = $1", id); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *sqlStore) Settings(ctx context.Context, owner string) (string, error) {
	var value string
	err := s.queryRow(ctx, "SELECT value FROM settings WHERE owner = $1", owner).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return value, err
}

func (s *sqlStore) SetSettings(ctx context.Context, owner, value string) error {
	_, err := s.exec(ctx, `INSERT INTO settings (owner, value, updated) VALUES ($1, $2, $3)
		ON CONFLICT (owner) DO UPDATE SET value = excluded.value, updated = excluded.updated`,
		owner, s.plain(value), time.Now().UnixMilli())
	return err
}

func (s *sqlStore) Import(ctx context.Context, owner string, c Conversation, messages []StoredMessage, pictures map[string][]byte) (Conversation, error) {
	id := s.plain(c.ID)
	err := s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO conversations (id, owner, title, created, updated) VALUES ($1, $2, $3, $4, $5)",
			id, owner, shortTitle(s.plain(c.Title)), c.Created.UnixMilli(), c.Updated.UnixMilli())
		if err != nil {
			return err
		}
		if err := insertPictures(tx, id, pictures); err != nil {
			return err
		}
		ids := map[int64]int64{} // old → new
		for _, m := range messages {
			if ids[m.ID], err = insert(tx, id, ids[m.Parent], StoredMessage{Role: m.Role, Content: s.plain(m.Content),
				Finish: s.plain(m.Finish), Numbers: m.Numbers, Created: m.Created, Pictures: m.Pictures}); err != nil {
				return err
			}
		}
		_, err = tx.Exec("UPDATE conversations SET head = $1 WHERE id = $2", null(ids[c.Head]), id)
		return err
	})
	if err != nil {
		return Conversation{}, err
	}
	return s.Conversation(ctx, c.ID)
}

// null is an id as a column has it: 0 is none.
func null(id int64) sql.NullInt64 { return sql.NullInt64{Int64: id, Valid: id != 0} }

// insert adds a message and gives its id.
func insert(tx *sql.Tx, conversation string, parent int64, m StoredMessage) (id int64, err error) {
	numbers := ""
	if m.Numbers != nil {
		text, err := json.Marshal(m.Numbers)
		if err != nil {
			return 0, err
		}
		numbers = string(text)
	}
	err = tx.QueryRow(`INSERT INTO messages (conversation, parent, role, content, finish, numbers, created, pictures)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING seq`,
		conversation, null(parent), m.Role, m.Content, m.Finish, numbers, m.Created.UnixMilli(), strings.Join(m.Pictures, " ")).Scan(&id)
	return id, err
}

// insertPictures keeps files that a conversation does not have yet.
func insertPictures(tx *sql.Tx, conversation string, files map[string][]byte) error {
	for id, file := range files {
		if _, err := tx.Exec("INSERT INTO pictures (conversation, id, file) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", conversation, id, file); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqlStore) Picture(ctx context.Context, id, picture string) (file []byte, err error) {
	err = s.queryRow(ctx, "SELECT file FROM pictures WHERE conversation = $1 AND id = $2", s.plain(id), s.plain(picture)).Scan(&file)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoPicture
	}
	return file, err
}
