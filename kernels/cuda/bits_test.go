//go:build cuda

package cuda_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
)

// A replayed graph gives the bits of the same kernels launched one by one; a tapped step those of an untapped one; a row in
// a batch those of the row alone; and a prompt read in pieces those of the prompt read at once.
func TestSameBits(t *testing.T) {
	for i := range 4 {
		portable, keys := i%2 == 1, []kernels.Format{kernels.BF16, kernels.F8E4M3}[i/2]
		if i == 3 && testing.Short() {
			continue // takes long on a software GPU
		}
		t.Run(fmt.Sprint("portable=", portable, " ", keys), func(t *testing.T) {
			p := dummyPair(t, fastConfig(), cuda.Options{Portable: portable}, keys)
			q := dummyPair(t, fastConfig(), cuda.Options{Portable: portable, NoGraphs: true}, keys)
			r := rand.New(rand.NewPCG(7, 8))
			n := 6
			counts := []int{1, 2, 3, 6, 5, 6, 6, 4, 1, 6, 2, 6} // several buckets, each launched, captured and replayed
			if testing.Short() {
				n, counts = 4, []int{2, 4, 2, 3, 2, 4}
			}
			graph, eager, alone := make([]*sequence, n), make([]*sequence, n), make([]*sequence, n)
			next := make([]int32, n)
			for i := range n {
				graph[i], eager[i], alone[i] = &sequence{}, &sequence{}, &sequence{}
				prompt := randomTokens(r, 1+17*i, 1000)
				whole := p.gpu.run(t, []piece{{graph[i], prompt}}, true, nil)
				_, tapped := q.gpu.logits(t, []piece{{eager[i], prompt}})
				// A position's keys were written by the same kernels wherever the prompt was cut: what follows agrees.
				cut := len(prompt) / 2
				if cut > 0 {
					q.gpu.run(t, []piece{{alone[i], prompt[:cut]}}, true, nil)
				}
				pieces := q.gpu.run(t, []piece{{alone[i], prompt[cut:]}}, true, nil)
				last := len(whole) - 1
				if !sameOut(whole[last], tapped[last]) {
					t.Fatalf("prompt %d: with a tap %+v, without %+v", i, tapped[last], whole[last])
				}
				// A single row of a prompt decodes elsewhere; here every row is prefill.
				if at := len(pieces) - 1; !sameOut(pieces[at], whole[last]) {
					t.Errorf("prompt %d: in two pieces %+v, at once %+v", i, pieces[at], whole[last])
				}
				next[i] = whole[last].Token
			}
			for step, m := range counts {
				var a, b []piece
				for i := range m {
					a = append(a, piece{graph[i], next[i : i+1]})
					b = append(b, piece{eager[i], next[i : i+1]})
				}
				outs := p.gpu.run(t, a, true, nil)
				want := q.gpu.run(t, b, true, nil)
				for i := range m {
					if !sameOut(outs[i], want[i]) {
						t.Fatalf("step %d row %d: graph %+v, launched %+v", step, i, outs[i], want[i])
					}
					own := q.gpu.run(t, []piece{{alone[i], next[i : i+1]}}, true, nil)
					if !sameOut(own[0], want[i]) {
						t.Fatalf("step %d row %d: alone %+v, in a batch of %d %+v", step, i, own[0], m, want[i])
					}
					next[i] = want[i].Token
				}
			}
		})
	}
}
