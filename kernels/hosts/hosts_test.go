package hosts

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/kernels"
)

// hang is how long nothing takes that does not wait forever, on a busy machine.
const hang = 20 * time.Second

// fake is a device without arithmetic: steps of all processes meet in a channel, as they do over NCCL.
type fake struct {
	kernels.Viewer // nil: stages are not called
	met            *meeting
	announce       func() error
	aborted        chan struct{}
	once           sync.Once
	free           int64
	stuck          bool // does not come to the meeting
	batches        []kernels.Batch
	kv             *fakeKV
	seen           []*kernels.Pixels
	released       int
}

// meeting lets two go on when both are there.
type meeting struct{ a, b chan struct{} }

func (f *fake) meet(first bool) error {
	mine, other := f.met.a, f.met.b
	if !first {
		mine, other = other, mine
	}
	for range 2 {
		select {
		case mine <- struct{}{}:
			mine = nil
		case <-other:
			other = nil
		case <-f.aborted:
			return errors.New("given up")
		}
	}
	return nil
}

func (f *fake) Memory() (int64, int64, error)            { return f.free, 100, nil }
func (f *fake) Announce(g func() error)                  { f.announce = g }
func (f *fake) NewKey() ([]byte, error)                  { return []byte("key"), nil }
func (f *fake) Abort(error)                              { f.once.Do(func() { close(f.aborted) }) }
func (f *fake) Columns(kernels.Tap) (int, int)           { return 1, 3 }
func (f *fake) ExpertRows() ([][]uint64, error)          { return nil, nil }
func (f *fake) Name() string                             { return "fake" }
func (f *fake) Close() error                             { return nil }
func (f *fake) NewKV(kernels.KVSpec) (kernels.KV, error) { return f.kv, nil }
func (f *fake) Meet(key []byte) error {
	if string(key) != "key" {
		return errors.New("another key")
	}
	return f.meet(f.announce == nil && f.free == 10)
}

func (f *fake) Step(b *kernels.Batch, forward func()) <-chan kernels.Result {
	done := make(chan kernels.Result, 1)
	f.batches = append(f.batches, *b)
	var err error
	if len(b.Token) == 0 {
		err = errors.New("an empty batch")
	} else if f.announce != nil {
		err = f.announce()
	}
	if err == nil && !f.stuck {
		forward()
		err = f.meet(f.announce != nil)
	}
	for i := range b.Taps {
		for j := range b.Taps[i].Buf {
			b.Taps[i].Buf[j] = float32(f.free)
		}
	}
	done <- kernels.Result{Outs: []kernels.Out{{Token: 7}}, Err: err}
	return done
}

func (f *fake) Encode(p *kernels.Pixels, forward func()) (kernels.Picture, error) {
	f.seen = append(f.seen, p)
	return f, nil
}
func (f *fake) Rows() int    { return 4 }
func (f *fake) Bytes() int64 { return 4 }
func (f *fake) Release()     { f.released++ }

type fakeKV struct {
	page   []byte
	closed bool
}

func (m *fakeKV) Copy(int, kernels.Page, kernels.Page) error  { return nil }
func (m *fakeKV) Save(_ int, _ kernels.Page, to []byte) error { copy(to, m.page); return nil }
func (m *fakeKV) Load(_ int, _ kernels.Page, from []byte) error {
	m.page = append([]byte{}, from...)
	return nil
}
func (m *fakeKV) Close() error { m.closed = true; return nil }

func newFake(m *meeting, free int64) *fake {
	return &fake{met: m, aborted: make(chan struct{}), free: free, kv: &fakeKV{}}
}

// pairOf is a leader and a follower on this machine. served gives what Serve does.
func pairOf(t *testing.T) (d *Device, a, b *fake, f *Follower, served chan error) {
	t.Helper()
	m := &meeting{make(chan struct{}), make(chan struct{})}
	a, b = newFake(m, 10), newFake(m, 9)
	served = make(chan error, 1)
	var err error
	l, err := Lead(t.Context(), "127.0.0.1:0", Hello{Processes: 2, GPUs: 1, Model: "m"}, func(address string) {
		go func() {
			var err error
			if f, err = Follow(t.Context(), address, Hello{Process: 1, Processes: 2, GPUs: 1, Model: "m"}); err == nil {
				if err = f.Join(t.Context(), b); err == nil {
					err = f.Serve(t.Context(), b, func() {}, func(p *kernels.Pixels) (kernels.Picture, error) { return b.Encode(p, nil) })
				}
			}
			served <- err
		}()
	})
	if err != nil {
		t.Fatal(err)
	}
	if d, err = l.Device(a); err != nil {
		t.Fatal(err)
	}
	return d, a, b, f, served
}

var spec = kernels.KVSpec{Format: kernels.BF16, PageTokens: 2, KVHeads: 2, HeadDim: 1, Layers: [kernels.Groups]int{1, 1}, Pages: [kernels.Groups]int{4, 4}}

func TestDevice(t *testing.T) {
	d, a, b, _, served := pairOf(t)
	if free, _, err := d.Memory(); free != 9 || err != nil {
		t.Errorf("memory: want that of who has least, 9, got %d (%v)", free, err)
	}
	memory, err := d.NewKV(spec)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, spec.PageBytes(0))
	for i := range page {
		page[i] = byte(i)
	}
	if err := memory.Load(0, 1, page); err != nil {
		t.Fatal(err)
	}
	again := make([]byte, len(page))
	if err := memory.Save(0, 1, again); err != nil || !reflect.DeepEqual(page, again) || len(b.kv.page) != len(page)/2 {
		t.Errorf("a page: want %v, got %v (%v)", page, again, err)
	}
	if err := errors.Join(memory.Copy(0, 1, 2), memory.Save(0, 1, again[1:])); err == nil {
		t.Error("a buffer of the wrong size was taken")
	}
	picture, err := d.Encode(&kernels.Pixels{Tiles: 1, Data: []byte{1}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	batch := &kernels.Batch{Token: []int32{5, 6}, Pos: []int32{0, 1}, Decode: 1, KV: memory,
		Spans:    [kernels.Groups][]kernels.Span{{{Row: 0, Rows: 2, Pages: []kernels.Page{3}}}},
		Want:     []kernels.Want{{Row: 1, Score: 3, Top: 2, Sample: &kernels.Sampler{Seed: 4}}},
		Pictures: []kernels.PictureRows{{Row: 1, Rows: 1, From: 2, Picture: picture}},
		Taps:     []kernels.Tap{{Rows: []int32{0, 1}, Buf: make([]float32, 8)}, {Rows: []int32{0}, Op: kernels.Add, Buf: []float32{1, 2}}}}
	r := <-d.Step(batch, func() {})
	if r.Err != nil || len(r.Outs) != 1 || r.Outs[0].Token != 7 {
		t.Fatalf("a step: got %+v", r)
	}
	if want := []float32{10, 9, 9, 10, 10, 9, 9, 10}; !reflect.DeepEqual(batch.Taps[0].Buf, want) {
		t.Errorf("columns of both: want %v, got %v", want, batch.Taps[0].Buf)
	}
	got, own := b.batches[0], a.batches[0]
	if got.KV != kernels.KV(b.kv) || own.KV != kernels.KV(a.kv) || got.Pictures[0].Picture != kernels.Picture(b) || own.Pictures[0].Picture != kernels.Picture(a) {
		t.Error("memory or pictures are not each process's own")
	}
	if !reflect.DeepEqual(got.Token, batch.Token) || !reflect.DeepEqual(got.Pos, batch.Pos) || got.Decode != 1 || !reflect.DeepEqual(got.Spans, batch.Spans) ||
		got.Want[0].Row != 1 || got.Want[0].Sample != nil || got.Pictures[0].From != 2 || len(got.Taps) != 2 || got.Taps[1].Op != kernels.Add {
		t.Errorf("the follower's batch: %+v", got)
	}
	if r := <-d.Step(&kernels.Batch{KV: memory}, func() {}); r.Err == nil || len(b.batches) > 1 {
		t.Errorf("a batch that the leader refuses: got %v, and %d steps of the follower", r.Err, len(b.batches))
	}
	picture.Release()
	if a.released != 1 || b.released != 1 {
		t.Errorf("released: %d and %d times", a.released, b.released)
	}
	if err := errors.Join(memory.Close(), d.Close()); err != nil || !b.kv.closed {
		t.Errorf("closing: %v", err)
	}
	if err := <-served; !errors.Is(err, ErrDone) {
		t.Errorf("the follower: want that the leader is done, got %v", err)
	}
}

// Whoever is left learns at once that the other one is gone, though its device waits for it.
func TestLost(t *testing.T) {
	d, _, b, f, _ := pairOf(t)
	memory, err := d.NewKV(spec)
	if err != nil {
		t.Fatal(err)
	}
	b.stuck = true
	time.AfterFunc(50*time.Millisecond, func() { f.Conn.Close() })
	begin := time.Now()
	for range 2 {
		r := <-d.Step(&kernels.Batch{Token: []int32{1}, KV: memory}, func() {})
		if r.Err == nil || !strings.Contains(r.Err.Error(), "process 1 (127.0.0.1:") || time.Since(begin) > hang {
			t.Errorf("after %v: %v", time.Since(begin), r.Err)
		}
	}

	d, a, _, _, served := pairOf(t)
	if memory, err = d.NewKV(spec); err != nil {
		t.Fatal(err)
	}
	a.stuck = true
	go func() { <-d.Step(&kernels.Batch{Token: []int32{1}, KV: memory}, func() {}) }()
	time.Sleep(50 * time.Millisecond)
	d.leader.followers[0].Conn.Close()
	select {
	case err := <-served:
		if err == nil || errors.Is(err, ErrDone) || !strings.Contains(err.Error(), "the leader") {
			t.Errorf("the follower: got %v", err)
		}
	case <-time.After(hang):
		t.Error("the follower still waits")
	}
}

// What does not fit is refused; what is no follower does not disturb.
func TestWelcome(t *testing.T) {
	good := Hello{Process: 1, Processes: 2, GPUs: 1, Model: "m"}
	for want, change := range map[string]func(*Hello){
		"as many GPUs as the leader, 1, got 2": func(h *Hello) { h.GPUs = 2 },
		"model and options, m, got x":          func(h *Hello) { h.Model = "x" },
		"want processes 1 to 1 of 2, got 0":    func(h *Hello) { h.Process = 0 },
	} {
		h := good
		change(&h)
		followed := make(chan error, 1)
		_, err := Lead(t.Context(), "127.0.0.1:0", good, func(address string) {
			for _, junk := range [][]byte{nil, []byte("GET / HTTP/1.1\r\n\r\n"), binary.BigEndian.AppendUint32(nil, helloMost+1), {0, 0, 0, 3, 1, 2, 3}} {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				c.Write(junk)
				c.(*net.TCPConn).CloseWrite()
			}
			go func() {
				_, err := Follow(t.Context(), address, h)
				followed <- err
			}()
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the leader: want %q, got %v", want, err)
		}
		if err := <-followed; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the follower: want %q, got %v", want, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Lead(ctx, "127.0.0.1:0", good, func(string) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("a leader that is told to end: got %v", err)
	}
}

// FuzzReceive reads any bytes as messages.
func FuzzReceive(f *testing.F) {
	client, server := net.Pipe()
	go func() {
		w := newWire(client)
		w.send(&message{Kind: step, Batch: &kernels.Batch{Token: []int32{1}}, Pictures: []int{1}})
		client.Close()
	}()
	data, err := io.ReadAll(server)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		defer server.Close()
		go func() { client.Write(data); client.Close() }()
		w := newWire(server)
		for {
			if _, err := w.receive(helloMost); err != nil {
				return
			}
		}
	})
}
