package serve

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// chatsFile is the database within the data folder.
const chatsFile = "chats.db"

// migrations bring a database from one version (PRAGMA user_version) to the next. What is released is never edited:
// changes are appended.
var migrations = []string{
	`CREATE TABLE conversations (
		id      TEXT PRIMARY KEY,
		owner   TEXT NOT NULL,
		title   TEXT NOT NULL DEFAULT '',
		created INTEGER NOT NULL, -- milliseconds since 1970, as all times here
		updated INTEGER NOT NULL
	);
	CREATE INDEX conversations_by_owner ON conversations (owner, updated);
	CREATE TABLE messages (
		seq          INTEGER PRIMARY KEY AUTOINCREMENT,
		conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
		role         TEXT NOT NULL,
		content      TEXT NOT NULL,
		finish       TEXT NOT NULL DEFAULT '',
		created      INTEGER NOT NULL
	);
	CREATE INDEX messages_by_conversation ON messages (conversation, seq);
	CREATE TABLE rounds ( -- that are being answered
		id           INTEGER PRIMARY KEY AUTOINCREMENT,
		conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
		question     TEXT NOT NULL,
		asked        INTEGER NOT NULL,
		answer       TEXT NOT NULL DEFAULT '',
		answered     INTEGER NOT NULL
	);`,
}

// forgottenAfter is how long a conversation in which nothing was ever said stays known.
const forgottenAfter = 30 * 24 * time.Hour

// sqliteStore is the Store in one SQLite file, held exclusively, in WAL mode: a process that is killed loses nothing
// that was written. Its statements take microseconds and are not interrupted by the contexts of requests: that would
// cost the one connection, and with it the lock.
type sqliteStore struct {
	db *sql.DB
}

// OpenStore opens or makes the database of a data folder; "" gives one in memory. Errors are *StoreError.
func OpenStore(dir string) (Store, error) {
	// Every connection's, should there be another after all. WAL needs no shared memory where locking_mode comes first.
	const pragmas = "?_pragma=locking_mode(EXCLUSIVE)&_pragma=busy_timeout(300)&_pragma=synchronous(NORMAL)&_pragma=foreign_keys(ON)"
	path := ":memory:"
	name := path
	if dir != "" {
		path = filepath.Join(dir, chatsFile)
		name = (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()}).String()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, &StoreError{path, StoreUnusable, err}
		}
		// SQLite gives a new file the umask's permissions, and chats are nobody else's business.
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, &StoreError{path, StoreUnusable, err}
		}
		f.Close()
	}
	db, err := sql.Open("sqlite", name+pragmas)
	if err != nil {
		return nil, &StoreError{path, StoreUnusable, err}
	}
	db.SetMaxOpenConns(1) // the one that has the lock
	s := &sqliteStore{db}
	if err := s.prepare(context.Background()); err != nil {
		db.Close()
		if typed := (*StoreError)(nil); errors.As(err, &typed) {
			typed.Path = path
			return nil, typed
		}
		return nil, &StoreError{path, problemOf(err), err}
	}
	return s, nil
}

// problemOf classifies SQLite's error.
func problemOf(err error) StoreProblem {
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		switch e.Code() & 0xff { // without the extended part
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return StoreLocked
		case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
			return StoreDamaged
		}
	}
	return StoreUnusable
}

// prepare takes the lock, checks and migrates the database, and settles the rounds that a killed process left behind.
func (s *sqliteStore) prepare(ctx context.Context) error {
	var verdict string
	if err := s.queryRow(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return &StoreError{Problem: StoreDamaged, Err: errors.New(verdict)}
	}
	var version, tables int
	if err := s.queryRow(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(migrations) {
		return &StoreError{Problem: StoreTooNew, Err: fmt.Errorf("version %d, known: %d", version, len(migrations))}
	}
	if err := s.queryRow(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if version == 0 && tables > 0 {
		return &StoreError{Problem: StoreDamaged, Err: errors.New("another program's database")}
	}
	if _, err := s.exec(ctx, "PRAGMA journal_mode = WAL"); err != nil { // now that the file is known to be ours
		return err
	}
	return s.change(ctx, func(tx *sql.Tx) error {
		for v := version; v < len(migrations); v++ {
			if _, err := tx.Exec(migrations[v]); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", len(migrations))); err != nil {
			return err
		}
		if err := settle(tx); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM conversations WHERE updated < ? AND title = ''
			AND NOT EXISTS (SELECT 1 FROM messages WHERE conversation = conversations.id)`,
			time.Now().Add(-forgottenAfter).UnixMilli())
		return err
	})
}

// exec, query and queryRow are db's, uninterrupted.
func (s *sqliteStore) exec(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	return s.db.ExecContext(context.WithoutCancel(ctx), statement, args...)
}

func (s *sqliteStore) query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return s.db.QueryContext(context.WithoutCancel(ctx), statement, args...)
}

func (s *sqliteStore) queryRow(ctx context.Context, statement string, args ...any) *sql.Row {
	return s.db.QueryRowContext(context.WithoutCancel(ctx), statement, args...)
}

// settle makes rounds without an end part of the history.
func settle(tx *sql.Tx) error {
	rows, err := tx.Query("SELECT id, answer FROM rounds ORDER BY id")
	if err != nil {
		return err
	}
	answers := map[int64]string{}
	for rows.Next() {
		var id int64
		var answer string
		if err := rows.Scan(&id, &answer); err != nil {
			return err
		}
		answers[id] = answer
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for id, answer := range answers {
		if err := finish(tx, id, strings.TrimSpace(answer), FinishInterrupted); err != nil {
			return err
		}
	}
	return nil
}

// change runs f in a transaction.
func (s *sqliteStore) change(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

const conversationColumns = `id, owner, created, updated, CASE WHEN title <> '' THEN title ELSE coalesce(
	(SELECT content FROM messages WHERE conversation = c.id AND role = 'user' ORDER BY seq LIMIT 1),
	(SELECT question FROM rounds WHERE conversation = c.id ORDER BY id LIMIT 1), '') END`

func scanConversation(row interface{ Scan(...any) error }) (Conversation, error) {
	var c Conversation
	var created, updated int64
	if err := row.Scan(&c.ID, &c.Owner, &created, &updated, &c.Title); err != nil {
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

func (s *sqliteStore) Touch(ctx context.Context, id, owner string) (Conversation, error) {
	now := time.Now().UnixMilli()
	_, err := s.exec(ctx, `INSERT INTO conversations (id, owner, created, updated) VALUES (?, ?, ?, ?)
		ON CONFLICT (id) DO NOTHING`, id, owner, now, now)
	if err != nil {
		return Conversation{}, err
	}
	return s.Conversation(ctx, id)
}

func (s *sqliteStore) Conversation(ctx context.Context, id string) (Conversation, error) {
	c, err := scanConversation(s.queryRow(ctx,
		"SELECT "+conversationColumns+" FROM conversations c WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoConversation
	}
	return c, err
}

func (s *sqliteStore) List(ctx context.Context, owner string) ([]Conversation, error) {
	rows, err := s.query(ctx, "SELECT "+conversationColumns+` FROM conversations c WHERE owner = ? AND (
		EXISTS (SELECT 1 FROM messages WHERE conversation = c.id) OR
		EXISTS (SELECT 1 FROM rounds WHERE conversation = c.id)) ORDER BY updated DESC, created DESC, id`, owner)
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

func (s *sqliteStore) Messages(ctx context.Context, id string, limit int) ([]StoredMessage, error) {
	if limit <= 0 {
		limit = -1
	}
	rows, err := s.query(ctx, `SELECT role, content, finish, created FROM (
		SELECT * FROM messages WHERE conversation = ? ORDER BY seq DESC LIMIT ?) ORDER BY seq`, id, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []StoredMessage{}
	for rows.Next() {
		var m StoredMessage
		var created int64
		if err := rows.Scan(&m.Role, &m.Content, &m.Finish, &created); err != nil {
			return nil, err
		}
		m.Created = time.UnixMilli(created)
		list = append(list, m)
	}
	return list, rows.Err()
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

func (s *sqliteStore) Rename(ctx context.Context, id, title string) error {
	return touching(s.exec(ctx, "UPDATE conversations SET title = ? WHERE id = ?", shortTitle(title), id))
}

func (s *sqliteStore) Delete(ctx context.Context, id string) error {
	return touching(s.exec(ctx, "DELETE FROM conversations WHERE id = ?", id))
}

func (s *sqliteStore) Clear(ctx context.Context, id string) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		now := time.Now().UnixMilli()
		if err := touching(tx.Exec("UPDATE conversations SET updated = ?, title = '' WHERE id = ?", now, id)); err != nil {
			return err
		}
		for _, table := range []string{"messages", "rounds"} {
			if _, err := tx.Exec("DELETE FROM "+table+" WHERE conversation = ?", id); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *sqliteStore) Begin(ctx context.Context, id, question string) (int64, error) {
	var round int64
	err := s.change(ctx, func(tx *sql.Tx) error {
		now := time.Now().UnixMilli()
		if err := touching(tx.Exec("UPDATE conversations SET updated = ? WHERE id = ?", now, id)); err != nil {
			return err
		}
		result, err := tx.Exec("INSERT INTO rounds (conversation, question, asked, answered) VALUES (?, ?, ?, ?)",
			id, question, now, now)
		if err != nil {
			return err
		}
		round, err = result.LastInsertId()
		return err
	})
	return round, err
}

func (s *sqliteStore) Save(ctx context.Context, round int64, answer string) error {
	_, err := s.exec(ctx, "UPDATE rounds SET answer = ?, answered = ? WHERE id = ?",
		answer, time.Now().UnixMilli(), round)
	return err
}

func (s *sqliteStore) Finish(ctx context.Context, round int64, answer, reason string) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		now := time.Now().UnixMilli()
		if _, err := tx.Exec("UPDATE rounds SET answered = ? WHERE id = ?", now, round); err != nil {
			return err
		}
		return finish(tx, round, answer, reason)
	})
}

// finish moves a round into the history.
func finish(tx *sql.Tx, round int64, answer, reason string) error {
	for _, step := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO messages (conversation, role, content, created)
			SELECT conversation, 'user', question, asked FROM rounds WHERE id = ?`, []any{round}},
		{`INSERT INTO messages (conversation, role, content, finish, created)
			SELECT conversation, 'assistant', ?, ?, answered FROM rounds WHERE id = ?`, []any{answer, reason, round}},
		{`UPDATE conversations SET updated = (SELECT answered FROM rounds WHERE id = ?1)
			WHERE id = (SELECT conversation FROM rounds WHERE id = ?1)`, []any{round}},
		{`DELETE FROM rounds WHERE id = ?`, []any{round}},
	} {
		if _, err := tx.Exec(step.sql, step.args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqliteStore) Abandon(ctx context.Context, round int64) error {
	_, err := s.exec(ctx, "DELETE FROM rounds WHERE id = ?", round)
	return err
}

// Close folds the write-ahead log into the file and releases the lock.
func (s *sqliteStore) Close() error { return s.db.Close() }
