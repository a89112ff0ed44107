package hosts

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"chulengo/kernels"
)

const (
	version   = "chulengo hosts 1" // of what follows
	helloMost = 64 << 10           // bytes of a frame of somebody unknown
	frameMost = 1 << 30
)

// Patience is how long a process may be silent, and how often it speaks.
const (
	patience = 10 * time.Second
	beat     = time.Second
)

// kind is what a message asks for.
type kind uint8

const (
	alive kind = iota // nothing: the sender is there
	hello             // follower: who it is; the leader's answer: welcome
	ready             // follower: its device is open
	join              // leader: the devices are to meet
	newKV             // the methods of kernels.KV, of memory ID
	copyKV
	saveKV
	loadKV
	closeKV
	encode  // a picture, from now on ID
	release // picture ID
	step
	bye    // leader: it is done
	answer // follower: to the latest question
)

// message is everything that goes over the wire; fields that a kind does not use are zero, which costs nothing.
type message struct {
	Kind kind
	ID   int

	Hello       *Hello
	Free, Total int64 // of the device's memory
	Key         []byte

	KV     *kernels.KVSpec
	Group  int
	To, At kernels.Page
	Data   []byte // of a page
	Size   int    // how much of it the follower has

	Pixels *kernels.Pixels

	Batch    *kernels.Batch // without KV, pictures and samplers: all but the first rank do not draw
	Pictures []int          // of Batch.Pictures
	Looks    []int          // of Batch.Taps: the size of Buf, where it has nothing yet

	Parts []part // of taps that were captured
	Err   string
}

// part is columns From to To of a tap's Buf.
type part struct {
	From, To int
	Buf      []float32 // [rows, To-From]
}

// Hello is what a follower says about itself, and what the leader expects.
type Hello struct {
	Version            string
	Process, Processes int
	GPUs               int    // of this process
	Model              string // what is loaded, and how: the same everywhere
}

// wire is one end of a connection. One goroutine reads; any may write.
type wire struct {
	net.Conn
	mu      sync.Mutex // of what follows
	out     *gob.Encoder
	pending bytes.Buffer // an encoded message

	in   *gob.Decoder
	rest bytes.Buffer // of a frame
}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c}
	w.out, w.in = gob.NewEncoder(&w.pending), gob.NewDecoder(&w.rest)
	return w
}

func (w *wire) send(m *message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending.Reset()
	w.pending.Write(make([]byte, 4))
	if err := w.out.Encode(m); err != nil {
		return err
	}
	frame := w.pending.Bytes()
	if len(frame)-4 > frameMost {
		return fmt.Errorf("a message: want at most %d bytes, got %d", frameMost, len(frame)-4)
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	w.SetWriteDeadline(time.Now().Add(patience))
	_, err := w.Write(frame)
	return err
}

// receive reads the next message, of at most so many bytes.
func (w *wire) receive(most int) (*message, error) {
	w.SetReadDeadline(time.Now().Add(patience))
	var head [4]byte
	if _, err := io.ReadFull(w, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > most {
		return nil, fmt.Errorf("a message: want at most %d bytes, got %d", most, n)
	}
	w.rest.Reset()
	if _, err := io.CopyN(&w.rest, w, int64(n)); err != nil {
		return nil, err
	}
	m := &message{}
	if err := w.in.Decode(m); err != nil {
		return nil, err
	}
	if w.rest.Len() > 0 {
		return nil, fmt.Errorf("a message: want one in a frame, got %d bytes behind it", w.rest.Len())
	}
	return m, nil
}

// keepAlive says every second that this process is there, until done is closed.
func (w *wire) keepAlive(done <-chan struct{}) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			if w.send(&message{Kind: alive}) != nil {
				return // the reader finds out why
			}
		}
	}
}

// lost says in plain words why a connection ended.
func lost(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return errors.New("it ended: the connection is closed")
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("nothing was heard of it for %v", patience)
	}
	return err
}
