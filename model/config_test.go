package model

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"chulengo/kernels"
)

// edit changes keys of the text configuration of a golden; a nil value removes the key, null is json.RawMessage("null").
type edit map[string]any

func configWith(t *testing.T, name string, text, top edit) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	apply := func(to map[string]any, e edit) {
		for k, v := range e {
			if v == nil {
				delete(to, k)
			} else {
				to[k] = v
			}
		}
	}
	apply(c["text_config"].(map[string]any), text)
	apply(c, top)
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var null = json.RawMessage("null")

func flags(n int, f func(l int) bool) (out []int) {
	for l := range n {
		if f(l) {
			out = append(out, l)
		}
	}
	return out
}

func TestLayerRules(t *testing.T) {
	nope := []int{3} // of 4 layers
	for _, c := range []struct {
		name           string
		golden         string
		text           edit
		noRoPE, global []int
		dense          []int
	}{
		{"as written", "micro-scout", nil, nope, nope, nil},
		{"every interval", "micro-scout", edit{"no_rope_layers": nil, "layer_types": nil}, nope, nope, nil},
		{"empty list", "micro-scout", edit{"no_rope_layers": []int{}, "layer_types": nil}, nope, nope, nil},
		{"interval 2", "micro-scout", edit{"no_rope_layers": []int{}, "layer_types": null, "no_rope_layer_interval": 2}, []int{1, 3}, []int{1, 3}, nil},
		{"mask apart from RoPE", "micro-scout", edit{"no_rope_layers": []int{0, 1, 0, 1}}, []int{0, 2}, nope, nil},
		{"all RoPE", "micro-scout", edit{"no_rope_layers": []int{1, 1, 1, 1}, "layer_types": nil}, nil, nil, nil},
		{"unchunked", "micro-scout", edit{"attention_chunk_size": null}, nope, []int{0, 1, 2, 3}, nil},
		{"step 2", "micro-scout", edit{"moe_layers": nil, "interleave_moe_layer_step": 2}, nope, nope, []int{0, 2}},
		{"step 0", "micro-scout", edit{"moe_layers": nil, "interleave_moe_layer_step": 0}, nope, nope, []int{0, 1, 2, 3}},
		{"no experts", "micro-scout", edit{"moe_layers": []int{}}, nope, nope, []int{0, 1, 2, 3}},
		{"listed", "micro-scout", edit{"moe_layers": []int{2, 0}}, nope, nope, []int{1, 3}},
		{"odd layers", "micro-maverick", edit{"moe_layers": nil}, []int{3, 7}, []int{3, 7}, []int{0, 2, 4, 6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := ParseConfig(configWith(t, c.golden, c.text, nil))
			if err != nil {
				t.Fatal(err)
			}
			check := func(what string, got, want []int) {
				if !slices.Equal(got, want) {
					t.Errorf("%s: got %v, want %v", what, got, want)
				}
			}
			check("NoPE", flags(cfg.Layers, func(l int) bool { return !cfg.UsesRoPE(l) }), c.noRoPE)
			check("global", flags(cfg.Layers, func(l int) bool { return cfg.ChunkSize(l) == 0 }), c.global)
			check("global pages", flags(cfg.Layers, func(l int) bool { return cfg.KVGroup(l) == kernels.GroupGlobal }), c.global)
			check("dense", flags(cfg.Layers, func(l int) bool { return !cfg.IsMoE(l) }), c.dense)
			check("temperature", flags(cfg.Layers, func(l int) bool { return cfg.AttnTemp(l) != nil }), c.noRoPE)
			check("QK norm", flags(cfg.Layers, func(l int) bool { return cfg.UsesQKNorm(l) != (cfg.QKNorm && cfg.UsesRoPE(l)) }), nil)
		})
	}
}

func TestTemperatureKey(t *testing.T) {
	for _, c := range []struct {
		value any
		on    bool
	}{{true, true}, {false, false}, {4, true}, {4.0, true}, {0, false}, {null, true}, {nil, true}} {
		cfg, err := ParseConfig(configWith(t, "micro-scout", edit{"attn_temperature_tuning": c.value}, nil))
		if err != nil || (cfg.Temperature != nil) != c.on {
			t.Errorf("attn_temperature_tuning %v: got %v, %v, want on %v", c.value, cfg, err, c.on)
		}
	}
	cfg, err := ParseConfig(configWith(t, "micro-scout", edit{"attn_temperature_tuning": nil, "floor_scale": nil, "attn_scale": nil, "use_qk_norm": nil, "attention_chunk_size": nil}, nil))
	if err != nil {
		t.Fatal(err)
	}
	if *cfg.Temperature != (kernels.Temperature{Scale: 0.1, Floor: 8192}) || !cfg.QKNorm || cfg.AttnChunk != 8192 {
		t.Errorf("defaults: %+v %+v", *cfg.Temperature, cfg)
	}
}

// Scout's scaling divides every frequency from index 35 on by 16, blends none, and has no division by zero although its
// two factors are equal. Figures from the published checkpoint's values, computed apart.
func TestFrequencies(t *testing.T) {
	scout := RoPE{Theta: 500000, Factor: 16, LowFactor: 1, HighFactor: 1, OriginalContext: 8192}
	plain := RoPE{Theta: 500000, Factor: 1, LowFactor: 1, HighFactor: 1}
	f, p := scout.Frequencies(128), plain.Frequencies(128)
	for i := range f {
		want := p[i]
		if i >= 35 {
			want /= 16
		}
		if f[i] != want {
			t.Errorf("frequency %d: got %v, want %v", i, f[i], want)
		}
	}
	for i, want := range map[int]float64{34: 9.384738704e-04, 35: 4.778106177e-05, 63: 1.534462994e-07} {
		if math.Abs(f[i]-want)/want > 1e-9 {
			t.Errorf("frequency %d: got %.10e, want %.10e", i, f[i], want)
		}
	}
	base := RoPE{Theta: 500000, Factor: 8, LowFactor: 1, HighFactor: 4, OriginalContext: 8192}.Frequencies(128)
	kept, blended, divided := 0, 0, 0
	for i := range base {
		switch base[i] {
		case p[i]:
			kept++
		case p[i] / 8:
			divided++
		default:
			blended++
		}
	}
	if kept != 29 || blended != 6 || divided != 29 {
		t.Errorf("factor 8, low 1, high 4: kept %d, blended %d, divided %d, want 29, 6, 29", kept, blended, divided)
	}
}

func TestRoPESpellings(t *testing.T) {
	scaled := map[string]any{"rope_type": "llama3", "factor": 16, "low_freq_factor": 1, "high_freq_factor": 1, "original_max_position_embeddings": 8192}
	old := map[string]any{"type": "llama3", "factor": 16, "low_freq_factor": 1, "high_freq_factor": 1, "original_max_position_embeddings": 8192}
	want := RoPE{500000, 16, 1, 1, 8192}
	for name, e := range map[string]edit{
		"as written":       nil,
		"older":            {"rope_parameters": nil, "rope_theta": 500000, "rope_scaling": scaled},
		"oldest":           {"rope_parameters": nil, "rope_theta": 500000, "rope_scaling": old},
		"both":             {"rope_theta": 500000, "rope_scaling": scaled},
		"theta by default": {"rope_parameters": nil, "rope_scaling": scaled},
		"theta outside":    {"rope_parameters": scaled, "rope_theta": 500000},
	} {
		if cfg, err := ParseConfig(configWith(t, "micro-scout", e, nil)); err != nil || cfg.RoPE != want {
			t.Errorf("%s: got %+v, %v", name, cfg, err)
		}
	}
	cfg, err := ParseConfig(configWith(t, "micro-scout", edit{"rope_parameters": nil, "rope_theta": 10000, "rope_scaling": null}, nil))
	if err != nil || cfg.RoPE != (RoPE{Theta: 10000, Factor: 1, LowFactor: 1, HighFactor: 1}) {
		t.Errorf("no scaling: got %+v, %v", cfg, err)
	}
}

func TestTextOnlyConfig(t *testing.T) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(configWith(t, "micro-scout", nil, nil), &c); err != nil {
		t.Fatal(err)
	}
	cfg, err := ParseConfig(c["text_config"])
	if err != nil || cfg.Vision != nil || cfg.Layers != 4 {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

// badText and badTop hold one wrong or inconsistent value each; the error must name the key.
var badText = []struct {
	key   string // that the error must name
	value edit
}{
	{"hidden_size", edit{"hidden_size": nil}},
	{"hidden_size", edit{"hidden_size": "80"}},
	{"hidden_size", edit{"hidden_size": 0}},
	{"hidden_size", edit{"hidden_size": -80}},
	{"hidden_size", edit{"hidden_size": 80.5}},
	{"hidden_size", edit{"hidden_size": 1e18}},
	{"num_hidden_layers", edit{"num_hidden_layers": nil}},
	{"num_hidden_layers", edit{"num_hidden_layers": 1e9}},
	{"no_rope_layers", edit{"num_hidden_layers": 5}},
	{"num_attention_heads", edit{"num_attention_heads": 0}},
	{"num_attention_heads", edit{"num_attention_heads": true}},
	{"num_key_value_heads", edit{"num_key_value_heads": nil}},
	{"num_key_value_heads", edit{"num_key_value_heads": 2}},
	{"head_dim", edit{"head_dim": 31}},
	{"head_dim", edit{"head_dim": []int{32}}},
	{"intermediate_size", edit{"intermediate_size": nil}},
	{"intermediate_size_mlp", edit{"moe_layers": []int{}, "intermediate_size_mlp": nil}},
	{"vocab_size", edit{"vocab_size": nil}},
	{"vocab_size", edit{"vocab_size": 1e10}},
	{"bos_token_id", edit{"vocab_size": 200}},
	{"max_position_embeddings", edit{"max_position_embeddings": nil}},
	{"max_position_embeddings", edit{"max_position_embeddings": -1}},
	{"rms_norm_eps", edit{"rms_norm_eps": 0}},
	{"rms_norm_eps", edit{"rms_norm_eps": "1e-5"}},
	{"tie_word_embeddings", edit{"tie_word_embeddings": "no"}},
	{"use_qk_norm", edit{"use_qk_norm": 1}},
	{"hidden_act", edit{"hidden_act": "gelu"}},
	{"attention_bias", edit{"attention_bias": true}},
	{"attn_temperature_tuning", edit{"attn_temperature_tuning": "on"}},
	{"attn_temperature_tuning", edit{"attn_temperature_tuning": -1}},
	{"floor_scale", edit{"floor_scale": 0}},
	{"attn_scale", edit{"attn_scale": "x"}},
	{"no_rope_layers", edit{"no_rope_layers": []int{1, 1}}},
	{"no_rope_layers", edit{"no_rope_layers": []int{1, 1, 1, 2}}},
	{"no_rope_layers", edit{"no_rope_layers": 4}},
	{"no_rope_layer_interval", edit{"no_rope_layer_interval": 0}},
	{"attention_chunk_size", edit{"attention_chunk_size": 0}},
	{"attention_chunk_size", edit{"attention_chunk_size": -8192}},
	{"layer_types", edit{"layer_types": []string{"full_attention"}}},
	{"layer_types", edit{"layer_types": []string{"full_attention", "x", "x", "x"}}},
	{"layer_types", edit{"layer_types": 4}},
	{"moe_layers", edit{"moe_layers": []int{0, 4}}},
	{"moe_layers", edit{"moe_layers": []int{0, 0}}},
	{"moe_layers", edit{"moe_layers": []float64{0.5}}},
	{"moe_layers", edit{"moe_layers": "all"}},
	{"interleave_moe_layer_step", edit{"interleave_moe_layer_step": -1}},
	{"num_local_experts", edit{"num_local_experts": nil}},
	{"num_local_experts", edit{"num_local_experts": 0}},
	{"num_experts_per_tok", edit{"num_experts_per_tok": 2}},
	{"rope_theta", edit{"rope_theta": -1}},
	{"rope_theta", edit{"rope_theta": 10000}},
	{"rope_scaling", edit{"rope_scaling": map[string]any{"rope_type": "default"}}},
	{"rope_parameters", edit{"rope_parameters": "llama3"}},
	{"rope_parameters.rope_type", edit{"rope_parameters": map[string]any{"rope_type": "yarn"}}},
	{"rope_parameters.factor", edit{"rope_parameters": map[string]any{"rope_type": "llama3"}}},
	{"rope_parameters.factor", edit{"rope_parameters": map[string]any{"rope_type": "llama3", "factor": 0}}},
	{"rope_parameters.low_freq_factor", edit{"rope_parameters": map[string]any{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
		"high_freq_factor": 1, "original_max_position_embeddings": 8192}}},
	{"rope_parameters.original_max_position_embeddings", edit{"rope_parameters": map[string]any{"rope_type": "llama3", "factor": 8,
		"low_freq_factor": 1, "high_freq_factor": 4}}},
	{"eos_token_id", edit{"eos_token_id": []int{251, 256}}},
	{"eos_token_id", edit{"eos_token_id": "<eot>"}},
	{"pad_token_id", edit{"pad_token_id": -5}},
}

var badTop = []struct {
	key   string
	value edit
}{
	{"model_type", edit{"model_type": "llama"}},
	{"text_config", edit{"text_config": nil}},
	{"text_config", edit{"text_config": 7}},
	{"vision_config", edit{"vision_config": []int{}}},
	{"vision_config.hidden_size", edit{"vision_config": map[string]any{}}},
	{"boi_token_index", edit{"boi_token_index": nil}},
	{"image_token_index", edit{"image_token_index": 256}},
	{"quantization_config", edit{"quantization_config": map[string]any{"quant_method": "gptq"}}},
}

func TestBadConfig(t *testing.T) {
	for _, c := range badText {
		checkConfigError(t, c.key, configWith(t, "micro-scout", c.value, nil))
	}
	for _, c := range badTop {
		checkConfigError(t, c.key, configWith(t, "micro-scout", nil, c.value))
	}
}

func checkConfigError(t *testing.T, key string, data []byte) {
	t.Helper()
	cfg, err := ParseConfig(data)
	var bad *ConfigError
	if err == nil || !errors.As(err, &bad) || !strings.Contains(bad.Key, key) || cfg != nil {
		t.Errorf("%s: got %+v, %v, want a ConfigError that names it", key, cfg, err)
	}
}

func TestBadVisionConfig(t *testing.T) {
	for key, value := range map[string]any{
		"hidden_size": "x", "num_hidden_layers": 0, "num_attention_heads": 3, "intermediate_size": 100, "image_size": 30, "patch_size": 0,
		"pixel_shuffle_ratio": 0.3, "vision_output_dim": 47, "projector_input_dim": nil, "projector_output_dim": 1, "norm_eps": -1,
		"hidden_act": "relu", "num_channels": 9, "multi_modal_projector_bias": true, "vision_feature_select_strategy": "full",
		"rope_parameters": map[string]any{"rope_type": "llama3"},
	} {
		var c map[string]map[string]any
		json.Unmarshal(configWith(t, "micro-scout", nil, edit{"model_type": nil, "architectures": nil, "dtype": nil, "boi_token_index": nil,
			"eoi_token_index": nil, "image_token_index": nil, "tie_word_embeddings": nil, "transformers_version": nil}), &c)
		v := c["vision_config"]
		if v[key] = value; value == nil {
			delete(v, key)
		}
		var bad *ConfigError
		_, err := ParseConfig(configWith(t, "micro-scout", nil, edit{"vision_config": v}))
		if !errors.As(err, &bad) || !strings.HasPrefix(bad.Key, "vision_config.") {
			t.Errorf("vision_config.%s = %v: got %v", key, value, err)
		}
	}
}

func TestGeneration(t *testing.T) {
	cfg, err := LoadConfig(os.DirFS("testdata/micro-scout"))
	if err != nil {
		t.Fatal(err)
	}
	file := func(s string) fstest.MapFS { return fstest.MapFS{"generation_config.json": {Data: []byte(s)}} }
	g, err := LoadGeneration(fstest.MapFS{}, cfg)
	if err != nil || !g.Sample || g.Temperature != 0.6 || g.TopP != 0.9 || !slices.Equal(g.EOS, []int32{251, 252, 253}) {
		t.Errorf("no file: got %+v, %v", g, err)
	}
	g, err = LoadGeneration(file(`{"do_sample":false,"temperature":1,"top_p":0.5,"top_k":7,"eos_token_id":9}`), cfg)
	if err != nil || g.Sample || g.Temperature != 1 || g.TopP != 0.5 || g.TopK != 7 || !slices.Equal(g.EOS, []int32{9}) {
		t.Errorf("got %+v, %v", g, err)
	}
	for _, bad := range []string{``, `[]`, `null`, `{"temperature":-1}`, `{"temperature":"hot"}`, `{"top_p":0}`, `{"top_p":1.5}`, `{"top_k":-1}`,
		`{"eos_token_id":256}`, `{"eos_token_id":[1,"x"]}`, `{"do_sample":"yes"}`} {
		if g, err := LoadGeneration(file(bad), cfg); err == nil || !strings.Contains(err.Error(), "generation_config.json") {
			t.Errorf("%s: got %+v, %v", bad, g, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, name := range []string{"micro-scout", "micro-maverick"} {
		data, err := os.ReadFile("testdata/" + name + "/config.json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseConfig(data); err == nil {
			describe(c).table(layouts[0])
			Hooks(c)
		}
	})
}
