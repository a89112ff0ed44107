package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// cluster is the PostgreSQL server of these tests, started by the first that needs it.
var cluster struct {
	once sync.Once
	dir  string // of its socket
	err  error
	end  func()
	made int
}

// errNoPostgres says that PostgreSQL is not installed.
var errNoPostgres = errors.New("PostgreSQL is not installed")

// EndCluster is for TestMain.
func EndCluster() {
	if cluster.end != nil {
		cluster.end()
	}
}

// FreshDatabase and SetLease are for the tests of servers.
var FreshDatabase = freshDatabase

func SetLease(d time.Duration) { leaseTime = d }

// freshDatabase makes an empty database and gives its address.
func freshDatabase(t *testing.T) string {
	t.Helper()
	cluster.once.Do(func() {
		cluster.dir, cluster.end, cluster.err = startCluster()
	})
	if errors.Is(cluster.err, errNoPostgres) {
		t.Skip("PostgreSQL is not installed")
	}
	if cluster.err != nil {
		t.Fatal(cluster.err)
	}
	c, err := pgx.Connect(context.Background(), "postgres://chulengo@/postgres?host="+cluster.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	cluster.made++
	name := fmt.Sprintf("chats%d", cluster.made)
	if _, err := c.Exec(context.Background(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return "postgres://chulengo@/" + name + "?host=" + cluster.dir
}

func mustOpenPostgres(t *testing.T, address string, lease time.Duration) *postgresStore {
	t.Helper()
	s, err := openPostgres(address, slog.New(slog.DiscardHandler), lease)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// die is what kill -9 does to a server, as the database sees it.
func (s *postgresStore) die() {
	s.end()
	s.ended.Wait()
	s.db.Close()
}

func TestPostgresServersShareChats(t *testing.T) {
	ctx := context.Background()
	address := freshDatabase(t)
	const lease = 400 * time.Millisecond
	one, two := mustOpenPostgres(t, address, lease), mustOpenPostgres(t, address, lease)

	free, err := one.Claim(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Claim(ctx, "a"); !errors.Is(err, ErrClaimed) {
		t.Errorf("two servers claim a conversation: %v", err)
	}
	if _, err := one.Claim(ctx, "a"); !errors.Is(err, ErrClaimed) {
		t.Errorf("a second claim: %v", err)
	}
	must[Conversation](t)(one.Touch(ctx, "a", "me"))
	round := must[int64](t)(one.Begin(ctx, "a", Question{Text: "q"}))
	if stopped := must[bool](t)(one.Stop(ctx, "a")); stopped {
		t.Error("a server stops itself through the database")
	}
	if err := one.Save(ctx, round, "par"); err != nil {
		t.Error(err)
	}
	if r := must[*OpenRound](t)(two.Elsewhere(ctx, "a")); r == nil || r.ID != round || r.Question.Content != "q" || r.Answer != "par" {
		t.Errorf("seen from the other server: %+v", r)
	}
	if r := must[*OpenRound](t)(one.Elsewhere(ctx, "a")); r != nil {
		t.Errorf("a server's own round is elsewhere: %+v", r)
	}
	if stopped := must[bool](t)(two.Stop(ctx, "a")); !stopped {
		t.Error("nothing to stop")
	}
	if err := one.Save(ctx, round, "part"); !errors.Is(err, ErrRoundStopped) {
		t.Errorf("got %v", err)
	}
	// A living server's rounds stay its own, however long they take.
	time.Sleep(3 * lease)
	if _, err := two.Claim(ctx, "a"); !errors.Is(err, ErrClaimed) {
		t.Errorf("a living server lost its claim: %v", err)
	}
	if err := finished(one, round, "partial", "stop_requested"); err != nil {
		t.Error(err)
	}
	free()
	if got := texts(must[[]StoredMessage](t)(two.Messages(ctx, "a", 0))); got != "user:q: assistant:partial:stop_requested" {
		t.Errorf("got %q", got)
	}
	key1, key2 := must[[]byte](t)(one.sessionKey(ctx, bytes.Repeat([]byte{1}, keyBytes))), must[[]byte](t)(two.sessionKey(ctx, bytes.Repeat([]byte{2}, keyBytes)))
	if !bytes.Equal(key1, key2) {
		t.Error("servers sign with different keys")
	}
}

func TestPostgresSettlesServersThatAreGone(t *testing.T) {
	ctx := context.Background()
	address := freshDatabase(t)
	const lease = 400 * time.Millisecond
	dead, living := mustOpenPostgres(t, address, lease), mustOpenPostgres(t, address, lease)
	rounds := map[string]int64{}
	for id, s := range map[string]*postgresStore{"dead": dead, "living": living} {
		must[func()](t)(s.Claim(ctx, id))
		must[Conversation](t)(s.Touch(ctx, id, "me"))
		rounds[id] = must[int64](t)(s.Begin(ctx, id, Question{Text: "q"}))
		if err := s.Save(ctx, rounds[id], "half "); err != nil {
			t.Fatal(err)
		}
	}
	dead.die()
	third := mustOpenPostgres(t, address, lease)
	var free func()
	for limit := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if free, err = third.Claim(ctx, "dead"); err == nil {
			break
		}
		if !errors.Is(err, ErrClaimed) || time.Now().After(limit) {
			t.Fatalf("the dead server's claim: %v", err)
		}
	}
	if got := texts(must[[]StoredMessage](t)(third.Messages(ctx, "dead", 0))); got != "user:q: assistant:half:interrupted" {
		t.Errorf("got %q", got)
	}
	free()
	if got := must[[]StoredMessage](t)(third.Messages(ctx, "living", 0)); len(got) != 0 {
		t.Errorf("the living server's round was settled: %q", texts(got))
	}
	if err := errors.Join(living.Save(ctx, rounds["living"], "whole"), finished(living, rounds["living"], "whole", "stop")); err != nil {
		t.Error(err)
	}
	// Who was only slow changes nothing any more, and can go on with new questions.
	late := mustOpenPostgres(t, address, lease)
	must[Conversation](t)(late.Touch(ctx, "late", "me"))
	round := must[int64](t)(late.Begin(ctx, "late", Question{Text: "q"}))
	late.end()
	late.ended.Wait() // no more renewals
	for limit := time.Now().Add(time.Minute); len(must[[]StoredMessage](t)(third.Messages(ctx, "late", 0))) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("the slow server's round is not settled")
		}
	}
	if err := late.Save(ctx, round, "x"); !errors.Is(err, ErrRoundGone) {
		t.Errorf("save: %v", err)
	}
	if err := finished(late, round, "late", "stop"); err != nil {
		t.Error(err)
	}
	if got := texts(must[[]StoredMessage](t)(third.Messages(ctx, "late", 0))); got != "user:q: assistant::interrupted" {
		t.Errorf("got %q", got)
	}
	if _, err := late.Begin(ctx, "late", Question{Text: "without a lease"}); err == nil {
		t.Error("a round that nobody would settle was begun")
	}
	free = must[func()](t)(late.Claim(ctx, "late"))
	say(t, late, "late", Question{Text: "q2"}, "a2")
	free()
	if got := contents(must[[]StoredMessage](t)(third.Messages(ctx, "late", 0))); got != "q  q2 a2" {
		t.Errorf("got %q", got)
	}
}

// Servers that start at once migrate once.
func TestPostgresMigratesOnce(t *testing.T) {
	address := freshDatabase(t)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			s, err := openPostgres(address, slog.New(slog.DiscardHandler), leaseTime)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s := mustOpenPostgres(t, address, leaseTime)
	var versions, servers int
	if err := s.db.QueryRow("SELECT (SELECT count(*) FROM version), (SELECT count(*) FROM servers)").Scan(&versions, &servers); err != nil ||
		versions != len(postgresMigrations) || servers != 1 {
		t.Errorf("%d versions, %d servers, %v", versions, servers, err)
	}
}

func TestPostgresOpeningErrors(t *testing.T) {
	address := freshDatabase(t)
	s := mustOpenPostgres(t, address, leaseTime)
	if _, err := s.db.Exec("INSERT INTO version VALUES (99)"); err != nil {
		t.Fatal(err)
	}
	for address, problem := range map[string]StoreProblem{
		address: StoreTooNew,
		"postgres://me:geheim@/none?host=" + cluster.dir:     StoreUnusable,
		"postgres://me:geheim@127.0.0.1:1/x?sslmode=disable": StoreUnusable,
		"postgres://me:geheim@localhost:port/x":              StoreUnusable,
		"not an address":                                     StoreUnusable,
	} {
		s, err := openPostgres(address, slog.New(slog.DiscardHandler), leaseTime)
		if err == nil {
			s.Close()
		}
		var typed *StoreError
		if !errors.As(err, &typed) || typed.Problem != problem {
			t.Errorf("%s: got %v", address, err)
			continue
		}
		for _, lang := range []Lang{Chinese, English} {
			if text := typed.Text(lang); strings.Contains(text, "geheim") || strings.Contains(text, "\n") {
				t.Errorf("text %q", text)
			}
		}
	}
}
