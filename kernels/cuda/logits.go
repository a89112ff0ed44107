//go:build cuda

package cuda

import (
	"errors"
	"unsafe"

	"chulengo/kernels"
)

// wants is what a step's Wants need on the device, laid out before the forward pass.
type wants struct {
	count, source ptr // count of each run of 64 wants; [wants] rows of x
	rows          ptr // [wants] wantRow
	adjusts       ptr
	masks         ptr
	answers, top  ptr // pinned
	tops          int // entries of top
	topAt         []int32
}

// wantCapacity rounds up, so that the places of a decoding step's arrays seldom move.
func wantCapacity(n int) int { return max(grow(n), maxDecodeRows) }

// layWants validates the step's Wants and copies them to the device.
func (d *Device) layWants() {
	b, n := d.batch, len(d.batch.Want)
	w := &d.wants
	*w = wants{topAt: w.topAt[:0], answers: w.answers, top: w.top}
	capacity := wantCapacity(n)
	runs := capacity / maxDecodeRows
	rowInts := int(unsafe.Sizeof(wantRow{}) / 4)
	need := runs + capacity + capacity*rowInts + 1
	blk := &block{at: d.mem("wants", 4*need), host: d.gpu.pinnedInts("wants", need)}
	if d.err != nil {
		return
	}
	var counts, source, rows []int32
	w.count, counts = blk.take(runs)
	w.source, source = blk.take(capacity)
	if blk.used%2 == 1 {
		blk.take(1) // wantRow holds 8-byte numbers
	}
	w.rows, rows = blk.take(capacity * rowInts)
	var adjusts []adjustRow
	var masks []uint32
	d.checkWants()
	for i := range b.Want {
		want := &b.Want[i]
		r := wantRow{score: want.Score, top: want.Top, maskAt: -1, topAt: int32(w.tops)}
		w.topAt = append(w.topAt, int32(w.tops))
		w.tops += max(0, int(want.Top))
		if s := want.Sample; s != nil {
			r.draws, r.topK, r.temperature, r.topP, r.minP, r.seed, r.index = 1, s.TopK, s.Temperature, s.TopP, s.MinP, s.Seed, s.Index
			r.adjustAt, r.adjusts = int32(len(adjusts)), int32(len(s.Adjust))
			for _, a := range s.Adjust {
				adjusts = append(adjusts, adjustRow{a.ID, a.Penalty, a.Add})
			}
			if s.Mask != nil {
				r.maskAt = int32(len(masks))
				masks = append(masks, s.Mask...)
			}
		}
		source[i] = want.Row
		*(*wantRow)(unsafe.Pointer(&rows[i*rowInts])) = r
	}
	for i := range counts {
		counts[i] = int32(min(max(n-i*maxDecodeRows, 0), maxDecodeRows))
	}
	d.gpu.copyIn(blk.at, blk.host[:blk.used])
	w.adjusts = d.copySlice("adjusts", unsafe.Pointer(unsafe.SliceData(adjusts)), len(adjusts)*int(unsafe.Sizeof(adjustRow{})))
	w.masks = d.copySlice("masks", unsafe.Pointer(unsafe.SliceData(masks)), 4*len(masks))
	// The sampling kernel writes what the host reads into pinned memory: the step's status, then the answers.
	answers, top := d.gpu.pinnedBytes("answers", statusBytes+capacity*int(unsafe.Sizeof(answerRow{}))), d.gpu.pinnedBytes("top", grow(w.tops)*int(unsafe.Sizeof(topRow{})))
	if moved := addressOf(answers) != w.answers || addressOf(top) != w.top; moved {
		d.dropGraphs()
	}
	w.answers, w.top = addressOf(answers), addressOf(top)
}

// statusBytes is the room before the answers.
const statusBytes = 16

// addressOf is where the device finds pinned memory: at the host's address.
func addressOf(b []byte) ptr { return ptr(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// checkWants validates what the sampling kernel uses as an index. The first step of a device does it in Logits, where the
// size of the vocabulary becomes known.
func (d *Device) checkWants() {
	if d.vocab == 0 {
		return
	}
	for i := range d.batch.Want {
		want := &d.batch.Want[i]
		if int(want.Score) >= d.vocab {
			d.fail("row %d: want a scored id below %d, got %d", want.Row, d.vocab, want.Score)
		}
		s := want.Sample
		if s == nil {
			continue
		}
		for _, a := range s.Adjust {
			if a.ID < 0 || int(a.ID) >= d.vocab {
				d.fail("row %d: sampling: want an adjusted id below %d, got %d", want.Row, d.vocab, a.ID)
			}
		}
		if s.Mask != nil && len(s.Mask)*32 < d.vocab {
			d.fail("row %d: sampling: want a mask of %d bits, got %d", want.Row, d.vocab, len(s.Mask)*32)
		}
	}
}

// copySlice copies host values to device memory under a name, through pinned memory.
func (d *Device) copySlice(name string, p unsafe.Pointer, bytes int) ptr {
	at := d.mem(name, 256*ceil(max(bytes, 1<<16), 256))
	if bytes == 0 || d.err != nil {
		return at
	}
	host := d.gpu.pinnedInts(name, ceil(bytes, 4))
	copy(host, unsafe.Slice((*int32)(p), bytes/4))
	d.gpu.copyIn(at, host[:bytes/4])
	return at
}

// Logits implements kernels.Device: runs of 64 wanted rows through the decode engine, whatever their phase.
func (d *Device) Logits(l *kernels.Head, xa kernels.Act) {
	d.stage("logits")
	if d.err != nil {
		return
	}
	x, w := xa.(*residual), d.weightOf(l.Out)
	if n := outputsOf(l.Out); d.vocab != n {
		d.vocab = n
		if d.checkWants(); d.err != nil {
			return
		}
	}
	d.answered = d.rank == 0
	if x.pending != ([2]slots{}) || x.parts != nil { // rows are gathered below: the sums must be there
		d.addPending(x)
	}
	run := &phase{name: "head.", decode: true}
	total := len(d.batch.Want)
	for first := 0; first < total; first += maxDecodeRows {
		n := min(total-first, maxDecodeRows)
		grid := n
		if len(d.phases) == 1 && d.phases[0].decode {
			grid = max(n, d.phases[0].grid) // a graph of this bucket serves as many wants as it has rows
		}
		run.rows, run.grid, run.lines, run.count = n, grid, streamWidth(grid), d.wants.count+ptr(4*(first/maxDecodeRows))
		h := d.imageOf(run, "h", run.lines, x.d)
		launch(d, "rms_norm", run.grid, 1, 4*x.d, &normParams{
			x: x.at, rows: run.count, source: d.wants.source + ptr(4*first), weight: d.weightOf(l.Norm).data, image: h.at,
			lines: int32(h.lines), d: int32(x.d), tiles: int32(h.tiles), eps: l.Eps,
		})
		d.tapWanted(kernels.HookFinalNorm, first, n, tapImage, h.at, h.lines, x.d)
		logits, ld := d.partialOnce(run, w, h), w.rows
		if d.group != nil {
			if logits, ld = d.collectLogits(run, l.Out, logits, ld, first/maxDecodeRows%2); d.rank > 0 {
				continue
			}
		}
		d.tapWanted(kernels.HookLogits, first, n, tapFloat, logits, ld, d.vocab)
		params := sampleParams{
			logits: logits, wants: d.wants.rows + ptr(first*int(unsafe.Sizeof(wantRow{}))), adjusts: d.wants.adjusts, masks: d.wants.masks,
			adjusted: d.mem("head.adjusted", 4*maxDecodeRows*ld), ids: d.mem("head.ids", 2*4*maxDecodeRows*ld),
			slices:  d.mem("head.slices", maxDecodeRows*sampleSlices*int(unsafe.Sizeof(sliceRow{}))),
			answers: d.wants.answers + statusBytes + ptr(first*int(unsafe.Sizeof(answerRow{}))), top: d.wants.top, count: run.count,
			status: d.status(), statusOut: d.wants.answers, ld: int32(ld), vocab: int32(d.vocab),
		}
		launch(d, "sample_slices", sampleSlices, run.grid, 0, &params)
		launch(d, "sample_gather", sampleSlices, run.grid, 0, &params)
		launch(d, "sample_rows", run.grid, 1, 0, &params)
	}
}

// partialOnce is the product of rows with a weight, complete: [64, rows].
func (d *Device) partialOnce(p *phase, w *weight, a image) ptr {
	s := d.partial(p, "logits", w, a)
	if s.count == 1 {
		return s.values
	}
	return d.resolve(p, "logits.sum", s, w.rows).values
}

// addPending adds what decode left in slots, and ranks in their parts, to the residual.
func (d *Device) addPending(x *residual) {
	for _, p := range d.phases {
		if !p.decode && x.parts != nil {
			d.addParts(p, x.parts)
			x.parts = nil
		}
		if p.decode && x.pending != ([2]slots{}) {
			n := normParams{x: x.of(p), pending: x.pending, rows: p.count, d: int32(x.d)}
			d.joinPeers(p, x, &n)
			launch(d, "rms_norm", p.grid, 1, 4*x.d, &n)
		}
	}
	x.settle()
}

// errNotFinite is what a step ends in that computed values which are no numbers.
var errNotFinite = errors.New("want finite")

// collect waits for the step and reads its answers.
func (d *Device) collect() {
	if d.err != nil {
		return
	}
	b, n := d.batch, len(d.batch.Want)
	status := make([]uint32, 1)
	if !d.answered {
		d.gpu.copyOut(bytesOf(status), d.status())
	}
	taps := d.readTaps()
	if err := d.gpu.sync(); err != nil {
		d.fail("%w", err)
		return
	}
	taps()
	var answers []answerRow
	var top []topRow
	if d.answered {
		block, list := d.gpu.pins["answers"], d.gpu.pins["top"]
		status[0] = *(*uint32)(unsafe.Pointer(unsafe.SliceData(block)))
		answers = unsafe.Slice((*answerRow)(unsafe.Pointer(&block[statusBytes])), n)
		top = unsafe.Slice((*topRow)(unsafe.Pointer(unsafe.SliceData(list))), d.wants.tops)
	}
	switch {
	case status[0]&peerSilent != 0 || d.gathers != nil && d.gathers.comm.Aborted() != nil:
		d.missed()
		return
	case status[0]&1 != 0:
		d.fail("router: %w scores, got one that is not a number", errNotFinite)
		return
	case status[0]&2 != 0:
		d.fail("router: want experts that there are, got another from a tap")
		return
	}
	d.outs = make([]kernels.Out, n)
	for i := range b.Want {
		want, out := &b.Want[i], &d.outs[i]
		out.Token = -1
		if !d.answered {
			continue
		}
		a := answers[i]
		switch a.status {
		case sampleNotFinite:
			d.fail("row %d: %w logits, got others", want.Row, errNotFinite)
			return
		case sampleNothingAllowed:
			d.fail("row %d: sampling: want an id that may be drawn, got none after bias and mask", want.Row)
			return
		case sampleNotFiniteAdjusted:
			d.fail("row %d: sampling: %w logits after penalties and bias, got others", want.Row, errNotFinite)
			return
		}
		out.Token, out.LogProb, out.Score = a.token, a.logProb, a.score
		for j := range min(int(want.Top), d.vocab) {
			t := top[int(d.wants.topAt[i])+j]
			out.Top = append(out.Top, kernels.TokenLogProb{ID: t.id, LogProb: t.logProb})
		}
	}
}
