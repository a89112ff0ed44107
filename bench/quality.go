package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"chulengo/kernels"
	"chulengo/model"
)

// QualitySubject is a model on its device.
type QualitySubject struct {
	Model  *model.Model
	Device kernels.Device
	KV     kernels.Format // of keys and values: BF16 or F8E4M3
}

// QualityOptions of a comparison of two models that differ in how their weights are stored.
type QualityOptions struct {
	Name                 string // of the candidate, for the report
	Reference, Candidate QualitySubject
	Prompts              [][]int32
	Answer               int     // tokens of a greedy answer to each prompt at most; 0: prompts are only read
	Stop                 []int32 // tokens that end an answer
	Progress             func(done, total int)
}

// Quality is how far a candidate is from its reference. Both read every prompt and the reference's answer to it. Their distributions of the
// next token are compared at each token of the answer, or, where there are no answers, of the prompt; their experts at every token.
type Quality struct {
	Name        string  `json:"name"`
	Prompts     int     `json:"prompts"`
	Tokens      int     `json:"tokens"`  // whose distributions were compared
	KLMean      float64 `json:"kl_mean"` // Kullback-Leibler divergence of the candidate from the reference, in nats
	KL99        float64 `json:"kl_99"`   // of tokens, 99 % have less
	KLMax       float64 `json:"kl_max"`
	SameTop     float64 `json:"same_top"` // share of tokens after which both have the same most probable next one
	Perplexity  float64 `json:"perplexity"`
	Reference   float64 `json:"reference_perplexity"`
	Choices     int     `json:"expert_choices"` // tokens × layers that route
	Changed     int     `json:"expert_choices_changed"`
	Answers     int     `json:"answers"`
	SameAnswers int     `json:"same_answers"`
}

// qualityRows is how many tokens of a prompt are read at a time, qualityBatch how many prompts are answered at a time.
const qualityRows, qualityBatch = 256, 16

// CompareQuality runs both models on the same prompts.
func CompareQuality(ctx context.Context, o QualityOptions) (*Quality, error) {
	q := &Quality{Name: o.Name, Prompts: len(o.Prompts)}
	if len(o.Prompts) == 0 {
		return nil, errors.New("bench: quality: want at least one prompt, got none")
	}
	longest := 0
	for i, p := range o.Prompts {
		if len(p) == 0 {
			return nil, fmt.Errorf("bench: quality: want tokens in prompt %d, got none", i)
		}
		longest = max(longest, len(p))
	}
	var both [2]*steps
	for i, s := range []QualitySubject{o.Reference, o.Candidate} {
		so := StepOptions{Model: s.Model, Device: s.Device, KV: s.KV}
		so.fill()
		var err error
		if both[i], err = newSteps(&so, min(qualityBatch, len(o.Prompts)), longest+o.Answer+1, qualityRows); err != nil {
			return nil, err
		}
		defer both[i].kv.Close()
	}
	c := &comparison{Quality: q, both: both}
	for first := 0; first < len(o.Prompts); first += qualityBatch {
		prompts := o.Prompts[first:min(first+qualityBatch, len(o.Prompts))]
		texts := slices.Clone(prompts)
		if o.Answer > 0 {
			var answers [2][][]int32
			for i, s := range both {
				var err error
				if answers[i], err = s.answers(ctx, prompts, o.Answer, o.Stop); err != nil {
					return nil, err
				}
			}
			for i := range prompts {
				q.Answers++
				if slices.Equal(answers[0][i], answers[1][i]) {
					q.SameAnswers++
				}
				texts[i] = slices.Concat(prompts[i], answers[0][i][:len(answers[0][i])-1]) // nothing follows the last token
			}
		}
		for i, ids := range texts {
			from := 0 // the first token whose distribution counts
			if o.Answer > 0 {
				from = len(prompts[i]) - 1
			}
			if err := c.read(ctx, ids, from); err != nil {
				return nil, err
			}
			if o.Progress != nil {
				o.Progress(first+i+1, len(o.Prompts))
			}
		}
	}
	c.finish()
	return q, nil
}

// answers gives the greedy answers to prompts, the token that ended them included.
func (s *steps) answers(ctx context.Context, prompts [][]int32, most int, stop []int32) ([][]int32, error) {
	s.restart()
	out := make([][]int32, len(prompts))
	var live []*sequence
	of := map[*sequence]int{}
	for i, ids := range prompts {
		q := &sequence{}
		for q.pos < len(ids) {
			b := &kernels.Batch{}
			s.add(b, q, ids[q.pos:min(len(ids), q.pos+qualityRows)])
			outs, err := s.run(b)
			if err != nil {
				return nil, err
			}
			q.last = outs[0].Token
		}
		of[q], live = i, append(live, q)
	}
	for range most {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		for _, q := range live {
			out[of[q]] = append(out[of[q]], q.last)
		}
		live = slices.DeleteFunc(live, func(q *sequence) bool { return slices.Contains(stop, q.last) })
		if len(live) == 0 {
			break
		}
		if err := s.step(live, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// comparison collects what two models say about the same tokens.
type comparison struct {
	*Quality
	both      [2]*steps
	kl        []float64
	same      int
	surprise  [2]float64 // -log p of the tokens that follow, summed
	followers int
}

// read has both models read a text and compares their distributions of the token after each, from token `from` on.
func (c *comparison) read(ctx context.Context, ids []int32, from int) error {
	var seqs [2]sequence
	for _, s := range c.both {
		s.restart()
	}
	for at := 0; at < len(ids); at += qualityRows {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		piece := ids[at:min(len(ids), at+qualityRows)]
		var seen [2]watched
		for i, s := range c.both {
			var err error
			if seen[i], err = s.watch(&seqs[i], piece, max(0, from-at)); err != nil {
				return err
			}
		}
		c.compare(seen, ids[min(len(ids), max(at, from)+1):])
	}
	return nil
}

// watched is what a model makes of n tokens: logits [rows, V] of the last rows of them, and the expert [n] of every layer that routes.
type watched struct {
	logits  []float32
	experts [][]float32
}

// watch reads tokens with taps on everything that is compared: logits from token `from` on.
func (s *steps) watch(q *sequence, ids []int32, from int) (w watched, err error) {
	b := &kernels.Batch{}
	s.add(b, q, ids)
	b.Want = nil
	rows := make([]int32, len(ids))
	for i := range rows {
		rows[i] = int32(i)
		if i >= from {
			b.Want = append(b.Want, kernels.Want{Row: int32(i), Score: -1})
		}
	}
	for _, h := range model.Hooks(s.Config) {
		if h.At.Hook == kernels.HookExpertIndex {
			w.experts = append(w.experts, make([]float32, len(ids)))
			b.Taps = append(b.Taps, kernels.Tap{At: h.At, Rows: rows, Buf: w.experts[len(w.experts)-1]})
		}
	}
	if wanted := len(b.Want); wanted > 0 {
		w.logits = make([]float32, wanted*s.Config.Vocab)
		b.Taps = append(b.Taps, kernels.Tap{At: kernels.Point{Hook: kernels.HookLogits}, Rows: rows[len(ids)-wanted:], Buf: w.logits})
	}
	_, err = s.run(b)
	return w, err
}

// compare adds what two models say after each of some tokens; next are those that follow each of them in the text.
func (c *comparison) compare(seen [2]watched, next []int32) {
	v := c.both[0].Config.Vocab
	for i := range len(seen[0].logits) / v {
		p, q := seen[0].logits[i*v:][:v], seen[1].logits[i*v:][:v]
		lp, lq := logSum(p), logSum(q)
		kl, best := 0.0, [2]int{}
		for j := range p {
			a, b := float64(p[j])-lp, float64(q[j])-lq
			kl += math.Exp(a) * (a - b)
			if p[j] > p[best[0]] {
				best[0] = j
			}
			if q[j] > q[best[1]] {
				best[1] = j
			}
		}
		c.kl = append(c.kl, max(0, kl))
		if best[0] == best[1] {
			c.same++
		}
		if i < len(next) {
			c.followers++
			c.surprise[0] += lp - float64(p[next[i]])
			c.surprise[1] += lq - float64(q[next[i]])
		}
	}
	for l := range seen[0].experts {
		for i, e := range seen[0].experts[l] {
			c.Choices++
			if seen[1].experts[l][i] != e {
				c.Changed++
			}
		}
	}
}

// logSum is log Σ exp(x).
func logSum(x []float32) float64 {
	top := float64(slices.Max(x))
	sum := 0.0
	for _, v := range x {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum)
}

// finish makes shares and means of the sums.
func (c *comparison) finish() {
	q, n := c.Quality, len(c.kl)
	q.Tokens = n
	slices.Sort(c.kl)
	for _, kl := range c.kl {
		q.KLMean += kl / float64(n)
	}
	q.KL99, q.KLMax = c.kl[n*99/100], c.kl[n-1]
	q.SameTop = float64(c.same) / float64(n)
	if c.followers > 0 {
		q.Reference, q.Perplexity = math.Exp(c.surprise[0]/float64(c.followers)), math.Exp(c.surprise[1]/float64(c.followers))
	}
}

// QualityReport is what several candidates lose against one reference.
type QualityReport struct {
	Checkpoint string     `json:"checkpoint"`
	Results    []*Quality `json:"results"`
}

// JSON writes the report.
func (r *QualityReport) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Table writes the report for people, in English or in what say makes of a text in English and in Chinese.
func (r *QualityReport) Table(w io.Writer, say func(en, zh string) string) error {
	first := r.Results[0]
	fmt.Fprintf(w, say("%s: %d prompts, %d tokens, perplexity %.4f\n\n", "%s：%d 个提示，%d 个 token，困惑度 %.4f\n\n"), r.Checkpoint, first.Prompts, first.Tokens, first.Reference)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, say("weights\tKL mean\tKL 99 %\tKL max\tsame best token\texperts changed\tperplexity\tsame answers",
		"权重\tKL 均值\tKL 99 %\tKL 最大\t首选 token 相同\t专家选择改变\t困惑度\t回答相同"))
	for _, q := range r.Results {
		answers, changed := "-", "-"
		if q.Answers > 0 {
			answers = fmt.Sprintf("%d/%d (%.1f %%)", q.SameAnswers, q.Answers, 100*float64(q.SameAnswers)/float64(q.Answers))
		}
		if q.Choices > 0 {
			changed = fmt.Sprintf("%.2f %%", 100*float64(q.Changed)/float64(q.Choices))
		}
		fmt.Fprintf(t, "%s\t%.5f\t%.4f\t%.3f\t%.2f %%\t%s\t%.4f\t%s\n", q.Name, q.KLMean, q.KL99, q.KLMax, 100*q.SameTop, changed, q.Perplexity, answers)
	}
	return t.Flush()
}
