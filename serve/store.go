package serve

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Store keeps conversations. Its methods are called concurrently; those that name a conversation give ErrNoConversation
// if there is none, and ErrNoMessage if a message is not one of its messages.
//
// Messages form a tree: a question stands under the answer that it follows, an answer under its question. Asking anew
// makes siblings. The active branch is the path from a root to the conversation's head; it is what the tutorial's
// clients know as the history.
//
// A round is written in two steps, so that nothing is lost however the process ends. Begin records the question before
// the model sees it, Save what is answered so far, about once a second. Then either Finish turns both into two messages
// of the history, or Abandon forgets them: an answer that failed leaves no trace there, and Fail keeps only the reason,
// beside it. Rounds that none of them reached (the process was killed) become part of the history when the store is
// opened again, or when another server notices, with finish reason FinishInterrupted.
type Store interface {
	// Touch makes a conversation known. It belongs to owner, a browser session or "", unless it was known before.
	Touch(ctx context.Context, id, owner string) (Conversation, error)
	Conversation(ctx context.Context, id string) (Conversation, error)
	// List gives the conversations of owner in which something was said, the latest first.
	List(ctx context.Context, owner string) ([]Conversation, error)
	// Search gives those in which every word occurs, in the title or in a message, as a part of any text.
	Search(ctx context.Context, owner string, words []string) ([]Hit, error)
	Rename(ctx context.Context, id, title string) error
	Delete(ctx context.Context, id string) error
	// Clear empties a conversation, a round that is being answered included; the conversation stays known.
	Clear(ctx context.Context, id string) error

	// Messages gives the last limit messages of the active branch, in the order in which they were said; limit 0: all.
	Messages(ctx context.Context, id string, limit int) ([]StoredMessage, error)
	// Branch gives those of the path that ends with message end. AtHead is the active branch, AtRoot the empty path.
	Branch(ctx context.Context, id string, end int64, limit int) ([]StoredMessage, error)
	// Tree gives all messages, the oldest first.
	Tree(ctx context.Context, id string) ([]StoredMessage, error)
	// Choose makes the newest path through a message the active branch.
	Choose(ctx context.Context, id string, message int64) error
	// Import makes a conversation of messages whose ids and parents refer to one another; all get new ids.
	// pictures are the files of theirs, by id.
	Import(ctx context.Context, owner string, c Conversation, messages []StoredMessage, pictures map[string][]byte) (Conversation, error)
	// Picture gives the file of a picture that was shown in a conversation, or ErrNoPicture.
	Picture(ctx context.Context, id, picture string) ([]byte, error)

	// Claim keeps other servers from answering in a conversation until release is called, or the process is gone. It
	// gives ErrClaimed while another server has the claim. The conversation need not be known.
	Claim(ctx context.Context, id string) (release func(), err error)
	// Elsewhere gives the round that another server answers in a conversation; nil if there is none.
	Elsewhere(ctx context.Context, id string) (*OpenRound, error)

	Begin(ctx context.Context, id string, q Question) (round int64, err error)
	// Save gives ErrRoundGone if the round was cleared or deleted, ErrRoundStopped if another server stopped it.
	Save(ctx context.Context, round int64, answer string) error
	// Finish, Abandon and Fail do nothing if the round was cleared or deleted meanwhile. Finish gives the zero Round then.
	Finish(ctx context.Context, round int64, a Answer) (Round, error)
	Abandon(ctx context.Context, round int64) error
	Fail(ctx context.Context, round int64, zh, en string) error
	// Stop asks the other server that answers in a conversation to end, and says whether there is one.
	Stop(ctx context.Context, id string) (bool, error)
	// Shared says that other servers use the store too, so that Save has something to tell.
	Shared() bool

	// Failure is the last question of a conversation if its answer failed, else nil. Begin and Clear forget it.
	Failure(ctx context.Context, id string) (*Failure, error)
	ForgetFailure(ctx context.Context, id string) error

	// Settings gives what SetSettings kept for a browser session; "" if it kept nothing.
	Settings(ctx context.Context, owner string) (string, error)
	SetSettings(ctx context.Context, owner, value string) error

	Close() error
}

// Conversation is what a list shows of one.
type Conversation struct {
	ID      string
	Owner   string // the browser session that made it; "": none, the id alone opens it
	Title   string // given by its user, else its first question; "" if there is neither
	Created time.Time
	Updated time.Time
	Head    int64 // last message of the active branch; 0: none
}

// Hit is a conversation that a search found.
type Hit struct {
	Conversation
	Message int64  // a message in which the first word occurs; 0: it is in the title alone
	Content string // its content
}

// StoredMessage is a message of the history.
type StoredMessage struct {
	ID      int64
	Parent  int64 // 0: none
	Role    string
	Content string
	Finish  string // answers only: why it ended
	Numbers *Numbers
	Created time.Time

	Pictures []string // shown with a question: ids of files, which are hashes of their content
}

// Places in a conversation that are no message's.
const (
	AtHead int64 = 0  // the end of the active branch
	AtRoot int64 = -1 // before any message
)

// Question is what Begin writes down.
type Question struct {
	Text    string
	Under   int64 // the message that it follows, AtHead or AtRoot
	Answers int64 // a question of the conversation that is answered anew, in place of the other fields; 0: none

	Pictures []string          // ids
	Files    map[string][]byte // of those that the conversation may not have yet
}

// Answer is what Finish writes down.
type Answer struct {
	Text    string
	Reason  string
	Numbers *Numbers // nil: none
}

// Round is a finished one.
type Round struct {
	Parent   int64 // of the question; 0: none
	Question int64
	Answer   int64
}

// OpenRound is one that another server answers.
type OpenRound struct {
	ID       int64
	Question StoredMessage // ID 0: it joins the history with its answer
	Answer   string        // as last saved
}

// Failure is a question whose answer failed.
type Failure struct {
	Parent   int64 // as a message's
	Question string
	Pictures []string
	ZH, EN   string // why
	At       time.Time
}

// Finish reasons of answers, besides the engine's.
const (
	FinishStopRequested = "stop_requested" // POST /api/stop
	FinishInterrupted   = "interrupted"    // the server ended before the answer did
)

// ErrNoConversation says that a conversation is not known.
var ErrNoConversation = errors.New("serve: no such conversation")

// What else a store says.
var (
	ErrNoMessage    = errors.New("serve: no such message in the conversation")
	ErrNoPicture    = errors.New("serve: no such picture in the conversation")
	ErrClaimed      = errors.New("serve: another server answers in this conversation")
	ErrRoundGone    = errors.New("serve: the round was cleared")
	ErrRoundStopped = errors.New("serve: the round was stopped through another server")
)

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
