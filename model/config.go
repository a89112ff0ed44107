package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"chulengo/kernels"
)

// Config is the architecture of a checkpoint: config.json after every default was filled in and every value checked.
// The rules of the model (which layer rotates, which one routes, what it sees) are its methods and stand nowhere else.
type Config struct {
	Dim         int // D, hidden_size
	Layers      int // L
	Heads       int // H
	KVHeads     int // KvH
	HeadDim     int // Hd
	ExpertDim   int // F of the routed and shared experts, intermediate_size
	DenseDim    int // F of layers without experts, intermediate_size_mlp
	Experts     int // E
	Vocab       int // V
	Context     int // max_position_embeddings
	Eps         float32
	TiedHead    bool // the output projection is the embedding table
	RoPE        RoPE
	QKNorm      bool
	Temperature *kernels.Temperature // nil: off
	AttnChunk   int                  // attention_chunk_size; 0: unchunked

	BOS int32
	EOS []int32

	Vision       *VisionConfig // nil: text only
	Quantization *Quantization // nil: config.json says nothing about it

	rotates []bool // per layer: no_rope_layers is 1
	chunked []bool // per layer: layer_types is chunked_attention
	moe     []bool // per layer
}

// RoPE is the rotary position embedding with Llama 3's scaling of low frequencies; Factor 1 is none.
type RoPE struct {
	Theta                 float64
	Factor                float64
	LowFactor, HighFactor float64
	OriginalContext       int
}

// UsesRoPE reports whether layer l rotates q and k; the others are the NoPE layers.
func (c *Config) UsesRoPE(l int) bool { return c.rotates[l] }

// UsesQKNorm reports whether layer l normalises the heads of q and k after the rotation.
func (c *Config) UsesQKNorm(l int) bool { return c.QKNorm && c.rotates[l] }

// AttnTemp is the scaling of q by position on layer l; nil: none. Only NoPE layers have it.
func (c *Config) AttnTemp(l int) *kernels.Temperature {
	if c.rotates[l] {
		return nil
	}
	return c.Temperature
}

// ChunkSize is the number of positions in a block of chunked attention on layer l: the query at position p sees keys
// from ⌊p/size⌋·size on. 0: everything up to p.
func (c *Config) ChunkSize(l int) int {
	if c.chunked[l] {
		return c.AttnChunk
	}
	return 0
}

// KVGroup is the page group in which layer l keeps its keys and values.
func (c *Config) KVGroup(l int) int {
	if c.ChunkSize(l) > 0 {
		return kernels.GroupChunked
	}
	return kernels.GroupGlobal
}

// IsMoE reports whether layer l has routed experts; the others are dense.
func (c *Config) IsMoE(l int) bool { return c.moe[l] }

// FFNDim is the width of layer l's feed-forward: of one expert, or of the dense layer.
func (c *Config) FFNDim(l int) int {
	if c.moe[l] {
		return c.ExpertDim
	}
	return c.DenseDim
}

// KVSpec describes key/value memory for this model; the pages of each group are the caller's to choose.
func (c *Config) KVSpec(f kernels.Format, pageTokens int) kernels.KVSpec {
	s := kernels.KVSpec{Format: f, PageTokens: pageTokens, KVHeads: c.KVHeads, HeadDim: c.HeadDim}
	for l := range c.Layers {
		s.Layers[c.KVGroup(l)]++
	}
	return s
}

// Bounds on what a configuration may claim, far beyond every Llama 4: a damaged file is refused here, with its key,
// before anything is multiplied or allocated.
const (
	maxLayers = 1 << 10
	maxDim    = 1 << 20
	maxCount  = 1 << 16
	maxVocab  = 1 << 24
	maxTokens = 1 << 31
)

// LoadConfig reads config.json of a checkpoint directory: multimodal (model_type llama4) or text only (llama4_text).
// The error of a bad value is a *ConfigError that names its key.
func LoadConfig(fsys fs.FS) (*Config, error) {
	data, err := fs.ReadFile(fsys, "config.json")
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	return ParseConfig(data)
}

// ParseConfig reads the text of a config.json.
func ParseConfig(data []byte) (*Config, error) {
	var err error
	top := parseObject("config.json", data, &err)
	if err != nil {
		return nil, err
	}
	var c *Config
	switch kind := top.oneOf("model_type", "llama4", "llama4_text"); {
	case err != nil:
	case kind == "llama4_text" || !top.has("text_config"):
		if kind == "llama4" {
			top.fail("text_config", "an object", top.shown("text_config"))
		}
		c = parseText(top)
	default:
		c = parseText(top.child("text_config"))
		if err == nil && top.has("vision_config") {
			c.Vision = parseVision(top, c)
		}
	}
	if top.has("quantization_config") {
		if q := parseQuantization(top.child("quantization_config")); err == nil {
			c.Quantization = q
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func parseText(o object) *Config {
	c := &Config{
		Dim:       o.integer("hidden_size", 1, maxDim),
		Layers:    o.integer("num_hidden_layers", 1, maxLayers),
		Heads:     o.integer("num_attention_heads", 1, maxCount),
		KVHeads:   o.integer("num_key_value_heads", 1, maxCount),
		ExpertDim: o.integer("intermediate_size", 1, maxDim),
		Vocab:     o.integer("vocab_size", 1, maxVocab),
		Context:   o.integer("max_position_embeddings", 1, maxTokens),
		Eps:       float32(o.positive("rms_norm_eps", 1e-5)),
		TiedHead:  o.boolean("tie_word_embeddings", false),
		QKNorm:    o.boolean("use_qk_norm", true),
	}
	if *o.err != nil {
		return c
	}
	c.HeadDim = o.integer("head_dim", 1, maxCount, max(1, c.Dim/c.Heads))
	if c.HeadDim%2 != 0 {
		o.fail("head_dim", "an even number (RoPE rotates pairs)", c.HeadDim)
	}
	if c.Heads%c.KVHeads != 0 {
		o.fail("num_key_value_heads", fmt.Sprintf("a divisor of num_attention_heads (%d)", c.Heads), c.KVHeads)
	}
	o.oneOf("hidden_act", "silu")
	if o.boolean("attention_bias", false) {
		o.fail("attention_bias", "false", "true")
	}
	c.RoPE = parseRoPE(o)
	c.Temperature = parseTemperature(o)
	parseLayers(o, c)
	for _, id := range o.ids("bos_token_id", c.Vocab) {
		c.BOS = id
	}
	c.EOS = o.ids("eos_token_id", c.Vocab)
	o.ids("pad_token_id", c.Vocab)
	return c
}

// parseLayers fills in what each layer is: rotation, mask and experts, which do not depend on one another.
func parseLayers(o object, c *Config) {
	n := c.Layers

	interval := o.integer("no_rope_layer_interval", 1, maxLayers, 4)
	flags := o.integers("no_rope_layers", 0, 1) // 1: the layer rotates
	switch len(flags) {
	case n:
	case 0:
		flags = make([]int, n)
		for l := range flags {
			if (l+1)%interval != 0 {
				flags[l] = 1
			}
		}
	default:
		o.fail("no_rope_layers", fmt.Sprintf("%d entries (num_hidden_layers) or none", n), fmt.Sprintf("%d entries", len(flags)))
		return
	}

	c.AttnChunk = 8192
	if o.isNull("attention_chunk_size") {
		c.AttnChunk = 0
	} else {
		c.AttnChunk = o.integer("attention_chunk_size", 1, maxTokens, c.AttnChunk)
	}
	var types []string
	if o.has("layer_types") {
		if json.Unmarshal(o.values["layer_types"], &types) != nil {
			o.fail("layer_types", "a list of strings", o.shown("layer_types"))
			return
		}
		if len(types) != n && len(types) != 0 {
			o.fail("layer_types", fmt.Sprintf("%d entries (num_hidden_layers)", n), fmt.Sprintf("%d entries", len(types)))
			return
		}
	}
	c.rotates, c.chunked, c.moe = make([]bool, n), make([]bool, n), make([]bool, n)
	for l := range n {
		c.rotates[l] = flags[l] == 1
		c.chunked[l] = c.rotates[l]
		if len(types) > 0 {
			c.chunked[l] = types[l] == "chunked_attention"
			if !c.chunked[l] && types[l] != "full_attention" {
				o.fail("layer_types", "chunked_attention or full_attention", fmt.Sprintf("%q at index %d", types[l], l))
			}
		}
	}

	step := o.integer("interleave_moe_layer_step", 0, maxLayers, 1)
	if o.has("moe_layers") {
		for i, l := range o.integers("moe_layers", 0, n-1) {
			if c.moe[l] {
				o.fail("moe_layers", "each layer once", fmt.Sprintf("layer %d again at index %d", l, i))
			}
			c.moe[l] = true
		}
	} else if step > 0 {
		for l := step - 1; l < n; l += step {
			c.moe[l] = true
		}
	}
	if slices.Contains(c.moe, true) {
		c.Experts = o.integer("num_local_experts", 1, maxCount)
		o.integer("num_experts_per_tok", 1, 1, 1)
	}
	if slices.Contains(c.moe, false) {
		c.DenseDim = o.integer("intermediate_size_mlp", 1, maxDim)
	}
}

// parseTemperature reads the scaling of q on NoPE layers. attn_temperature_tuning is a bool in newer files, a number (4)
// in older ones; absent, it is on.
func parseTemperature(o object) *kernels.Temperature {
	t := &kernels.Temperature{Floor: o.positive("floor_scale", 8192)}
	t.Scale, _ = o.number("attn_scale", 0.1)
	on, number := true, 0.0
	if o.has("attn_temperature_tuning") {
		v := o.values["attn_temperature_tuning"]
		switch {
		case json.Unmarshal(v, &on) == nil:
		case json.Unmarshal(v, &number) == nil && number >= 0:
			on = number != 0
		default:
			o.fail("attn_temperature_tuning", "true, false or a number", o.shown("attn_temperature_tuning"))
		}
	}
	if !on {
		return nil
	}
	return t
}

// parseRoPE accepts both spellings: rope_parameters (newer), or rope_theta with rope_scaling. Where a file has both they
// must agree.
func parseRoPE(o object) RoPE {
	const keyNew, keyOld = "rope_parameters", "rope_scaling"
	theta := o.positive("rope_theta", 500000)
	if !o.has(keyNew) {
		return parseScaling(o, keyOld, theta)
	}
	p := o.child(keyNew)
	r := parseScaling(o, keyNew, p.positive("rope_theta", theta))
	if o.has("rope_theta") && r.Theta != theta {
		o.fail("rope_theta", fmt.Sprintf("%v as in rope_parameters", r.Theta), theta)
	}
	if o.has(keyOld) && parseScaling(o, keyOld, r.Theta) != r {
		o.fail(keyOld, "the same values as rope_parameters", o.shown(keyOld))
	}
	return r
}

func parseScaling(o object, key string, theta float64) RoPE {
	p := o.child(key)
	r := RoPE{Theta: theta, Factor: 1, LowFactor: 1, HighFactor: 1}
	kind := "rope_type"
	if !p.has(kind) && p.has("type") {
		kind = "type"
	}
	if p.oneOf(kind, "default", "llama3") == "default" {
		return r
	}
	r.Factor = p.positive("factor")
	r.LowFactor = p.positive("low_freq_factor")
	r.HighFactor = p.positive("high_freq_factor")
	r.OriginalContext = p.integer("original_max_position_embeddings", 1, maxTokens)
	if r.LowFactor > r.HighFactor {
		p.fail("low_freq_factor", fmt.Sprintf("at most high_freq_factor (%v)", r.HighFactor), r.LowFactor)
	}
	return r
}

// Frequencies gives the [headDim/2] inverse frequencies, in radians a position. Llama 3's scaling divides the
// frequencies whose wavelength exceeds OriginalContext/LowFactor by Factor, keeps those below OriginalContext/HighFactor
// and blends between; with equal factors nothing lies between.
func (r RoPE) Frequencies(headDim int) []float64 {
	out := make([]float64, headDim/2)
	for i := range out {
		f := math.Pow(r.Theta, -2*float64(i)/float64(headDim))
		if r.Factor != 1 {
			turns := float64(r.OriginalContext) * f / (2 * math.Pi) // in the original context
			switch {
			case turns < r.LowFactor:
				f /= r.Factor
			case turns < r.HighFactor:
				keep := (turns - r.LowFactor) / (r.HighFactor - r.LowFactor)
				f = (1-keep)*f/r.Factor + keep*f
			}
		}
		out[i] = f
	}
	return out
}

// Generation is generation_config.json: how the checkpoint's makers draw tokens, and what ends an answer.
type Generation struct {
	Sample      bool // do_sample; false: greedy
	Temperature float64
	TopP        float64
	TopK        int // 0: all
	EOS         []int32
}

// LoadGeneration reads generation_config.json. A checkpoint without one gets Llama 4's defaults (temperature 0.6, top-p
// 0.9) and the stop ids of its config.json.
func LoadGeneration(fsys fs.FS, c *Config) (*Generation, error) {
	g := &Generation{Sample: true, Temperature: 0.6, TopP: 0.9, EOS: c.EOS}
	data, err := fs.ReadFile(fsys, "generation_config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return g, nil
	}
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	o := parseObject("generation_config.json", data, &err)
	if err != nil {
		return nil, err
	}
	g.Sample = o.boolean("do_sample", g.Sample)
	g.Temperature, _ = o.number("temperature", g.Temperature)
	if g.Temperature < 0 {
		o.fail("temperature", "a number of at least 0", o.shown("temperature"))
	}
	g.TopP = o.positive("top_p", g.TopP)
	if g.TopP > 1 {
		o.fail("top_p", "at most 1", o.shown("top_p"))
	}
	g.TopK = o.integer("top_k", 0, maxVocab, 0)
	if ids := o.ids("eos_token_id", c.Vocab); ids != nil {
		g.EOS = ids
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}
