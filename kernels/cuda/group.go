//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"

	"chulengo/kernels"
)

// Group implements kernels.Device on several GPUs that share every layer (tensor parallelism): heads, columns of feed-forwards
// and the vocabulary are cut, embeddings, norms and routers are everybody's, and so is the residual stream, bit for bit. A step's
// forward pass is recorded once; each rank runs the record on a thread of its own, without a lock between them, or replays its
// graph. Pictures are encoded by one rank, in turns.
type Group struct {
	ranks []*Device
	jobs  []chan func() // of each rank but the first, which has the caller's thread
	steps uint32        // since the numbers of exchanges began anew
	width int           // of the residual stream; 0: no step has run
	first int           // the rank of the first of them: others may run in other processes
	size  int           // how many there are in all
	same  bool          // ranks share a GPU
	way   Way           // how they meet: not AnyWay
	host  bool          // some do not reach each other's memory: what they share lies in the host's

	mail, flags [maxRanks]ptr // of each rank; 0: no step has run
	logits      [2]ptr        // on the first rank: [64, vocabulary] of two runs

	// Of the step that runs.
	record []func(r *rankRun)
	acts   int
	attn   map[int]*cutWeight // the projections of each layer
	open   bool               // taps look at it, perhaps not on every rank
	err    error              // what cannot be run in parts

	joining  sync.Mutex     // while the ranks' gatherers change: others may give them up
	aborting sync.WaitGroup // exchanges that are being given up
	announce func() error   // tells other processes of a step; nil: there are none

	delay   func(rank int) // for tests: before a rank's part of a step
	viewing int            // the rank that encodes next
	viewer  *Device        // the one that encodes
}

// rankRun is a rank with the values of the step that it runs.
type rankRun struct {
	*Device
	acts []kernels.Act
}

// act is a value of the recorded step.
type act int

var (
	_ kernels.Viewer        = (*Group)(nil)
	_ kernels.ExpertCounter = (*Group)(nil)
)

// Ranks are the group's devices.
func (g *Group) Ranks() []*Device { return g.ranks }

// Name implements kernels.Device.
func (g *Group) Name() string {
	var names []string
	for _, d := range g.ranks {
		names = append(names, d.Name())
	}
	return strings.Join(names, " + ")
}

// Memory is the free and the whole memory of the GPU that has least, in bytes: every rank needs as much. Ranks that share a GPU
// share its memory.
func (g *Group) Memory() (free, total int64, err error) {
	sharing := map[int]int64{}
	for _, d := range g.ranks {
		sharing[d.options.Ordinal]++
	}
	for i, d := range g.ranks {
		f, t, err := d.Memory()
		if err != nil {
			return 0, 0, err
		}
		f, t = f/sharing[d.options.Ordinal], t/sharing[d.options.Ordinal]
		if i == 0 || f < free {
			free, total = f, t
		}
	}
	return free, total, nil
}

// Close implements kernels.Device.
func (g *Group) Close() error {
	for _, jobs := range g.jobs {
		close(jobs)
	}
	var errs []error
	g.leave()
	for _, d := range g.ranks {
		errs = append(errs, d.Close())
	}
	g.ranks, g.jobs = nil, nil
	return errors.Join(errs...)
}

// ExpertRows implements kernels.ExpertCounter: all ranks count the same.
func (g *Group) ExpertRows() ([][]uint64, error) { return g.ranks[0].ExpertRows() }

// shareBlocks is how many blocks add up the ranks' parts. Where ranks share a GPU, blocks that wait must leave room.
func (g *Group) shareBlocks(sms int) int {
	if g.same {
		return max(sms/4, 1)
	}
	return 2 * sms
}

// Step implements kernels.Device. If ranks fail, the error is that of the first one with the gravest.
func (g *Group) Step(b *kernels.Batch, forward func()) <-chan kernels.Result {
	done := make(chan kernels.Result, 1)
	taps, err := g.prepare(b, forward)
	if err == nil {
		err = g.finishPictures(b)
	}
	if err != nil {
		done <- kernels.Result{Err: err}
		return done
	}
	results := make([]kernels.Result, len(g.ranks))
	forwards := make([]func(), len(g.ranks))
	for rank, d := range g.ranks {
		own := *b
		if m, ok := b.KV.(*cutKV); ok && rank < len(m.of) {
			own.KV = m.of[rank]
		}
		own.Taps = taps[rank]
		run := &rankRun{Device: d, acts: make([]kernels.Act, g.acts)}
		forwards[rank] = func() {
			for _, call := range g.record {
				call(run)
			}
		}
		leave := d.gpu.enter()
		d.begin(&own)
		d.rehearse(forwards[rank])
		leave()
	}
	for _, d := range g.ranks { // one that cannot begin would be waited for
		for _, other := range g.ranks {
			if d.err == nil && other.err != nil {
				d.err = other.err
			}
		}
	}
	if g.announce != nil && g.ranks[0].err == nil {
		if err := g.announce(); err != nil {
			for _, d := range g.ranks {
				d.err = err
			}
		}
	}
	if g.way == ByNCCL {
		defer g.watch()()
	}
	g.all(func(rank int, d *Device) {
		if g.delay != nil {
			g.delay(rank)
		}
		defer d.gpu.enter()()
		results[rank] = d.finish(forwards[rank])
	})
	r := results[0]
	for _, other := range results {
		if gravity(other.Err) > gravity(r.Err) {
			r = kernels.Result{Err: other.Err}
		}
	}
	if r.Err == nil {
		g.joinTaps(b, taps)
	}
	done <- r
	return done
}

// errMissed is what a rank's step ends in that waited for another one in vain.
var errMissed = errors.New("want sums of the other GPUs")

// gravity orders the errors of ranks by how near they are to the cause: a rank that fails is missed by others, and what one that misses
// others goes on with need not be numbers.
func gravity(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errNotFinite):
		return 1
	case errors.Is(err, errMissed):
		return 2
	}
	return 3
}

// all runs f for every rank at the same time, each on its thread.
func (g *Group) all(f func(rank int, d *Device)) {
	var wait sync.WaitGroup
	for i, jobs := range g.jobs {
		wait.Add(1)
		jobs <- func() {
			defer wait.Done()
			f(i+1, g.ranks[i+1])
		}
	}
	f(0, g.ranks[0])
	wait.Wait()
}

// prepare records the step, cuts its taps, and gives every rank what the others must know the place of.
func (g *Group) prepare(b *kernels.Batch, forward func()) (taps [][]kernels.Tap, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("kernels/cuda: panic before a step: %v", p)
		}
	}()
	g.record, g.acts, g.open, g.err = g.record[:0], 0, len(b.Taps) > 0, nil
	if forward(); g.err != nil {
		return nil, g.err
	}
	if len(b.Taps) > 0 || b.Decode < len(b.Token) {
		if err := g.makeParts(len(b.Token)); err != nil {
			return nil, err
		}
	}
	if g.way == ByNCCL {
		return g.cutTaps(b), g.rejoin()
	}
	if g.mail[0] == 0 {
		if err := g.connect(); err != nil {
			return nil, err
		}
	}
	if g.steps++; g.steps == math.MaxUint32/meetingsAStep { // before the numbers come around: nothing old may look new
		if err := g.forget(); err != nil {
			return nil, err
		}
		g.steps = 1
	}
	for _, d := range g.ranks {
		d.parts.epoch = g.steps * meetingsAStep
	}
	return g.cutTaps(b), nil
}

// connect makes the mailboxes and flags, and tells every rank where they are. They are not among the buffers of a step.
func (g *Group) connect() error {
	row := 2 * ceil(g.width, 4)
	var mail, flags [maxRanks]ptr
	err := g.each(func(rank int, d *Device) (err error) {
		if mail[rank], err = d.meeting("mail", g.mailBytes()); err == nil {
			flags[rank], err = d.meeting("flags", 4*maxRanks)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := g.each(func(rank int, d *Device) error { return d.layPeers(mail, flags, row) }); err != nil {
		return err
	}
	g.mail, g.flags = mail, flags
	return g.forget()
}

// each runs f for one rank after the other, between steps.
func (g *Group) each(f func(rank int, d *Device) error) error {
	for rank, d := range g.ranks {
		leave := d.gpu.enter()
		d.err = nil
		err := f(rank, d)
		if err == nil {
			err = d.err
		}
		leave()
		if err != nil {
			return fmt.Errorf("rank %d: %w", rank, err)
		}
	}
	return nil
}

func (g *Group) mailBytes() int { return 2 * len(g.ranks) * mailRows * 2 * ceil(g.width, 4) * 16 }

// forget empties mailboxes and flags.
func (g *Group) forget() error {
	return g.each(func(rank int, d *Device) error {
		if g.host {
			clear(d.gpu.pins["mail"])
			clear(d.gpu.pins["flags"])
			return nil
		}
		d.gpu.zero(g.mail[rank], g.mailBytes())
		d.gpu.zero(g.flags[rank], 4*maxRanks)
		return d.gpu.sync()
	})
}

// makeParts gives every rank room for its parts of so many rows.
func (g *Group) makeParts(rows int) error {
	var all [2][maxRanks]ptr
	bytes := 4 * max(grow(rows), maxDecodeRows) * ceil(g.width, codeRows) * codeRows
	err := g.each(func(rank int, d *Device) error {
		for turn, name := range []string{"part.0", "part.1"} {
			d.parts.own[turn] = d.mem(name, bytes)
			if all[turn][rank] = d.parts.own[turn]; g.way == ByHost {
				all[turn][rank] = addressOf(d.gpu.pinnedBytes(name, bytes))
			}
		}
		return d.gpu.sync()
	})
	for rank, d := range g.ranks {
		d.parts.shown = [2]ptr{all[0][rank], all[1][rank]}
		d.parts.all = all
		d.parts.all[0][rank], d.parts.all[1][rank] = d.parts.own[0], d.parts.own[1]
	}
	return err
}

// makeLogits gives the first rank room for everybody's columns of two runs of rows.
func (g *Group) makeLogits(head *cutWeight) {
	d := g.ranks[0]
	defer d.gpu.enter()()
	for turn, name := range []string{"logits.0", "logits.1"} {
		bytes := 4 * maxDecodeRows * g.logitsLd(head)
		if g.logits[turn] = d.mem(name, bytes); g.host {
			g.logits[turn] = addressOf(d.gpu.pinnedBytes(name, bytes))
		}
	}
}

// logitsLd is the width of the first rank's rows of logits.
func (g *Group) logitsLd(head *cutWeight) int { return ceil(head.spec.Parts[0], tile) * tile }

// Encode implements kernels.Viewer. The picture's rows lie on one rank; the others read them there, so that its kernels must have ended.
func (g *Group) Encode(p *kernels.Pixels, forward func()) (kernels.Picture, error) {
	g.viewer = g.ranks[g.viewing]
	g.viewing = (g.viewing + 1) % len(g.ranks)
	made, err := g.viewer.Encode(p, forward)
	if err != nil || p.InPieces { // the last of them is waited for
		return made, err
	}
	if err := made.(*picture).wait(); err != nil {
		made.Release()
		return nil, err
	}
	return made, nil
}

// finishPictures has the pictures that a step shows done: other ranks than theirs read them, too.
func (g *Group) finishPictures(b *kernels.Batch) error {
	for _, shown := range b.Pictures {
		p, ok := shown.Picture.(*picture)
		if !ok || p.dev == nil || p.settled {
			continue // there, or what Device.check says is wrong
		}
		leave := p.dev.gpu.enter()
		err := p.dev.complete(p)
		leave()
		if err == nil {
			err = p.wait()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The stages of the vision tower run at once, on the rank that encodes.

func (g *Group) Patches(l *kernels.Patch) kernels.Act { return g.viewer.Patches(l) }

func (g *Group) VisionLayer(l *kernels.VisionLayer, x kernels.Act) { g.viewer.VisionLayer(l, x) }

func (g *Group) Project(l *kernels.Projector, x kernels.Act) { g.viewer.Project(l, x) }

// The stages of a step are written down.

// value is a new value of the record.
func (g *Group) value() act {
	g.acts++
	return act(g.acts - 1)
}

func (g *Group) call(f func(r *rankRun)) { g.record = append(g.record, f) }

// meet checks that every rank has those inputs of a weight that its outputs of another are.
func (g *Group) meet(from, to kernels.Weight) {
	a, okA := from.(*cutWeight)
	b, okB := to.(*cutWeight)
	if !okA || !okB {
		g.err = fmt.Errorf("kernels/cuda: want weights of this group, got %T and %T", from, to)
		return
	}
	for rank := range g.size {
		if a.parts[rank][0] != b.k[rank] && g.err == nil {
			g.err = fmt.Errorf("kernels/cuda: %s: want inputs %v on rank %d, as %s has outputs, got %v: it cannot be cut for %d GPUs",
				b.spec.Tensor(0), a.parts[rank][0], rank, a.spec.Tensor(0), b.k[rank], g.size)
		}
	}
}

func (r *rankRun) at(a kernels.Act) kernels.Act { return r.acts[a.(act)] }

func (g *Group) Embed(table kernels.Weight) kernels.Act {
	if w, ok := table.(*cutWeight); ok {
		g.width = w.spec.K
	}
	x := g.value()
	g.call(func(r *rankRun) { r.acts[x] = r.Embed(table) })
	return x
}

func (g *Group) AttnIn(l *kernels.Attn, x kernels.Act) kernels.Act {
	q := g.value()
	if w, ok := l.QKV.(*cutWeight); ok {
		g.attn[l.Layer] = w
	}
	g.call(func(r *rankRun) { r.acts[q] = r.AttnIn(l, r.at(x)) })
	return q
}

func (g *Group) Attend(l *kernels.Attn, q kernels.Act) kernels.Act {
	z := g.value()
	g.call(func(r *rankRun) { r.acts[z] = r.Attend(l, r.at(q)) })
	return z
}

func (g *Group) AttnOut(l *kernels.Attn, x, z kernels.Act) {
	g.meet(l.QKV, l.Out)
	g.call(func(r *rankRun) { r.AttnOut(l, r.at(x), r.at(z)) })
}

func (g *Group) Route(l *kernels.MoE, x kernels.Act) (kernels.Act, kernels.Act) {
	h, choice := g.value(), g.value()
	g.call(func(r *rankRun) { r.acts[h], r.acts[choice] = r.Device.Route(l, r.at(x)) })
	return h, choice
}

func (g *Group) Experts(l *kernels.MoE, x, h, choice kernels.Act) {
	g.meet(l.GateUp, l.Down)
	g.meet(l.SharedGateUp, l.SharedDown)
	g.call(func(r *rankRun) { r.Experts(l, r.at(x), r.at(h), r.at(choice)) })
}

func (g *Group) FFN(l *kernels.Dense, x kernels.Act) {
	g.meet(l.GateUp, l.Down)
	g.call(func(r *rankRun) { r.FFN(l, r.at(x)) })
}

func (g *Group) Logits(l *kernels.Head, x kernels.Act) {
	head, ok := l.Out.(*cutWeight)
	if !ok {
		panic(fmt.Sprintf("want a weight of this group, got %T", l.Out))
	}
	if g.way != ByNCCL {
		g.makeLogits(head)
	}
	g.call(func(r *rankRun) { r.Logits(l, r.at(x)) })
}
