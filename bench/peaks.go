package bench

import (
	"sync"
	"time"

	"chulengo/kernels/cpu/simd"
)

// Peaks are what the machine can do at best: with the threads of a run, measured in that run, or of a known GPU.
type Peaks struct {
	ReadGBs float64 `json:"read_gb_per_s"`   // memory read, 10⁹ bytes a second
	GFlops  float64 `json:"gflop_per_s"`     // float32 multiply-adds in registers, 10⁹ operations a second, each counting two; of a GPU bfloat16 products
	Known   bool    `json:"known,omitempty"` // of the GPU's name (KnownPeaks), not measured in this run
}

// peakRounds is how often a measurement is repeated.
const peakRounds = 3

// fmaRounds makes one measurement long enough, some tenths of a second, that the processor's clock settles.
const fmaRounds = 50_000_000

// measure raises the peaks to what it sees. It runs before and after every stage and the best counts, because a peak is a
// bound, and other work on the machine must not lower it.
func (p *Peaks) measure(memory []byte, threads int) {
	share := len(memory) / threads &^ 255 // ReadSum takes 256 bytes at a time
	for range peakRounds {
		took := together(threads, func(i int) { sink(simd.ReadSum(memory[i*share : (i+1)*share])) })
		p.ReadGBs = max(p.ReadGBs, float64(share*threads)/took.Seconds()/1e9)
		flops := make([]int, threads)
		took = together(threads, func(i int) { flops[i] = simd.FMA(fmaRounds) })
		total := 0
		for _, f := range flops {
			total += f
		}
		p.GFlops = max(p.GFlops, float64(total)/took.Seconds()/1e9)
	}
}

// together times do on n threads at once.
func together(n int, do func(thread int)) time.Duration {
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
	return time.Since(began)
}

// sink keeps the compiler from leaving out a sum that nobody reads.
//
//go:noinline
func sink(uint64) {}
