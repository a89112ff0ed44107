package engine

import (
	"fmt"
	"math"
	"sort"
	"time"

	"chulengo/kernels"
)

// Options sizes an engine. Zero values mean the defaults.
type Options struct {
	MaxSequences int   // sequences that run at a time; default 64
	MaxQueue     int   // requests that may wait when so many run; default 64; negative: none
	StepTokens   int   // rows of one step at most, unless more sequences than that decode; default 512
	Context      int   // tokens of one sequence at most; default: the model's
	KVBytes      int64 // memory for keys and values at most; default 4 GiB, less where the context needs less
	PageTokens   int   // tokens of one page; default 32

	// LockThread keeps the goroutine that owns the device on one thread of the operating system. Drivers with state for
	// each thread (CUDA) need it. The CPU device does not, and would pay for it: every time its stages wait for one
	// another the kernel would have to switch threads, which halved the speed of decoding the demo checkpoint.
	LockThread bool

	NoPrefixCache bool  // every prompt is read whole
	HostKVBytes   int64 // memory of the host for keys and values of sequences that had to give way; default 1 GiB; negative: none
	PictureBytes  int64 // the device's memory for encoded pictures, or one that is larger; default 512 MiB; negative: one at a time
	ExpertStats   bool  // count the tokens of every expert, for Stats; on the CPU, with the demo checkpoint, within the noise of measuring

	Observe     func(Observation)               // called once for every request that was accepted, when it has ended, on its caller's goroutine
	ObserveStep func(rows int, d time.Duration) // called after every step, on the engine's goroutine

	// ObserveToken is called there for every token of an answer but its first, with the time since the one before.
	ObserveToken func(d time.Duration)

	pages [kernels.Groups]int // tests: so many pages, whatever KVBytes says; zero: no
	check func()              // tests: runs on the engine's goroutine after every step and whenever sequences came or went
}

// Defaults of Options. 512 rows keep the CPU's prefill cache-blocked and bound the time that decoding sequences wait for
// a neighbour's prompt; a page of 32 tokens wastes little on short chats and keeps page tables short.
const (
	defaultSequences  = 64
	defaultQueue      = 64
	defaultStepTokens = 512
	defaultPageTokens = 32
	defaultKVBytes    = 4 << 30
	defaultHostKV     = 1 << 30
	defaultPictures   = 512 << 20
)

func (o *Options) fill(s *Spec) error {
	for _, f := range []struct {
		name  string
		value *int
		def   int
	}{
		{"MaxSequences", &o.MaxSequences, defaultSequences},
		{"StepTokens", &o.StepTokens, defaultStepTokens},
		{"PageTokens", &o.PageTokens, defaultPageTokens},
		{"Context", &o.Context, s.Context},
	} {
		if *f.value < 0 {
			return fmt.Errorf("engine: options: %s: want at least 1, or 0 for the default, got %d", f.name, *f.value)
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	if o.Context > s.Context {
		return fmt.Errorf("engine: options: Context: want at most the model's %d, got %d", s.Context, o.Context)
	}
	switch {
	case o.MaxQueue == 0:
		o.MaxQueue = defaultQueue
	case o.MaxQueue < 0:
		o.MaxQueue = 0
	}
	switch {
	case o.KVBytes < 0:
		return fmt.Errorf("engine: options: KVBytes: want at least 1, or 0 for the default, got %d", o.KVBytes)
	case o.KVBytes == 0:
		o.KVBytes = defaultKVBytes
	}
	switch {
	case o.HostKVBytes == 0:
		o.HostKVBytes = defaultHostKV
	case o.HostKVBytes < 0:
		o.HostKVBytes = 0
	}
	switch {
	case o.PictureBytes == 0:
		o.PictureBytes = defaultPictures
	case o.PictureBytes < 0:
		o.PictureBytes = 0
	}
	return nil
}

// pagesFor is the number of pages that hold positions [0, tokens), chunk by chunk: no page straddles a chunk.
func pagesFor(chunk, pageTokens, tokens int) int {
	if chunk == 0 {
		return ceil(tokens, pageTokens)
	}
	return tokens/chunk*ceil(chunk, pageTokens) + ceil(tokens%chunk, pageTokens)
}

// worstPages is the largest number of pages that a sequence of the given tokens holds at a time when its steps have at
// most piece rows. Chunks that were left are freed after each step, so the worst piece begins on the last slot of one
// chunk and holds that chunk and everything it enters.
func worstPages(chunk, pageTokens, piece, tokens int) int {
	all := pagesFor(chunk, pageTokens, tokens)
	if chunk == 0 {
		return all
	}
	return min(all, ceil(chunk, pageTokens)+pagesFor(chunk, pageTokens, piece-1))
}

func ceil(a, b int) int { return (a + b - 1) / b }

// sizePages shares out the memory: as many tokens for each of MaxSequences as fit, up to Context; for each of fewer where
// not even one does. A sequence may take more than its share, and all of it if it is alone.
func (o *Options) sizePages(s *Spec) (pages [kernels.Groups]int, err error) {
	if o.pages != pages {
		return o.pages, nil
	}
	kv := s.KV
	kv.PageTokens = o.PageTokens
	size := func(sequences, tokens int) (p [kernels.Groups]int, bytes float64) {
		for g := range p {
			p[g] = sequences * worstPages(groupChunk(s, g), o.PageTokens, o.StepTokens, tokens)
			bytes += float64(p[g]) * float64(kv.PageBytes(g))
		}
		return p, bytes
	}
	for sequences := o.MaxSequences; sequences > 0; sequences /= 2 {
		fits := func(tokens int) bool {
			p, bytes := size(sequences, tokens)
			return bytes <= float64(o.KVBytes) && max(p[kernels.GroupGlobal], p[kernels.GroupChunked]) <= math.MaxInt32
		}
		if tokens := sort.Search(o.Context, func(i int) bool { return !fits(i + 1) }); tokens > 0 { // the largest that fits
			pages, _ = size(sequences, tokens)
			return pages, nil
		}
	}
	_, bytes := size(1, 1)
	return pages, fmt.Errorf("engine: options: KVBytes: want at least %.0f for one page per group, got %d", bytes, o.KVBytes)
}

// longest is the largest number of tokens that one sequence may have with the given pages.
func (o *Options) longest(s *Spec, pages [kernels.Groups]int) int {
	return sort.Search(o.Context, func(i int) bool {
		for g := range pages {
			if worstPages(groupChunk(s, g), o.PageTokens, o.StepTokens, i+1) > pages[g] {
				return true
			}
		}
		return false
	})
}

// groupChunk is the chunk size of a page group; 0: it sees everything.
func groupChunk(s *Spec, group int) int {
	if group == kernels.GroupChunked {
		return s.Chunk
	}
	return 0
}
