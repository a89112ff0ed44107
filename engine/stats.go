package engine

import (
	"time"

	"chulengo/kernels"
)

// Stats are counters since the start, and gauges.
type Stats struct {
	Running, Queued int   // sequences now; Queued counts those that gave way as well
	Requests        int64 // accepted
	Refused         int64 // refused with ErrBusy
	Preempted       int64 // times that a sequence had to give its pages away for a while
	PrefixQueries   int64 // prompt tokens looked up in the prefix cache
	PrefixHits      int64 // of these, found
	PromptTokens    int64 // read
	GeneratedTokens int64 // drawn
	Steps           int64
	FailedSteps     int64
	StepRows        int64         // rows of all steps together
	StepTime        time.Duration // in steps, all together
	Pages           [kernels.Groups]PageStats
	Pictures        PictureStats
	ExpertTokens    [][]uint64 // [layer][expert] tokens routed; nil without Options.ExpertStats; layers without experts have nil
}

// Observation is what became of one request, for metrics. Durations are the first choice's, EndToEnd the request's.
type Observation struct {
	Queue, Prefill, Decode, EndToEnd time.Duration
	FirstToken                       time.Duration // from the submission; 0: there was none
	Prompt, Cached, Generated        int           // tokens; Generated of all choices
	Choices                          int
	MaxTokens                        int          // as asked for; 0: as many as the context holds
	Finish                           FinishReason // of the first choice
}

// PageStats are the pages of one group.
type PageStats struct {
	Total    int
	Used     int // hold keys and values
	Cached   int // hold a prefix that nobody uses now; given up when pages are needed
	Reserved int // promised to sequences that will not have to give way
	Bytes    int // of one page
}

// Stats gives the counters as they are after the last step, and the gauges as they are now: in the midst of a step, with
// what the step needs.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.ExpertTokens = e.experts.snapshot()
	return s
}

// gauge brings the gauges up to date; e.mu is held.
func (e *Engine) gauge() {
	s := &e.stats
	e.waiting, e.parting = len(e.away), 0
	e.gauges++
	for _, list := range [][]*sequence{e.running, e.away} {
		for _, q := range list {
			switch c := q.call; {
			case c.left.Load():
				e.parting++
			case c.gauge != e.gauges:
				c.gauge, c.gauged = e.gauges, 1
			default:
				c.gauged++
			}
		}
	}
	s.Running, s.Queued = len(e.running), e.waiting+len(e.queue)
	s.Preempted, s.PrefixQueries, s.PrefixHits = e.preempted, e.queries, e.hits
	s.Pictures = e.pictures.stats
	for g, p := range e.pools {
		s.Pages[g].Used = len(p.pages) - len(p.free) - p.idles
		s.Pages[g].Cached = p.idles
		s.Pages[g].Reserved = p.reserved
	}
}

// measure is gauge between steps.
func (e *Engine) measure() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gauge()
}

// count adds the step that has just run; e.mu is held.
func (e *Engine) count(took time.Duration, drawn int, err error) {
	s := &e.stats
	s.Steps++
	s.StepRows += int64(len(e.batch.Token))
	s.StepTime += took
	if err != nil {
		s.FailedSteps++
	} else {
		s.PromptTokens += int64(len(e.batch.Token) - e.batch.Decode)
		s.GeneratedTokens += int64(drawn)
		e.experts.count()
	}
	e.gauge()
}
