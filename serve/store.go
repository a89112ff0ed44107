package serve

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Store keeps conversations. Its methods are called concurrently; those that name a conversation give ErrNoConversation
// if there is none.
//
// A round is written in two steps, so that nothing is lost however the process ends. Begin records the question before
// the model sees it, Save what is answered so far, about once a second. Then either Finish turns both into two messages
// of the history, or Abandon forgets them: an answer that failed leaves no trace. Rounds that neither reached (the
// process was killed) become part of the history when the store is opened again, with finish reason FinishInterrupted.
type Store interface {
	// Touch makes a conversation known. It belongs to owner, a browser session or "", unless it was known before.
	Touch(ctx context.Context, id, owner string) (Conversation, error)
	Conversation(ctx context.Context, id string) (Conversation, error)
	// List gives the conversations of owner in which something was said, the latest first.
	List(ctx context.Context, owner string) ([]Conversation, error)
	Rename(ctx context.Context, id, title string) error
	Delete(ctx context.Context, id string) error
	// Clear empties a conversation, a round that is being answered included; the conversation stays known.
	Clear(ctx context.Context, id string) error

	// Messages gives the last limit messages, in the order in which they were said; limit 0: all.
	Messages(ctx context.Context, id string, limit int) ([]StoredMessage, error)

	Begin(ctx context.Context, id, question string) (round int64, err error)
	Save(ctx context.Context, round int64, answer string) error
	// Finish and Abandon do nothing if the round was cleared or deleted meanwhile.
	Finish(ctx context.Context, round int64, answer, reason string) error
	Abandon(ctx context.Context, round int64) error

	Close() error
}

// Conversation is what a list shows of one.
type Conversation struct {
	ID      string
	Owner   string // the browser session that made it; "": none, the id alone opens it
	Title   string // given by its user, else its first question; "" if there is neither
	Created time.Time
	Updated time.Time
}

// StoredMessage is a message of the history.
type StoredMessage struct {
	Role    string
	Content string
	Finish  string // answers only: why it ended
	Created time.Time
}

// Finish reasons of answers, besides the engine's.
const (
	FinishStopRequested = "stop_requested" // POST /api/stop
	FinishInterrupted   = "interrupted"    // the server ended before the answer did
)

// ErrNoConversation says that a conversation is not known.
var ErrNoConversation = errors.New("serve: no such conversation")

// StoreProblem classifies why a store cannot be opened.
type StoreProblem int

const (
	StoreUnusable StoreProblem = iota // no permission, no space, not a folder
	StoreLocked                       // another process has it open
	StoreDamaged                      // the file is not, or no longer, a database of ours
	StoreTooNew                       // written by a later version of this program
)

// StoreError says why the chats of a data folder cannot be opened. Nothing was changed there.
type StoreError struct {
	Path    string // the database
	Problem StoreProblem
	Err     error
}

// Text is one sentence for the person who started the server.
func (e *StoreError) Text(lang Lang) string {
	var m message
	switch e.Problem {
	case StoreLocked:
		m = message{"%s 正被另一个进程使用(可能已有一个 chulengo 在运行);请先结束它,或用 --data-dir 指定另一个目录",
			"%s is in use by another process (is chulengo already running?); end that one, or choose another folder with --data-dir"}
	case StoreDamaged:
		m = message{"%s 已损坏或不是 chulengo 的数据库;文件未被改动,移走它即可重新开始",
			"%s is damaged or not a database of chulengo; it was left as it is, and moving it away starts afresh"}
	case StoreTooNew:
		m = message{"%s 由更新版本的 chulengo 写成,此版本无法读取;文件未被改动",
			"%s was written by a newer chulengo than this one, which cannot read it; it was left as it is"}
	default:
		m = message{"无法打开 %s", "cannot open %s"}
	}
	return fmt.Sprintf(m.in(lang), e.Path) + e.detail()
}

func (e *StoreError) detail() string {
	if e.Problem == StoreUnusable && e.Err != nil {
		return ": " + e.Err.Error()
	}
	return ""
}

func (e *StoreError) Error() string { return "serve: " + e.Text(English) }
func (e *StoreError) Unwrap() error { return e.Err }
