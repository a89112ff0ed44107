package cpu

import (
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
		for i := range wants {
			d.outs[first+i] = d.answer(&wants[i], y.row(i))
		}
	}
}

// answer draws, scores and ranks one row of logits [V].
func (d *Device) answer(w *kernels.Want, logits []float32) kernels.Out {
	out := kernels.Out{Token: -1}
	if w.Sample == nil && w.Score < 0 && w.Top <= 0 {
		return out
	}
	if int(w.Score) >= len(logits) {
		d.fail("row %d: want a scored id below %d, got %d", w.Row, len(logits), w.Score)
		return out
	}
	best, ok := largest(logits)
	if !ok {
		d.fail("row %d: want finite logits, got %v for id %d", w.Row, logits[best], best)
		return out
	}
	// Log-probabilities are of the plain logits.
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v) - float64(logits[best]))
	}
	total := float64(logits[best]) + math.Log(sum)
	logProb := func(id int32) float32 { return float32(float64(logits[id]) - total) }
	if w.Sample != nil {
		id, err := d.draw(w.Sample, logits)
		if err != nil {
			d.fail("row %d: %w", w.Row, err)
			return out
		}
		out.Token, out.LogProb = id, logProb(id)
	}
	if w.Score >= 0 {
		out.Score = logProb(w.Score)
	}
	if n := min(int(w.Top), len(logits)); n > 0 {
		top := d.work.candidates[:0]
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
		d.work.candidates = top[:0]
	}
	return out
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
