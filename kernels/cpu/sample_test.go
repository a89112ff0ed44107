package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"chulengo/kernels"
)

// The known answers that the generator's authors publish.
func TestPhilox(t *testing.T) {
	const all = math.MaxUint32
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{all, all, all, all}, [2]uint32{all, all}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := philoxBlock(c.counter, c.key); got != c.want {
			t.Errorf("counter %x key %x: got %x, want %x", c.counter, c.key, got, c.want)
		}
	}
	if philox(5, 7) == philox(5, 8) || philox(5, 7) == philox(6, 7) {
		t.Error("counter or key does not matter")
	}
}

// allowed draws many times and reports the ids seen.
func allowed(t *testing.T, d *drawer, s kernels.Sampler, logits []float32) []int32 {
	t.Helper()
	seen := map[int32]bool{}
	for i := range 4000 {
		s.Seed, s.Index = 99, uint64(i)
		id, err := d.draw(&s, logits)
		if err != nil {
			t.Fatal(err)
		}
		seen[id] = true
	}
	var ids []int32
	for id := range seen {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func TestFilters(t *testing.T) {
	d := &drawer{}
	ln := func(p ...float64) (x []float32) {
		for _, v := range p {
			x = append(x, float32(math.Log(v)))
		}
		return x
	}
	five := ln(0.1, 0.4, 0.2, 0.25, 0.05)
	no := float32(math.Inf(-1))
	for _, c := range []struct {
		name    string
		sampler kernels.Sampler
		logits  []float32
		want    []int32
	}{
		{"everything", kernels.Sampler{Temperature: 1}, five, []int32{0, 1, 2, 3, 4}},
		{"greedy", kernels.Sampler{}, five, []int32{1}},
		{"greedy, equal", kernels.Sampler{}, []float32{1, 3, 3, 2}, []int32{1}},
		{"top-k", kernels.Sampler{Temperature: 1, TopK: 3}, five, []int32{1, 2, 3}},
		{"top-k of equals takes the lower ids", kernels.Sampler{Temperature: 1, TopK: 2}, []float32{1, 1, 1, 1}, []int32{0, 1}},
		{"top-k above the vocabulary", kernels.Sampler{Temperature: 1, TopK: 50}, five, []int32{0, 1, 2, 3, 4}},
		{"top-p just reached", kernels.Sampler{Temperature: 1, TopP: 0.64}, five, []int32{1, 3}},
		{"top-p not yet reached", kernels.Sampler{Temperature: 1, TopP: 0.66}, five, []int32{1, 2, 3}},
		{"top-p tiny", kernels.Sampler{Temperature: 1, TopP: 1e-6}, five, []int32{1}},
		{"top-p of what top-k left", kernels.Sampler{Temperature: 1, TopK: 2, TopP: 0.6}, five, []int32{1}},
		{"top-p at a temperature", kernels.Sampler{Temperature: 0.1, TopP: 0.98}, five, []int32{1}},
		{"min-p", kernels.Sampler{Temperature: 1, MinP: 0.45}, five, []int32{1, 2, 3}},
		{"mask", kernels.Sampler{Temperature: 1, Mask: []uint32{0b10101}}, five, []int32{0, 2, 4}},
		{"mask, greedy", kernels.Sampler{Mask: []uint32{0b10101}}, five, []int32{2}},
		{"ban by bias", kernels.Sampler{Temperature: 1, Adjust: []kernels.Adjust{{ID: 1, Add: no}, {ID: 3, Add: no}}}, five, []int32{0, 2, 4}},
		{"force by bias", kernels.Sampler{Temperature: 1, Adjust: []kernels.Adjust{{ID: 4, Add: 100}}}, five, []int32{4}},
		{"penalty divides what is above zero", kernels.Sampler{Adjust: []kernels.Adjust{{ID: 0, Penalty: 2}}}, []float32{3, 2}, []int32{1}},
		{"penalty multiplies what is below", kernels.Sampler{Adjust: []kernels.Adjust{{ID: 0, Penalty: 2}}}, []float32{-2, -3}, []int32{1}},
		{"penalty, then addition", kernels.Sampler{Adjust: []kernels.Adjust{{ID: 0, Penalty: 2, Add: 1}}}, []float32{3, 2.4}, []int32{0}},
	} {
		if got := allowed(t, d, c.sampler, c.logits); !slices.Equal(got, c.want) {
			t.Errorf("%s: drew %v, want %v", c.name, got, c.want)
		}
	}
	for _, bad := range []kernels.Sampler{
		{Mask: []uint32{0}},
		{Mask: []uint32{}},
		{Adjust: []kernels.Adjust{{ID: 5}}},
		{Adjust: []kernels.Adjust{{ID: -1}}},
		{Adjust: []kernels.Adjust{{ID: 1, Add: float32(math.NaN())}}},
		{Adjust: []kernels.Adjust{{ID: 1, Add: float32(math.Inf(1))}}},
	} {
		if id, err := d.draw(&bad, five); err == nil {
			t.Errorf("%+v: drew %d, want an error", bad, id)
		}
	}
}

// Frequencies of many draws agree with the probabilities: χ² with 9 degrees of freedom stays below its 99.9 % point.
func TestDrawsFollowTheDistribution(t *testing.T) {
	d := &drawer{}
	r := rand.New(rand.NewPCG(3, 4))
	logits := make([]float32, 10)
	for i := range logits {
		logits[i] = float32(r.NormFloat64())
	}
	const n, temperature = 200000, 0.8
	var p [10]float64
	var total float64
	for i, l := range logits {
		p[i] = math.Exp(float64(l) / temperature)
		total += p[i]
	}
	var counts [10]float64
	for i := range uint64(n) {
		id, err := d.draw(&kernels.Sampler{Temperature: temperature, Seed: 12345, Index: i}, logits)
		if err != nil {
			t.Fatal(err)
		}
		counts[id]++
	}
	var chi float64
	for i := range counts {
		want := n * p[i] / total
		chi += (counts[i] - want) * (counts[i] - want) / want
	}
	if chi > 27.88 {
		t.Errorf("χ² = %.1f, want at most 27.88; counts %v", chi, counts)
	}
}

func TestAnswer(t *testing.T) {
	d := &drawer{}
	logits := []float32{1, 4, 4, -2, 3}
	out, err := d.answer(&kernels.Want{Score: 3, Top: 3, Sample: &kernels.Sampler{Adjust: []kernels.Adjust{{ID: 4, Add: 50}}}}, logits)
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v))
	}
	at := func(id int) float32 { return float32(float64(logits[id]) - math.Log(sum)) }
	close := func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-6 }
	if out.Token != 4 || !close(out.LogProb, at(4)) || !close(out.Score, at(3)) {
		t.Errorf("got %+v: want token 4 with the plain logits' log-probability %v, score %v", out, at(4), at(3))
	}
	if len(out.Top) != 3 || out.Top[0].ID != 1 || out.Top[1].ID != 2 || out.Top[2].ID != 4 || !close(out.Top[0].LogProb, at(1)) {
		t.Errorf("top: got %+v, want ids 1, 2, 4", out.Top)
	}
	if out, err := d.answer(&kernels.Want{Score: -1, Top: 50}, logits); err != nil || len(out.Top) != 5 || out.Token != -1 {
		t.Errorf("without a sampler: got %+v", out)
	}
	for _, bad := range [][]float32{{1, float32(math.NaN())}, {1, float32(math.Inf(1))}, {float32(math.Inf(-1)), float32(math.Inf(-1))}} {
		if _, err := d.answer(&kernels.Want{Score: -1, Sample: &kernels.Sampler{}}, bad); err == nil {
			t.Errorf("%v: want an error", bad)
		}
	}
}

func TestExpSum(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, spread := range []float64{0, 1e-3, 1, 30, 2000} {
		for range 2000 {
			x := make([]float32, 1+r.IntN(4))
			for i := range x {
				x[i] = float32(spread * (r.Float64() - 0.5))
			}
			best, _ := largest(x)
			want := 0.0
			for _, v := range x {
				want += math.Exp(float64(v) - float64(x[best]))
			}
			if got := expSum(x, x[best]); math.Abs(got-want) > 1e-12*want {
				t.Fatalf("%v: got %v, want %v", x, got, want)
			}
		}
	}
	// Far below the largest, term by term.
	for power := float32(-0.001); power > -690; power *= 1.01 {
		got, want := expSum([]float32{power}, 0), math.Exp(float64(power))
		if math.Abs(got-want) > 1e-12*want {
			t.Fatalf("exp(%v): got %v, want %v", power, got, want)
		}
	}
}
