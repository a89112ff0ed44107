package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chulengo/kernels"
)

// plainAnswer is the naive model of the engine: one request alone, every token recomputed from the whole text.
func plainAnswer(f *fake, r Request, limit int) []int32 {
	alone := newFake(f.spec.Vocab, f.spec.Context, f.spec.Chunk)
	text := slices.Clone(r.Prompt)
	for _, p := range places(r.Prompt, r.Media, f.spec.Patch) {
		for i := range p.rows {
			text[p.pos+i] = fakeToken(p.media.Hash[0], p.from+i)
		}
	}
	d := newDrawer(r.Sampling, r.Prompt)
	for n := 0; n < limit; n++ {
		kv, _ := alone.NewKV(kernels.KVSpec{PageTokens: len(text), Pages: [kernels.Groups]int{1, 1 + len(text)}})
		b := &kernels.Batch{KV: kv, Token: text, Want: []kernels.Want{{Row: int32(len(text) - 1), Sample: &d.sampler}}}
		chunk := f.spec.Chunk
		if chunk == 0 {
			chunk = len(text)
		}
		b.Spans[kernels.GroupGlobal] = []kernels.Span{{Rows: int32(len(text)), Pages: []kernels.Page{0}}}
		for i := range text {
			b.Pos = append(b.Pos, int32(i))
			if i%chunk == 0 {
				b.Spans[kernels.GroupChunked] = append(b.Spans[kernels.GroupChunked], kernels.Span{
					Row: int32(i), Rows: int32(min(chunk, len(text)-i)), Base: int32(i), Pages: []kernels.Page{kernels.Page(i / chunk)}})
			}
		}
		res := <-alone.Step(b, func() { alone.Forward(alone) })
		if res.Err != nil {
			panic(res.Err)
		}
		id := res.Outs[0].Token
		d.drew(id)
		text = append(text, id)
		if !r.IgnoreEOS && slices.Contains(f.spec.StopIDs, id) {
			break
		}
	}
	return text[len(r.Prompt):]
}

// randomPictures puts pictures into a prompt, where there is room: some of a few, each with as many rows as its number
// says, with other tokens between.
func randomPictures(rng *rand.Rand, f *fake, prompt []int32) (media []Media) {
	for pos := rng.IntN(12); rng.IntN(5) > 0; {
		number := byte(rng.IntN(6))
		rows := 1 + 2*int(number)
		m := Media{Pos: pos, Len: rows + rng.IntN(4), Hash: [32]byte{number}}
		if m.Pos+m.Len > len(prompt) {
			break
		}
		for i := range m.Len {
			if id := &prompt[pos+i]; *id == f.spec.Patch {
				*id--
			}
		}
		for _, at := range rng.Perm(m.Len)[:rows] {
			prompt[pos+at] = f.spec.Patch
		}
		wait := time.Duration(rng.IntN(100)) * time.Microsecond
		m.Pixels = func() (*kernels.Pixels, error) {
			time.Sleep(wait)
			return &kernels.Pixels{Tiles: rows, Data: []byte{number}}, nil
		}
		media = append(media, m)
		pos += m.Len + rng.IntN(20)
	}
	return media
}

// TestSimulation runs random requests, some of which are cancelled, on random sizes; after every step all invariants are
// walked, and every answer is what the naive model says, whatever ran beside it.
func TestSimulation(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 50
	}
	preempted.Store(0)
	hits.Store(0)
	t.Run("seeds", func(t *testing.T) {
		for seed := range seeds {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { t.Parallel(); simulate(t, uint64(seed)) })
		}
	})
	t.Logf("%d times a sequence gave way, %d tokens came from the cache", preempted.Load(), hits.Load())
	t.Logf("%d pictures encoded, %d shared, %d pieces of some", encoded.Load(), shared.Load(), pieces.Load())
	if preempted.Load() == 0 || hits.Load() == 0 || encoded.Load() == 0 || shared.Load() == 0 || pieces.Load() == 0 {
		t.Error("the simulation does not reach what it is for")
	}
}

var preempted, hits, encoded, shared, pieces atomic.Int64

func simulate(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	const vocab = 48
	f := newFake(vocab, 40+rng.IntN(120), []int{0, 1, 5, 7, 13, 32, 64}[rng.IntN(7)])
	o := Options{
		MaxSequences: 1 + rng.IntN(6), MaxQueue: 1000, StepTokens: 1 + rng.IntN(40), PageTokens: 1 + rng.IntN(9),
	}
	o.KVBytes = int64(64 * (o.MaxSequences + rng.IntN(400)) * o.PageTokens * (1 + o.StepTokens))
	switch rng.IntN(3) {
	case 0: // tight: sequences give way
		o.pages = [kernels.Groups]int{2 + rng.IntN(40), 2 + rng.IntN(40)}
		o.HostKVBytes = int64(rng.IntN(20_000))
	case 1:
		o.pages = [kernels.Groups]int{2 + rng.IntN(60), 2 + rng.IntN(60)}
		o.HostKVBytes = 1 << 20
	}
	o.PictureBytes = int64(rng.IntN(400) - 20)
	o.NoPrefixCache = rng.IntN(6) == 0
	common := make([]int32, f.spec.Context)
	for i := range common {
		common[i] = int32(rng.IntN(vocab))
	}
	e := start(t, f, nil, o)
	if e.Context() < 2 {
		return
	}

	var wg sync.WaitGroup
	for n := range 12 {
		r := Request{
			Prompt: make([]int32, 1+rng.IntN(max(1, e.Context()-1))), MaxTokens: 1 + rng.IntN(30), IgnoreEOS: rng.IntN(2) == 0,
			Sampling: Sampling{Temperature: float32(rng.IntN(2)), Seed: rng.Uint64(), PresencePenalty: float32(rng.IntN(2)), RepetitionPenalty: float32(rng.IntN(3))},
		}
		if rng.IntN(3) == 0 {
			r.Sampling.LogitBias = map[int32]float32{int32(rng.IntN(vocab)): 1.5}
		}
		for i := range r.Prompt {
			r.Prompt[i] = int32(rng.IntN(vocab))
		}
		if rng.IntN(3) > 0 { // like a system prompt
			copy(r.Prompt[:rng.IntN(len(r.Prompt)+1)], common)
		}
		if rng.IntN(2) == 0 {
			r.Media = randomPictures(rng, f, r.Prompt)
		}
		if rng.IntN(4) == 0 {
			r.CacheSalt = "salt"
		}
		r.NoCache = rng.IntN(8) == 0
		r.PromptLogProbs = rng.IntN(6) == 0
		if rng.IntN(3) == 0 {
			r.Choices = 1 + rng.IntN(4)
		}
		r.MaxTokens = min(r.MaxTokens, e.Context()-len(r.Prompt))
		if r.MaxTokens == 0 {
			continue
		}
		var read []int32
		if rng.IntN(2) == 0 && r.Choices < 2 {
			r.Taps = []Tap{{At: kernels.Point{Hook: kernels.HookEmbed}, Row: func(pos int, v []float32) {
				if pos != len(read) || int(v[1]) != pos {
					t.Errorf("request %d: tap at position %d, value of %v, want %d", n, pos, v[1], len(read))
				}
				read = append(read, int32(v[0]))
			}}, {At: kernels.Point{Hook: kernels.HookLogits}, Row: func(int, []float32) {}}}
		}
		cancelAfter := -1
		if rng.IntN(4) == 0 {
			cancelAfter = rng.IntN(r.MaxTokens)
		}
		pause := time.Duration(rng.IntN(300)) * time.Microsecond
		wg.Go(func() {
			time.Sleep(pause)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if cancelAfter == 0 {
				time.AfterFunc(pause, cancel)
			}
			answers := make([][]int32, max(1, r.Choices))
			drawn := 0
			results, err := e.GenerateChoices(ctx, r, func(v Event) error {
				answers[v.Choice] = append(answers[v.Choice], v.ID)
				if drawn++; drawn == cancelAfter {
					cancel()
				}
				return nil
			})
			if err != nil && !(errors.Is(err, context.Canceled) && cancelAfter >= 0) {
				t.Errorf("request %d: %v", n, err)
				return
			}
			var want []int32
			for c, ids := range answers {
				one := r
				one.Sampling.Seed += uint64(c)
				full := plainAnswer(f, one, r.MaxTokens)
				if c == 0 {
					want = full
				}
				if err != nil && len(ids) <= len(full) {
					full = full[:len(ids)]
				}
				if !slices.Equal(ids, full) || !slices.Equal(results[c].IDs, full) {
					t.Errorf("request %d choice %d (prompt %d, chunk %d): got %v, result %v, want %v", n, c, len(r.Prompt), f.spec.Chunk, ids, results[c].IDs, full)
				}
			}
			if err == nil && r.PromptLogProbs {
				if got := results[0].PromptLogProbs; len(got) != len(r.Prompt) || got[len(got)-1].ID != r.Prompt[len(r.Prompt)-1] || got[0].LogProb == got[0].LogProb {
					t.Errorf("request %d: log-probabilities of %d prompt tokens: %+v", n, len(r.Prompt), got)
				}
			}
			if all := append(slices.Clone(r.Prompt), want...); err == nil && r.Taps != nil && !slices.Equal(read, all[:len(all)-1]) {
				t.Errorf("request %d: taps read %v, want %v", n, read, all[:len(all)-1])
			}
		})
	}
	wg.Wait()
	preempted.Add(e.Stats().Preempted)
	hits.Add(e.Stats().PrefixHits)
	encoded.Add(e.Stats().Pictures.Encoded)
	shared.Add(e.Stats().Pictures.Shared)
	pieces.Add(f.pieces.Load())
	if err := e.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for g, p := range e.Stats().Pages {
		if p.Used != 0 || p.Reserved != 0 || p.Cached > p.Total {
			t.Errorf("group %d: %+v after the end", g, p)
		}
	}
}
