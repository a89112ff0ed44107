package serve

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

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
	// Messages become trees. A history written before is one branch.
	`ALTER TABLE messages ADD COLUMN parent INTEGER;
	ALTER TABLE messages ADD COLUMN numbers TEXT NOT NULL DEFAULT ''; -- JSON, '': none
	CREATE INDEX messages_by_parent ON messages (parent);
	UPDATE messages SET parent = (SELECT max(seq) FROM messages before
		WHERE before.conversation = messages.conversation AND before.seq < messages.seq);
	ALTER TABLE conversations ADD COLUMN head INTEGER; -- last message of the active branch
	UPDATE conversations SET head = (SELECT max(seq) FROM messages WHERE conversation = conversations.id);
	ALTER TABLE rounds ADD COLUMN parent INTEGER;   -- of the question
	ALTER TABLE rounds ADD COLUMN existing INTEGER; -- the question, if it is a message already
	ALTER TABLE rounds ADD COLUMN server TEXT NOT NULL DEFAULT ''; -- that answers, where several share a database
	ALTER TABLE rounds ADD COLUMN stop INTEGER NOT NULL DEFAULT 0; -- 1: another server asks it to end
	UPDATE rounds SET parent = (SELECT head FROM conversations WHERE id = rounds.conversation);
	CREATE TABLE failures ( -- last questions whose answers failed
		conversation TEXT PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
		parent       INTEGER,
		question     TEXT NOT NULL,
		zh           TEXT NOT NULL,
		en           TEXT NOT NULL,
		failed       INTEGER NOT NULL
	);
	CREATE TABLE settings ( -- of browser sessions
		owner   TEXT PRIMARY KEY,
		value   TEXT NOT NULL, -- JSON
		updated INTEGER NOT NULL
	);`,
	// Questions have pictures.
	`ALTER TABLE messages ADD COLUMN pictures TEXT NOT NULL DEFAULT ''; -- ids, with blanks between
	ALTER TABLE rounds ADD COLUMN pictures TEXT NOT NULL DEFAULT '';
	ALTER TABLE failures ADD COLUMN pictures TEXT NOT NULL DEFAULT '';
	CREATE TABLE pictures (
		conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
		id           TEXT NOT NULL, -- SHA-256 of the file
		file         BLOB NOT NULL,
		PRIMARY KEY (conversation, id)
	);`,
}

// sqliteStore is the Store in one SQLite file, held exclusively, in WAL mode: a process that is killed loses nothing
// that was written.
type sqliteStore struct {
	sqlStore
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
	s := &sqliteStore{sqlStore{db: db, like: "LIKE", plain: func(text string) string { return text }}}
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
		if err := settle(tx, ""); err != nil {
			return err
		}
		return forget(tx)
	})
}

// The file is this process's alone: nobody else answers.

func (s *sqliteStore) Claim(context.Context, string) (func(), error)         { return func() {}, nil }
func (s *sqliteStore) Elsewhere(context.Context, string) (*OpenRound, error) { return nil, nil }
func (s *sqliteStore) Stop(context.Context, string) (bool, error)            { return false, nil }
func (s *sqliteStore) Shared() bool                                          { return false }

// Close folds the write-ahead log into the file and releases the lock.
func (s *sqliteStore) Close() error { return s.db.Close() }
