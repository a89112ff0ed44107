package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"chulengo/kernels"
)

// Follower is a process that does what process 0 says.
type Follower struct {
	*wire
	asked chan *message
	done  chan struct{}
	gone  chan struct{} // closed when the leader is; then why says how
	why   error

	kvs      map[int]kernels.KV
	pictures map[int]kernels.Picture
}

// ErrDone says that the leader has ended as it should.
var ErrDone = errors.New("hosts: the leader is done")

// Follow finds the leader at an address, as soon as it listens there.
func Follow(ctx context.Context, address string, h Hello) (*Follower, error) {
	h.Version = version
	var c net.Conn
	for {
		var err error
		if c, err = (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", address); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(beat / 4):
		}
	}
	f := &Follower{wire: newWire(c), asked: make(chan *message), done: make(chan struct{}), gone: make(chan struct{}),
		kvs: map[int]kernels.KV{}, pictures: map[int]kernels.Picture{}}
	err := f.send(&message{Kind: hello, Hello: &h})
	if err == nil {
		var m *message
		if m, err = f.receive(helloMost); err == nil && m.Err != "" {
			err = errors.New(m.Err)
		}
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("hosts: the leader at %s: %w", address, lost(err))
	}
	go f.keepAlive(f.done)
	go f.read()
	return f, nil
}

// read takes what the leader says.
func (f *Follower) read() {
	defer close(f.gone)
	for {
		m, err := f.receive(frameMost)
		switch {
		case err != nil:
			f.why = fmt.Errorf("hosts: the leader: %w", lost(err))
			return
		case m.Kind == bye:
			f.why = ErrDone
			return
		case m.Kind == alive:
			continue
		}
		select {
		case f.asked <- m:
		case <-f.done:
			return
		}
	}
}

// Context is one that ends with the leader; why is its cause.
func (f *Follower) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-f.gone:
			cancel(f.why)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// next is the leader's next question.
func (f *Follower) next(ctx context.Context) (*message, error) {
	select {
	case m := <-f.asked:
		return m, nil
	case <-f.gone:
		return nil, f.why
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Join says that this process's GPUs are open, and has them meet those of the others.
func (f *Follower) Join(ctx context.Context, own Local) error {
	free, total, err := own.Memory()
	if err != nil {
		return err
	}
	if err := f.send(&message{Kind: ready, Free: free, Total: total}); err != nil {
		return err
	}
	m, err := f.next(ctx)
	if err != nil {
		return err
	}
	if m.Kind != join {
		return fmt.Errorf("hosts: the leader: want that it has the GPUs meet, got message %d", m.Kind)
	}
	if err := meet(own, m.Key, f.gone, &f.why); err != nil {
		return err
	}
	return f.send(&message{Kind: answer})
}

// Serve does what the leader says until it is done: ErrDone. forward runs the model on the device, see its vision tower.
func (f *Follower) Serve(ctx context.Context, own Local, forward func(), see func(*kernels.Pixels) (kernels.Picture, error)) error {
	end := make(chan struct{})
	defer close(end)
	go func() {
		select {
		case <-f.gone:
			own.Abort(f.why)
		case <-end:
		}
	}()
	for {
		m, err := f.next(ctx)
		if err != nil {
			return err
		}
		reply := &message{Kind: answer}
		if err := f.do(own, m, reply, forward, see); err != nil {
			reply.Err = err.Error()
		}
		if err := f.send(reply); err != nil {
			return fmt.Errorf("hosts: the leader: %w", lost(err))
		}
	}
}

// do does one thing.
func (f *Follower) do(own Local, m, reply *message, forward func(), see func(*kernels.Pixels) (kernels.Picture, error)) (err error) {
	switch m.Kind {
	case newKV:
		if m.KV == nil {
			return errors.New("want the size of key/value memory, got none")
		}
		f.kvs[m.ID], err = own.NewKV(*m.KV)
		return err
	case encode:
		if m.Pixels == nil || see == nil {
			return errors.New("want pixels for a model with a vision tower")
		}
		f.pictures[m.ID], err = see(m.Pixels)
		return err
	case release:
		if p := f.pictures[m.ID]; p != nil {
			p.Release()
		}
		delete(f.pictures, m.ID)
		return nil
	}
	memory := f.kvs[m.ID]
	if memory == nil {
		return fmt.Errorf("want key/value memory that there is, got number %d in message %d", m.ID, m.Kind)
	}
	switch m.Kind {
	case copyKV:
		return memory.Copy(m.Group, m.To, m.At)
	case saveKV:
		if m.Size < 0 || m.Size > frameMost {
			return fmt.Errorf("want a piece of a page, got %d bytes", m.Size)
		}
		reply.Data = make([]byte, m.Size)
		return memory.Save(m.Group, m.At, reply.Data)
	case loadKV:
		return memory.Load(m.Group, m.At, m.Data)
	case closeKV:
		delete(f.kvs, m.ID)
		return memory.Close()
	case step:
		return f.step(own, memory, m, reply, forward)
	}
	return fmt.Errorf("want a message that is known, got %d", m.Kind)
}

// step runs the leader's batch on this process's GPUs.
func (f *Follower) step(own Local, memory kernels.KV, m, reply *message, forward func()) error {
	b := m.Batch
	if b == nil || len(m.Pictures) != len(b.Pictures) || len(m.Looks) != len(b.Taps) {
		return errors.New("want a batch with all that belongs to it")
	}
	b.KV = memory
	for i, id := range m.Pictures {
		b.Pictures[i].Picture = f.pictures[id]
	}
	for i := range b.Taps {
		if t := &b.Taps[i]; t.Op == kernels.Capture {
			t.Buf = make([]float32, m.Looks[i])
		}
	}
	if r := <-own.Step(b, forward); r.Err != nil {
		return r.Err
	}
	for _, t := range b.Taps {
		p := part{}
		if t.Op == kernels.Capture && len(t.Rows) > 0 {
			p.From, p.To = own.Columns(t)
			width := len(t.Buf) / len(t.Rows)
			for row := range t.Rows {
				p.Buf = append(p.Buf, t.Buf[row*width+p.From:row*width+p.To]...)
			}
		}
		reply.Parts = append(reply.Parts, p)
	}
	return nil
}

// Fail tells the leader why this process gives up.
func (f *Follower) Fail(why error) { f.send(&message{Kind: bye, Err: why.Error()}) }

// Close ends the connection.
func (f *Follower) Close() error {
	close(f.done)
	return f.Conn.Close()
}
