package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"chulengo/model"
)

// shapes are the published text models, as their config.json files describe them (text part), and their vision tower, with a
// text model of its width that is as small as can be.
var shapes = map[string]map[string]any{
	"scout": {
		"model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
		"head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 16, "num_experts_per_tok": 1,
		"interleave_moe_layer_step": 1, "vocab_size": 202048, "attention_chunk_size": 8192, "max_position_embeddings": 10485760,
		"rms_norm_eps": 1e-5, "use_qk_norm": true, "attn_temperature_tuning": true, "floor_scale": 8192, "attn_scale": 0.1,
		"rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": false,
		"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 8192},
	},
	"maverick": {
		"model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
		"head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 128, "num_experts_per_tok": 1,
		"interleave_moe_layer_step": 2, "vocab_size": 202048, "attention_chunk_size": 8192, "max_position_embeddings": 1048576,
		"rms_norm_eps": 1e-5, "use_qk_norm": false, "attn_temperature_tuning": true, "floor_scale": 8192, "attn_scale": 0.1,
		"rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": false,
	},
	"vision": {
		"model_type": "llama4", "boi_token_index": 1, "eoi_token_index": 2, "image_token_index": 3,
		"text_config": map[string]any{
			"model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
			"head_dim": 128, "intermediate_size": 64, "intermediate_size_mlp": 64, "num_local_experts": 1, "num_experts_per_tok": 1,
			"interleave_moe_layer_step": 1, "vocab_size": 64, "attention_chunk_size": 8192, "max_position_embeddings": 8192,
			"rms_norm_eps": 1e-5, "use_qk_norm": true, "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": false,
		},
		"vision_config": map[string]any{
			"hidden_size": 1408, "num_hidden_layers": 34, "num_attention_heads": 16, "intermediate_size": 5632, "image_size": 336, "patch_size": 14,
			"num_channels": 3, "pixel_shuffle_ratio": 0.5, "vision_output_dim": 4096, "projector_input_dim": 4096, "projector_output_dim": 4096,
			"norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "gelu",
		},
	},
}

// ShapeConfig is the config.json of a published model ("scout", "maverick", "vision"), or the given file, with as many layers (of
// "vision" those of the tower) and ids as asked for; 0: all.
func ShapeConfig(name string, file []byte, layers, vocab int) ([]byte, error) {
	var c map[string]any
	if file != nil {
		if err := json.Unmarshal(file, &c); err != nil {
			return nil, fmt.Errorf("bench: config.json: want a JSON object: %w", err)
		}
		if text, ok := c["text_config"].(map[string]any); ok {
			c = text
		}
	} else if c = maps.Clone(shapes[name]); c == nil {
		return nil, fmt.Errorf("bench: shape: want one of %v, got %q", slices.Sorted(maps.Keys(shapes)), name)
	}
	if layers < 0 {
		return nil, fmt.Errorf("bench: layers: want 0 or more, got %d", layers)
	}
	if tower, ok := c["vision_config"].(map[string]any); ok {
		tower = maps.Clone(tower)
		if layers > 0 {
			tower["num_hidden_layers"] = layers
		}
		c["vision_config"] = tower
		return json.Marshal(c)
	}
	if layers > 0 {
		c["num_hidden_layers"] = layers
		for _, list := range []string{"no_rope_layers", "moe_layers", "layer_types"} { // derived from the counts instead
			delete(c, list)
		}
	}
	if vocab > 0 {
		c["vocab_size"] = vocab
		for _, id := range []string{"bos_token_id", "eos_token_id", "pad_token_id"} {
			delete(c, id)
		}
	}
	return json.Marshal(c)
}

// VerifyConfig is a shape cut down to what VerifySteps needs: two layers, of which the second sees the whole context without
// rotation, and few ids.
func VerifyConfig(name string, file []byte) (*model.Config, error) {
	data, err := ShapeConfig(name, file, 2, 4096)
	if err != nil {
		return nil, err
	}
	if name == "vision" {
		return model.ParseConfig(data)
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, err
	}
	c["no_rope_layers"] = []int{1, 0}
	if data, err = json.Marshal(c); err != nil {
		return nil, err
	}
	return model.ParseConfig(data)
}

// attnWeights is the number of values in the projections of a layer's attention: q, k, v, and the output's.
func attnWeights(c *model.Config) (in, out float64) {
	return float64(c.Dim * c.HeadDim * (c.Heads + 2*c.KVHeads)), float64(c.Dim * c.HeadDim * c.Heads)
}

// seen is how many keys a row at position pos sees in layer l, its own among them.
func seen(c *model.Config, l, pos int) int {
	if chunk := c.ChunkSize(l); chunk > 0 {
		return pos%chunk + 1
	}
	return pos + 1
}

// Widths are the bytes that a value takes on the device; the zero value: 2 everywhere.
type Widths struct {
	Weights map[string]float64 // by module, scales included (model.ValueBytes)
	KV      float64            // of keys and values
}

func (w Widths) of(module string) float64 {
	if v, ok := w.Weights[module]; ok {
		return v
	}
	return 2
}

// DecodeBytes is the least that one decoding step reads, by stage (Stages): weights once, of the experts those that
// some row chose (distinct, summed over the layers), and the rows' keys and values.
func DecodeBytes(c *model.Config, positions []int, distinct int, w Widths) map[string]float64 {
	in, out := attnWeights(c)
	attention, kv := w.of("attention"), cmp.Or(w.KV, 2)
	b := map[string]float64{"logits": w.of("output projection") * float64(c.Dim*c.Vocab), "embed": float64(2 * c.Dim * len(positions))}
	for l := range c.Layers {
		b["attn_in"] += attention * in
		b["attn_out"] += attention * out
		for _, pos := range positions {
			b["attend"] += kv * float64(seen(c, l, pos)*2*c.KVHeads*c.HeadDim)
		}
		network := 3 * float64(c.Dim*c.FFNDim(l))
		if !c.IsMoE(l) {
			b["ffn"] += w.of("dense feed-forward") * network
			continue
		}
		b["route"] += float64(2 * c.Dim * c.Experts)
		b["experts"] += w.of("shared expert") * network // the shared expert, in the same launches
	}
	for l := range c.Layers {
		if c.IsMoE(l) {
			b["experts"] += float64(distinct) * w.of("experts") * 3 * float64(c.Dim*c.FFNDim(l))
			break
		}
	}
	return b
}

// PrefillFlops is what reading a prompt of n tokens from the start computes, by stage, a multiply-add counting two: exact
// causal pairs, no padding, logits of the last token.
func PrefillFlops(c *model.Config, n int) map[string]float64 {
	in, out := attnWeights(c)
	rows := float64(n)
	f := map[string]float64{"logits": 2 * float64(c.Dim*c.Vocab)}
	for l := range c.Layers {
		f["attn_in"] += 2 * in * rows
		f["attn_out"] += 2 * out * rows
		pairs := rows * (rows + 1) / 2
		if chunk := c.ChunkSize(l); chunk > 0 && n > chunk {
			rest := float64(n % chunk)
			pairs = float64(n/chunk)*float64(chunk)*float64(chunk+1)/2 + rest*(rest+1)/2
		}
		f["attend"] += 4 * float64(c.Heads*c.HeadDim) * pairs
		network := 2 * 3 * float64(c.Dim*c.FFNDim(l)) * rows
		if !c.IsMoE(l) {
			f["ffn"] += network
			continue
		}
		f["route"] += float64(2*c.Dim*c.Experts) * rows
		f["shared"] += network
		f["experts"] += network
	}
	return f
}

func total(by map[string]float64) (sum float64) {
	for _, stage := range Stages {
		sum += by[stage]
	}
	return sum
}

// Stages are the methods of kernels.Device, as devices name them, in the order of the forward pass; shared is the part of
// experts that prefill launches on its own.
var Stages = []string{"embed", "attn_in", "attend", "attn_out", "route", "shared", "experts", "ffn", "logits"}
