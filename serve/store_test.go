package serve

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func mustOpen(t *testing.T, dir string) *sqliteStore {
	t.Helper()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*sqliteStore)
}

// must stops a test at an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// finished finishes a round.
func finished(s Store, round int64, text, reason string) error {
	_, err := s.Finish(context.Background(), round, Answer{Text: text, Reason: reason})
	return err
}

func texts(messages []StoredMessage) string {
	var list []string
	for _, m := range messages {
		list = append(list, fmt.Sprintf("%s:%s:%s", m.Role, m.Content, m.Finish))
	}
	return strings.Join(list, " ")
}

func TestStoreRounds(t *testing.T) { eachStore(t, testRounds) }

func testRounds(t *testing.T, s Store, db *sql.DB) {
	ctx := context.Background()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(what, err)
		}
	}
	if _, err := s.Conversation(ctx, "a"); !errors.Is(err, ErrNoConversation) {
		t.Errorf("unknown: got %v", err)
	}
	if _, err := s.Begin(ctx, "a", Question{Text: "q"}); !errors.Is(err, ErrNoConversation) {
		t.Errorf("begin in an unknown conversation: got %v", err)
	}
	c := must[Conversation](t)(s.Touch(ctx, "a", "me"))
	if again := must[Conversation](t)(s.Touch(ctx, "a", "you")); again.Owner != "me" || !again.Created.Equal(c.Created) {
		t.Errorf("a second touch: got %+v, want %+v", again, c)
	}
	if list := must[[]Conversation](t)(s.List(ctx, "me")); len(list) != 0 {
		t.Errorf("a conversation without a word is listed: %v", list)
	}

	round := must[int64](t)(s.Begin(ctx, "a", Question{Text: "first\n question"}))
	if list := must[[]Conversation](t)(s.List(ctx, "me")); len(list) != 1 || list[0].Title != "first question" {
		t.Errorf("while answering: got %+v", list)
	}
	if m := must[[]StoredMessage](t)(s.Messages(ctx, "a", 0)); len(m) != 0 {
		t.Errorf("a running round is in the history: %v", texts(m))
	}
	check("save", s.Save(ctx, round, "par"))
	check("finish", finished(s, round, "partial", "stop"))
	check("finish twice", finished(s, round, "again", "stop"))

	round = must[int64](t)(s.Begin(ctx, "a", Question{Text: "fails"}))
	check("save", s.Save(ctx, round, "some"))
	check("abandon", s.Abandon(ctx, round))
	check("finish after abandon", finished(s, round, "x", "stop"))

	round = must[int64](t)(s.Begin(ctx, "a", Question{Text: "second"}))
	check("finish", finished(s, round, "", FinishStopRequested))
	want := "user:first\n question: assistant:partial:stop user:second: assistant::stop_requested"
	if got := texts(must[[]StoredMessage](t)(s.Messages(ctx, "a", 0))); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := texts(must[[]StoredMessage](t)(s.Messages(ctx, "a", 3))); got != "assistant:partial:stop user:second: assistant::stop_requested" {
		t.Errorf("the last three: got %q", got)
	}

	check("rename", s.Rename(ctx, "a", strings.Repeat("长", 100)))
	if c := must[Conversation](t)(s.Conversation(ctx, "a")); c.Title != strings.Repeat("长", 59)+"…" {
		t.Errorf("title %q", c.Title)
	}

	round = must[int64](t)(s.Begin(ctx, "a", Question{Text: "third"}))
	check("clear", s.Clear(ctx, "a"))
	check("finish after clear", finished(s, round, "x", "stop"))
	if got := must[[]StoredMessage](t)(s.Messages(ctx, "a", 0)); len(got) != 0 {
		t.Errorf("after clearing: %q", texts(got))
	}
	round = must[int64](t)(s.Begin(ctx, "a", Question{Text: "fourth"}))
	check("delete", s.Delete(ctx, "a"))
	check("finish after delete", finished(s, round, "x", "stop"))
	for what, err := range map[string]error{"rename": s.Rename(ctx, "a", ""), "delete": s.Delete(ctx, "a"), "clear": s.Clear(ctx, "a")} {
		if !errors.Is(err, ErrNoConversation) {
			t.Errorf("%s of a deleted conversation: got %v", what, err)
		}
	}
	var left int
	if err := db.QueryRow("SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM rounds)").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows are left behind, %v", left, err)
	}
}

func TestStoreListsOwnLatestFirst(t *testing.T) { eachStore(t, testLists) }

func testLists(t *testing.T, s Store, _ *sql.DB) {
	ctx := context.Background()
	for _, id := range []string{"a", "b", "c", "other"} {
		owner := "me"
		if id == "other" {
			owner = "you"
		}
		must[Conversation](t)(s.Touch(ctx, id, owner))
	}
	for _, id := range []string{"c", "a", "other", "b", "a"} {
		round := must[int64](t)(s.Begin(ctx, id, Question{Text: "in " + id}))
		if err := finished(s, round, "yes", "stop"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // times are kept in milliseconds
	}
	var ids []string
	for _, c := range must[[]Conversation](t)(s.List(ctx, "me")) {
		ids = append(ids, c.ID)
	}
	if got := strings.Join(ids, " "); got != "a b c" {
		t.Errorf("got %q, want %q", got, "a b c")
	}
}

// A store whose process is gone, at any moment, is complete: what was a running round becomes an interrupted one.
func TestStoreSettlesInterruptedRounds(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	must[Conversation](t)(s.Touch(ctx, "a", "me"))
	round := must[int64](t)(s.Begin(ctx, "a", Question{Text: "q1"}))
	if err := finished(s, round, "a1", "stop"); err != nil {
		t.Fatal(err)
	}
	round = must[int64](t)(s.Begin(ctx, "a", Question{Text: "q2"}))
	if err := s.Save(ctx, round, "half an "); err != nil {
		t.Fatal(err)
	}
	must[Conversation](t)(s.Touch(ctx, "b", ""))
	must[int64](t)(s.Begin(ctx, "b", Question{Text: "q3"}))

	// A copy of the files at this moment is what a killed process leaves.
	copied := t.TempDir()
	for _, name := range []string{"chats.db", "chats.db-wal"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // settling happens once
		again := mustOpen(t, copied)
		want := "user:q1: assistant:a1:stop user:q2: assistant:half an:interrupted"
		if got := texts(must[[]StoredMessage](t)(again.Messages(ctx, "a", 0))); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := texts(must[[]StoredMessage](t)(again.Messages(ctx, "b", 0))); got != "user:q3: assistant::interrupted" {
			t.Errorf("got %q", got)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(copied, "chats.db-wal")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a closed store leaves its log behind: %v", err)
	}
}

func TestStoreForgetsWhereNothingWasSaid(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	for _, id := range []string{"old", "used", "named", "new"} {
		must[Conversation](t)(s.Touch(ctx, id, "me"))
	}
	round := must[int64](t)(s.Begin(ctx, "used", Question{Text: "q"}))
	if err := errors.Join(finished(s, round, "a", "stop"), s.Rename(ctx, "named", "name")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec("UPDATE conversations SET updated = 1 WHERE id <> 'new'"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = mustOpen(t, dir)
	for id, kept := range map[string]bool{"old": false, "used": true, "named": true, "new": true} {
		if _, err := s.Conversation(ctx, id); (err == nil) != kept {
			t.Errorf("%s: got %v, want kept %v", id, err, kept)
		}
	}
}

func TestStoreOpeningErrors(t *testing.T) {
	valid := func(t *testing.T, dir string) {
		s := mustOpen(t, dir)
		must[Conversation](t)(s.Touch(context.Background(), "a", ""))
		s.Close()
	}
	path := func(dir string) string { return filepath.Join(dir, "chats.db") }
	for _, test := range []struct {
		name    string
		problem StoreProblem
		prepare func(t *testing.T, dir string)
		root    bool // cannot happen to root
	}{
		{"locked", StoreLocked, func(t *testing.T, dir string) { mustOpen(t, dir) }, false},
		{"not a database", StoreDamaged, func(t *testing.T, dir string) {
			os.WriteFile(path(dir), bytes.Repeat([]byte("chat "), 1000), 0o600)
		}, false},
		{"damaged", StoreDamaged, func(t *testing.T, dir string) {
			valid(t, dir)
			data, _ := os.ReadFile(path(dir))
			for i := 4096; i < len(data); i++ {
				data[i] ^= 0x5a
			}
			os.WriteFile(path(dir), data, 0o600)
		}, false},
		{"cut short", StoreDamaged, func(t *testing.T, dir string) {
			valid(t, dir)
			data, _ := os.ReadFile(path(dir))
			os.WriteFile(path(dir), data[:len(data)/2], 0o600)
		}, false},
		{"too new", StoreTooNew, func(t *testing.T, dir string) {
			s := mustOpen(t, dir)
			if _, err := s.db.Exec("PRAGMA user_version = 99"); err != nil {
				t.Fatal(err)
			}
			s.Close()
		}, false},
		{"another program's", StoreDamaged, func(t *testing.T, dir string) {
			db, err := sql.Open("sqlite", path(dir))
			if err == nil {
				_, err = db.Exec("CREATE TABLE x (y)")
			}
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
		}, false},
		{"a folder", StoreUnusable, func(t *testing.T, dir string) { os.Mkdir(path(dir), 0o700) }, false},
		{"unwritable", StoreUnusable, func(t *testing.T, dir string) {
			os.Chmod(dir, 0o500)
			t.Cleanup(func() { os.Chmod(dir, 0o700) })
		}, true},
		{"unreadable", StoreUnusable, func(t *testing.T, dir string) { valid(t, dir); os.Chmod(path(dir), 0) }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.root && (os.Getuid() == 0 || runtime.GOOS == "windows") {
				t.Skip("permissions do not bind this user")
			}
			dir := t.TempDir()
			test.prepare(t, dir)
			before, _ := os.ReadFile(path(dir))
			s, err := OpenStore(dir)
			if err == nil {
				s.Close()
			}
			var typed *StoreError
			if !errors.As(err, &typed) || typed.Problem != test.problem || typed.Path != path(dir) {
				t.Fatalf("got %#v, want problem %d", err, test.problem)
			}
			for _, lang := range []Lang{Chinese, English} {
				if text := typed.Text(lang); !strings.Contains(text, path(dir)) || strings.Contains(text, "\n") {
					t.Errorf("text %q", text)
				}
			}
			if after, _ := os.ReadFile(path(dir)); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	if _, err := OpenStore(filepath.Join(file, "sub")); err == nil {
		t.Error("a folder under a file was opened")
	}
}

func TestStoreInFoldersWithOddNames(t *testing.T) {
	for _, name := range []string{"a b", "100%", "聊天", "a?b#c", "a;b&c=d"} {
		if runtime.GOOS == "windows" && strings.ContainsAny(name, "?") {
			continue
		}
		dir := filepath.Join(t.TempDir(), name)
		s := mustOpen(t, dir)
		must[Conversation](t)(s.Touch(context.Background(), "a", ""))
		s.Close()
		if info, err := os.Stat(filepath.Join(dir, "chats.db")); err != nil || info.Size() == 0 {
			t.Errorf("%q: the database is elsewhere: %v", name, err)
		} else if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%q: mode %v, want 0600", name, info.Mode())
		}
	}
}

// Requests come and go; the connection that holds the lock stays.
func TestStoreOutlivesCancelledRequests(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	must[Conversation](t)(s.Touch(context.Background(), "a", "me"))
	for i := range 200 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Microsecond)
		round, err := s.Begin(ctx, "a", Question{Text: "q"})
		if err == nil {
			err = finished(s, round, "a", "stop")
		}
		_, listErr := s.List(ctx, "me")
		_, messagesErr := s.Messages(ctx, "a", 0)
		cancel()
		if err := errors.Join(err, listErr, messagesErr); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.db.Stats(); got.OpenConnections != 1 || got.MaxIdleClosed+got.MaxLifetimeClosed+got.MaxIdleTimeClosed != 0 {
		t.Errorf("connections: %+v", got)
	}
	if _, err := OpenStore(dir); err == nil {
		t.Error("the lock was lost")
	}
}
