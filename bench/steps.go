package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
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
	Batches    []int // sequences that decode together; default 1, 8, 32
	Depths     []int // tokens before the first decoded one; default 128, 4096, 32768
	Prompts    []int // prompts to read, in one step; default 2048, 8192
	Steps      int   // decoded tokens of one repetition, each fed back; default 256
	Repeat     int   // default 3
	PageTokens int   // default 64

	// StageTimes gives what each stage took since it was last asked, with launches measured one by one; nil: no stages. The
	// device's steps are slower then, and are not reported.
	StageTimes func() map[string]time.Duration

	Progress func(what string)
}

func (o *StepOptions) fill() {
	for _, f := range []struct {
		value *int
		def   int
	}{{&o.Steps, 256}, {&o.Repeat, 3}, {&o.PageTokens, 64}} {
		if *f.value <= 0 {
			*f.value = f.def
		}
	}
	if o.Batches == nil {
		o.Batches = []int{1, 8, 32}
	}
	if o.Depths == nil {
		o.Depths = []int{128, 4096, 32768}
	}
	if o.Prompts == nil {
		o.Prompts = []int{2048, 8192}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
}

// KnownPeaks are peaks of GPUs that this project has measured: reads of 8 GiB, and a bfloat16 product of 8192³ through
// cuBLAS (bench/LOG.md). nil: none are known, and reports have no percentages.
func KnownPeaks(device string) *Peaks {
	if strings.Contains(device, "H200") {
		return &Peaks{ReadGBs: 4650, GFlops: 790e3}
	}
	return nil
}

// RunSteps measures decoding and prefill, wall clock, sampling included.
func RunSteps(ctx context.Context, o StepOptions) (*Report, error) {
	o.fill()
	r := &Report{Environment: environment(&Options{Threads: threads()}), Checkpoint: o.Name, Peaks: KnownPeaks(o.DeviceName)}
	r.Environment.Device = o.DeviceName
	for _, n := range o.Prompts {
		if err := r.prefill(ctx, &o, n); err != nil {
			return nil, err
		}
	}
	for _, depth := range o.Depths {
		for _, batch := range o.Batches {
			if err := r.decode(ctx, &o, batch, depth); err != nil {
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
	random *rand.Rand
}

// sequence is a text in progress: its pages by group, those of the chunked group for the chunk that it is in.
type sequence struct {
	pos   int
	chunk int
	pages [kernels.Groups][]kernels.Page
	last  int32
}

// newSteps makes room for so many sequences of up to n tokens.
func newSteps(o *StepOptions, sequences, n int) (*steps, error) {
	c := o.Model.Config
	spec := c.KVSpec(kernels.BF16, o.PageTokens)
	each := n/o.PageTokens + 2
	spec.Pages[kernels.GroupGlobal] = sequences * each
	spec.Pages[kernels.GroupChunked] = sequences * (min(each, c.AttnChunk/o.PageTokens+1) + each) // chunks are not freed here
	kv, err := o.Device.NewKV(spec)
	if err != nil {
		return nil, err
	}
	return &steps{Model: o.Model, dev: o.Device, kv: kv, tokens: o.PageTokens, random: rand.New(rand.NewPCG(11, 12))}, nil
}

func (s *steps) extend(g int, pages []kernels.Page, slots int) []kernels.Page {
	for len(pages)*s.tokens < slots {
		pages = append(pages, s.next[g])
		s.next[g]++
	}
	return pages
}

// span adds rows of a sequence to a group's spans.
func (s *steps) add(b *kernels.Batch, q *sequence, ids []int32) {
	row, n := len(b.Token), len(ids)
	q.pages[kernels.GroupGlobal] = s.extend(kernels.GroupGlobal, q.pages[kernels.GroupGlobal], q.pos+n)
	b.Spans[kernels.GroupGlobal] = append(b.Spans[kernels.GroupGlobal], kernels.Span{Row: int32(row), Rows: int32(n), Pages: q.pages[kernels.GroupGlobal]})
	chunk := s.Config.AttnChunk
	for at := q.pos; at < q.pos+n; {
		if at/chunk != q.chunk {
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
	r := <-s.dev.Step(b, func() { s.Forward(s.dev) })
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

func (r *Report) decode(ctx context.Context, o *StepOptions, batch, depth int) error {
	name := fmt.Sprintf("decode/batch=%d/context=%d", batch, depth)
	o.Progress(name)
	s, err := newSteps(o, batch, depth+(o.Repeat+1)*o.Steps+8)
	if err != nil {
		return err
	}
	defer s.kv.Close()
	var list []*sequence
	for range batch {
		q, err := s.read(depth, 8192)
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
	if o.StageTimes != nil {
		for range 2 {
			if err := s.step(list, nil); err != nil {
				return err
			}
		}
		o.StageTimes()
		const n = 10
		bytes := DecodeBytes(s.Config, positions(), experts)
		for range n {
			if err := s.step(list, nil); err != nil {
				return err
			}
		}
		r.stageResults(name, o.StageTimes(), n, bytes, nil)
		return nil
	}
	samples, err := repeat(ctx, o.Repeat, func() (time.Duration, error) {
		begin := time.Now()
		for range o.Steps {
			if err := s.step(list, nil); err != nil {
				return 0, err
			}
		}
		return time.Since(begin) / time.Duration(o.Steps), nil
	})
	if err != nil {
		return err
	}
	bytes := total(DecodeBytes(s.Config, positions(), experts))
	x := newResult(Result{Name: name, Tokens: batch, Bytes: int64(bytes)}, samples)
	if r.Peaks != nil {
		x.Percent = 100 * bytes / (r.Peaks.ReadGBs * 1e9) / (float64(x.Median) / 1e9)
		x.OverLayer = (float64(x.Median) - 1e9*bytes/(r.Peaks.ReadGBs*1e9)) / 1e3 / float64(s.Config.Layers)
	}
	r.Results = append(r.Results, x)
	return nil
}

func (r *Report) prefill(ctx context.Context, o *StepOptions, n int) error {
	name := fmt.Sprintf("prefill/tokens=%d", n)
	o.Progress(name)
	s, err := newSteps(o, 1, n)
	if err != nil {
		return err
	}
	defer s.kv.Close()
	ids := s.ids(n)
	op := func() (time.Duration, error) {
		s.next = [kernels.Groups]kernels.Page{}
		b := &kernels.Batch{}
		s.add(b, &sequence{}, ids)
		begin := time.Now()
		_, err := s.run(b)
		return time.Since(begin), err
	}
	flops := PrefillFlops(s.Config, n)
	if o.StageTimes != nil {
		for i := range 4 {
			if _, err := op(); err != nil {
				return err
			}
			if i == 0 {
				o.StageTimes()
			}
		}
		r.stageResults(name, o.StageTimes(), 3, nil, flops)
		return nil
	}
	samples, err := repeat(ctx, 3*o.Repeat, op)
	if err != nil {
		return err
	}
	x := newResult(Result{Name: name, Tokens: n, Flops: int64(total(flops))}, samples)
	if r.Peaks != nil {
		x.Percent = 100 * total(flops) / (r.Peaks.GFlops * 1e9) / (float64(x.Median) / 1e9)
	}
	r.Results = append(r.Results, x)
	return nil
}

// stageResults adds what each stage took in one of n steps, against its bytes or its operations.
func (r *Report) stageResults(name string, times map[string]time.Duration, n int, bytes, flops map[string]float64) {
	for _, stage := range Stages {
		if times[stage] == 0 {
			continue
		}
		x := newResult(Result{Name: name + "/stage=" + stage, Bytes: int64(bytes[stage]), Flops: int64(flops[stage])}, []time.Duration{times[stage] / time.Duration(n)})
		if r.Peaks != nil {
			x.compare(r.Peaks)
		}
		r.Results = append(r.Results, x)
	}
}

// VerifySteps holds a device against the CPU device: both have the same random weights, the rows of a prompt and some decoded
// ones go the oracle's way at every router, and the logits of each must agree. The error that it allows is that of the 12
// roundings to bfloat16 (2⁻⁸/√3 each) that a row passes in a layer, added up.
func VerifySteps(dev, oracle kernels.Device, m, reference *model.Model, pageTokens int) (float64, error) {
	allowed := 12 * float64(m.Config.Layers) / 256 / math.Sqrt(3)
	var on [2]*steps
	for i, side := range []StepOptions{{Model: reference, Device: oracle, PageTokens: pageTokens}, {Model: m, Device: dev, PageTokens: pageTokens}} {
		s, err := newSteps(&side, 2, 256)
		if err != nil {
			return 0, err
		}
		defer s.kv.Close()
		on[i] = s
	}
	worst := 0.0
	var seqs [2][2]*sequence
	for i := range seqs {
		seqs[i] = [2]*sequence{{}, {}}
	}
	for _, rows := range [][2]int{{100, 70}, {1, 1}, {1, 1}} { // both sequences read, then decode
		ids := [2][]int32{on[0].ids(rows[0]), on[0].ids(rows[1])}
		n := rows[0] + rows[1]
		all := make([]int32, n)
		for i := range all {
			all[i] = int32(i)
		}
		var taps [2][]kernels.Tap
		for _, h := range model.Hooks(m.Config) {
			switch h.At.Hook {
			case kernels.HookExpertIndex:
				taps[0] = append(taps[0], kernels.Tap{At: h.At, Rows: all, Buf: make([]float32, n)})
			case kernels.HookLogits:
				for i := range taps {
					taps[i] = append(taps[i], kernels.Tap{At: h.At, Rows: []int32{int32(rows[0] - 1), int32(n - 1)}, Buf: make([]float32, 2*h.Width())})
				}
			}
		}
		var logits [2][]float32
		for i, s := range on {
			b := &kernels.Batch{}
			for j, q := range seqs[i] {
				if rows[j] == 1 {
					b.Decode++
				}
				s.add(b, q, ids[j])
			}
			b.Taps = taps[i]
			if i == 1 { // replay
				for _, t := range taps[0] {
					if t.At.Hook == kernels.HookExpertIndex {
						b.Taps = append(b.Taps, kernels.Tap{At: t.At, Rows: t.Rows, Buf: t.Buf, Op: kernels.Set})
					}
				}
			}
			if _, err := s.run(b); err != nil {
				return 0, err
			}
			for _, t := range taps[i] {
				if t.At.Hook == kernels.HookLogits {
					logits[i] = t.Buf
				}
			}
		}
		var diff, norm float64
		for i, want := range logits[0] {
			d := float64(logits[1][i]) - float64(want)
			diff += d * d
			norm += float64(want) * float64(want)
		}
		relative := math.Sqrt(diff / norm)
		if !(relative <= allowed) {
			return relative, fmt.Errorf("bench: verify: want logits of %d rows within %.4f of the CPU's, got %.4f", n, allowed, relative)
		}
		worst = max(worst, relative)
	}
	return worst, nil
}
