//go:build cuda

package cuda_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
)

// life is a sequence with everything that it was fed and answered.
type life struct {
	seq    *sequence
	prompt []int32
	fed    []int32
	outs   []kernels.Out // of the prompt's last token, then of each fed one
}

// Ten thousand steps in which sequences come, grow and are cancelled: every answer is the one that the sequence gets alone, and
// the device's memory is the same in the end.
func TestSoak(t *testing.T) {
	steps, warm, replayEvery := 10_000, 2_000, 40
	if testing.Short() {
		steps, warm, replayEvery = 40, 20, 4
	}
	p := dummyPair(t, fastConfig(), cuda.Options{})
	alone := dummyPair(t, fastConfig(), cuda.Options{})
	dev := p.gpu.dev.(*cuda.Device)
	r := rand.New(rand.NewPCG(21, 22))
	var live []*life
	ended, replayed, rows := 0, 0, 0
	var free int64
	end := func(i int) {
		l := live[i]
		live = slices.Delete(live, i, i+1)
		p.free(l.seq)
		if ended++; ended%replayEvery == 0 {
			replayed++
			alone.replay(t, l)
		}
	}
	for step := range steps {
		target := 1 + r.IntN(maxLive) // the crowd's size wanders
		for len(live) > target || len(live) > 0 && r.IntN(50) == 0 {
			end(r.IntN(len(live))) // cancelled
		}
		var pieces []piece
		for _, l := range live {
			last := l.outs[len(l.outs)-1].Token
			l.fed = append(l.fed, last)
			pieces = append(pieces, piece{l.seq, []int32{last}})
		}
		decoding := len(pieces)
		if len(live) < target && r.IntN(3) == 0 {
			l := &life{seq: &sequence{}, prompt: randomTokens(r, 2+r.IntN(40), 1000)}
			live = append(live, l)
			pieces = append(pieces, piece{l.seq, l.prompt})
		}
		if len(pieces) == 0 {
			continue
		}
		outs := p.gpu.runWithLast(t, pieces)
		rows += decoding
		for i, l := range live {
			l.outs = append(l.outs, outs[i])
		}
		for i := len(live) - 1; i >= 0; i-- {
			if live[i].seq.pos >= 160 {
				end(i)
			}
		}
		if step == warm {
			var err error
			if free, _, err = dev.Memory(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for len(live) > 0 {
		end(0)
	}
	now, _, err := dev.Memory()
	if err != nil {
		t.Fatal(err)
	}
	if now < free {
		t.Errorf("free memory: %d bytes after %d steps, %d after all: want no less", free, warm, now)
	}
	if replayed < 3 {
		t.Errorf("only %d of %d sequences were replayed alone", replayed, ended)
	}
	t.Logf("%d decoded rows, %d sequences, %d replayed alone", rows, ended, replayed)
}

const maxLive = 40 // of up to 160 tokens: more than 64 splits

// free gives the pages of a sequence back.
func (p *pair) free(q *sequence) {
	back := func(group int, list []kernels.Page) {
		for _, page := range list {
			p.order[group] = append(p.order[group], int(page))
		}
	}
	back(kernels.GroupGlobal, q.global)
	for _, list := range q.chunk {
		back(kernels.GroupChunked, list)
	}
}

// runWithLast runs a step that answers each piece's last row.
func (s *side) runWithLast(t testing.TB, pieces []piece) []kernels.Out {
	t.Helper()
	b := s.batch(pieces)
	all := b.Want
	b.Want = nil
	row := 0
	for _, x := range pieces {
		row += len(x.tokens)
		b.Want = append(b.Want, all[row-1])
	}
	r := <-s.dev.Step(b, func() { s.Forward(s.dev) })
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	for _, x := range pieces {
		x.seq.pos += len(x.tokens)
	}
	return r.Outs
}

// replay runs a life alone and wants its answers, bit for bit.
func (p *pair) replay(t *testing.T, l *life) {
	t.Helper()
	q := &sequence{}
	defer p.free(q)
	for i, want := range l.outs {
		tokens := l.prompt
		if i > 0 {
			tokens = l.fed[i-1 : i]
		}
		if got := p.gpu.runWithLast(t, []piece{{q, tokens}})[0]; !sameOut(got, want) {
			t.Fatalf("answer %d of %d: alone %+v, in the crowd %+v", i, len(l.outs), got, want)
		}
	}
}

// Contexts that grow while their steps are replayed from a graph: the room that the splits of attention need grows, too. The
// software GPU faults on any access beyond an allocation.
func TestGrowingContexts(t *testing.T) {
	config := fastConfig()
	config["attention_chunk_size"] = 512 // the pages that sequences share below are whole
	both := [2]*pair{dummyPair(t, config, cuda.Options{}), dummyPair(t, config, cuda.Options{NoGraphs: true})}
	r := rand.New(rand.NewPCG(31, 32))
	const sequences, shared, steps = 34, 112, 6 // 34 splits at first, 68 once there are more than 128 keys
	start := randomTokens(r, shared, 1000)
	var own [sequences][]int32
	for i := range own {
		own[i] = randomTokens(r, 13, 1000)
	}
	var pieces [2][]piece
	for i, p := range both {
		first := &sequence{}
		p.gpu.runWithLast(t, []piece{{first, start}})
		for j := range own { // whole pages, which all may read
			q := &sequence{pos: shared, global: slices.Clone(first.global), chunk: map[int][]kernels.Page{}}
			for c, list := range first.chunk {
				q.chunk[c] = slices.Clone(list)
			}
			pieces[i] = append(pieces[i], piece{q, own[j]})
		}
	}
	for step := range steps {
		var outs [2][]kernels.Out
		for i, p := range both {
			outs[i] = p.gpu.runWithLast(t, pieces[i])
		}
		for j := range sequences {
			if !sameOut(outs[0][j], outs[1][j]) {
				t.Fatalf("step %d sequence %d: with graphs %+v, without %+v", step, j, outs[0][j], outs[1][j])
			}
			for i := range both {
				pieces[i][j].tokens = []int32{outs[i][j].Token}
			}
		}
	}
}

// Long and short contexts in one step: blocks of decode attention get about as many keys each, and every row has the bits that it has alone.
func TestMixedContexts(t *testing.T) {
	config := fastConfig()
	config["num_hidden_layers"], config["no_rope_layers"] = 2, []int{1, 0}
	for _, keys := range []kernels.Format{kernels.BF16, kernels.F8E4M3} {
		p := dummyPair(t, config, cuda.Options{}, keys)
		r := rand.New(rand.NewPCG(33, 34))
		spec := p.gpu.Config.KVSpec(keys, pageTokens)
		for g := range kernels.Groups {
			for page := range kernels.Page(pages) {
				data := make([]byte, spec.PageBytes(g))
				for i := range data {
					data[i] = byte(r.Uint32()) & 0xbf // exponents below 0: keys as they may be
				}
				if err := p.gpu.kv.Load(g, page, data); err != nil {
					t.Fatal(err)
				}
			}
		}
		var rows []piece
		for _, pos := range []int{40, 3000, 1, 700, 2100, 130} { // one split of two rounds, 16 of three, …
			rows = append(rows, piece{&sequence{pos: pos}, randomTokens(r, 1, 1000)})
		}
		for range 3 { // launched, captured, replayed
			together := p.gpu.run(t, rows, false, nil)
			for i := range rows {
				if alone := p.gpu.run(t, rows[i:i+1], false, nil); !sameOut(together[i], alone[0]) {
					t.Errorf("%v: position %d: together %+v, alone %+v", keys, rows[i].seq.pos, together[i], alone[0])
				}
			}
		}
		if name := map[kernels.Format]string{kernels.BF16: "attend_decode_90", kernels.F8E4M3: "attend_decode_e4m3_90"}[keys]; p.gpu.dev.(*cuda.Device).Ran()[name] == 0 {
			t.Errorf("%s did not run", name)
		}
	}
}
