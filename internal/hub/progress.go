package hub

import (
	"sync"
	"time"
)

// Phase is what a pull is doing with a file.
type Phase uint8

const (
	Checking    Phase = iota // reading a file that was already there
	Downloading              // done counts bytes that have arrived, earlier runs included; it falls if a part starts over
	Verifying                // reading what arrived
	Done                     // in place
)

// Progress hears how a pull goes. Its methods are called by several goroutines at once and should return quickly.
type Progress interface {
	// Plan is called once, when the listing is known: files wanted and their bytes.
	Plan(files int, bytes int64)
	// File is called at most about ten times a second for each file in work, and at every change of phase. name is the
	// path in the repository; done and total are bytes. Bytes that count as Done without Downloading were reused.
	File(name string, phase Phase, done, total int64)
}

type noProgress struct{}

func (noProgress) Plan(int, int64)                  {}
func (noProgress) File(string, Phase, int64, int64) {}

// reporter thins out the reports on one file.
type reporter struct {
	to    Progress
	name  string
	total int64

	mu    sync.Mutex
	phase Phase
	last  time.Time
}

func (r *reporter) report(phase Phase, done int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if phase == r.phase && now.Sub(r.last) < 100*time.Millisecond {
		return
	}
	r.phase, r.last = phase, now
	r.to.File(r.name, phase, done, r.total)
}
