package engine

import (
	"time"

	"chulengo/kernels"
)

// Stats are counters since the start, and gauges.
type Stats struct {
	Running, Queued int   // sequences now
	Requests        int64 // accepted
	Refused         int64 // refused with ErrBusy
	PromptTokens    int64 // read
	GeneratedTokens int64 // drawn
	Steps           int64
	FailedSteps     int64
	StepTime        time.Duration // in steps, all together
	Pages           [kernels.Groups]PageStats
}

// PageStats are the pages of one group.
type PageStats struct {
	Total    int
	Used     int // hold keys and values
	Reserved int // promised to running sequences, Used included
	Bytes    int // of one page
}

// Stats gives the counters and gauges as they are after the last step.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}

// gauge brings the gauges up to date; e.mu is held.
func (e *Engine) gauge() {
	e.stats.Running, e.stats.Queued = len(e.running), len(e.queue)
	for g, p := range e.pools {
		e.stats.Pages[g].Used = len(p.taken) - len(p.free)
		e.stats.Pages[g].Reserved = p.reserved
	}
}

// count adds the step that has just run.
func (e *Engine) count(took time.Duration, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &e.stats
	s.Steps++
	s.StepTime += took
	if err != nil {
		s.FailedSteps++
	} else {
		s.PromptTokens += int64(len(e.batch.Token) - e.batch.Decode)
		for _, p := range e.parts {
			if p.want >= 0 {
				s.GeneratedTokens++
			}
		}
	}
	e.gauge()
}
