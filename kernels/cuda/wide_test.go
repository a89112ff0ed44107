//go:build cuda

package cuda_test

import (
	"math/rand/v2"
	"testing"

	"chulengo/kernels/cuda"
)

// wideConfig is large enough for every fast path: rows that several blocks norm, products with several splits of K.
func wideConfig() map[string]any {
	config := fastConfig()
	config["hidden_size"], config["intermediate_size"], config["intermediate_size_mlp"] = 1024, 1024, 1024
	config["num_hidden_layers"], config["attention_chunk_size"], config["interleave_moe_layer_step"] = 8, 256, 1
	config["no_rope_layers"] = []int{1, 1, 1, 0, 1, 1, 1, 0}
	return config
}

// The wide model from prompts to decoded tokens: every value against the CPU, over a chunk's border, and with taps the bits of the
// steps without.
func TestWide(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long on a software GPU")
	}
	p, q, u := dummyPair(t, wideConfig(), cuda.Options{}), dummyPair(t, wideConfig(), cuda.Options{}), dummyPair(t, wideConfig(), cuda.Options{})
	r := rand.New(rand.NewPCG(91, 92))
	var checked, plain, tapped []piece
	for _, n := range []int{254, 30, 3, 512, 7} {
		prompt := randomTokens(r, n, 1000)
		checked, plain, tapped = append(checked, piece{&sequence{}, prompt}), append(plain, piece{&sequence{}, prompt}), append(tapped, piece{&sequence{}, prompt})
	}
	parity(t, p, checked)
	q.gpu.run(t, plain, true, nil)
	u.gpu.run(t, tapped, true, nil)
	for step := range 6 {
		rows := []int{5, 1, 3}[step%3]
		for i := range plain {
			next := randomTokens(r, 1, 1000)
			checked[i].tokens, plain[i].tokens, tapped[i].tokens = next, next, next
		}
		parity(t, p, checked[:rows])
		outs := q.gpu.run(t, plain[:rows], true, nil)
		_, want := u.gpu.logits(t, tapped[:rows])
		for i := range outs {
			if !sameOut(outs[i], want[i]) {
				t.Fatalf("step %d row %d: %+v, with taps %+v", step, i, outs[i], want[i])
			}
		}
	}
	ran := q.gpu.dev.(*cuda.Device).Ran()
	for _, name := range []string{"gemm_store_90", "gemm_swiglu_90", "gemm_routed_90", "attend_prefill_90", "attend_decode_90", "stream_swiglu_8", "stream_partial_8"} {
		if q.gpu.dev.(*cuda.Device).Fast() && ran[name] == 0 {
			t.Errorf("%s did not run: %v", name, ran)
		}
	}
	if ran["norm_slices"]+ran["rms_norm"] == 0 || ran["route_slices"]+ran["route_rows"] == 0 {
		t.Errorf("neither kind of norm ran: %v", ran)
	}
}
