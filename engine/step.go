package engine

import (
	"fmt"
	"time"

	"chulengo/kernels"
)

// part is what one sequence has in a step: rows row..row+rows-1 of the batch.
type part struct {
	s         *sequence
	row, rows int
	first     int // index of its first Want
	want      int // index of the Want that draws, the siblings' follow; -1: the prompt goes on
	taps      int // index of its first tap
}

// maxTapBytes bounds what the taps of one sequence capture in a step.
const maxTapBytes = 64 << 20

// join puts the planned rows of s into the batch.
func (e *Engine) join(s *sequence) {
	b, c, n := &e.batch, s.call, s.rows
	s.planned = false
	p := part{s: s, row: len(b.Token), rows: n, first: len(b.Want), want: -1, taps: len(b.Taps)}
	for i := range n {
		pos := s.pos + i
		id := s.last
		if pos < len(c.prompt) {
			id = c.prompt[pos]
		}
		b.Token = append(b.Token, id)
		b.Pos = append(b.Pos, int32(pos))
		w := kernels.Want{Row: int32(p.row + i), Score: -1}
		if pos < len(c.prompt)-1 {
			if c.scores {
				w.Score, w.Top = c.prompt[pos+1], c.scoreTop
			}
			if c.everyRow {
				b.Want = append(b.Want, w)
			}
			continue
		}
		p.want = len(b.Want)
		w.Top, w.Sample = c.top, &s.draw.sampler
		b.Want = append(b.Want, w)
		for _, j := range s.joins {
			w.Sample = &j.draw.sampler
			b.Want = append(b.Want, w)
		}
	}
	for g := range s.tables {
		b.Spans[g] = s.tables[g].spans(b.Spans[g], p.row, s.pos, n)
	}
	e.show(s, p.row, n)
	if len(c.taps) > 0 {
		rows := make([]int32, n)
		for i := range rows {
			rows[i] = int32(p.row + i)
		}
		for _, t := range c.taps {
			b.Taps = append(b.Taps, kernels.Tap{At: t.At, Rows: rows, Op: kernels.Capture, Buf: make([]float32, n*t.columns)})
		}
	}
	e.parts = append(e.parts, p)
}

// step runs the planned batch.
func (e *Engine) step() {
	began := time.Now()
	for _, p := range e.parts {
		if p.s.drawn == 0 {
			p.s.call.mail.start(began, p.s.call.cached)
		}
	}
	r := <-e.device.Step(&e.batch, e.forward)
	now := time.Now()
	err := r.Err
	if err == nil && len(r.Outs) != len(e.batch.Want) {
		err = fmt.Errorf("device %s: want %d answers, got %d", e.device.Name(), len(e.batch.Want), len(r.Outs))
	}
	e.settle(r.Outs, now.Sub(began), now, err)
	if e.options.ObserveStep != nil {
		e.options.ObserveStep(len(e.batch.Token), now.Sub(began))
	}
}

// settle hands out what came of a step. The lock is held meanwhile: whoever hears of a step finds it counted.
func (e *Engine) settle(outs []kernels.Out, took time.Duration, now time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	drawn := 0
	for i := range e.parts {
		p := &e.parts[i]
		switch {
		case p.s.call.over: // another choice of its call has failed
		case err != nil:
			e.fail(p.s.call, &StepError{Err: err})
		default:
			drawn += e.advance(p, outs, now)
		}
	}
	clear(e.parts)
	e.count(took, drawn, err)
}

// advance moves a sequence past the rows of a step and its draw, and writes what the caller will read. It gives the
// number of tokens drawn.
func (e *Engine) advance(p *part, outs []kernels.Out, now time.Time) (drawn int) {
	s, c := p.s, p.s.call
	l := letter{at: now, choice: s.choice}
	for i, t := range c.taps {
		l.rows = append(l.rows, captured{t.Row, s.pos, t.columns, e.batch.Taps[p.taps+i].Buf})
	}
	prefill := !s.decoding()
	if c.scores && s.choice == 0 && prefill {
		for i := range min(p.rows, len(c.prompt)-1-s.pos) {
			out := outs[p.first+i]
			if out.Score != out.Score {
				e.fail(c, &StepError{Err: fmt.Errorf("logits at position %d: want a finite log-probability, got %v", s.pos+i, out.Score)})
				return 0
			}
			l.prompt = append(l.prompt, PromptToken{ID: c.prompt[s.pos+i+1], LogProb: out.Score, Top: out.Top})
		}
	}
	s.pos += p.rows
	s.letGo(false)
	if prefill {
		s.enter()
		c.advanced(s)
	}
	for g := range s.tables {
		s.tables[g].leave(s.pos)
	}
	if p.want < 0 {
		if len(l.rows) > 0 || len(l.prompt) > 0 {
			c.mail.put(l)
		}
		return 0
	}
	joins := s.joins
	s.joins = nil
	for _, j := range joins {
		j.pos, j.cached = s.pos, s.cached
		for g := range j.tables {
			j.tables[g] = s.tables[g].share()
		}
	}
	e.drew(s, outs[p.want], l)
	for i, j := range joins {
		if c.over {
			return i + 1
		}
		e.drew(j, outs[p.want+1+i], letter{at: now, choice: j.choice})
	}
	return 1 + len(joins)
}

// drew takes what was drawn for a sequence.
func (e *Engine) drew(s *sequence, out kernels.Out, l letter) {
	if out.Token < 0 || int(out.Token) >= e.spec.Vocab || out.LogProb != out.LogProb {
		e.fail(s.call, &StepError{Err: fmt.Errorf("logits at position %d: want a token in [0, %d) with a finite log-probability, got %d with %v",
			s.pos-1, e.spec.Vocab, out.Token, out.LogProb)})
		return
	}
	s.last = out.Token
	if s.drawn++; s.drawn > 1 && e.options.ObserveToken != nil {
		e.options.ObserveToken(l.at.Sub(s.drawnAt))
	}
	s.drawnAt = l.at
	s.draw.drew(out.Token)
	l.event = &Event{Choice: s.choice, ID: out.Token, LogProb: out.LogProb, Top: out.Top}
	if err := e.read(s, out.Token, &l); err != nil {
		l.end, l.err = FinishError, err
		s.call.mail.put(l)
		e.dismiss(s.call)
		return
	}
	s.call.mail.put(l)
	if l.end != "" {
		e.drop(s)
	}
}

// read adds the text of a token and decides whether the answer ends with it. A decoder or a constraint that fails costs
// its own request only.
func (e *Engine) read(s *sequence, id int32, l *letter) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("engine: decoding token %d: panic: %v", id, p)
		}
	}()
	if e.spelling != nil {
		l.event.Bytes = e.spelling.Bytes(id)
	}
	l.stopID = -1
	if s.call.stopIDs[id] {
		l.event.Text = s.text.flush()
		l.end, l.stopID = FinishStop, id
		return nil
	}
	s.text.deaf = s.drawn < s.call.minTokens
	text, hit := s.text.next(id)
	switch {
	case hit:
		l.end, l.stop = FinishStop, s.text.matched
	case s.drawn == s.call.maxTokens:
		text += s.text.flush()
		l.end = FinishLength
	}
	l.event.Text = text
	if l.end == "" {
		return s.accept(id)
	}
	return nil
}
