package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"chulengo/kernels"
	"chulengo/model"
)

// StepOptions of a run over the steps of a model on any device, without the engine: what the device does is all that counts.
type StepOptions struct {
	Model      *model.Model
	Device     kernels.Device
	Name       string // of the model, for the report
	DeviceName string
	Batches    []int          // sequences that decode together; default 1, 8, 32
	Depths     []int          // tokens before the first decoded one; default 128, 4096, 32768
	Prompts    []int          // prompts to read, in one step; default 2048, 8192
	KV         kernels.Format // of keys and values; BF16, unless it is F8E4M3
	Widths     Widths         // of weights, keys and values, for the bounds
	Steps      int            // decoded tokens of one repetition, each fed back; default 256
	Repeat     int            // default 3
	PageTokens int            // default 64
	Tiles      []int          // of a picture: the vision tower is measured on so many, and nothing else
	Encodings  int            // of one repetition, one enqueued behind the other; default 1
	Ranks      int            // GPUs that share the model, whose peaks add up; default 1

	Stages bool // also measure what each stage adds to steps of the smallest batch and to prompts

	// KernelTimes gives what each kernel took since it was last asked, with launches measured one by one. The device's steps
	// are slower then: families of kernels are reported, not steps. nil: the other way round.
	KernelTimes func() []KernelTime

	Progress func(what string)
}

func (o *StepOptions) fill() {
	for _, f := range []struct {
		value *int
		def   int
	}{{&o.Steps, 256}, {&o.Repeat, 3}, {&o.PageTokens, 64}, {&o.Encodings, 1}, {&o.Ranks, 1}} {
		if *f.value <= 0 {
			*f.value = f.def
		}
	}
	if len(o.Batches) == 0 {
		o.Batches = []int{1, 8, 32}
	}
	if len(o.Depths) == 0 {
		o.Depths = []int{128, 4096, 32768}
	}
	if o.Prompts == nil {
		o.Prompts = []int{2048, 8192}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
}

// depths are those of Depths; families of kernels, whose only one that depends on them is attention, are measured after
// 131,072 tokens, too, where a depth is 32,768 or more.
func (o *StepOptions) depths() []int {
	const long, longest = 32768, 131072
	if o.KernelTimes == nil || slices.Max(o.Depths) < long || slices.Max(o.Depths) >= longest {
		return o.Depths
	}
	return append(slices.Clone(o.Depths), longest)
}

// batchesAt are all Batches, and for families beyond 8,192 tokens, whose prompts take long to read, the smallest.
func (o *StepOptions) batchesAt(depth int) []int {
	if o.KernelTimes == nil || depth <= 8192 {
		return o.Batches
	}
	return []int{slices.Min(o.Batches)}
}

// KnownPeaks are peaks of GPUs that this project has measured: reads of 8 GiB, and a bfloat16 product of 8192³ through
// cuBLAS (bench/LOG.md). nil: none are known, and reports have no percentages.
func KnownPeaks(device string) *Peaks {
	if strings.Contains(device, "H200") {
		return &Peaks{ReadGBs: 4650, GFlops: 790e3, Known: true}
	}
	return nil
}

// RunSteps measures decoding and prefill, wall clock, sampling included.
func RunSteps(ctx context.Context, o StepOptions) (*Report, error) {
	o.fill()
	r := &Report{Environment: environment(&Options{Threads: threads()}), Checkpoint: o.Name, Peaks: KnownPeaks(o.DeviceName)}
	r.Environment.Device = o.DeviceName
	if p := r.Peaks; p != nil && o.Tiles == nil {
		p.ReadGBs, p.GFlops = p.ReadGBs*float64(o.Ranks), p.GFlops*float64(o.Ranks)
	}
	measure := func(name string, do func(name string) error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		o.Progress(name)
		err := do(name)
		var full *fullError
		if errors.As(err, &full) {
			r.Skipped = append(r.Skipped, fmt.Sprintf("%s: %v", name, full))
			return nil
		}
		return err
	}
	for _, n := range o.Tiles {
		if err := measure(fmt.Sprintf("vision/tiles=%d", n), func(name string) error { return r.vision(ctx, &o, name, n) }); err != nil {
			return nil, err
		}
	}
	if o.Tiles != nil {
		return r, nil
	}
	for _, n := range o.Prompts {
		if err := measure(fmt.Sprintf("prefill/tokens=%d", n), func(name string) error { return r.prefill(ctx, &o, name, n) }); err != nil {
			return nil, err
		}
	}
	for _, depth := range o.depths() {
		for _, batch := range o.batchesAt(depth) {
			name := fmt.Sprintf("decode/batch=%d/context=%d", batch, depth)
			if err := measure(name, func(name string) error { return r.decode(ctx, &o, name, batch, depth) }); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// steps is a device's key/value memory with the sequences in it.
type steps struct {
	*model.Model
	dev    kernels.Device
	kv     kernels.KV
	tokens int // of a page
	next   [kernels.Groups]kernels.Page
	free   []kernels.Page // of the chunked group
	left   []kernels.Page // of chunks that the step under way leaves
	random *rand.Rand

	forward func(kernels.Device) // in place of Model.Forward: steps without answers; nil: none
}

// sequence is a text in progress: its pages by group, those of the chunked group for the chunk that it is in.
type sequence struct {
	pos   int
	chunk int
	pages [kernels.Groups][]kernels.Page
	last  int32
}

// fullError says that the device has no room for the keys and values that a measurement needs.
type fullError struct{ need, free int64 }

func (e *fullError) Error() string {
	return fmt.Sprintf("bench: keys and values: want %.1f GiB, free are %.1f", float64(e.need)/(1<<30), float64(e.free)/(1<<30))
}

// workspace is what stays free for a device's own buffers.
const workspace = 3 << 30

// newSteps makes room for so many sequences of up to n tokens, of which a step reads at most so many rows.
func newSteps(o *StepOptions, sequences, n, rows int) (*steps, error) {
	c := o.Model.Config
	spec := c.KVSpec(o.KV, o.PageTokens)
	each := n/o.PageTokens + 2
	spec.Pages[kernels.GroupGlobal] = sequences * each
	if c.AttnChunk > 0 { // chunks that a step leaves are free after it
		spec.Pages[kernels.GroupChunked] = sequences*min(each, c.AttnChunk/o.PageTokens+2) + rows/o.PageTokens + rows/c.AttnChunk + 2
	}
	if g, ok := o.Device.(interface {
		Memory() (free, total int64, err error)
	}); ok {
		need := int64(workspace)
		for group, pages := range spec.Pages {
			need += int64(pages * spec.PageBytes(group))
		}
		if free, _, err := g.Memory(); err == nil && need > free {
			return nil, &fullError{need, free}
		}
	}
	kv, err := o.Device.NewKV(spec)
	if err != nil {
		return nil, err
	}
	return &steps{Model: o.Model, dev: o.Device, kv: kv, tokens: o.PageTokens, random: rand.New(rand.NewPCG(11, 12))}, nil
}

func (s *steps) extend(g int, pages []kernels.Page, slots int) []kernels.Page {
	for len(pages)*s.tokens < slots {
		if n := len(s.free); g == kernels.GroupChunked && n > 0 {
			pages, s.free = append(pages, s.free[n-1]), s.free[:n-1]
			continue
		}
		pages = append(pages, s.next[g])
		s.next[g]++
	}
	return pages
}

// restart forgets every sequence.
func (s *steps) restart() {
	s.next, s.free, s.left = [kernels.Groups]kernels.Page{}, nil, nil
}

// add puts rows of a sequence into a step and asks for the answer after the last.
func (s *steps) add(b *kernels.Batch, q *sequence, ids []int32) {
	row, n := len(b.Token), len(ids)
	q.pages[kernels.GroupGlobal] = s.extend(kernels.GroupGlobal, q.pages[kernels.GroupGlobal], q.pos+n)
	b.Spans[kernels.GroupGlobal] = append(b.Spans[kernels.GroupGlobal], kernels.Span{Row: int32(row), Rows: int32(n), Pages: q.pages[kernels.GroupGlobal]})
	chunk := s.Config.AttnChunk
	if chunk == 0 { // no layer is chunked; every row lies in a span all the same
		b.Spans[kernels.GroupChunked] = append(b.Spans[kernels.GroupChunked], kernels.Span{Row: int32(row), Rows: int32(n)})
	}
	for at := q.pos; chunk > 0 && at < q.pos+n; {
		if at/chunk != q.chunk {
			s.left = append(s.left, q.pages[kernels.GroupChunked]...)
			q.chunk, q.pages[kernels.GroupChunked] = at/chunk, nil
		}
		end := min(q.pos+n, (q.chunk+1)*chunk)
		q.pages[kernels.GroupChunked] = s.extend(kernels.GroupChunked, q.pages[kernels.GroupChunked], end-q.chunk*chunk)
		b.Spans[kernels.GroupChunked] = append(b.Spans[kernels.GroupChunked],
			kernels.Span{Row: int32(row + at - q.pos), Rows: int32(end - at), Base: int32(q.chunk * chunk), Pages: q.pages[kernels.GroupChunked]})
		at = end
	}
	for i, id := range ids {
		b.Token = append(b.Token, id)
		b.Pos = append(b.Pos, int32(q.pos+i))
	}
	b.Want = append(b.Want, kernels.Want{Row: int32(row + n - 1), Score: -1, Sample: &kernels.Sampler{}})
	q.pos += n
}

func (s *steps) run(b *kernels.Batch) ([]kernels.Out, error) {
	b.KV = s.kv
	forward := s.Forward
	if s.forward != nil {
		forward, b.Want = s.forward, nil
	}
	r := <-s.dev.Step(b, func() { forward(s.dev) })
	s.free, s.left = append(s.free, s.left...), nil
	return r.Outs, r.Err
}

func (s *steps) ids(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(s.random.IntN(s.Config.Vocab))
	}
	return ids
}

// read puts a random prompt of n tokens into a new sequence, at most `most` in a step.
func (s *steps) read(n, most int) (*sequence, error) {
	q := &sequence{}
	for q.pos < n {
		b := &kernels.Batch{}
		s.add(b, q, s.ids(min(most, n-q.pos)))
		outs, err := s.run(b)
		if err != nil {
			return nil, err
		}
		q.last = outs[0].Token
	}
	return q, nil
}

// step decodes one token of every sequence, its own last answer fed back.
func (s *steps) step(list []*sequence, taps []kernels.Tap) error {
	b := &kernels.Batch{Decode: len(list), Taps: taps}
	for _, q := range list {
		s.add(b, q, []int32{q.last})
	}
	outs, err := s.run(b)
	for i := range outs {
		list[i].last = outs[i].Token
	}
	return err
}

// distinct counts the experts that a step of these sequences chooses, summed over the layers.
func (s *steps) distinct(list []*sequence) (int, error) {
	var taps []kernels.Tap
	rows := make([]int32, len(list))
	for i := range rows {
		rows[i] = int32(i)
	}
	for _, h := range model.Hooks(s.Config) {
		if h.At.Hook == kernels.HookExpertIndex {
			taps = append(taps, kernels.Tap{At: h.At, Rows: rows, Buf: make([]float32, len(rows))})
		}
	}
	if err := s.step(list, taps); err != nil {
		return 0, err
	}
	n := 0
	for _, t := range taps {
		chosen := map[float32]bool{}
		for _, e := range t.Buf {
			chosen[e] = true
		}
		n += len(chosen)
	}
	return n, nil
}

// familySteps is how many decoding steps families are measured over.
const familySteps = 10

func (r *Report) decode(ctx context.Context, o *StepOptions, name string, batch, depth int) error {
	const piece = 8192 // of prompts
	s, err := newSteps(o, batch, depth+max((o.Repeat+1)*(o.Steps+1), familySteps)+o.stageSteps()+8, min(depth, piece))
	if err != nil {
		return err
	}
	defer s.kv.Close()
	var list []*sequence
	for range batch {
		q, err := s.read(depth, piece)
		if err != nil {
			return err
		}
		list = append(list, q)
	}
	experts, err := s.distinct(list)
	if err != nil {
		return err
	}
	positions := func() (p []int) {
		for _, q := range list {
			p = append(p, q.pos)
		}
		return p
	}
	if o.KernelTimes != nil {
		for range 2 {
			if err := s.step(list, nil); err != nil {
				return err
			}
		}
		o.KernelTimes()
		const n = familySteps
		least := decodeWork(s.Config, positions(), experts, o.Widths)
		for range n {
			if err := s.step(list, nil); err != nil {
				return err
			}
		}
		r.familyResults(name, o.KernelTimes(), n, least)
		return nil
	}
	var least []float64 // bytes of a step in the middle of each repetition
	samples, err := repeat(ctx, o.Repeat, func() (time.Duration, error) {
		begin := time.Now()
		for range o.Steps {
			if err := s.step(list, nil); err != nil {
				return 0, err
			}
		}
		took := time.Since(begin) / time.Duration(o.Steps)
		middle := positions()
		for i := range middle {
			middle[i] -= (o.Steps + 1) / 2
		}
		before := experts
		experts, err = s.distinct(list)
		least = append(least, total(DecodeBytes(s.Config, middle, (before+experts+1)/2, o.Widths)))
		return took, err
	})
	if err != nil {
		return err
	}
	bytes := 0.0
	for _, v := range least[1:] { // the first repetition is not counted
		bytes += v / float64(len(samples))
	}
	x := newResult(Result{Name: name, Tokens: batch, Bytes: int64(bytes)}, samples)
	if r.Peaks != nil {
		x.Percent = 100 * bytes / (r.Peaks.ReadGBs * 1e9) / (float64(x.Median) / 1e9)
		x.OverLayer = (float64(x.Median) - 1e9*bytes/(r.Peaks.ReadGBs*1e9)) / 1e3 / float64(s.Config.Layers)
	}
	r.Results = append(r.Results, x)
	if !o.Stages || batch != slices.Min(o.Batches) {
		return nil
	}
	one, at := *s.Config, positions()
	one.Layers = 1
	return r.stageResults(ctx, o, s, name, DecodeBytes(s.Config, at, experts, o.Widths), DecodeBytes(&one, at, 0, o.Widths), func() (time.Duration, error) {
		begin := time.Now()
		for range o.stageSteps() {
			if err := s.step(list, nil); err != nil {
				return 0, err
			}
		}
		took := time.Since(begin) / time.Duration(o.stageSteps())
		for i, q := range list { // the same positions for every stage; their pages are there
			q.pos = at[i]
		}
		return took, nil
	})
}

// stageSteps is how many decoding steps one repetition takes where the cost of stages is measured.
func (o *StepOptions) stageSteps() int { return min(o.Steps, 32) }

func (r *Report) prefill(ctx context.Context, o *StepOptions, name string, n int) error {
	s, err := newSteps(o, 1, n, n)
	if err != nil {
		return err
	}
	defer s.kv.Close()
	ids := s.ids(n)
	op := func() (time.Duration, error) {
		s.restart()
		b := &kernels.Batch{}
		s.add(b, &sequence{}, ids)
		begin := time.Now()
		_, err := s.run(b)
		return time.Since(begin), err
	}
	flops := total(PrefillFlops(s.Config, n))
	if o.KernelTimes != nil {
		for i := range 4 {
			if _, err := op(); err != nil {
				return err
			}
			if i == 0 {
				o.KernelTimes()
			}
		}
		r.familyResults(name, o.KernelTimes(), 3, prefillWork(s.Config, n, o.Widths))
		return nil
	}
	samples, err := repeat(ctx, 3*o.Repeat, op)
	if err != nil {
		return err
	}
	x := newResult(Result{Name: name, Tokens: n, Flops: int64(flops)}, samples)
	if r.Peaks != nil {
		x.Percent = 100 * flops / (r.Peaks.GFlops * 1e9) / (float64(x.Median) / 1e9)
	}
	r.Results = append(r.Results, x)
	return nil
}
