package engine

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"chulengo/kernels"
)

// Engine runs requests on one device.
type Engine struct {
	spec      Spec
	tokenizer Tokenizer // nil: no text
	spelling  Speller   // nil: no bytes
	options   Options
	context   int // tokens that one sequence may have
	device    kernels.Device
	forward   func()
	wake      chan struct{} // capacity 1: something changed
	done      chan struct{} // closed when the engine's goroutine has ended
	closeErr  error         // of the key/value memory; valid once done is closed

	mu      sync.Mutex
	queue   []*call // submitted, not admitted
	closing bool    // no more requests
	cancel  bool    // and those that run end now
	broken  error   // the device panicked: its state is unknown
	waiting int     // len(away) at the last gauge
	parting int     // of those that ran or waited then, sequences whose callers have gone
	gauges  uint64  // how often the gauges were brought up to date
	stats   Stats

	// Of the engine's goroutine.
	pools     [kernels.Groups]*pool
	running   []*sequence // admitted, in order of admission, the choices of a call one after the other
	away      []*sequence // admitted, but without a place or pages for now; in the same order
	loose     int         // how many of both have no guarantee
	ages      uint64      // the order of the call that was admitted last
	turnOf    uint64      // the order of the prompt that had its turn last
	preempted int64
	queries   int64 // prompt tokens looked up in the prefix cache
	hits      int64
	failed    bool        // planning ended a request
	prompts   []*sequence // scratch of plan: those whose prompts are read
	scratch   []*sequence // of provide
	batch     kernels.Batch
	parts     []part
	experts   experts
	pictures  pictures
}

// New starts an engine for m on dev, which must not be used otherwise until the engine was closed; the caller closes it
// afterwards. tok is nil for a checkpoint without a tokenizer: events then have no text.
func New(m Model, tok Tokenizer, dev kernels.Device, o Options) (*Engine, error) {
	e := &Engine{
		spec: m.Spec(), tokenizer: tok, options: o, device: dev,
		forward: func() { m.Forward(dev) },
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	e.spelling, _ = tok.(Speller)
	if err := e.spec.check(); err != nil {
		return nil, err
	}
	if err := e.options.fill(&e.spec); err != nil {
		return nil, err
	}
	pages, err := e.options.sizePages(&e.spec)
	if err != nil {
		return nil, err
	}
	e.context = e.options.longest(&e.spec, pages)
	kv := e.spec.KV
	kv.PageTokens, kv.Pages = e.options.PageTokens, pages
	for g := range pages {
		e.pools[g] = newPool(g, pages[g])
		e.stats.Pages[g].Total = pages[g]
		e.stats.Pages[g].Bytes = kv.PageBytes(g)
	}
	if e.batch.KV, err = dev.NewKV(kv); err != nil {
		return nil, fmt.Errorf("engine: keys and values: %w", err)
	}
	if e.options.ExpertStats {
		e.experts.find(&e.spec)
		e.experts.device, _ = dev.(kernels.ExpertCounter)
	}
	if e.spec.See != nil {
		e.pictures.device, _ = dev.(kernels.Viewer)
		e.pictures.known = map[[32]byte]*seen{}
	}
	go e.run()
	return e, nil
}

// Context is the number of tokens that prompt and answer of one request may have together: the model's, or fewer where
// memory for keys and values is short.
func (e *Engine) Context() int { return e.context }

// run is the engine's goroutine. It alone touches the device.
func (e *Engine) run() {
	if e.options.LockThread {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	defer close(e.done)
	for {
		stop, busy := e.turn()
		if stop {
			break
		}
		e.askExperts(!busy)
		if !busy {
			<-e.wake
		}
	}
	e.pictures.close()
	if err := e.batch.KV.Close(); err != nil {
		e.closeErr = fmt.Errorf("engine: keys and values: %w", err)
	}
}

// turn admits, runs one step and reports whether the engine is to stop and whether there was a step. A panic on the way
// (a mistake in the model, the device or here) ends every request with an error, and those to come.
func (e *Engine) turn() (stop, busy bool) {
	defer func() {
		if p := recover(); p != nil {
			stack := make([]byte, 16<<10)
			stack = stack[:runtime.Stack(stack, false)]
			e.breakDown(&StepError{fmt.Errorf("panic: %v", p), stack})
			stop, busy = false, false
		}
	}()
	if e.dead() {
		return e.ending(), false
	}
	if e.schedule() {
		return true, false
	}
	e.checkpoint()
	planned := e.plan()
	e.measure()
	if !planned {
		return false, e.failed // what a failed request held may let others go on
	}
	e.step()
	e.checkpoint()
	return false, true
}

// checkpoint is where tests look at the engine.
func (e *Engine) checkpoint() {
	if e.options.check != nil {
		e.options.check()
	}
}

// dead says that the engine only waits to be closed.
func (e *Engine) dead() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broken != nil
}

func (e *Engine) ending() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closing
}

// breakDown fails everything, now and later. The pages are not given back: nobody will use them.
func (e *Engine) breakDown(err *StepError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken = err
	poke(e.wake) // it may have been closed meanwhile
	for _, c := range append(e.calls(), e.queue...) {
		c.finish(err)
	}
	e.running, e.away, e.queue = nil, nil, nil
}

// calls are those that have sequences.
func (e *Engine) calls() (calls []*call) {
	for _, list := range [][]*sequence{e.running, e.away} {
		for _, s := range list {
			if !slices.Contains(calls, s.call) {
				calls = append(calls, s.call)
			}
		}
	}
	return calls
}

// submit puts a call into the queue.
func (e *Engine) submit(c *call) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.broken != nil:
		return e.broken
	case e.closing:
		return ErrClosed
	case e.stats.Running+e.waiting-e.parting+len(e.queue) >= e.options.MaxSequences+e.options.MaxQueue:
		e.stats.Refused++
		return ErrBusy
	}
	e.queue = append(e.queue, c)
	e.stats.Requests++
	e.moved()
	poke(e.wake)
	return nil
}

// leave tells the engine that the caller of c went away.
func (e *Engine) leave(c *call) {
	c.left.Store(true)
	e.mu.Lock()
	if i := slices.Index(e.queue, c); i >= 0 {
		e.queue = slices.Delete(e.queue, i, i+1)
		e.moved()
	} else if c.gauge == e.gauges {
		e.parting += c.gauged // their places are free for others at once, though a step may still run
	}
	e.mu.Unlock()
	poke(e.wake)
}

// moved tells the calls in the queue their places; e.mu is held.
func (e *Engine) moved() {
	e.stats.Queued = e.waiting + len(e.queue)
	for i, c := range e.queue {
		if c.progress {
			c.mail.move(Progress{Queue: i + 1, Prompt: len(c.prompt)})
		}
	}
}

// Shutdown takes no more requests and returns when those that were accepted have ended. If ctx ends first they are
// cancelled, as Close does, and its error is returned.
func (e *Engine) Shutdown(ctx context.Context) error {
	e.close(false)
	select {
	case <-e.done:
		return e.closeErr
	case <-ctx.Done():
		e.close(true)
		<-e.done
		return context.Cause(ctx)
	}
}

// Close ends every request with ErrClosed and stops the engine within one step. The device stays open. Close may be
// called again.
func (e *Engine) Close() error {
	e.close(true)
	<-e.done
	return e.closeErr
}

func (e *Engine) close(cancel bool) {
	e.mu.Lock()
	e.closing = true
	e.cancel = e.cancel || cancel
	e.mu.Unlock()
	poke(e.wake)
}
