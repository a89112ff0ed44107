//go:build cuda

package cuda

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"chulengo/kernels"
)

// A phase is the part of a step's rows that one class of kernels runs.
type phase struct {
	name   string // prefix of its buffers
	decode bool
	first  int // first row of the batch
	rows   int // rows that there are
	grid   int // rows that are launched: the bucket in decode
	lines  int // of its activation images

	count ptr // decode: the number of rows, on the device; prefill: null
	step  ptr // the number of the step, on the device
	token ptr // [rows]
	pos   ptr // [rows]
	group [kernels.Groups]groupState
}

// groupState is what attention of one page group reads.
type groupState struct {
	slot       ptr // [rows] page·PageTokens + place: where a row's key goes
	list       ptr // decode [rows]: where its page numbers begin in table
	length     ptr // decode [rows]: keys that it sees
	firstSplit ptr // decode [rows+1]
	firstRound ptr // decode [rows+1]: rounds of keys in the rows before, of their splits in whole
	queryTiles ptr // prefill
	table      ptr // page numbers
	tiles      int // prefill: number of query tiles
	splits     int // decode: all splits of this step, at most Device.decodeSplits
}

// block is a run of int32 values that is filled on the host, in pinned memory, and copied to the device at once.
type block struct {
	host []int32
	used int
	at   ptr
}

func (b *block) take(n int) (ptr, []int32) {
	from := b.used
	b.used += n
	return b.at + ptr(4*from), b.host[from:][:n:n]
}

const roundKeys = 64 // keys that a block of decode attention takes at a time

// Splits of decode attention: the rule of attend.cuh.
func splitKeys(length, kvHeads int) int {
	rounds := ceil(length, roundKeys)
	return roundKeys * max(min(max(ceil(rounds, 16), 2), 8), ceil(rounds, min(max(256/kvHeads, 16), 64)))
}

func bucket(rows int) int {
	b := 1
	for b < rows {
		b *= 2
	}
	return b
}

// upload lays out the batch and copies it to the device.
func (d *Device) upload() {
	b := d.batch
	t := len(b.Token)
	d.phases, d.taps = d.phases[:0], nil
	if b.Decode > 0 {
		grid := bucket(b.Decode)
		d.phases = append(d.phases, &phase{name: "decode.", decode: true, rows: b.Decode, grid: grid, lines: streamWidth(grid)})
	}
	if b.Decode < t {
		n := t - b.Decode
		d.phases = append(d.phases, &phase{name: "prefill.", first: b.Decode, rows: n, grid: n, lines: ceil(n, 16) * 16})
	}
	d.numberStep()
	for _, p := range d.phases {
		d.layPhase(p)
	}
	d.layWants()
	d.layTaps()
	d.gpu.zeroWords(d.status(), 1+maxCounters)
	d.layEpoch()
}

// status is where kernels report what is wrong with the step: 0 at its begin.
func (d *Device) status() ptr { return d.mem("zeros", 4*(1+maxCounters)) }

// counter is a uint32 that is 0 when the step begins and belongs to the caller. None is used twice in a step: kernels may begin
// long before those that they follow, so no kernel could set one back for the next.
func (d *Device) counter() ptr {
	if d.counters == maxCounters {
		d.fail("a step: want at most %d counters", maxCounters)
	}
	d.counters++
	return d.status() + ptr(4*d.counters)
}

// maxCounters is enough for 12 in each of 340 layers.
const maxCounters = 4095

// layPhase fills and copies the arrays of a phase: those of the rows first, then the page numbers. In decode the arrays
// have room for every bucket, so that their places depend on capacities only and graphs find them again.
func (d *Device) layPhase(p *phase) {
	reserve, pages := p.rows, d.pages(p)
	if p.decode {
		reserve = maxDecodeRows
		pages = d.capacityOf(&d.decodePages, pages)
	}
	need := 2 + reserve*2 + kernels.Groups*(reserve*5+2+4*(reserve+64)+pages)
	blk := &block{at: d.mem(p.name+"state", 4*need), host: d.gpu.pinnedInts(p.name, need)}
	if d.err != nil {
		return
	}
	var count, token, pos []int32
	p.count, count = blk.take(1)
	count[0] = int32(p.rows)
	var step []int32
	p.step, step = blk.take(1)
	step[0] = int32(d.steps)
	p.token, token = blk.take(reserve)
	p.pos, pos = blk.take(reserve)
	copy(token, d.batch.Token[p.first:][:p.rows])
	copy(pos, d.batch.Pos[p.first:][:p.rows])
	for i := p.rows; i < reserve; i++ {
		token[i], pos[i] = -1, 0
	}
	for g := range p.group {
		d.layGroup(p, g, reserve, blk)
	}
	d.gpu.copyIn(blk.at, blk.host[:blk.used])
	for g := range p.group {
		at, table := blk.take(pages)
		p.group[g].table = at
		n := 0
		for i := range d.batch.Spans[g] {
			if s := &d.batch.Spans[g][i]; p.has(s) {
				for _, page := range s.Pages {
					table[n] = int32(page)
					n++
				}
			}
		}
		d.gpu.copyIn(at, table[:n])
	}
}

// capacityOf makes a capacity of decoding hold n. Graphs have addresses that follow from it: those captured before it grew are
// of no use, and replays do not come by the stages that would notice.
func (d *Device) capacityOf(capacity *int, n int) int {
	if n > *capacity {
		*capacity = grow(n)
		d.dropGraphs()
	}
	return *capacity
}

// pages is the most page numbers that a phase has in a group.
func (d *Device) pages(p *phase) int {
	most := 0
	for g := range d.batch.Spans {
		n := 0
		for i := range d.batch.Spans[g] {
			if s := &d.batch.Spans[g][i]; p.has(s) {
				n += len(s.Pages)
			}
		}
		most = max(most, n)
	}
	return most
}

// has says that a span's rows belong to the phase. Spans never straddle the border: a sequence is in one phase.
func (p *phase) has(s *kernels.Span) bool {
	return int(s.Row) >= p.first && int(s.Row) < p.first+p.rows
}

// layGroup writes the arrays of one page group.
func (d *Device) layGroup(p *phase, g, reserve int, blk *block) {
	b, st := d.batch, &p.group[g]
	*st = groupState{}
	var slot, list, length, split, round []int32
	st.slot, slot = blk.take(reserve)
	if p.decode {
		st.list, list = blk.take(reserve)
		st.length, length = blk.take(reserve)
		st.firstSplit, split = blk.take(reserve + 1)
		st.firstRound, round = blk.take(reserve + 1)
		round[0] = 0
	}
	for i := range slot {
		slot[i] = -1
	}
	tokens, pages := int32(d.kv.spec.PageTokens), 0
	var tiles []queryTile
	for i := range b.Spans[g] {
		s := &b.Spans[g][i]
		if !p.has(s) {
			continue
		}
		for row := s.Row; row < s.Row+s.Rows; row++ {
			at := b.Pos[row] - s.Base
			r := int(row) - p.first
			slot[r] = int32(s.Pages[at/tokens])*tokens + at%tokens
			if p.decode {
				list[r], length[r] = int32(pages), at+1
				each := splitKeys(int(at)+1, d.kv.spec.KVHeads)
				splits := ceil(int(at)+1, each)
				split[r], split[r+1] = int32(st.splits), int32(st.splits+splits)
				st.splits += splits
				round[r+1] = round[r] + int32(splits*each/roundKeys)
			}
		}
		for from, most := int32(0), d.kv.queryRows(); !p.decode && from < s.Rows; from += most {
			tiles = append(tiles, queryTile{s.Row + from - int32(p.first), min(most, s.Rows-from), b.Pos[s.Row+from] - s.Base, int32(pages)})
		}
		pages += len(s.Pages)
	}
	if p.decode {
		for r := p.rows; r < reserve; r++ {
			list[r], length[r], split[r+1], round[r+1] = 0, 0, int32(st.splits), round[r]
		}
		d.capacityOf(&d.decodeSplits, max(st.splits, maxDecodeRows))
		return
	}
	// Blocks begin at the end, with those that see the most.
	slices.SortStableFunc(tiles, func(a, b queryTile) int { return cmp.Compare(a.slot+a.rows, b.slot+b.rows) })
	st.tiles = len(tiles)
	var to []int32
	st.queryTiles, to = blk.take(4 * len(tiles))
	if len(tiles) > 0 {
		copy(to, unsafe.Slice((*int32)(unsafe.Pointer(&tiles[0])), 4*len(tiles)))
	}
}

// check validates everything in a batch that kernels later use as an index.
func (d *Device) check(b *kernels.Batch) error {
	t := len(b.Token)
	if t == 0 || len(b.Pos) != t || b.Decode < 0 || b.Decode > t {
		return fmt.Errorf("kernels/cuda: batch: want at least 1 token and as many positions, got %d and %d, %d of them decoding", t, len(b.Pos), b.Decode)
	}
	if b.Decode > maxDecodeRows {
		return fmt.Errorf("kernels/cuda: batch: want at most %d decoding rows, got %d", maxDecodeRows, b.Decode)
	}
	if err := d.checkPictures(b, t); err != nil {
		return err
	}
	memory, ok := b.KV.(*kv)
	if !ok || memory.closed {
		return errors.New("kernels/cuda: batch: want open key/value memory of this device")
	}
	d.kv = memory
	for g, spans := range b.Spans {
		if memory.spec.Layers[g] == 0 {
			continue
		}
		covered := 0
		for i := range spans {
			s := &spans[i]
			if int(s.Row) != covered || s.Rows < 1 || int(s.Row+s.Rows) > t || int(s.Row) < b.Decode && s.Rows != 1 {
				return fmt.Errorf("kernels/cuda: batch: group %d span %d: want rows from %d within %d, one each below %d, got %d rows from %d",
					g, i, covered, t, b.Decode, s.Rows, s.Row)
			}
			for row := s.Row; row < s.Row+s.Rows; row++ {
				if slot := int(b.Pos[row] - s.Base); slot < 0 || slot >= len(s.Pages)*memory.spec.PageTokens || row > s.Row && b.Pos[row] != b.Pos[row-1]+1 {
					return fmt.Errorf("kernels/cuda: batch: group %d row %d: want ascending positions in the %d slots from %d, got %d",
						g, row, len(s.Pages)*memory.spec.PageTokens, s.Base, b.Pos[row])
				}
			}
			for _, p := range s.Pages {
				if p < 0 || int(p) >= memory.spec.Pages[g] {
					return fmt.Errorf("kernels/cuda: batch: group %d: want a page below %d, got %d", g, memory.spec.Pages[g], p)
				}
			}
			covered += int(s.Rows)
		}
		if covered != t {
			return fmt.Errorf("kernels/cuda: batch: group %d: want spans over %d rows, got %d", g, t, covered)
		}
	}
	for i, w := range b.Want {
		if w.Row < 0 || int(w.Row) >= t {
			return fmt.Errorf("kernels/cuda: batch: want %d: want a row below %d, got %d", i, t, w.Row)
		}
	}
	for _, tap := range b.Taps {
		for _, r := range tap.Rows {
			if r < 0 || int(r) >= t {
				return fmt.Errorf("kernels/cuda: batch: tap at layer %d hook %d: want a row below %d, got %d", tap.At.Layer, tap.At.Hook, t, r)
			}
		}
	}
	return nil
}

// graphKey says which steps one captured graph serves.
type graphKey struct {
	rows int // bucket
	kv   *kv
}

func (d *Device) dropGraphs() {
	for _, g := range d.graphs {
		if g != nil {
			d.gpu.freeGraph(g)
		}
	}
	clear(d.graphs)
}

// graph is the captured step like this one; seen: one like it has run. Not every step can be captured.
func (d *Device) graph() (key graphKey, exec *executable, seen, can bool) {
	p := d.phases[0]
	if d.options.NoGraphs || !p.decode || len(d.phases) > 1 || d.open || len(d.batch.Pictures) > 0 || len(d.batch.Want) == 0 || len(d.batch.Want) > p.grid {
		return key, nil, false, false
	}
	key = graphKey{p.grid, d.kv}
	exec, seen = d.graphs[key]
	return key, exec, seen, true
}

// compute runs the forward pass: from a graph where the step allows it.
func (d *Device) compute(forward func()) {
	if d.err != nil {
		return
	}
	d.gpu.frozen = d.group != nil
	defer func() { d.gpu.frozen = false }()
	key, exec, seen, can := d.graph()
	if !can {
		forward()
		return
	}
	if !seen {
		forward() // launch by launch: everything that stages allocate is there afterwards
		if d.err == nil {
			d.graphs[key] = nil
		}
		return
	}
	if exec == nil {
		d.gpu.beginCapture()
		forward()
		made, err := d.gpu.endCapture()
		if d.err == nil && err != nil {
			d.fail("graph of %d rows: %w", key.rows, err)
		}
		if d.err != nil {
			return
		}
		exec, d.graphs[key] = made, made
	}
	if err := d.gpu.replay(exec); err != nil {
		d.fail("graph of %d rows: %w", key.rows, err)
	}
	if d.gathers != nil {
		d.markExchange()
	}
	d.answered = d.rank == 0
}
