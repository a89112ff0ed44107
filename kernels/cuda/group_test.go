//go:build cuda

package cuda_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/kernels/cuda/driver"
)

// Tests of several GPUs that share a model. On a machine with one, ranks share that; the whole package runs on several with
// CHULENGO_RANKS=2, apart from the tests that look into one device.

func TestGroupStages(t *testing.T) {
	for _, c := range []struct {
		name  string
		ranks int
	}{{"micro-scout", 2}, {"micro-scout", 3}, {"micro-maverick", 2}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			if testing.Short() && c.ranks == 3 {
				t.Skip("takes long on a software GPU")
			}
			onRanks(t, c.ranks)
			for _, g := range goldens(t) {
				if g.name != c.name {
					continue
				}
				p := newPair(t, g.dir, cuda.Options{NoGraphs: true})
				r := rand.New(rand.NewPCG(3, 4))
				vocab, chunk := p.cpu.Config.Vocab, p.cpu.Config.AttnChunk
				a, b, c := &sequence{}, &sequence{}, &sequence{}
				parity(t, p, []piece{{a, randomTokens(r, chunk+3, vocab)}, {b, randomTokens(r, 2, vocab)}})
				parity(t, p, []piece{{a, randomTokens(r, 1, vocab)}, {b, randomTokens(r, 1, vocab)}, {c, randomTokens(r, 9, vocab)}})
				parity(t, p, []piece{{a, randomTokens(r, 1, vocab)}, {b, randomTokens(r, 1, vocab)}, {c, randomTokens(r, 1, vocab)}})
			}
		})
	}
}

// group is a model on two ranks that are to have the same residuals after every step.
type group struct {
	*side
	dev *cuda.Group
}

func newGroup(t *testing.T, o cuda.Options) group {
	t.Helper()
	onRanks(t, 2)
	if gpus, err := driver.Devices(); err == nil && len(gpus) < 2 && o.Way == cuda.ByNCCL {
		t.Skip("NCCL wants two GPUs")
	}
	config := fastConfig()
	config["num_hidden_layers"], config["no_rope_layers"] = 2, []int{1, 0}
	p := dummyPair(t, config, o)
	return group{p.gpu, p.gpu.dev.(*cuda.Group)}
}

func (g group) run(t *testing.T, pieces []piece, taps []kernels.Tap) []kernels.Out {
	t.Helper()
	outs := g.side.run(t, pieces, true, taps)
	rows := 0
	for _, p := range pieces {
		rows += len(p.tokens)
	}
	x, err := g.dev.Residuals(rows)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x[0], x[1]) {
		t.Fatal("the ranks' residuals differ")
	}
	return outs
}

// Replayed graphs, single launches, tapped steps, rows alone and prompts in pieces have the same bits on two ranks, and both
// ranks have those.
func TestGroupSameBits(t *testing.T) {
	graph, eager := newGroup(t, cuda.Options{}), newGroup(t, cuda.Options{NoGraphs: true})
	r := rand.New(rand.NewPCG(7, 8))
	const n = 3
	var a, b, alone [n]*sequence
	var next [n]int32
	for i := range n {
		a[i], b[i], alone[i] = &sequence{}, &sequence{}, &sequence{}
		prompt := randomTokens(r, 2+39*i, 1000)
		whole := graph.run(t, []piece{{a[i], prompt}}, nil)
		tap := kernels.Tap{At: kernels.Point{Layer: 1, Hook: kernels.HookRoutedOut}, Rows: []int32{0}, Buf: make([]float32, 256)}
		tapped := eager.run(t, []piece{{b[i], prompt}}, []kernels.Tap{tap})
		eager.run(t, []piece{{alone[i], prompt[:len(prompt)/2]}}, nil)
		pieces := eager.run(t, []piece{{alone[i], prompt[len(prompt)/2:]}}, nil)
		last := len(whole) - 1
		if !sameOut(whole[last], tapped[last]) || !sameOut(whole[last], pieces[len(pieces)-1]) {
			t.Fatalf("prompt %d: at once %+v, with a tap %+v, in pieces %+v", i, whole[last], tapped[last], pieces[len(pieces)-1])
		}
		next[i] = whole[last].Token
	}
	for step, m := range []int{2, 3, 2, 3, 2, 3} { // launched, captured, replayed
		var x, y []piece
		for i := range m {
			x, y = append(x, piece{a[i], next[i : i+1]}), append(y, piece{b[i], next[i : i+1]})
		}
		tap := kernels.Tap{At: kernels.Point{Layer: step % 2, Hook: kernels.HookZ}, Rows: []int32{0}, Buf: make([]float32, 1024)}
		got, want := graph.run(t, x, nil), eager.run(t, y, []kernels.Tap{tap}[:step%2])
		for i := range m {
			own := eager.run(t, []piece{{alone[i], next[i : i+1]}}, nil)
			if !sameOut(got[i], want[i]) || !sameOut(own[0], want[i]) {
				t.Fatalf("step %d row %d: replayed %+v, launched %+v, alone %+v", step, i, got[i], want[i], own[0])
			}
			next[i] = want[i].Token
		}
	}
}

// ways are how the ranks of a group may meet.
var ways = map[string]cuda.Way{"peers": cuda.ByPeers, "nccl": cuda.ByNCCL, "host": cuda.ByHost}

// Ranks that run ahead of each other by chance, and numbers of exchanges that come around, change nothing. A step of this model has
// four exchanges; CHULENGO_EXCHANGES says how many there are to be.
func TestGroupSkew(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) { testGroupSkew(t, way) })
	}
}

func testGroupSkew(t *testing.T, way cuda.Way) {
	exchanges, err := strconv.Atoi(os.Getenv("CHULENGO_EXCHANGES"))
	if err != nil && way == cuda.ByPeers {
		exchanges = 120
	} else if err != nil {
		exchanges = 40
	}
	even, skewed := newGroup(t, cuda.Options{}), newGroup(t, cuda.Options{Poison: true, Way: way})
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(11, 12))
	skewed.dev.Delay(func(int) {
		mu.Lock()
		wait := time.Duration(r.IntN(300)) * time.Microsecond
		mu.Unlock()
		time.Sleep(wait)
	})
	var a, b []piece
	next := make([]int32, 4)
	begin := func() {
		a, b = nil, nil
		for i := range next {
			prompt := randomTokens(r, 3+i, 1000)
			p, q := piece{&sequence{}, prompt}, piece{&sequence{}, prompt}
			even.run(t, []piece{p}, nil)
			skewed.run(t, []piece{q}, nil)
			a, b = append(a, piece{p.seq, next[i : i+1]}), append(b, piece{q.seq, next[i : i+1]})
		}
	}
	skewed.dev.LastEpochs(9)
	for step := range (exchanges + 3) / 4 {
		if step%256 == 0 {
			begin()
		}
		m := 1 + step%len(next)
		want, got := even.run(t, a[:m], nil), skewed.run(t, b[:m], nil)
		for i := range got {
			if !sameOut(got[i], want[i]) {
				t.Fatalf("step %d row %d: want %+v, got %+v", step, i, want[i], got[i])
			}
			next[i] = got[i].Token
		}
	}
}

// A rank that stops is noticed, and forgiven when it is back.
func TestGroupSilence(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) { testGroupSilence(t, way) })
	}
}

func testGroupSilence(t *testing.T, way cuda.Way) {
	g := newGroup(t, cuda.Options{Patience: 700 * time.Millisecond, Way: way})
	q := &sequence{}
	g.run(t, []piece{{q, []int32{1, 2, 3}}}, nil)
	for i, tokens := range [][]int32{{4, 5}, {6}, {7}, {8, 9}, {10}} { // prefill, decode launched and captured; then it is the first rank that is slow
		slow := true
		g.dev.Delay(func(rank int) {
			if (rank == 1) == (i < 3) && slow {
				time.Sleep(2 * time.Second) // much more than its patience, which a step of a busy software GPU must not exhaust
			}
		})
		pieces := []piece{{q, tokens}}
		begin := time.Now()
		r := <-g.side.dev.Step(g.batch(pieces), func() { g.Forward(g.side.dev) })
		if r.Err == nil || !strings.Contains(r.Err.Error(), "want sums of the other GPUs within 700ms, got none") {
			t.Fatalf("%v: want an error about the other GPU, got %v", tokens, r.Err)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("%v: it took %v", tokens, took)
		}
		slow = false
		g.run(t, pieces, nil)
	}
}

// A rank that misses another goes on with what need not be numbers: that it missed it is the error, not what came of it.
func TestGroupMissedIsTheReason(t *testing.T) {
	for range 5 {
		g := newGroup(t, cuda.Options{Patience: time.Microsecond})
		r := <-g.side.dev.Step(g.batch([]piece{{&sequence{}, make([]int32, 40)}}), func() { g.Forward(g.side.dev) })
		if r.Err != nil && !strings.Contains(r.Err.Error(), "want sums of the other GPUs") {
			t.Errorf("want an error about the other GPU, got %v", r.Err)
		}
	}
}

// Pages keep their contents on the way to the host and back, wherever their heads are.
func TestGroupPages(t *testing.T) {
	for _, kvHeads := range []int{1, 2} {
		t.Run(fmt.Sprint(kvHeads), func(t *testing.T) {
			onRanks(t, 2)
			config := fastConfig()
			config["num_key_value_heads"], config["num_hidden_layers"], config["no_rope_layers"] = kvHeads, 2, []int{1, 0}
			s := dummyPair(t, config, cuda.Options{}).gpu
			a := &sequence{}
			s.run(t, []piece{{a, randomTokens(rand.New(rand.NewPCG(1, 3)), 20, 1000)}}, true, nil)
			spec := s.Config.KVSpec(kernels.BF16, pageTokens)
			kept := func(g int, p kernels.Page) []byte {
				page := make([]byte, spec.PageBytes(g))
				if err := s.kv.Save(g, p, page); err != nil {
					t.Fatal(err)
				}
				return page
			}
			page := a.global[0]
			data := kept(kernels.GroupGlobal, page)
			if bytes.Count(data, []byte{0xff, 0xff}) > len(data)/4 {
				t.Fatal("the page is not full")
			}
			other, third := s.p.page(kernels.GroupGlobal), s.p.page(kernels.GroupGlobal)
			if err := s.kv.Load(kernels.GroupGlobal, other, data); err != nil {
				t.Fatal(err)
			}
			if err := s.kv.Copy(kernels.GroupGlobal, third, page); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(kept(kernels.GroupGlobal, other), data) || !bytes.Equal(kept(kernels.GroupGlobal, third), data) {
				t.Error("a page that was saved and loaded, or copied, is another")
			}
			// The text goes on as well from the copies.
			b := &sequence{pos: a.pos, global: append([]kernels.Page{other}, a.global[1:]...), chunk: a.chunk}
			want := s.run(t, []piece{{a, []int32{5}}}, false, nil)
			if got := s.run(t, []piece{{b, []int32{5}}}, false, nil); !sameOut(got[0], want[0]) {
				t.Errorf("from loaded pages: want %+v, got %+v", want[0], got[0])
			}
			if err := s.kv.Save(kernels.GroupGlobal, page, data[1:]); err == nil {
				t.Error("a buffer of the wrong size was taken")
			}
		})
	}
}

// Weights come back as they went in, in both layouts and however they are cut.
func TestGroupWeights(t *testing.T) {
	onRanks(t, 3)
	dev := openRanks(t, cuda.Options{})
	r := rand.New(rand.NewPCG(5, 6))
	for _, split := range []kernels.Split{kernels.Replicated, kernels.Outputs, kernels.Inputs} {
		for _, inOut := range []bool{false, true} {
			spec := kernels.WeightSpec{Names: []string{"w"}, Parts: []int{40, 40}, K: 100, Experts: 2, Pairs: true, Split: split}
			w, err := dev.NewWeight(spec)
			if err != nil {
				t.Fatal(err)
			}
			var all []kernels.Matrix
			for part := range 2 {
				for e := range 2 {
					m := kernels.Matrix{Format: kernels.BF16, N: 40, K: 100, InOut: inOut, Data: make([]byte, 2*40*100)}
					for i := range m.Data {
						m.Data[i] = byte(r.IntN(0x7f))
					}
					if err := w.Put(part, e, m); err != nil {
						t.Fatal(err)
					}
					all = append(all, m)
				}
			}
			if err := w.Seal(); err != nil {
				t.Fatal(err)
			}
			for i, m := range all {
				got, err := w.Get(i/2, i%2)
				if err != nil {
					t.Fatal(err)
				}
				if got.InOut != inOut || !bytes.Equal(got.Data, m.Data) {
					t.Errorf("split %d, in-out %v: part %d expert %d is another", split, inOut, i/2, i%2)
				}
			}
		}
	}
	if _, err := dev.NewWeight(kernels.WeightSpec{Names: []string{"narrow"}, Parts: []int{64}, K: 2, Experts: 1, Split: kernels.Inputs}); err == nil || !strings.Contains(err.Error(), "narrow") {
		t.Errorf("a weight that 3 ranks cannot share: got %v", err)
	}
}

func TestGroupOpens(t *testing.T) {
	if _, err := cuda.NewGroup(cuda.Options{}, []int{0}); err == nil {
		t.Error("a group of one was opened")
	}
	if _, err := cuda.NewGroup(cuda.Options{}, []int{0, 99}); err == nil {
		t.Error("a GPU that is not there was opened")
	}
	t.Setenv("CHULENGO_EMU_DEVICES", "2")
	for peers, want := range map[string]cuda.Way{"0": cuda.ByNCCL, "1": cuda.ByPeers} { // the software GPU says so
		t.Setenv("CHULENGO_EMU_PEERS", peers)
		g, err := cuda.NewGroup(cuda.Options{}, []int{0, 1})
		if err != nil {
			continue // one real GPU
		}
		if strings.Contains(g.Name(), "emulated") && g.Way() != want {
			t.Errorf("GPUs of which CHULENGO_EMU_PEERS=%s: want way %v, got %v", peers, want, g.Way())
		}
		g.Close()
	}
}

// GPUs that do not reach each other's memory meet over NCCL, or in the host's memory, and have the same bits: prompts, decoding and taps.
func TestGroupWays(t *testing.T) {
	for _, name := range []string{"nccl", "host"} {
		t.Run(name, func(t *testing.T) { testGroupWays(t, ways[name]) })
	}
}

func testGroupWays(t *testing.T, way cuda.Way) {
	peers, other := newGroup(t, cuda.Options{Way: cuda.ByPeers}), newGroup(t, cuda.Options{Way: way})
	r := rand.New(rand.NewPCG(13, 14))
	a, b := &sequence{}, &sequence{}
	for step, n := range []int{70, 9, 1, 1, 1, 1} {
		tokens := randomTokens(r, n, 1000)
		var taps [2][]kernels.Tap
		for i := range taps {
			if step == 1 || step == 5 {
				taps[i] = []kernels.Tap{{At: kernels.Point{Layer: 1, Hook: kernels.HookFFNOut}, Rows: []int32{0}, Buf: make([]float32, 256)}}
			}
		}
		want, got := peers.run(t, []piece{{a, tokens}}, taps[0]), other.run(t, []piece{{b, tokens}}, taps[1])
		for i := range want {
			if !sameOut(got[i], want[i]) {
				t.Fatalf("step %d row %d: over peers %+v, otherwise %+v", step, i, want[i], got[i])
			}
		}
		for i := range taps[0] {
			if !slices.Equal(taps[0][i].Buf, taps[1][i].Buf) {
				t.Errorf("step %d: the taps see different values", step)
			}
		}
	}
}
