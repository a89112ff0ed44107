package serve

import (
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// eachStore runs a test on a fresh store of each kind.
func eachStore(t *testing.T, test func(t *testing.T, s Store, db *sql.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		s := mustOpen(t, t.TempDir())
		test(t, s, s.db)
	})
	t.Run("postgres", func(t *testing.T) {
		s := mustOpenPostgres(t, freshDatabase(t), leaseTime)
		test(t, s, s.db)
	})
}

// say asks and answers in conversation id, and gives where that is.
func say(t *testing.T, s Store, id string, q Question, answer string) Round {
	t.Helper()
	round := must[int64](t)(s.Begin(context.Background(), id, q))
	return must[Round](t)(s.Finish(context.Background(), round, Answer{Text: answer, Reason: "stop"}))
}

func contents(messages []StoredMessage) string {
	var list []string
	for _, m := range messages {
		list = append(list, m.Content)
	}
	return strings.Join(list, " ")
}

func TestStoreTrees(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ *sql.DB) {
		ctx := context.Background()
		must[Conversation](t)(s.Touch(ctx, "a", "me"))
		must[Conversation](t)(s.Touch(ctx, "b", "me"))
		foreign := say(t, s, "b", Question{Text: "other"}, "talk")
		first := say(t, s, "a", Question{Text: "q1"}, "a1")
		second := say(t, s, "a", Question{Text: "q2"}, "a2")
		if first.Parent != 0 || second.Parent != first.Answer {
			t.Errorf("places: %+v, %+v", first, second)
		}
		active := func(want string) {
			t.Helper()
			if got := contents(must[[]StoredMessage](t)(s.Messages(ctx, "a", 0))); got != want {
				t.Errorf("active branch: got %q, want %q", got, want)
			}
		}
		active("q1 a1 q2 a2")
		again := say(t, s, "a", Question{Answers: second.Question}, "a2'")
		active("q1 a1 q2 a2'")
		if again.Question != second.Question || again.Parent != first.Answer {
			t.Errorf("answered again: %+v", again)
		}
		edited := say(t, s, "a", Question{Text: "q2'", Under: first.Answer}, "a2''")
		active("q1 a1 q2' a2''")
		root := say(t, s, "a", Question{Text: "q0", Under: AtRoot}, "a0")
		active("q0 a0")
		for _, test := range []struct {
			message int64
			want    string
		}{
			{second.Answer, "q1 a1 q2 a2"}, {second.Question, "q1 a1 q2 a2'"}, {first.Question, "q1 a1 q2' a2''"},
			{root.Answer, "q0 a0"}, {edited.Question, "q1 a1 q2' a2''"},
		} {
			if err := s.Choose(ctx, "a", test.message); err != nil {
				t.Error(err)
			}
			active(test.want)
		}
		for _, bad := range []int64{foreign.Answer, 1 << 40, 0} {
			if err := s.Choose(ctx, "a", bad); !errors.Is(err, ErrNoMessage) {
				t.Errorf("choose %d: got %v", bad, err)
			}
			if bad == 0 {
				continue // the active branch's end
			}
			if _, err := s.Branch(ctx, "a", bad, 0); !errors.Is(err, ErrNoMessage) {
				t.Errorf("branch %d: got %v", bad, err)
			}
			for _, q := range []Question{{Text: "x", Under: bad}, {Answers: bad}} {
				if _, err := s.Begin(ctx, "a", q); !errors.Is(err, ErrNoMessage) {
					t.Errorf("begin %+v: got %v", q, err)
				}
			}
		}
		if _, err := s.Begin(ctx, "a", Question{Answers: first.Answer}); !errors.Is(err, ErrNoMessage) {
			t.Errorf("an answer was taken for a question: %v", err)
		}
		if got := contents(must[[]StoredMessage](t)(s.Branch(ctx, "a", second.Answer, 3))); got != "a1 q2 a2" {
			t.Errorf("the last three: %q", got)
		}
		if got := must[[]StoredMessage](t)(s.Branch(ctx, "a", AtRoot, 0)); len(got) != 0 {
			t.Errorf("before any message: %q", contents(got))
		}
		if got := contents(must[[]StoredMessage](t)(s.Tree(ctx, "a"))); got != "q1 a1 q2 a2 a2' q2' a2'' q0 a0" {
			t.Errorf("tree: %q", got)
		}
		if c := must[Conversation](t)(s.Conversation(ctx, "a")); c.Head != edited.Answer {
			t.Errorf("head %d, want %d", c.Head, edited.Answer)
		}
	})
}

func TestStoreKeepsNumbers(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ *sql.DB) {
		ctx := context.Background()
		must[Conversation](t)(s.Touch(ctx, "a", ""))
		round := must[int64](t)(s.Begin(ctx, "a", Question{Text: "q"}))
		want := &Numbers{Prompt: 3, Cached: 1, Tokens: 5, Queue: .5, TTFT: 7.25, Total: 20, Rate: 11.5, Used: 8, Context: 4096}
		must[Round](t)(s.Finish(ctx, round, Answer{"a", "stop", want}))
		got := must[[]StoredMessage](t)(s.Messages(ctx, "a", 0))
		if got[0].Numbers != nil || !reflect.DeepEqual(got[1].Numbers, want) {
			t.Errorf("got %+v, want %+v", got[1].Numbers, want)
		}
	})
}

func TestStoreSearches(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ *sql.DB) {
		ctx := context.Background()
		for id, text := range map[string][2]string{
			"zh": {"中华人民共和国的首都是哪里?", "首都是北京。"}, "en": {"A Quick question", "100% sure_of \\ it"}, "both": {"quick", "北京 answer"},
		} {
			must[Conversation](t)(s.Touch(ctx, id, "me"))
			say(t, s, id, Question{Text: text[0]}, text[1])
		}
		must[Conversation](t)(s.Touch(ctx, "theirs", "you"))
		say(t, s, "theirs", Question{Text: "quick 北京"}, "x")
		if err := s.Rename(ctx, "en", "我的标题 Title"); err != nil {
			t.Fatal(err)
		}
		for query, want := range map[string]string{
			"北京": "both zh", "京": "both zh", "人民共和": "zh", "QUICK": "both en", "quick 北京": "both", "100%": "en", "100_": "", "%": "en",
			"_": "en", `\`: "en", "标题": "en", "title": "en", "华民": "", "'; --": "", "北 都": "zh",
		} {
			var ids []string
			for _, h := range must[[]Hit](t)(s.Search(ctx, "me", strings.Fields(query))) {
				ids = append(ids, h.ID)
				if word := strings.ToLower(strings.Fields(query)[0]); h.Message != 0 && !strings.Contains(strings.ToLower(h.Content), word) {
					t.Errorf("%q: message %q", query, h.Content)
				}
			}
			slices.Sort(ids)
			if got := strings.Join(ids, " "); got != want {
				t.Errorf("%q: got %q, want %q", query, got, want)
			}
		}
	})
}

func TestStoreFailures(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ *sql.DB) {
		ctx := context.Background()
		must[Conversation](t)(s.Touch(ctx, "a", "me"))
		fail := func(q string) {
			t.Helper()
			if err := s.Fail(ctx, must[int64](t)(s.Begin(ctx, "a", Question{Text: q})), "坏了", "broken"); err != nil {
				t.Fatal(err)
			}
		}
		fail("why?")
		f := must[*Failure](t)(s.Failure(ctx, "a"))
		if f == nil || f.Question != "why?" || f.ZH != "坏了" || f.EN != "broken" || f.Parent != 0 || time.Since(f.At) > time.Minute {
			t.Fatalf("got %+v", f)
		}
		if list := must[[]Conversation](t)(s.List(ctx, "me")); len(list) != 1 || list[0].Title != "why?" {
			t.Errorf("list: %+v", list)
		}
		if m := must[[]StoredMessage](t)(s.Messages(ctx, "a", 0)); len(m) != 0 {
			t.Errorf("a failure is in the history: %q", texts(m))
		}
		done := say(t, s, "a", Question{Text: "again"}, "yes")
		if f := must[*Failure](t)(s.Failure(ctx, "a")); f != nil {
			t.Errorf("it outlives the next question: %+v", f)
		}
		fail("more")
		if f := must[*Failure](t)(s.Failure(ctx, "a")); f == nil || f.Parent != done.Answer {
			t.Errorf("got %+v", f)
		}
		if err := s.ForgetFailure(ctx, "a"); err != nil || must[*Failure](t)(s.Failure(ctx, "a")) != nil {
			t.Errorf("it is not forgotten: %v", err)
		}
		fail("third")
		if err := s.Clear(ctx, "a"); err != nil || must[*Failure](t)(s.Failure(ctx, "a")) != nil {
			t.Errorf("it outlives clearing: %v", err)
		}
		if err := s.Save(ctx, 1<<40, "x"); !errors.Is(err, ErrRoundGone) {
			t.Errorf("save of a round that is gone: %v", err)
		}
	})
}

func TestStoreSettings(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ *sql.DB) {
		ctx := context.Background()
		if got := must[string](t)(s.Settings(ctx, "me")); got != "" {
			t.Errorf("got %q", got)
		}
		for _, want := range []string{`{"a":1}`, `{"b":"好"}`} {
			if err := s.SetSettings(ctx, "me", want); err != nil {
				t.Fatal(err)
			}
			if got := must[string](t)(s.Settings(ctx, "me")); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if got := must[string](t)(s.Settings(ctx, "you")); got != "" {
			t.Errorf("got %q", got)
		}
	})
}

func TestStoreImports(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ *sql.DB) {
		ctx := context.Background()
		at := time.UnixMilli(1700000000000)
		c := must[Conversation](t)(s.Import(ctx, "me", Conversation{ID: "new", Title: "T", Created: at, Updated: at, Head: 9}, []StoredMessage{
			{ID: 7, Role: RoleUser, Content: "q", Created: at}, {ID: 9, Parent: 7, Role: RoleAssistant, Content: "a", Finish: "stop", Created: at},
			{ID: 8, Parent: 7, Role: RoleAssistant, Content: "b", Finish: "length", Created: at},
		}, nil))
		if c.ID != "new" || c.Owner != "me" || c.Title != "T" || !c.Updated.Equal(at) {
			t.Errorf("got %+v", c)
		}
		if got := texts(must[[]StoredMessage](t)(s.Messages(ctx, "new", 0))); got != "user:q: assistant:a:stop" {
			t.Errorf("got %q", got)
		}
		if got := contents(must[[]StoredMessage](t)(s.Tree(ctx, "new"))); got != "q a b" {
			t.Errorf("got %q", got)
		}
	})
}

// Pictures stay with their questions: through rounds, failures, new answers, imports and another opening, until the
// conversation is cleared or deleted.
func TestStorePictures(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, db *sql.DB) {
		ctx := context.Background()
		must[Conversation](t)(s.Touch(ctx, "a", "me"))
		must[Conversation](t)(s.Touch(ctx, "b", "me"))
		one, two := strings.Repeat("1", 64), strings.Repeat("2", 64)
		show := Question{Text: "q", Pictures: []string{one, two}, Files: map[string][]byte{one: {1, 0, 255}, two: {2}}}
		round := say(t, s, "a", show, "a")
		say(t, s, "a", Question{Text: "again", Pictures: []string{one}}, "a")
		say(t, s, "a", Question{Answers: round.Question}, "b")
		tree := must[[]StoredMessage](t)(s.Tree(ctx, "a"))
		if !slices.Equal(tree[0].Pictures, show.Pictures) || len(tree[1].Pictures) > 0 || !slices.Equal(tree[2].Pictures, []string{one}) || len(tree) != 5 {
			t.Errorf("got %+v", tree)
		}
		if got := must[[]byte](t)(s.Picture(ctx, "a", one)); !slices.Equal(got, []byte{1, 0, 255}) {
			t.Errorf("got %v", got)
		}
		for _, place := range [][2]string{{"b", one}, {"a", "x"}, {"", ""}} {
			if _, err := s.Picture(ctx, place[0], place[1]); !errors.Is(err, ErrNoPicture) {
				t.Errorf("%v: got %v", place, err)
			}
		}
		failing := must[int64](t)(s.Begin(ctx, "b", show))
		if err := s.Fail(ctx, failing, "坏", "bad"); err != nil {
			t.Fatal(err)
		}
		if f := must[*Failure](t)(s.Failure(ctx, "b")); f == nil || !slices.Equal(f.Pictures, show.Pictures) {
			t.Errorf("failure %+v", f)
		}
		again := must[int64](t)(s.Begin(ctx, "b", Question{Answers: 0, Text: "x"}))
		if err := s.Abandon(ctx, again); err != nil {
			t.Fatal(err)
		}
		at := time.UnixMilli(1700000000000)
		must[Conversation](t)(s.Import(ctx, "me", Conversation{ID: "c", Created: at, Updated: at, Head: 2}, []StoredMessage{
			{ID: 1, Role: RoleUser, Content: "q", Created: at, Pictures: []string{two}}, {ID: 2, Parent: 1, Role: RoleAssistant, Created: at}}, map[string][]byte{two: {9}}))
		if m := must[[]StoredMessage](t)(s.Messages(ctx, "c", 0)); !slices.Equal(m[0].Pictures, []string{two}) || !slices.Equal(must[[]byte](t)(s.Picture(ctx, "c", two)), []byte{9}) {
			t.Errorf("imported %+v", m)
		}
		if err := errors.Join(s.Clear(ctx, "a"), s.Delete(ctx, "b"), s.Delete(ctx, "c")); err != nil {
			t.Fatal(err)
		}
		left := -1
		if err := db.QueryRow("SELECT count(*) FROM pictures").Scan(&left); err != nil || left != 0 {
			t.Errorf("%d pictures are left, %v", left, err)
		}
	})
}

// Texts are kept whatever is in them.
func TestStoreOddTexts(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ *sql.DB) {
		ctx := context.Background()
		for _, id := range []string{"a'b", "a\x00b", "🦙", strings.Repeat("x", maxChatID), "a\\%_"} {
			must[Conversation](t)(s.Touch(ctx, id, "me"))
			for _, text := range []string{"NUL \x00 in it", "'; DROP TABLE messages; --", "🦙\u2028\uFEFF", "$1 ? :a"} {
				say(t, s, id, Question{Text: text}, text)
			}
			m := must[[]StoredMessage](t)(s.Messages(ctx, id, 0))
			if len(m) != 8 || m[2].Content != "'; DROP TABLE messages; --" || m[5].Content != "🦙\u2028\uFEFF" || m[7].Content != "$1 ? :a" {
				t.Errorf("%q: got %q", id, contents(m))
			}
		}
	})
}

// Many at a time: nothing is lost and nothing mixed up.
func TestStoreConcurrently(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store, _ *sql.DB) {
		ctx := context.Background()
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				id := fmt.Sprint("c", i%4)
				if _, err := s.Touch(ctx, id, "me"); err != nil {
					t.Error(err)
				}
				for k := range 10 {
					round, err := s.Begin(ctx, id, Question{Text: fmt.Sprint(id, k)})
					if err == nil {
						err = errors.Join(s.Save(ctx, round, "half"), finished(s, round, fmt.Sprint(id, k), "stop"))
					}
					if _, listErr := s.List(ctx, "me"); errors.Join(err, listErr) != nil {
						t.Error(errors.Join(err, listErr))
					}
				}
			})
		}
		all.Wait()
		for i := range 4 {
			id := fmt.Sprint("c", i)
			m := must[[]StoredMessage](t)(s.Tree(ctx, id))
			if len(m) != 40 {
				t.Errorf("%s: %d messages", id, len(m))
			}
			by := map[int64]StoredMessage{}
			for _, one := range m {
				by[one.ID] = one
				if one.Role == RoleAssistant && by[one.Parent].Content != one.Content {
					t.Errorf("%s: %q answers %q", id, one.Content, by[one.Parent].Content)
				}
			}
		}
	})
}

// A database that the first version wrote: its history is one branch, and its running round is settled under it.
func TestStoreOpensItsFirstVersion(t *testing.T) {
	ctx := context.Background()
	packed, err := os.Open("testdata/chats-v1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	data, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, chatsFile), must[[]byte](t)(io.ReadAll(data)), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s := mustOpen(t, dir)
		want := "user:What is the capital of France?: assistant:The capital of France is Paris.:stop user:中国的首都是哪里?: " +
			"assistant:中国的首都是北京。:stop user:Interrupted?: assistant:Half an answer:interrupted"
		branch := must[[]StoredMessage](t)(s.Messages(ctx, "paris", 0))
		if got := texts(branch); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		for i, m := range branch[1:] {
			if m.Parent != branch[i].ID {
				t.Errorf("message %d stands under %d, want %d", m.ID, m.Parent, branch[i].ID)
			}
		}
		list := must[[]Conversation](t)(s.List(ctx, "me"))
		if len(list) != 2 || list[0].Title != "My talk" && list[1].Title != "My talk" {
			t.Errorf("list: %+v", list)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := mustOpen(t, dir)
	if done := say(t, s, "named", Question{Text: "next"}, "yes"); done.Parent == 0 {
		t.Errorf("a new question stands at the root: %+v", done)
	}
}
