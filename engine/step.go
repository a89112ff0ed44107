package engine

import (
	"fmt"
	"math"
	"time"

	"chulengo/kernels"
)

// part is what one sequence has in a step: rows row..row+rows-1 of the batch.
type part struct {
	s         *sequence
	row, rows int
	want      int // index of the Want that draws; -1: the prompt goes on
	taps      int // index of its first tap
}

// maxTapBytes bounds what the taps of one sequence capture in a step.
const maxTapBytes = 64 << 20

// plan fills the batch of the next step: a decode row for every sequence whose prompt was read, then pieces of prompts
// in order of admission, up to StepTokens rows. It reports whether there is anything to do.
func (e *Engine) plan() bool {
	b := &e.batch
	b.Token, b.Pos, b.Want, b.Taps, b.Decode = b.Token[:0], b.Pos[:0], b.Want[:0], b.Taps[:0], 0
	for g := range b.Spans {
		b.Spans[g] = b.Spans[g][:0]
	}
	e.parts = e.parts[:0]
	for _, s := range e.running {
		if s.decoding() && !s.waits() {
			e.join(s, 1)
		}
	}
	b.Decode = len(b.Token)
	room := max(1, e.options.StepTokens-b.Decode) // a prompt moves on, however many decode
	for _, s := range e.running {
		if !s.decoding() && !s.waits() && room > 0 {
			n := min(room, s.mostRows(), len(s.prompt)-s.pos)
			e.join(s, n)
			room -= n
		}
	}
	return len(e.parts) > 0
}

// waits says that the caller has not taken yet what its taps captured.
func (s *sequence) waits() bool { return len(s.taps) > 0 && s.mail.unread() }

// mostRows is the largest piece whose captured values stay within maxTapBytes.
func (s *sequence) mostRows() int {
	columns := 0
	for _, t := range s.taps {
		columns += t.columns
	}
	if columns == 0 {
		return math.MaxInt32
	}
	return max(1, maxTapBytes/4/columns)
}

// join puts the next n tokens of s into the batch.
func (e *Engine) join(s *sequence, n int) {
	b := &e.batch
	p := part{s: s, row: len(b.Token), rows: n, want: -1, taps: len(b.Taps)}
	for i := range n {
		id := s.last
		if s.pos+i < len(s.prompt) {
			id = s.prompt[s.pos+i]
		}
		b.Token = append(b.Token, id)
		b.Pos = append(b.Pos, int32(s.pos+i))
		draws := s.pos+i >= len(s.prompt)-1
		if draws || s.everyRow {
			w := kernels.Want{Row: int32(p.row + i), Score: -1}
			if draws {
				p.want = len(b.Want)
				w.Top, w.Sample = s.top, &s.draw.sampler
			}
			b.Want = append(b.Want, w)
		}
	}
	for g := range s.tables {
		b.Spans[g] = s.tables[g].spans(b.Spans[g], p.row, s.pos, n)
	}
	if len(s.taps) > 0 {
		rows := make([]int32, n)
		for i := range rows {
			rows[i] = int32(p.row + i)
		}
		for _, t := range s.taps {
			b.Taps = append(b.Taps, kernels.Tap{At: t.At, Rows: rows, Op: kernels.Capture, Buf: make([]float32, n*t.columns)})
		}
	}
	e.parts = append(e.parts, p)
}

// step runs the planned batch and hands out what came of it.
func (e *Engine) step() {
	began := time.Now()
	for _, p := range e.parts {
		p.s.mail.start(began)
	}
	r := <-e.device.Step(&e.batch, e.forward)
	now := time.Now()
	err := r.Err
	if err == nil && len(r.Outs) != len(e.batch.Want) {
		err = fmt.Errorf("device %s: want %d answers, got %d", e.device.Name(), len(e.batch.Want), len(r.Outs))
	}
	for _, p := range e.parts {
		l := letter{at: now}
		if err != nil {
			l.end, l.err = FinishError, &StepError{Err: err}
		} else {
			e.advance(p, r.Outs, &l)
		}
		if l.end != "" {
			e.drop(p.s)
		}
		if len(l.rows) > 0 || l.event != nil || l.end != "" {
			p.s.mail.put(l)
		}
	}
	e.count(now.Sub(began), err)
}

// advance moves a sequence past the rows of a step and its draw, and writes what the caller will read.
func (e *Engine) advance(p part, outs []kernels.Out, l *letter) {
	s := p.s
	for i, t := range s.taps {
		l.rows = append(l.rows, captured{t.Row, s.pos, t.columns, e.batch.Taps[p.taps+i].Buf})
	}
	s.pos += p.rows
	for g := range s.tables {
		s.tables[g].leave(s.pos)
	}
	if p.want < 0 {
		return
	}
	out := outs[p.want]
	if out.Token < 0 || int(out.Token) >= e.spec.Vocab || out.LogProb != out.LogProb {
		l.end = FinishError
		l.err = &StepError{Err: fmt.Errorf("logits at position %d: want a token in [0, %d) with a finite log-probability, got %d with %v",
			s.pos-1, e.spec.Vocab, out.Token, out.LogProb)}
		return
	}
	s.last = out.Token
	s.drawn++
	s.draw.drew(out.Token)
	l.event = &Event{ID: out.Token, LogProb: out.LogProb, Top: out.Top}

	s.read(out.Token, l)
}

// read adds the text of a token and decides whether the answer ends with it. A decoder that panics costs its own
// request only.
func (s *sequence) read(id int32, l *letter) {
	defer func() {
		if p := recover(); p != nil {
			l.end, l.err = FinishError, fmt.Errorf("engine: decoding token %d: panic: %v", id, p)
		}
	}()
	if s.stopIDs[id] {
		l.event.Text = s.text.flush()
		l.end = FinishStop
		return
	}
	text, hit := s.text.next(id)
	switch {
	case hit:
		l.end = FinishStop
	case s.drawn == s.maxTokens:
		text += s.text.flush()
		l.end = FinishLength
	}
	l.event.Text = text
}
