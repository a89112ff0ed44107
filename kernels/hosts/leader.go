package hosts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Leader is process 0 with the connections to all others.
type Leader struct {
	hello     Hello
	followers []*follower // process i+1
	done      chan struct{}
	lost      chan struct{} // closed when a follower is lost; then why says which
	why       error
	once      sync.Once
	onLost    func(error)
	mu        sync.Mutex // of onLost
}

// follower is another process as the leader sees it.
type follower struct {
	*wire
	name    string
	answers chan *message
}

// Lead waits at an address for all other processes. note is told what it waits for.
func Lead(ctx context.Context, address string, h Hello, note func(address string)) (*Leader, error) {
	h.Version = version
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("hosts: %w", err)
	}
	note(listener.Addr().String())
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	l := &Leader{hello: h, followers: make([]*follower, h.Processes-1), done: make(chan struct{}), lost: make(chan struct{})}
	l.OnLost(func(error) { listener.Close() })
	defer l.OnLost(nil)
	for waiting := h.Processes - 1; waiting > 0; {
		c, err := listener.Accept()
		if err != nil {
			why := cmp.Or(l.Lost(), ctx.Err(), fmt.Errorf("hosts: %w", err))
			l.Close()
			return nil, why
		}
		f, process, err := l.welcome(c)
		if err != nil {
			c.Close()
			if f != nil { // one of ours, that does not fit
				l.Close()
				return nil, err
			}
			continue // somebody else's
		}
		l.followers[process-1] = f
		waiting--
		go f.keepAlive(l.done)
		go l.read(f)
	}
	return l, nil
}

// welcome takes a follower in, or says why not.
func (l *Leader) welcome(c net.Conn) (f *follower, process int, err error) {
	w := newWire(c)
	m, err := w.receive(helloMost)
	if err != nil || m.Kind != hello || m.Hello == nil {
		return nil, 0, errors.New("hosts: want a follower's hello")
	}
	h := *m.Hello
	f = &follower{wire: w, name: fmt.Sprintf("process %d (%v)", h.Process, c.RemoteAddr()), answers: make(chan *message, 1)}
	switch want := l.hello; {
	case h.Version != want.Version:
		err = fmt.Errorf("want version %q, got %q", want.Version, h.Version)
	case h.Processes != want.Processes || h.Process < 1 || h.Process >= want.Processes:
		err = fmt.Errorf("want processes 1 to %d of %d, got %d of %d", want.Processes-1, want.Processes, h.Process, h.Processes)
	case l.followers[h.Process-1] != nil:
		err = fmt.Errorf("want every process once, got another of this number")
	case h.GPUs != want.GPUs:
		err = fmt.Errorf("want as many GPUs as the leader, %d, got %d", want.GPUs, h.GPUs)
	case h.Model != want.Model:
		err = fmt.Errorf("want the leader's model and options, %s, got %s", want.Model, h.Model)
	}
	reply := &message{Kind: hello}
	if err != nil {
		err = fmt.Errorf("hosts: %s: %w", f.name, err)
		reply.Err = err.Error()
	}
	if e := w.send(reply); err == nil && e != nil {
		return nil, 0, e
	}
	return f, h.Process, err
}

// read takes what a follower says.
func (l *Leader) read(f *follower) {
	for {
		m, err := f.receive(frameMost)
		if err != nil {
			l.lose(fmt.Errorf("hosts: %s: %w", f.name, lost(err)))
			return
		}
		if m.Kind == alive {
			continue
		}
		if m.Kind == bye {
			l.lose(fmt.Errorf("hosts: %s: %s", f.name, m.Err))
			return
		}
		select {
		case f.answers <- m:
		case <-l.done:
			return
		}
	}
}

// lose gives the other processes up, for the first reason that there is.
func (l *Leader) lose(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.lost)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.onLost != nil {
			l.onLost(why)
		}
	})
}

// OnLost has f called when a process is lost.
func (l *Leader) OnLost(f func(why error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onLost = f
}

// Lost is why, once a process is lost.
func (l *Leader) Lost() error {
	select {
	case <-l.lost:
		return l.why
	default:
		return nil
	}
}

// tell sends every follower a message.
func (l *Leader) tell(m *message) error {
	if err := l.Lost(); err != nil {
		return err
	}
	for _, f := range l.followers {
		if err := l.tellOne(f, m); err != nil {
			return err
		}
	}
	return nil
}

func (l *Leader) tellOne(f *follower, m *message) error {
	if err := f.send(m); err != nil {
		l.lose(fmt.Errorf("hosts: %s: %w", f.name, lost(err)))
	}
	return l.Lost()
}

// hear waits for every follower's answer, as long as they live. The error is that of the first that has one.
func (l *Leader) hear() (answers []*message, err error) {
	for _, f := range l.followers {
		select {
		case m := <-f.answers:
			if m.Err != "" && err == nil {
				err = fmt.Errorf("hosts: %s: %s", f.name, m.Err)
			}
			answers = append(answers, m)
		case <-l.lost:
			return nil, l.why
		}
	}
	return answers, err
}

// ask is tell and hear.
func (l *Leader) ask(m *message) ([]*message, error) {
	if err := l.tell(m); err != nil {
		return nil, err
	}
	return l.hear()
}

// Close lets the followers end.
func (l *Leader) Close() error {
	for _, f := range l.followers {
		if f != nil && l.Lost() == nil {
			f.send(&message{Kind: bye})
		}
	}
	l.once.Do(func() { l.why = errors.New("hosts: closed"); close(l.lost) }) // what the connections' ends mean from now on
	close(l.done)
	for _, f := range l.followers {
		if f != nil {
			f.Conn.Close()
		}
	}
	return nil
}
