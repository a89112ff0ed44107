//go:build cuda

package cuda

import (
	"errors"
	"sync"
)

// Weights come to the device in pieces: a caller copies a piece into pinned memory (many callers at a time, each from its
// own part of a mapped file), and one goroutine sends it on and has it packed, on a stream of its own for every staging
// buffer, so that copying into one, the bus and the packing of others overlap.
const (
	stagingBytes   = 16 << 20
	stagingBuffers = 6
)

// staging is a pinned buffer with its twin on the device.
type staging struct {
	host   []byte
	device ptr
	stream stream
}

// loader sends pieces of weights to the device.
type loader struct {
	gpu  *gpu
	free chan *staging
	jobs chan piece
	done chan struct{}

	mu      sync.Mutex
	idle    sync.Cond
	pending int
	err     error // the first fault; later pieces are dropped
	started bool
}

// piece is a filled staging buffer and what to do with it.
type piece struct {
	*staging
	bytes int
	pack  func(*staging) error // enqueues the packing on the buffer's stream
}

func newLoader(g *gpu) *loader {
	l := &loader{gpu: g, free: make(chan *staging, stagingBuffers), jobs: make(chan piece, stagingBuffers), done: make(chan struct{})}
	l.idle.L = &l.mu
	return l
}

// start makes the buffers, when the first piece comes.
func (l *loader) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started {
		return nil
	}
	defer l.gpu.enter()()
	for range stagingBuffers {
		s := &staging{}
		var err error
		if s.host, err = l.gpu.pin(stagingBytes); err == nil {
			s.device, err = l.gpu.alloc(stagingBytes)
		}
		if err == nil {
			s.stream, err = l.gpu.newStream()
		}
		if err != nil {
			return err
		}
		l.free <- s
	}
	l.started = true
	go l.run()
	return nil
}

// put fills a staging buffer with the first bytes of fill and sends it on. Faults show in flush.
func (l *loader) put(bytes int, fill func(staging []byte), pack func(*staging) error) {
	if err := l.start(); err != nil {
		l.fault(err)
		return
	}
	l.mu.Lock()
	l.pending++
	l.mu.Unlock()
	s := <-l.free
	fill(s.host[:bytes])
	l.jobs <- piece{s, bytes, pack}
}

func (l *loader) fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// run sends pieces on. It waits for the oldest when nothing else is to be done, or when all buffers are on their way.
func (l *loader) run() {
	defer close(l.done)
	defer l.gpu.Enter()() // without the main stream: what this goroutine uses is its own
	var sent []piece
	settle := func() {
		if err := sent[0].stream.wait(); err != nil {
			l.fault(err)
		}
		l.free <- sent[0].staging
		sent = sent[1:]
		l.mu.Lock()
		if l.pending--; l.pending == 0 {
			l.idle.Broadcast()
		}
		l.mu.Unlock()
	}
	for {
		if len(sent) > 0 {
			select {
			case p, ok := <-l.jobs:
				if !ok {
					for len(sent) > 0 {
						settle()
					}
					return
				}
				sent = append(sent, l.send(p))
			default:
				settle()
			}
			continue
		}
		p, ok := <-l.jobs
		if !ok {
			return
		}
		sent = append(sent, l.send(p))
	}
}

// send enqueues the copy and the packing of a piece on its stream.
func (l *loader) send(p piece) piece {
	l.mu.Lock()
	broken := l.err != nil
	l.mu.Unlock()
	if broken {
		return p
	}
	if err := errors.Join(p.stream.copyIn(p.device, p.host[:p.bytes]), p.pack(p.staging)); err != nil {
		l.fault(err)
	}
	return p
}

// flush waits until every piece has arrived.
func (l *loader) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.pending > 0 {
		l.idle.Wait()
	}
	return l.err
}

// close ends the goroutine and frees the buffers.
func (l *loader) close() {
	l.mu.Lock()
	started := l.started
	l.started = false
	l.mu.Unlock()
	if !started {
		return
	}
	close(l.jobs)
	<-l.done
	for range stagingBuffers {
		s := <-l.free
		l.gpu.unpin(s.host)
		l.gpu.free(s.device)
		s.stream.close()
	}
}
