package serve

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresMigrations are those of PostgreSQL, one list of statements for each version. The tables are SQLite's, and
// those by which servers know of one another. What is released is never edited: changes are appended.
var postgresMigrations = [][]string{{
	`CREATE TABLE servers (id TEXT PRIMARY KEY, until BIGINT NOT NULL)`, // alive until then, unless they say so again
	`CREATE TABLE conversations (
		id      TEXT COLLATE "C" PRIMARY KEY,
		owner   TEXT NOT NULL,
		title   TEXT NOT NULL DEFAULT '',
		created BIGINT NOT NULL,
		updated BIGINT NOT NULL,
		head    BIGINT
	)`,
	`CREATE INDEX conversations_by_owner ON conversations (owner, updated)`,
	`CREATE TABLE messages (
		seq          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		conversation TEXT COLLATE "C" NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
		parent       BIGINT,
		role         TEXT NOT NULL,
		content      TEXT NOT NULL,
		finish       TEXT NOT NULL DEFAULT '',
		numbers      TEXT NOT NULL DEFAULT '',
		created      BIGINT NOT NULL
	)`,
	`CREATE INDEX messages_by_conversation ON messages (conversation, seq)`,
	`CREATE INDEX messages_by_parent ON messages (parent)`,
	`CREATE TABLE rounds (
		id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		conversation TEXT COLLATE "C" NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
		parent       BIGINT,
		existing     BIGINT,
		question     TEXT NOT NULL,
		asked        BIGINT NOT NULL,
		answer       TEXT NOT NULL DEFAULT '',
		answered     BIGINT NOT NULL,
		server       TEXT NOT NULL REFERENCES servers (id),
		stop         INTEGER NOT NULL DEFAULT 0
	)`,
	`CREATE INDEX rounds_by_conversation ON rounds (conversation)`,
	`CREATE TABLE failures (
		conversation TEXT COLLATE "C" PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
		parent       BIGINT,
		question     TEXT NOT NULL,
		zh           TEXT NOT NULL,
		en           TEXT NOT NULL,
		failed       BIGINT NOT NULL
	)`,
	`CREATE TABLE settings (owner TEXT PRIMARY KEY, value TEXT NOT NULL, updated BIGINT NOT NULL)`,
	`CREATE TABLE claims (conversation TEXT COLLATE "C" PRIMARY KEY, server TEXT NOT NULL REFERENCES servers (id))`,
	`CREATE TABLE secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL)`,
}, {
	`ALTER TABLE messages ADD COLUMN pictures TEXT NOT NULL DEFAULT ''`,
	`ALTER TABLE rounds ADD COLUMN pictures TEXT NOT NULL DEFAULT ''`,
	`ALTER TABLE failures ADD COLUMN pictures TEXT NOT NULL DEFAULT ''`,
	`CREATE TABLE pictures (
		conversation TEXT COLLATE "C" NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
		id           TEXT NOT NULL,
		file         BYTEA NOT NULL,
		PRIMARY KEY (conversation, id)
	)`,
}}

// postgresSchema has our tables, so that the database may have others beside them.
const postgresSchema = "chulengo"

// leaseTime is how long a server that says nothing is taken for alive.
var leaseTime = 15 * time.Second

// postgresNow is the database's clock in milliseconds, the only one that servers compare.
const postgresNow = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

// postgresStore is the Store in a PostgreSQL database that servers share. Each has a row that it renews; rounds and
// claims carry its id. Whoever finds a row that ran out settles what its server left behind. A server that was only
// slow finds its rounds gone, and its answer ends as if the conversation had been cleared.
type postgresStore struct {
	sqlStore
	lease time.Duration
	log   *slog.Logger
	end   context.CancelFunc
	ended sync.WaitGroup
}

// openPostgres opens or makes the tables in the database of a postgres:// URL. Errors are *StoreError.
func openPostgres(address string, log *slog.Logger, lease time.Duration) (*postgresStore, error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, &StoreError{withoutPassword(address), StoreUnusable, errors.New("want postgres://USER@HOST:PORT/DATABASE")}
	}
	name := fmt.Sprintf("postgres://%s/%s", net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))), config.Database)
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	config.RuntimeParams["search_path"] = postgresSchema
	config.RuntimeParams["statement_timeout"] = "10000" // milliseconds: what a store does is short
	config.RuntimeParams["application_name"] = "chulengo"
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(4)
	s := &postgresStore{sqlStore{db, uuid.NewString(), "ILIKE", postgresText}, lease, log, nil, sync.WaitGroup{}}
	if err := s.prepare(context.Background()); err != nil {
		db.Close()
		if typed := (*StoreError)(nil); errors.As(err, &typed) {
			typed.Path = name
			return nil, typed
		}
		return nil, &StoreError{name, StoreUnusable, err}
	}
	life, end := context.WithCancel(context.Background())
	s.end = end
	s.ended.Go(func() { s.live(life) })
	return s, nil
}

// withoutPassword is an address as it may be shown.
func withoutPassword(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		return u.Redacted()
	}
	return "postgres"
}

// postgresText is a text without what PostgreSQL cannot hold: NUL and bytes that are no UTF-8.
func postgresText(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// prepare migrates the database, one server at a time, and says that this one lives.
func (s *postgresStore) prepare(ctx context.Context) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		const key = 0x6368756c656e676f // of the advisory lock: "chulengo"
		if _, err := tx.Exec("SELECT pg_advisory_xact_lock($1)", int64(key)); err != nil {
			return err
		}
		for _, statement := range []string{"CREATE SCHEMA IF NOT EXISTS " + postgresSchema,
			"CREATE TABLE IF NOT EXISTS version (version INTEGER NOT NULL)"} {
			if _, err := tx.Exec(statement); err != nil {
				return err
			}
		}
		var version int
		if err := tx.QueryRow("SELECT coalesce(max(version), 0) FROM version").Scan(&version); err != nil {
			return err
		}
		if version > len(postgresMigrations) {
			return &StoreError{Problem: StoreTooNew, Err: fmt.Errorf("version %d, known: %d", version, len(postgresMigrations))}
		}
		for v := version; v < len(postgresMigrations); v++ {
			for _, statement := range postgresMigrations[v] {
				if _, err := tx.Exec(statement); err != nil {
					return err
				}
			}
			if _, err := tx.Exec("INSERT INTO version VALUES ($1)", v+1); err != nil {
				return err
			}
		}
		return forget(tx)
	})
	if err != nil {
		return err
	}
	if err := s.renew(ctx); err != nil {
		return err
	}
	return s.sweep(ctx)
}

// live renews the lease and looks for servers that are gone, until ctx is over.
func (s *postgresStore) live(ctx context.Context) {
	tick := time.NewTicker(s.lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := errors.Join(s.renew(ctx), s.sweep(ctx)); err != nil {
			s.log.Warn("the database of chats does not answer", "error", err)
		}
	}
}

func (s *postgresStore) renew(ctx context.Context) error {
	_, err := s.exec(ctx, "INSERT INTO servers (id, until) VALUES ($1, "+postgresNow+` + $2)
		ON CONFLICT (id) DO UPDATE SET until = excluded.until`, s.server, s.lease.Milliseconds())
	return err
}

// sweep settles what servers left behind that are gone.
func (s *postgresStore) sweep(ctx context.Context) error {
	for {
		found := false
		err := s.change(ctx, func(tx *sql.Tx) error {
			var gone string
			err := tx.QueryRow("SELECT id FROM servers WHERE id <> $1 AND until < "+postgresNow+" LIMIT 1 FOR UPDATE SKIP LOCKED", s.server).Scan(&gone)
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			found = true
			return bury(tx, gone)
		})
		if err != nil || !found {
			return err
		}
	}
}

// bury settles a server's rounds, gives back its claims and forgets it.
func bury(tx *sql.Tx, server string) error {
	if err := settle(tx, server); err != nil {
		return err
	}
	if _, err := tx.Exec("DELETE FROM claims WHERE server = $1", server); err != nil {
		return err
	}
	_, err := tx.Exec("DELETE FROM servers WHERE id = $1", server)
	return err
}

func (s *postgresStore) Claim(ctx context.Context, id string) (func(), error) {
	id = s.plain(id)
	// Another server may have buried this one while it was slow.
	if _, err := s.exec(ctx, "INSERT INTO servers (id, until) VALUES ($1, "+postgresNow+" + $2) ON CONFLICT (id) DO NOTHING",
		s.server, s.lease.Milliseconds()); err != nil {
		return nil, err
	}
	result, err := s.exec(ctx, "INSERT INTO claims (conversation, server) VALUES ($1, $2) ON CONFLICT (conversation) DO NOTHING", id, s.server)
	if err != nil {
		return nil, err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return nil, errors.Join(err, ErrClaimed)
	}
	return func() {
		if _, err := s.exec(context.Background(), "DELETE FROM claims WHERE conversation = $1 AND server = $2", id, s.server); err != nil {
			s.log.Warn("a claim could not be given back", "error", err)
		}
	}, nil
}

func (s *postgresStore) Elsewhere(ctx context.Context, id string) (*OpenRound, error) {
	r := OpenRound{Question: StoredMessage{Role: RoleUser}}
	var asked int64
	var pictures string
	err := s.queryRow(ctx, `SELECT id, coalesce(parent, 0), coalesce(existing, 0), question, asked, answer, pictures FROM rounds
		WHERE conversation = $1 AND server <> $2 ORDER BY id DESC LIMIT 1`, s.plain(id), s.server).
		Scan(&r.ID, &r.Question.Parent, &r.Question.ID, &r.Question.Content, &asked, &r.Answer, &pictures)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	r.Question.Created, r.Question.Pictures = time.UnixMilli(asked), strings.Fields(pictures)
	return &r, err
}

func (s *postgresStore) Stop(ctx context.Context, id string) (bool, error) {
	result, err := s.exec(ctx, "UPDATE rounds SET stop = 1 WHERE conversation = $1 AND server <> $2", s.plain(id), s.server)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

func (s *postgresStore) Shared() bool { return true }

// sessionKey is the key that signs cookies, the same for all servers.
func (s *postgresStore) sessionKey(ctx context.Context, fresh []byte) ([]byte, error) {
	if _, err := s.exec(ctx, "INSERT INTO secrets (name, value) VALUES ('session', $1) ON CONFLICT (name) DO NOTHING",
		hex.EncodeToString(fresh)); err != nil {
		return nil, err
	}
	var value string
	if err := s.queryRow(ctx, "SELECT value FROM secrets WHERE name = 'session'").Scan(&value); err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(value)
	if err != nil || len(key) != keyBytes {
		return nil, fmt.Errorf("serve: the session key in the database is none (want %d hexadecimal digits)", 2*keyBytes)
	}
	return key, nil
}

// Close settles what this server still has open and leaves.
func (s *postgresStore) Close() error {
	s.end()
	s.ended.Wait()
	return errors.Join(s.change(context.Background(), func(tx *sql.Tx) error { return bury(tx, s.server) }), s.db.Close())
}
