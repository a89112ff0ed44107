//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"chulengo/kernels/cuda/driver"
	"chulengo/kernels/cuda/nccl"
)

// Ranks that do not reach each other's memory, or that run on several hosts, meet through NCCL: it gathers everybody's part, and
// every rank adds them in the order of the ranks, as with peer memory. NCCL's kernels wait for each other without end, so a
// goroutine watches each step and gives the exchange up when none has ended for too long.

// gatherer is a rank's place among the others.
type gatherer struct {
	comm     *nccl.Comm
	passed   [256]*driver.Event // the latest marks, in turns
	enqueued atomic.Int64       // marks
	seen     int64              // how many of them the watch has seen pass
}

// gatherBytes bounds a rank's part of one exchange: rows of long prompts meet some at a time.
const gatherBytes = 32 << 20

// gather brings the parts of all ranks together, own [rows, ld] of each: slots that add up to the sum. They last until the next.
func (d *Device) gather(own ptr, rows, ld int) slots {
	ranks := d.group.size
	all := d.mem("gathered", 4*ranks*max(rows, maxDecodeRows)*ld)
	if d.err == nil && !d.rehearsal {
		d.gpu.flush()
		if err := d.gathers.comm.AllGather(all, own, rows*ld, d.gpu.main.Stream); errors.Is(err, nccl.ErrAborted) {
			d.missed()
		} else if err != nil {
			d.fail("%w", err)
		} else if !d.gpu.capturing {
			d.markExchange()
		}
	}
	return slots{values: all, stride: uint64(rows * ld), count: int32(ranks), ld: int32(ld)}
}

// markExchange has the watch see when what is enqueued has passed: one exchange, or all of a graph.
func (d *Device) markExchange() {
	g := d.gathers
	n := g.enqueued.Load()
	d.gpu.keep(d.gpu.main.Record(g.passed[n%int64(len(g.passed))]))
	g.enqueued.Store(n + 1)
}

// progress is how many marks have passed, of those that are remembered.
func (g *gatherer) progress() (int64, error) {
	for end := g.enqueued.Load(); g.seen < end; g.seen++ {
		if ok, err := g.passed[g.seen%int64(len(g.passed))].Passed(); !ok {
			return g.seen, err
		}
	}
	return g.seen, nil
}

// gatherPending has a norm add all ranks' parts of what is pending.
func (d *Device) gatherPending(p *phase, x *residual, n *normParams) {
	own := d.resolve(p, "part.pending", n.pending[0], x.d)
	if n.pending[1] != (slots{}) {
		second := d.resolve(p, "part.second", n.pending[1], x.d)
		launch(d, "add_rows", p.grid, 1, 0, &addParams{a: own.values, b: second.values, rows: p.count, ld: int32(x.d), width: int32(x.d)})
	}
	n.pending = [2]slots{d.gather(own.values, p.grid, x.d)}
}

// gatherRows adds up the ranks' parts of a phase's rows, which lie at d.ownPart(): share over NCCL.
func (d *Device) gatherRows(p *phase, to shareParams) {
	most := max(gatherBytes/4/int(to.ld), maxDecodeRows)
	for first := 0; first < p.grid; first += most {
		rows := min(most, p.grid-first)
		sum := d.gather(d.ownPart()+ptr(4*first*int(to.ld)), rows, int(to.ld))
		out := to.out + ptr(4*first*int(to.outLd))
		if to.add == 1 {
			launch(d, "rms_norm", rows, 1, 4*int(to.width), &normParams{x: out, pending: [2]slots{sum}, rows: p.decodeCount(), d: to.width})
			continue
		}
		launch(d, "sum_slots", rows, 1, 0, &sumParams{slots: sum, out: out, rows: p.decodeCount(), ld: to.outLd, width: to.width})
	}
	d.shares++
}

// gatherLogits is collectLogits over NCCL: all ranks get all columns, and the first puts them together.
func (d *Device) gatherLogits(run *phase, cut *cutWeight, own ptr, ownLd int) (all ptr, ld int) {
	widest := 0
	for _, parts := range cut.parts {
		widest = max(widest, ceil(parts[0].Len(), 4)*4)
	}
	part, ld := d.floats(run, "part", run.rows, widest), d.group.logitsLd(cut)
	launch(d, "sum_slots", run.grid, 1, 0, &sumParams{slots: slots{values: own, count: 1, ld: int32(ownLd)}, out: part, rows: run.count,
		ld: int32(widest), width: int32(cut.parts[d.rank][0].Len())})
	columns := d.gather(part, run.grid, widest)
	if d.rank > 0 {
		return 0, ld
	}
	all = d.floats(run, "collected", run.rows, ld)
	for rank, parts := range cut.parts {
		from := slots{values: columns.values + ptr(4*rank*int(columns.stride)), count: 1, ld: columns.ld}
		launch(d, "sum_slots", run.grid, 1, 0, &sumParams{slots: from, out: all + ptr(4*parts[0].From), rows: run.count, ld: int32(ld), width: int32(parts[0].Len())})
	}
	return all, ld
}

// join has all ranks meet: those of this process at once, each on its thread. id is everybody's.
func (g *Group) join(id nccl.ID) error {
	errs, made := make([]error, len(g.ranks)), make([]*gatherer, len(g.ranks))
	g.all(func(i int, d *Device) {
		defer d.gpu.Enter()() // without the main stream: it may take forever, and others want to close the device
		made[i] = &gatherer{}
		for e := range made[i].passed {
			if made[i].passed[e], errs[i] = d.gpu.NewEvent(); errs[i] != nil {
				return
			}
		}
		made[i].comm, errs[i] = nccl.Join(id, g.size, d.rank)
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	g.joining.Lock()
	defer g.joining.Unlock()
	for i, d := range g.ranks {
		d.gathers = made[i]
	}
	return nil
}

// rejoin has the ranks of one process meet anew after an exchange was given up.
func (g *Group) rejoin() error {
	lost := false
	for _, d := range g.ranks {
		lost = lost || d.gathers.comm.Aborted() != nil
	}
	if !lost {
		return nil
	}
	if len(g.ranks) < g.size {
		return errors.New("kernels/cuda: an exchange with the other hosts was given up before: want all processes to start again")
	}
	g.abort(errors.New("another rank's was"))
	g.leave()
	id, err := nccl.NewID()
	if err != nil {
		return err
	}
	return g.join(id)
}

// leave frees what join made. NCCL waits until no graph has anything of it.
func (g *Group) leave() {
	for _, d := range g.ranks {
		leave := d.gpu.enter()
		d.dropGraphs()
		leave()
	}
	g.aborting.Wait()
	for _, d := range g.ranks {
		if d.gathers != nil {
			leave := d.gpu.enter()
			d.gpu.keep(d.gathers.comm.Close())
			for _, e := range d.gathers.passed {
				d.gpu.keep(e.Close())
			}
			leave()
		}
		d.gathers = nil
	}
}

// abort gives the step's exchanges up on every rank of this process: at the same time, since NCCL may wait for all of them.
func (g *Group) abort(why error) {
	g.joining.Lock()
	defer g.joining.Unlock()
	for _, d := range g.ranks {
		if d.gathers == nil { // not there yet
			continue
		}
		g.aborting.Add(1)
		go func() {
			defer g.aborting.Done()
			defer d.gpu.Enter()()
			d.gathers.comm.Abort(why)
		}()
	}
}

// watch gives the exchanges of a step up when none has ended for as long as a rank waits for another, or when NCCL says that
// something is broken. stop ends it.
func (g *Group) watch() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	patience := g.ranks[0].patience()
	go func() {
		defer close(ended)
		tick := time.NewTicker(max(patience/20, time.Millisecond))
		defer tick.Stop()
		before, since := int64(-1), time.Now()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			sum := int64(0)
			for _, d := range g.ranks {
				n, err := d.watchOne()
				if err != nil {
					g.abort(err)
					return
				}
				sum += n
			}
			if sum != before {
				before, since = sum, time.Now()
			}
			if time.Since(since) > patience {
				g.abort(fmt.Errorf("none within %v", patience))
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}

func (d *Device) watchOne() (int64, error) {
	defer d.gpu.Enter()()
	if err := d.gathers.comm.Check(); err != nil {
		return 0, err
	}
	return d.gathers.progress()
}
