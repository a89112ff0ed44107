//go:build cuda

package cuda

import (
	"fmt"
	"time"
	"unsafe"

	"chulengo/kernels"
)

// What a device does where it is one rank of a group: it has a part of the heads, of the experts' columns and of the vocabulary,
// and its sums are parts of the sums (peers.cuh). Everything else it does as if it were alone.

// meetingsAStep is how many exchanges a step has room for, with taps at every hook: MEETINGS of peers.cuh.
const meetingsAStep = 1 << 13

// peerSilent is bit 2 of a step's status: another rank did not send its part in time.
const peerSilent = 4

// partsOf is where the parts of sums of many rows lie.
type partsOf struct {
	peers   ptr              // the kernels' struct Peers, with the mailbox and the flags of every rank
	own     [2]ptr           // this rank's parts of two exchanges, [rows, D] float32
	shown   [2]ptr           // where the others read them
	all     [2][maxRanks]ptr // and those of every rank
	epoch   uint32           // number of the step's first exchange,
	epochAt ptr              // and where kernels find it
}

// patience is how long a rank waits for another.
func (d *Device) patience() time.Duration {
	switch {
	case d.options.Patience != 0:
		return d.options.Patience
	case d.gathers != nil: // the watch sees exchanges end, not begin: what a rank computes between two counts
		return 10 * time.Second
	}
	return 5 * time.Second
}

// missed says that another rank was not heard of.
func (d *Device) missed() {
	why := ""
	if d.gathers != nil {
		why = fmt.Sprintf(" (%v)", d.gathers.comm.Aborted())
	}
	d.fail("rank %d: %w within %v, got none%s", d.rank, errMissed, d.patience(), why)
}

// layEpoch tells the device the number of the step's first exchange.
func (d *Device) layEpoch() {
	if d.group == nil || d.gathers != nil {
		return
	}
	host := d.gpu.pinnedInts("epoch", 1)
	host[0] = int32(d.parts.epoch)
	d.gpu.copyIn(d.parts.epochAt, host[:1])
}

// nextMeeting numbers the next exchange.
func (d *Device) nextMeeting() int32 {
	if d.meetings++; d.meetings > meetingsAStep {
		d.fail("a step: want at most %d exchanges between GPUs", meetingsAStep)
	}
	return int32(d.meetings - 1)
}

// joinPeers has a norm add what is pending on the other ranks, too.
func (d *Device) joinPeers(p *phase, x *residual, n *normParams) {
	switch {
	case !x.partial || n.pending == [2]slots{}:
	case d.gathers != nil:
		d.gatherPending(p, x, n)
	default:
		n.peers, n.exchange = d.parts.peers, d.nextMeeting()
	}
}

// ownHeads is a layer's attention as this rank has it.
func (d *Device) ownHeads(l *kernels.Attn) *kernels.Attn {
	if d.group == nil {
		return l
	}
	own, qkv := *l, d.weightOf(l.QKV).spec.Parts
	own.Heads, own.KVHeads = qkv[0]/l.HeadDim, qkv[1]/l.HeadDim
	return &own
}

// ownPart is where this rank's part of the next share goes.
func (d *Device) ownPart() ptr { return d.parts.own[d.shares%2] }

// share adds up the ranks' parts. The caller fills where the sum goes, and the parts' geometry.
func (d *Device) share(p *phase, params shareParams) {
	if d.gathers != nil {
		d.gatherRows(p, params)
		return
	}
	d.showPart(p, &params)
	d.addParts(p, &params)
}

func (d *Device) addParts(p *phase, params *shareParams) {
	launch(d, "share_rows", min(p.grid, d.group.shareBlocks(d.gpu.sms)), 1, 0, params)
}

// shareInto adds the ranks' parts [rows, ld] of prefill rows to the residual: the next norm does it, where it can.
func (d *Device) shareInto(p *phase, x *residual, ld int) {
	params := shareParams{out: x.of(p), outLd: int32(x.d), ld: int32(ld), width: int32(x.d), add: 1}
	if d.gathers != nil {
		d.gatherRows(p, params)
		return
	}
	d.showPart(p, &params)
	x.parts = &params
}

// showPart lays this rank's part where the others see it, and fills in how they meet.
func (d *Device) showPart(p *phase, params *shareParams) {
	params.peers, params.part, params.exchange = d.parts.peers, d.parts.all[d.shares%2], d.nextMeeting()
	params.count, params.rows = p.decodeCount(), int32(p.rows)
	if own, shown := d.ownPart(), d.parts.shown[d.shares%2]; own != shown {
		d.resolveTo(p, shown, slots{values: own, count: 1, ld: params.ld}, int(params.ld))
	}
	d.shares++
}

// total is what slots of decode rows add up to, over all ranks, for taps to see.
func (d *Device) total(p *phase, x *residual, name string, s slots, ld int) slots {
	if d.group == nil {
		return d.resolve(p, name, s, ld)
	}
	x.partial = false
	return d.totalOf(p, name, s, ld)
}

func (d *Device) totalOf(p *phase, name string, s slots, ld int) slots {
	out := d.floats(p, name, p.rows, ld)
	d.resolveTo(p, d.ownPart(), s, ld)
	d.share(p, shareParams{out: out, outLd: int32(ld), ld: int32(ld), width: int32(ld)})
	return slots{values: out, count: 1, ld: int32(ld)}
}

// tapOwnExperts is tapExperts where the outputs are parts of sums. What the experts add to the residual is summed over the ranks
// once, as without taps; the two outputs are summed for the taps alone, unless a tap changes one of them.
func (d *Device) tapOwnExperts(p *phase, layer int, x *residual, shared, routed ptr, ld int) slots {
	show := func(hook kernels.Hook, name string, part ptr) (sum slots, edited bool) {
		looked := false
		for i := range d.taps {
			if t := &d.taps[i]; t.At == (kernels.Point{Layer: layer, Hook: hook}) {
				looked, edited = true, edited || t.Op != kernels.Capture
			}
		}
		if looked {
			sum = d.totalOf(p, name, slots{values: part, count: 1, ld: int32(ld)}, ld)
			d.tapFloats(p, layer, hook, sum.values, ld, x.d)
		}
		return sum, edited
	}
	add := func(a, b ptr) {
		launch(d, "add_rows", p.grid, 1, 0, &addParams{a: a, b: b, rows: p.decodeCount(), ld: int32(ld), width: int32(ld)})
	}
	part := func(p ptr) slots { return slots{values: p, count: 1, ld: int32(ld)} }
	b, editedRouted := show(kernels.HookRoutedOut, "routed.all", routed)
	a, editedShared := show(kernels.HookSharedOut, "shared.all", shared)
	if editedRouted || editedShared {
		if a.values == 0 {
			a = d.totalOf(p, "shared.all", part(shared), ld)
		}
		if b.values == 0 {
			b = d.totalOf(p, "routed.all", part(routed), ld)
		}
		add(a.values, b.values)
	} else {
		add(shared, routed)
		a = d.totalOf(p, "shared.all", part(shared), ld)
	}
	d.tapFloats(p, layer, kernels.HookFFNOut, a.values, ld, x.d)
	return a
}

// rehearse runs the stages of the step without their kernels, unless it is a graph: everything that they allocate is there
// afterwards. Allocating, freeing above all, can wait for a GPU's kernels and hold up whoever else asks the driver for something: it
// must not happen while kernels wait for another rank.
func (d *Device) rehearse(forward func()) {
	if d.err != nil {
		return
	}
	if _, exec, _, can := d.graph(); can && exec != nil {
		return
	}
	d.rehearsal = true
	d.guard(forward)
	d.rehearsal = false
	d.rewind()
}

// collectLogits brings the columns of all ranks into the first one's rows [64, ld]. The others have nothing to do with them.
func (d *Device) collectLogits(run *phase, head kernels.Weight, own ptr, ownLd, turn int) (all ptr, ld int) {
	cut := head.(*cutWeight)
	if d.gathers != nil {
		return d.gatherLogits(run, cut, own, ownLd)
	}
	ld = d.group.logitsLd(cut)
	columns := cut.parts[d.rank][0]
	params := collectParams{peers: d.parts.peers, columns: own, out: d.group.logits[turn], count: run.count, ld: int32(ownLd), outLd: int32(ld),
		first: int32(columns.From), width: int32(columns.Len()), exchange: d.nextMeeting()}
	launch(d, "collect_columns", 64, run.grid, 0, &params)
	launch(d, "collect_wait", 1, 1, 0, &params)
	if d.group.host && d.rank == 0 {
		local := d.mem("head.collected", 4*maxDecodeRows*ld)
		d.resolveTo(run, local, slots{values: params.out, count: 1, ld: int32(ld)}, ld)
		return local, ld
	}
	return params.out, ld
}

// outputsOf is the number of outputs of a weight's first part, on all ranks.
func outputsOf(h kernels.Weight) int {
	if all, ok := h.(*cutWeight); ok {
		return all.spec.Parts[0]
	}
	return h.(*weight).spec.Parts[0]
}

// meeting is memory that other ranks write to, under a name.
func (d *Device) meeting(name string, bytes int) (ptr, error) {
	if d.group.host {
		at := addressOf(d.gpu.pinnedBytes(name, bytes))
		return at, d.gpu.sync() // the fault of pinning, if there was one
	}
	return d.gpu.alloc(bytes)
}

// layPeers tells the device where the ranks' mailboxes and flags are.
func (d *Device) layPeers(mail, flags [maxRanks]ptr, row int) error {
	var err error
	if d.parts.epochAt, err = d.gpu.alloc(4); err != nil {
		return err
	}
	p := peers{ranks: int32(len(d.group.ranks)), rank: int32(d.rank), epoch: d.parts.epochAt, status: d.status(),
		patience: uint64(d.patience()), row: uint64(row), mail: mail, flags: flags}
	if d.parts.peers, err = d.gpu.alloc(int(unsafe.Sizeof(p))); err != nil {
		return err
	}
	return d.gpu.copyInNow(d.parts.peers, bytesOf([]peers{p}))
}
