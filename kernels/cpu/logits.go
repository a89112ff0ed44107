package cpu

import (
	"fmt"
	"math"

	"chulengo/kernels"
)

// logitRows is the number of wanted rows whose logits are in memory at a time: 32 rows of Llama 4's vocabulary are 26 MB.
const logitRows = 32

// Logits implements kernels.Device.
func (d *Device) Logits(l *kernels.Head, xa kernels.Act) {
	if d.err != nil {
		return
	}
	x := xa.(*act)
	vocab := weightOf(l.Out).spec.Parts[0]
	d.outs = make([]kernels.Out, len(d.batch.Want))
	for first := 0; first < len(d.batch.Want) && d.err == nil; first += logitRows {
		wants := d.batch.Want[first:min(first+logitRows, len(d.batch.Want))]
		h := d.work.head.resize(len(wants), x.width)
		norm := weightOf(l.Norm).vector
		for i, w := range wants {
			rmsNorm(h.row(i), x.row(int(w.Row)), norm, l.Eps)
		}
		d.tapWanted(kernels.HookFinalNorm, first, h)
		y := d.work.vocab.resize(len(wants), vocab)
		d.part(y, h, 0, l.Out, 0, 0)
		d.multiply()
		d.tapWanted(kernels.HookLogits, first, y)
		errs := make([]error, len(wants))
		d.each(len(wants), len(wants)*vocab*answerWork, func(worker, i int) {
			d.outs[first+i], errs[i] = d.work.draws[worker].answer(&wants[i], y.row(i))
		})
		for _, err := range errs {
			if err != nil {
				d.fail("%w", err)
			}
		}
	}
}

// answerWork is about how many multiplications one logit of an answer costs as much as: two exponentials.
const answerWork = 64

// drawer is what one thread needs to draw.
type drawer struct {
	adjusted   []float32
	candidates []candidate
}

// answer draws, scores and ranks one row of logits [V].
func (d *drawer) answer(w *kernels.Want, logits []float32) (out kernels.Out, err error) {
	out.Token = -1
	if w.Sample == nil && w.Score < 0 && w.Top <= 0 {
		return out, nil
	}
	if int(w.Score) >= len(logits) {
		return out, fmt.Errorf("row %d: want a scored id below %d, got %d", w.Row, len(logits), w.Score)
	}
	best, ok := largest(logits)
	if !ok {
		return out, fmt.Errorf("row %d: want finite logits, got %v for id %d", w.Row, logits[best], best)
	}
	// Log-probabilities are of the plain logits.
	total := float64(logits[best]) + math.Log(expSum(logits, logits[best]))
	logProb := func(id int32) float32 { return float32(float64(logits[id]) - total) }
	if w.Sample != nil {
		id, err := d.draw(w.Sample, logits)
		if err != nil {
			return out, fmt.Errorf("row %d: %w", w.Row, err)
		}
		out.Token, out.LogProb = id, logProb(id)
	}
	if w.Score >= 0 {
		out.Score = logProb(w.Score)
	}
	if n := min(int(w.Top), len(logits)); n > 0 {
		top := d.candidates[:0]
		for id, v := range logits {
			c := candidate{id: int32(id), logit: v}
			if len(top) == n && !c.before(top[n-1]) {
				continue
			}
			if len(top) < n {
				top = append(top, c)
			}
			i := len(top) - 1
			for ; i > 0 && c.before(top[i-1]); i-- {
				top[i] = top[i-1]
			}
			top[i] = c
		}
		for _, c := range top {
			out.Top = append(out.Top, kernels.TokenLogProb{ID: c.id, LogProb: logProb(c.id)})
		}
		d.candidates = top[:0]
	}
	return out, nil
}

// expTable are 2^(i/64).
var expTable = func() (t [64]float64) {
	for i := range t {
		t[i] = math.Exp2(float64(i) / 64)
	}
	return t
}()

// expSum is Σ exp(x - best), where best is the largest of x. Its relative error is below 1e-12: less than a log-probability
// in float32 can show, and found several times faster than with math.Exp.
func expSum(x []float32, best float32) (sum float64) {
	const step = math.Ln2 / 64
	for _, v := range x {
		power := float64(v) - float64(best)
		if power < -700 {
			continue // less than 1e-304
		}
		n := int64(power*(1/step) - 0.5) // rounded, as power is not positive
		r := power - float64(n)*step     // within half a step: the next term of exp's series is below 1e-13
		e := 1 + r*(1+r*(1./2+r*(1./6+r*(1./24))))
		sum += e * expTable[n&63] * math.Float64frombits(uint64(1023+n>>6)<<52)
	}
	return sum
}

// largest is the index of the largest value, the lowest among equals; ok is false, and the index that of the culprit, if
// a value is NaN or the largest is infinite.
func largest(x []float32) (best int, ok bool) {
	for i, v := range x {
		if v != v {
			return i, false
		}
		if v > x[best] {
			best = i
		}
	}
	return best, !math.IsInf(float64(x[best]), 0)
}
