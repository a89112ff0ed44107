//go:build cuda

package cuda_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"chulengo/kernels/cuda"
	"chulengo/kernels/cuda/driver"
)

// BenchmarkGroup is steps of two GPUs, by every way in which they may meet, in one process and in two (hosts). CHULENGO_BENCH and
// CHULENGO_LAYERS say of what model.
func BenchmarkGroup(b *testing.B) {
	if gpus, err := driver.Devices(); err != nil || len(gpus) < 2 {
		b.Skip("want two GPUs")
	}
	config := benchConfig()
	prompt := 2048
	if config["hidden_size"] == 256 {
		prompt = 100
	}
	for _, c := range []struct {
		name string
		o    cuda.Options
	}{{"peers", cuda.Options{Way: cuda.ByPeers}}, {"nccl", cuda.Options{Way: cuda.ByNCCL}}, {"hosts", cuda.Options{}}, {"host", cuda.Options{Way: cuda.ByHost}},
		{"peers-eager", cuda.Options{Way: cuda.ByPeers, NoGraphs: true}}, {"nccl-eager", cuda.Options{Way: cuda.ByNCCL, NoGraphs: true}}} {
		b.Run(c.name, func(b *testing.B) {
			var s *side
			if c.name == "hosts" {
				s, _ = twoHosts(b, config, false)
			} else {
				g, err := cuda.NewGroup(c.o, []int{0, 1})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { g.Close() })
				s = dummySide(b, configOf(b, config), g)
			}
			r := rand.New(rand.NewPCG(3, 4))
			q, tokens := &sequence{}, randomTokens(r, prompt, s.Config.Vocab)
			prefill := func() {
				q.pos = 0
				s.runWith(b, []piece{{q, tokens}}, 1)
			}
			var last []piece
			decode := func() {
				for i := range last {
					last[i].seq.pos = prompt
				}
				s.runWith(b, last, len(last))
			}
			prefill()
			reports := map[string]float64{"prefill-ms": median(3, prefill).Seconds() * 1e3}
			for _, rows := range []int{1, 8} {
				for len(last) < rows {
					q = &sequence{}
					prefill()
					last = append(last, piece{q, []int32{tokens[len(last)]}})
				}
				for range 3 { // launched, captured, replayed
					decode()
				}
				reports[fmt.Sprintf("decode%d-µs", rows)] = median(50, decode).Seconds() * 1e6
			}
			for b.Loop() {
				decode()
			}
			for unit, value := range reports {
				b.ReportMetric(value, unit)
			}
		})
	}
}

// median is how long something takes, of n times.
func median(n int, f func()) time.Duration {
	var list []time.Duration
	for range n {
		begin := time.Now()
		f()
		list = append(list, time.Since(begin))
	}
	slices.Sort(list)
	return list[n/2]
}
