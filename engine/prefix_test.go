package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"chulengo/kernels"
)

func generate(t *testing.T, e *Engine, r Request) *Result {
	t.Helper()
	res, err := e.Generate(context.Background(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestPrefixBorders asks twice for prompts of every length around pages and chunks: the answers equal those of an engine
// without a cache, and everything is found that can be used.
func TestPrefixBorders(t *testing.T) {
	for _, chunk := range []int{0, 7, 8, 12} {
		t.Run(fmt.Sprint("chunk ", chunk), func(t *testing.T) {
			f, plain := newFake(48, 128, chunk), newFake(48, 128, chunk)
			e := start(t, f, nil, Options{PageTokens: 4, StepTokens: 9})
			alone := start(t, plain, nil, Options{PageTokens: 4, StepTokens: 9, NoPrefixCache: true})
			text := make([]int32, 128)
			for i := range text {
				text[i] = int32(i * 7 % 47)
			}
			for n := 1; n <= 40; n++ {
				r := Request{Prompt: text[:n], MaxTokens: 6, IgnoreEOS: true}
				want := generate(t, alone, r)
				first, again := generate(t, e, r), generate(t, e, r)
				if !slices.Equal(first.IDs, want.IDs) || !slices.Equal(again.IDs, want.IDs) {
					t.Errorf("%d tokens: got %v, then %v with %d cached, want %v", n, first.IDs, again.IDs, again.Cached, want.IDs)
				}
				// All full global pages, but the last token; then what the chunked group has of that chunk.
				reach := min(n/4*4, n-1)
				if chunk > 0 {
					from := reach / chunk * chunk
					full := (n - from) / 4 * 4
					if n-from >= chunk {
						full = chunk
					}
					reach = min(reach, from+full)
				}
				if again.Cached != reach || want.Cached != 0 {
					t.Errorf("%d tokens: %d cached, want %d; without a cache %d", n, again.Cached, reach, want.Cached)
				}
			}
			if s := e.Stats(); s.PrefixHits == 0 || s.PrefixQueries <= s.PrefixHits {
				t.Errorf("%d of %d tokens found", s.PrefixHits, s.PrefixQueries)
			}
		})
	}
}

// TestPrefixKeys: what differs in salt, picture, its place or an id before is not shared.
func TestPrefixKeys(t *testing.T) {
	f := newFake(48, 128, 16)
	e := start(t, f, nil, Options{PageTokens: 4})
	prompt := make([]int32, 33)
	a, b := [32]byte{1}, [32]byte{2}
	picture := func(pos int, h [32]byte) []Media { return []Media{{Pos: pos, Len: 6, Hash: h}} }
	base := Request{Prompt: prompt, MaxTokens: 1, IgnoreEOS: true, Media: picture(8, a)}
	generate(t, e, base)
	other := slices.Clone(prompt)
	other[2] = 1
	for _, c := range []struct {
		name   string
		change func(*Request)
		want   int
	}{
		{"the same", func(*Request) {}, 32},
		{"another picture under the same text", func(r *Request) { r.Media = picture(8, b) }, 8},
		{"no picture", func(r *Request) { r.Media = nil }, 8},
		{"the picture one token on", func(r *Request) { r.Media = picture(9, a) }, 8},
		{"another tenant", func(r *Request) { r.CacheSalt = "b" }, 0},
		{"another id before", func(r *Request) { r.Prompt = other }, 0},
		{"no cache", func(r *Request) { r.NoCache = true }, 0},
		{"prompt log-probabilities", func(r *Request) { r.PromptLogProbs = true }, 0},
		{"taps", func(r *Request) {
			r.Taps = []Tap{{At: kernels.Point{Hook: kernels.HookEmbed}, Row: func(int, []float32) {}}}
		}, 0},
	} {
		r := base
		c.change(&r)
		if got := generate(t, e, r).Cached; got != c.want {
			t.Errorf("%s: %d tokens cached, want %d", c.name, got, c.want)
		}
	}
}

// TestAnswersAreNotCached: only rows of prompts fill pages of the cache.
func TestAnswersAreNotCached(t *testing.T) {
	f := newFake(48, 128, 0)
	e := start(t, f, nil, Options{PageTokens: 4})
	r := Request{Prompt: []int32{1, 2, 3, 4, 5}, MaxTokens: 20, IgnoreEOS: true}
	first := generate(t, e, r)
	r.Prompt = slices.Concat(r.Prompt, first.IDs)
	if got := generate(t, e, r).Cached; got != 4 {
		t.Errorf("%d tokens cached after a turn, want the 4 of the prompt's full page", got)
	}
}

// TestCancelDuringPrefill: pages are free one step after the caller went away.
func TestCancelDuringPrefill(t *testing.T) {
	f := newFake(48, 4096, 64)
	e := start(t, f, nil, Options{PageTokens: 4, StepTokens: 8, NoPrefixCache: true})
	ctx, cancel := context.WithCancel(context.Background())
	var steps int64
	_, err := e.Generate(ctx, Request{Prompt: make([]int32, 4000), Progress: func(p Progress) {
		if p.Read > 100 && ctx.Err() == nil {
			cancel()
			steps = e.Stats().Steps
		}
	}}, nil)
	if err != context.Canceled {
		t.Fatal(err)
	}
	generate(t, e, Request{Prompt: []int32{1}, MaxTokens: 1})
	if err := e.Close(); err != nil { // the gauges are up to date then
		t.Fatal(err)
	}
	s := e.Stats()
	if s.Pages[kernels.GroupGlobal].Used != 0 || s.Pages[kernels.GroupChunked].Used != 0 {
		t.Errorf("%+v", s.Pages)
	}
	if more := s.Steps - steps; steps == 0 || more > 60 {
		t.Errorf("%d steps after the cancellation", more)
	}
}
