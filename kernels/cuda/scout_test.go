//go:build cuda

package cuda_test

import (
	"math/rand/v2"
	"testing"

	"chulengo/kernels/cuda"
)

// scoutConfig is one layer of Llama-4-Scout in its real sizes. The vocabulary is cut, or the CPU's head would be most of the work.
func scoutConfig() map[string]any {
	return map[string]any{
		"model_type": "llama4_text", "hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
		"intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 16, "num_experts_per_tok": 1, "vocab_size": 1000,
		"num_hidden_layers": 1, "attention_chunk_size": 8192, "max_position_embeddings": 10485760, "rms_norm_eps": 1e-5, "use_qk_norm": true,
		"attn_temperature_tuning": true, "floor_scale": 8192, "attn_scale": 0.1, "rope_theta": 500000.0, "interleave_moe_layer_step": 1,
		"hidden_act": "silu", "tie_word_embeddings": false,
	}
}

// One layer of Llama-4-Scout in its real sizes, every named value against the CPU: prompts of ragged lengths, then decoding
// with up to 64 rows.
func TestScoutLayer(t *testing.T) {
	if testing.Short() {
		t.Skip("the CPU takes its time with 2.2·10⁹ weights")
	}
	p := dummyPair(t, scoutConfig(), cuda.Options{NoGraphs: true})
	r := rand.New(rand.NewPCG(31, 32))
	var pieces []piece
	for i := range 12 {
		pieces = append(pieces, piece{&sequence{}, randomTokens(r, []int{1, 2, 5, 16, 17, 33, 64, 65, 100, 127, 3, 9}[i], 1000)})
	}
	parity(t, p, pieces)
	for _, rows := range []int{1, 2, 7, 12} {
		var one []piece
		for _, x := range pieces[:rows] {
			one = append(one, piece{x.seq, randomTokens(r, 1, 1000)})
		}
		parity(t, p, one)
	}
	var many []piece
	for range 64 {
		many = append(many, piece{&sequence{}, randomTokens(r, 2, 1000)})
	}
	parity(t, p, many)
	for i := range many {
		many[i].tokens = randomTokens(r, 1, 1000)
	}
	parity(t, p, many)
}
