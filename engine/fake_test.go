package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"chulengo/kernels"
)

// fake is a model and a device in one. A row's hidden state is a hash of every token that it sees through its spans, so
// that a wrong page, a wrong span or a neighbour's token changes everything after it. Logits are hashes of that state.
type fake struct {
	spec     Spec
	kv       *fakeKV
	closed   atomic.Bool
	delay    time.Duration
	failStep atomic.Bool
	panics   atomic.Bool
	failKV   string                               // "copy", "save" or "load" fail; set before the start
	script   []int32                              // what to draw at position p, instead of a draw from the logits; nil: draw
	shared   func(group int, n kernels.Page) bool // set by start
	rows     atomic.Int64
	decoded  atomic.Int64
	pieces   atomic.Int64 // of pictures
	between  int          // of them since the last step
	batch    *kernels.Batch
	err      error
	outs     []kernels.Out
}

func newFake(vocab, context, chunk int) *fake {
	return &fake{spec: Spec{
		Vocab: vocab, Context: context, Chunk: chunk, StopIDs: []int32{int32(vocab - 1)},
		KV: kernels.KVSpec{Format: kernels.F32, KVHeads: 1, HeadDim: 2, Layers: [kernels.Groups]int{1, 3}},
		Columns: func(p kernels.Point) (int, error) {
			switch p {
			case kernels.Point{Hook: kernels.HookEmbed}:
				return 2, nil
			case kernels.Point{Hook: kernels.HookLogits}:
				return vocab, nil
			}
			return 0, fmt.Errorf("no point %v", p)
		},
		See:   func(v kernels.Viewer, p *kernels.Pixels) (kernels.Picture, error) { return v.Encode(p, nil) },
		Patch: int32(vocab - 2), PictureRow: fakeRow,
	}}
}

func (f *fake) Spec() Spec               { return f.spec }
func (f *fake) Forward(d kernels.Device) { d.Logits(nil, d.Embed(nil)) }

// fakeKV stores, for every slot, the token and the position written there, and the state of the row that wrote it: like
// the keys of a real model's upper layers, that depends on everything the row saw.
type fakeKV struct {
	spec  kernels.KVSpec
	slots [kernels.Groups][][]slot
	f     *fake
}

type slot struct {
	full       bool
	token, pos int32
	state      uint64
}

// slotBytes is the size of a saved slot. Pages of the fake are large enough for it.
const slotBytes = 16

func (k *fakeKV) Copy(g int, dst, src kernels.Page) error {
	if k.f.failKV == "copy" {
		return errors.New("copy failed")
	}
	copy(k.slots[g][dst], k.slots[g][src])
	return nil
}

func (k *fakeKV) Save(g int, p kernels.Page, to []byte) error {
	if len(to) != k.spec.PageBytes(g) {
		return fmt.Errorf("saving into %d bytes", len(to))
	}
	if k.f.failKV == "save" {
		return errors.New("save failed")
	}
	for i, c := range k.slots[g][p] {
		if c.full {
			binary.LittleEndian.PutUint32(to[slotBytes*i:], uint32(c.token))
			binary.LittleEndian.PutUint32(to[slotBytes*i+4:], uint32(c.pos+1))
			binary.LittleEndian.PutUint64(to[slotBytes*i+8:], c.state)
		}
	}
	return nil
}

func (k *fakeKV) Load(g int, p kernels.Page, from []byte) error {
	if k.f.failKV == "load" {
		return errors.New("load failed")
	}
	for i := range k.slots[g][p] {
		b := from[slotBytes*i:]
		pos := int32(binary.LittleEndian.Uint32(b[4:]))
		k.slots[g][p][i] = slot{pos > 0, int32(binary.LittleEndian.Uint32(b)), pos - 1, binary.LittleEndian.Uint64(b[8:])}
	}
	return nil
}

func (k *fakeKV) Close() error { k.f.closed.Store(true); return nil }

func (f *fake) NewKV(s kernels.KVSpec) (kernels.KV, error) {
	k := &fakeKV{spec: s, f: f}
	for g := range k.slots {
		k.slots[g] = make([][]slot, s.Pages[g])
		for p := range k.slots[g] {
			k.slots[g][p] = make([]slot, s.PageTokens)
		}
	}
	f.kv = k
	return k, nil
}

func (f *fake) Step(b *kernels.Batch, forward func()) <-chan kernels.Result {
	out := make(chan kernels.Result, 1)
	f.batch, f.err, f.outs = b, nil, nil
	if f.panics.Load() {
		panic("fake device")
	}
	time.Sleep(f.delay)
	forward()
	if f.failStep.CompareAndSwap(true, false) {
		f.err = errors.New("fake failure")
	}
	out <- kernels.Result{Outs: f.outs, Err: f.err}
	return out
}

func (f *fake) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

// Embed checks the batch, writes the slots and gives the hidden states [T].
func (f *fake) Embed(kernels.Weight) kernels.Act {
	b := f.batch
	rows := len(b.Token)
	f.rows.Add(int64(rows))
	f.decoded.Add(int64(b.Decode))
	if b.Decode > 0 && f.between > 1 {
		f.fail("%d answers wait for %d pieces of pictures", b.Decode, f.between)
	}
	f.between = 0
	covered := make([][kernels.Groups]int, rows)
	for g, spans := range b.Spans {
		for _, s := range spans {
			if g == kernels.GroupGlobal && s.Base != 0 {
				f.fail("global span with base %d", s.Base)
			}
			if chunk := f.spec.Chunk; g == kernels.GroupChunked && chunk > 0 && int(s.Base)%chunk != 0 {
				f.fail("chunked span with base %d", s.Base)
			}
			for r := s.Row; r < s.Row+s.Rows; r++ {
				covered[r][g]++
				at := int(b.Pos[r] - s.Base)
				if chunk := f.spec.Chunk; g == kernels.GroupChunked && chunk > 0 && at >= chunk {
					f.fail("row %d at position %d lies beyond its chunk, which begins at %d", r, b.Pos[r], s.Base)
					continue
				}
				c := &f.kv.slots[g][s.Pages[at/f.kv.spec.PageTokens]][at%f.kv.spec.PageTokens]
				if n := s.Pages[at/f.kv.spec.PageTokens]; f.shared != nil && f.shared(g, n) {
					f.fail("position %d in group %d is written to page %d, which others see", b.Pos[r], g, n)
				}
				*c = slot{full: true, token: f.token(r), pos: b.Pos[r]}
			}
		}
	}
	for r, c := range covered {
		if c != [kernels.Groups]int{1, 1} {
			f.fail("row %d lies in %v spans of the groups", r, c)
		}
	}
	tokens := f.look(func(h uint64, c *slot) uint64 { return (h ^ uint64(c.token)<<32 ^ uint64(c.pos)) * 0x100000001b3 })
	for g, spans := range b.Spans {
		for _, s := range spans {
			for r := s.Row; r < s.Row+s.Rows; r++ {
				at := int(b.Pos[r] - s.Base)
				f.kv.slots[g][s.Pages[at/f.kv.spec.PageTokens]][at%f.kv.spec.PageTokens].state = tokens[r]
			}
		}
	}
	states := f.look(func(h uint64, c *slot) uint64 { return (h ^ c.state) * 0x100000001b3 })
	for _, t := range b.Taps {
		if t.At.Hook == kernels.HookEmbed {
			for i, r := range t.Rows {
				t.Buf[2*i], t.Buf[2*i+1] = float32(b.Token[r]), float32(b.Pos[r])
			}
		}
	}
	return states
}

// look hashes, for every row, the slots that it sees in each group.
func (f *fake) look(add func(h uint64, c *slot) uint64) []uint64 {
	b := f.batch
	states := make([]uint64, len(b.Token))
	for g, spans := range b.Spans {
		for _, s := range spans {
			for r := s.Row; r < s.Row+s.Rows; r++ {
				h := uint64(0xcbf29ce484222325)
				for p := s.Base; p <= b.Pos[r]; p++ {
					at := int(p - s.Base)
					c := &f.kv.slots[g][s.Pages[at/f.kv.spec.PageTokens]][at%f.kv.spec.PageTokens]
					if !c.full || c.pos != p {
						f.fail("row at position %d sees slot %+v for position %d in group %d", b.Pos[r], *c, p, g)
					}
					h = add(h, c)
				}
				states[r] = states[r]*31 + h
			}
		}
	}
	return states
}

func mix(h uint64) uint64 {
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}

// Logits answers the wanted rows. The draw is greedy on logits to which noise of the request's seed is added, which
// stands for a draw: it depends on seed, index and state alone.
func (f *fake) Logits(_ *kernels.Head, x kernels.Act) {
	states, b := x.([]uint64), f.batch
	row := map[int32][]float32{}
	for _, w := range b.Want {
		logits := make([]float32, f.spec.Vocab)
		for i := range logits {
			logits[i] = float32(mix(states[w.Row]+uint64(i))%4096)/1024 - 2
		}
		row[w.Row] = append([]float32(nil), logits...)
		out := kernels.Out{Token: -1}
		if w.Score >= 0 {
			out.Score = -logits[w.Score]
		}
		if s := w.Sample; s != nil {
			for _, a := range s.Adjust {
				if l := logits[a.ID]; a.Penalty != 0 && l > 0 {
					logits[a.ID] = l / a.Penalty
				} else if a.Penalty != 0 {
					logits[a.ID] = l * a.Penalty
				}
				logits[a.ID] += a.Add
			}
			best := 0
			allowed := func(i int) bool { return s.Mask == nil || s.Mask[i/32]>>(i%32)&1 == 1 }
			for !allowed(best) {
				best++
			}
			for i := range logits {
				if !allowed(i) {
					continue
				}
				if s.Temperature > 0 {
					logits[i] += s.Temperature * float32(mix(s.Seed^mix(s.Index+1)^uint64(i)<<20)%4096) / 1024
				}
				if logits[i] > logits[best] {
					best = i
				}
			}
			out.Token = int32(best)
			if p := int(b.Pos[w.Row]); f.script != nil && p < len(f.script) {
				out.Token = f.script[p]
			}
			out.LogProb = -row[w.Row][out.Token]
		}
		for i := range w.Top {
			out.Top = append(out.Top, kernels.TokenLogProb{ID: i})
		}
		f.outs = append(f.outs, out)
	}
	for _, t := range b.Taps {
		if t.At.Hook == kernels.HookLogits {
			for i, r := range t.Rows {
				if row[r] == nil {
					f.fail("tap on logits of row %d, which nobody wants", r)
				}
				copy(t.Buf[i*f.spec.Vocab:], row[r])
			}
		}
	}
}

// fakeRow is the size of a row of a fake picture.
const fakeRow = 10

// fakePicture is a number, and a row for each tile; in pieces each row is one.
type fakePicture struct {
	f        *fake
	seed     byte
	rows     int
	left     int // pieces
	released bool
}

func (p *fakePicture) Continue() (done bool, err error) {
	if p.released || p.left == 0 {
		panic("a piece of a picture that is done, or released")
	}
	p.left--
	p.f.pieces.Add(1)
	p.f.between++
	return p.left == 0, nil
}

func (p *fakePicture) Rows() int    { return p.rows }
func (p *fakePicture) Bytes() int64 { return int64(p.rows) * fakeRow }
func (p *fakePicture) Release() {
	if p.released {
		panic("a picture is released twice")
	}
	p.released = true
}

// fakeToken is what a row of a picture looks like to the fake.
func fakeToken(seed byte, row int) int32 { return 1000 + int32(seed)*100 + int32(row) }

// token is the id of a row, or what a picture shows there.
func (f *fake) token(row int32) int32 {
	for _, p := range f.batch.Pictures {
		if row >= p.Row && row < p.Row+p.Rows {
			shown := p.Picture.(*fakePicture)
			if shown.released || shown.left > 0 || f.batch.Token[row] != f.spec.Patch {
				f.fail("row %d, id %d, shows a picture (released: %v, %d pieces left)", row, f.batch.Token[row], shown.released, shown.left)
			}
			return fakeToken(shown.seed, int(p.From+row-p.Row))
		}
	}
	return f.batch.Token[row]
}

// Encode makes a picture of its number.
func (f *fake) Encode(p *kernels.Pixels, _ func()) (kernels.Picture, error) {
	x := &fakePicture{f: f, seed: p.Data[0], rows: p.Tiles}
	if p.InPieces {
		x.left = p.Tiles
	}
	return x, nil
}

func (f *fake) Patches(*kernels.Patch) kernels.Act                          { return nil }
func (f *fake) VisionLayer(*kernels.VisionLayer, kernels.Act)               {}
func (f *fake) Project(*kernels.Projector, kernels.Act)                     {}
func (f *fake) Name() string                                                { return "fake" }
func (f *fake) NewWeight(kernels.WeightSpec) (kernels.Weight, error)        { return nil, nil }
func (f *fake) AttnIn(*kernels.Attn, kernels.Act) kernels.Act               { return nil }
func (f *fake) Attend(*kernels.Attn, kernels.Act) kernels.Act               { return nil }
func (f *fake) AttnOut(*kernels.Attn, kernels.Act, kernels.Act)             {}
func (f *fake) Route(*kernels.MoE, kernels.Act) (h, r kernels.Act)          { return nil, nil }
func (f *fake) Experts(*kernels.MoE, kernels.Act, kernels.Act, kernels.Act) {}
func (f *fake) FFN(*kernels.Dense, kernels.Act)                             {}
func (f *fake) Close() error                                                { return nil }

// bytesTokenizer says token i with the bytes names[i].
type bytesTokenizer []string

func (t bytesTokenizer) NewDecoder() Decoder { return &bytesDecoder{names: t} }

type bytesDecoder struct {
	names []string
	held  []byte
}

func (d *bytesDecoder) Next(id int32) string {
	d.held = append(d.held, d.names[id]...)
	n := completeUTF8(d.held)
	s := string(d.held[:n])
	d.held = append(d.held[:0], d.held[n:]...)
	return s
}

func (d *bytesDecoder) Flush() string {
	if len(d.held) == 0 {
		return ""
	}
	d.held = nil
	return "\uFFFD"
}

// start makes an engine that checks itself after every step and that the test closes.
func start(t *testing.T, f *fake, tok Tokenizer, o Options) *Engine {
	t.Helper()
	var e *Engine
	made := make(chan struct{})
	o.check = func() {
		<-made
		if err := e.Check(); err != nil {
			panic(err)
		}
		e.forget(f.kv)
	}
	e, err := New(f, tok, f, o)
	if err != nil {
		t.Fatal(err)
	}
	f.shared = func(g int, n kernels.Page) bool {
		x := e.pools[g].pages[n]
		return x.holds != 1 || x.entry != nil
	}
	close(made)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if !f.closed.Load() {
			t.Error("key/value memory was not closed")
		}
	})
	return e
}
