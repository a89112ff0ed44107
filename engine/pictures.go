package engine

import (
	"fmt"
	"slices"
	"sync"

	"chulengo/kernels"
)

// Pictures are encoded when a prompt comes to them, once for each content, and kept for others until their memory is
// needed (Options.PictureBytes). A sequence that is in the midst of a picture holds it; its keys and values are pages
// like any, so that nothing of it is needed once its rows were read, and a sequence that gives way gives its pictures up.
// Files are turned into pixels by goroutines of their own, a few at a time; meanwhile the prompt waits before the
// picture, and others go on. A step begins with at most one encoding, or, while answers are in progress and where the device can, a
// piece of one: so they wait for a few milliseconds and not for a whole picture.
//
// One prompt always goes on: the oldest that always gets its pages, else the oldest. Where the others hold all the memory,
// it takes theirs; so no more is held than the bound, or one picture that is larger.

// Bounds on pixels that are not encoded yet.
const (
	preparing = 2 // files that are decoded at a time
	prepared  = 4 // and pictures whose pixels wait, those included
)

// place is a run of rows of one picture in a prompt.
type place struct {
	pos, rows int
	from      int // row of the picture
	media     *Media
	total     int // rows of the picture
}

// places finds where pictures stand in a prompt: the tokens of the patch id in their stretches.
func places(prompt []int32, media []Media, patch int32) (list []place) {
	for i := range media {
		m := &media[i]
		if m.Pixels == nil {
			continue
		}
		first, rows := len(list), 0
		for pos := m.Pos; pos < m.Pos+m.Len; pos++ {
			if prompt[pos] != patch {
				continue
			}
			if n := len(list); n > first && list[n-1].pos+list[n-1].rows == pos {
				list[n-1].rows++
			} else {
				list = append(list, place{pos: pos, rows: 1, from: rows, media: m})
			}
			rows++
		}
		for j := first; j < len(list); j++ {
			list[j].total = rows
		}
	}
	return list
}

// seen is a picture that the engine knows: its pixels are being made, or are there, or its rows are.
type seen struct {
	hash    [32]byte
	source  *Media // of the pixels
	ready   bool   // pixels or err are there
	pixels  *kernels.Pixels
	err     error
	picture kernels.Picture    // nil: not encoded
	left    kernels.Unfinished // picture, as long as pieces of it are left to do
	bytes   int64              // of picture
	holds   int                // sequences in the midst of it
	used    uint64             // turn in which a prompt wanted it last
}

// pictures is the engine's memory of pictures.
type pictures struct {
	device kernels.Viewer // nil: the device cannot see
	known  map[[32]byte]*seen
	bytes  int64 // of those that are encoded
	turn   uint64
	busy   bool  // this turn has encoded one, or a piece
	part   *seen // that is encoded in pieces; nil: none
	stats  PictureStats

	mu   sync.Mutex
	done []func() // of finished preparations
}

// PictureStats count the pictures of all requests.
type PictureStats struct {
	Encoded int64 // times that a picture went through the tower
	Shared  int64 // times that a prompt came to one that was there already
	Kept    int   // encoded pictures in memory now
	Bytes   int64 // that they take
}

// see decides how far each prompt may be read in the next step: to the first picture that is not there yet.
func (e *Engine) see() {
	p := &e.pictures
	p.turn++
	p.busy = false
	p.mu.Lock()
	for _, finish := range p.done {
		finish()
	}
	p.done = p.done[:0]
	p.mu.Unlock()
	first := e.foremost() // before the others know what they have: it may take that away
	if first != nil {
		e.seeFor(first, true)
	}
	for _, s := range e.prompts {
		if s != first {
			e.seeFor(s, false)
		}
	}
	e.prompts = slices.DeleteFunc(e.prompts, func(s *sequence) bool { return s.call.over })
	p.stats.Kept, p.stats.Bytes = 0, p.bytes
	for _, x := range p.known {
		if x.picture != nil {
			p.stats.Kept++
		}
	}
}

// foremost is the prompt that goes on whatever others hold: the oldest that always gets its pages, else the oldest.
func (e *Engine) foremost() *sequence {
	for _, s := range e.prompts {
		if s.guaranteed {
			return s
		}
	}
	if len(e.prompts) > 0 {
		return e.prompts[0]
	}
	return nil
}

// seeFor is see for one prompt.
func (e *Engine) seeFor(s *sequence, first bool) {
	s.until = len(s.call.prompt)
	for i := range s.call.places {
		at := &s.call.places[i]
		if at.pos+at.rows <= s.pos || s.call.over {
			continue
		}
		if at.pos >= s.pos+e.options.StepTokens {
			return
		}
		there, err := e.reach(s, at, first)
		if err != nil {
			e.fail(s.call, err)
			return
		}
		if !there {
			s.until = max(s.pos, at.pos)
			return
		}
	}
}

// reach says whether a picture is encoded, and holds it for s; if it is not, it moves it on.
func (e *Engine) reach(s *sequence, at *place, first bool) (there bool, err error) {
	p := &e.pictures
	x := p.known[at.media.Hash]
	switch {
	case x == nil:
		if first || p.room() {
			e.prepare(at.media)
		}
		return false, nil
	case x.picture != nil:
		if s.hold(x) {
			p.stats.Shared++
		}
		x.used = p.turn
		return e.proceed(x)
	}
	x.used = p.turn
	if !x.ready {
		return false, nil
	}
	if x.err != nil {
		delete(p.known, x.hash)
		if x.source != at.media { // this request's own source may be better
			poke(e.wake)
			return false, nil
		}
		return false, &PictureError{Index: s.call.mediaIndex(at.media), Err: x.err}
	}
	if p.part != nil && p.part.used+1 < p.turn && p.part.holds == 0 {
		p.forget(p.part) // nobody waits for it any more
	}
	if p.busy || p.part != nil {
		poke(e.wake) // nothing else may wake the engine for the next turn
		return false, nil
	}
	if room := e.options.PictureBytes - int64(at.total)*e.spec.PictureRow; !p.evict(room) {
		if !first || at.pos > s.pos {
			return false, nil
		}
		s.letGo(true) // what it will need later
		e.revoke(s, room)
	}
	p.busy = true
	inPieces := e.answering()
	x.pixels.InPieces = inPieces
	picture, err := e.spec.See(p.device, x.pixels)
	if err != nil {
		delete(p.known, x.hash)
		return false, &StepError{Err: fmt.Errorf("picture: %w", err)}
	}
	if picture.Rows() != at.total {
		picture.Release()
		delete(p.known, x.hash)
		return false, &StepError{Err: fmt.Errorf("picture: want %d rows for its tokens, got %d", at.total, picture.Rows())}
	}
	x.picture, x.bytes, x.pixels, x.source = picture, picture.Bytes(), nil, nil
	p.bytes += x.bytes
	p.stats.Encoded++
	s.hold(x)
	if left, ok := picture.(kernels.Unfinished); ok && inPieces {
		x.left, p.part, p.busy = left, x, false
	}
	return e.proceed(x)
}

// answering says whether sequences draw tokens, who would wait for an encoding.
func (e *Engine) answering() bool {
	return slices.ContainsFunc(e.running, func(s *sequence) bool { return s.rows > 0 })
}

// proceed has the next piece of a picture done, or all that are left if nobody waits for steps. It says whether the picture is there.
func (e *Engine) proceed(x *seen) (there bool, err error) {
	p := &e.pictures
	for x.left != nil {
		if p.busy {
			poke(e.wake)
			return false, nil
		}
		done, err := x.left.Continue()
		p.busy = done || e.answering()
		if err != nil {
			p.forget(x)
			return false, &StepError{Err: fmt.Errorf("picture: %w", err)}
		}
		if done {
			x.left, p.part = nil, nil
		}
	}
	return true, nil
}

// room says whether another file may be decoded. Pixels that no prompt waits for any more make room.
func (p *pictures) room() bool {
	working, waiting := 0, 0
	for hash, x := range p.known {
		switch {
		case x.picture != nil:
		case !x.ready:
			working++
		case x.used+1 < p.turn:
			delete(p.known, hash)
		default:
			waiting++
		}
	}
	return working < preparing && working+waiting < prepared
}

// prepare has a goroutine make pixels. The engine hears of them in a later turn.
func (e *Engine) prepare(m *Media) {
	p := &e.pictures
	x := &seen{hash: m.Hash, source: m, used: p.turn}
	p.known[m.Hash] = x
	go func() {
		pixels, err := decode(m)
		p.mu.Lock()
		p.done = append(p.done, func() { x.pixels, x.err, x.ready = pixels, err, true })
		p.mu.Unlock()
		poke(e.wake)
	}()
}

// decode makes the pixels of a picture; what its source panics with costs its own request only.
func decode(m *Media) (pixels *kernels.Pixels, err error) {
	defer func() {
		if v := recover(); v != nil {
			pixels, err = nil, fmt.Errorf("panic: %v", v)
		}
	}()
	return m.Pixels()
}

// evict releases pictures that nobody holds, the longest unused first, until at most bytes are kept. It reports whether
// that was enough.
func (p *pictures) evict(bytes int64) bool {
	for p.bytes > max(bytes, 0) {
		var oldest *seen
		for _, x := range p.known {
			if x.picture != nil && x.holds == 0 && (oldest == nil || x.used < oldest.used) {
				oldest = x
			}
		}
		if oldest == nil {
			return false
		}
		p.forget(oldest)
	}
	return p.bytes <= bytes
}

// revoke takes pictures from the sequences that hold them, the youngest first, until at most bytes are kept. They will have
// them encoded again.
func (e *Engine) revoke(but *sequence, bytes int64) {
	for i := len(e.running) - 1; i >= 0 && !e.pictures.evict(bytes); i-- {
		if e.running[i] != but {
			e.running[i].letGo(true)
		}
	}
	e.pictures.evict(bytes)
}

func (p *pictures) forget(x *seen) {
	if p.part == x {
		p.part, x.left = nil, nil
	}
	delete(p.known, x.hash)
	p.bytes -= x.bytes
	x.picture.Release()
	x.picture = nil
}

// close releases every picture.
func (p *pictures) close() {
	for _, x := range p.known {
		if x.picture != nil {
			p.forget(x)
		}
	}
}

// hold keeps a picture for s until its rows were read; it reports whether s did not hold it before.
func (s *sequence) hold(x *seen) bool {
	for _, h := range s.holding {
		if h == x {
			return false
		}
	}
	x.holds++
	s.holding = append(s.holding, x)
	return true
}

// letGo gives up the pictures that s has no rows left of; all of them if it does not run.
func (s *sequence) letGo(all bool) {
	kept := s.holding[:0]
	for _, x := range s.holding {
		wanted := false
		for i := range s.call.places {
			at := &s.call.places[i]
			wanted = wanted || at.media.Hash == x.hash && at.pos+at.rows > s.pos
		}
		if wanted && !all {
			kept = append(kept, x)
		} else {
			x.holds--
		}
	}
	clear(s.holding[len(kept):])
	s.holding = kept
}

// show puts the rows of pictures into the batch where s has them: n rows from row on.
func (e *Engine) show(s *sequence, row, n int) {
	for i := range s.call.places {
		at := &s.call.places[i]
		from, to := max(at.pos, s.pos), min(at.pos+at.rows, s.pos+n)
		if from >= to {
			continue
		}
		e.batch.Pictures = append(e.batch.Pictures, kernels.PictureRows{
			Row: int32(row + from - s.pos), Rows: int32(to - from), From: int32(at.from + from - at.pos),
			Picture: e.pictures.known[at.media.Hash].picture,
		})
	}
}

// mediaIndex is the place of a picture among those of its request.
func (c *call) mediaIndex(m *Media) int {
	for i := range c.media {
		if m == &c.media[i] {
			return i
		}
	}
	return -1
}
