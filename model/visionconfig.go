package model

import (
	"fmt"
	"math"
)

// VisionConfig is the vision tower, its adapter and the projector of a multimodal checkpoint.
type VisionConfig struct {
	Dim          int // width of the tower, hidden_size
	Layers       int
	Heads        int
	FFNDim       int // intermediate_size; also the adapter's input: Dim / ratio²
	TileSize     int // pixels on a side, image_size
	PatchSize    int
	Channels     int
	ShuffleRatio float64 // pixel_shuffle_ratio: 0.5 turns 2×2 patches into one token
	AdapterDim   int     // projector_input_dim = projector_output_dim = vision_output_dim
	Eps          float32
	RoPETheta    float64

	ImageStart, ImageEnd, Patch int32 // token ids: boi_token_index, eoi_token_index, image_token_index
}

// Patches is the number of patches of one tile, without the class token.
func (v *VisionConfig) Patches() int { n := v.TileSize / v.PatchSize; return n * n }

// Tokens is the number of rows that stand for one tile in a prompt: patches after the pixel shuffle.
func (v *VisionConfig) Tokens() int { s := v.Shuffle(); return v.Patches() / (s * s) }

// Shuffle is how many patches along each side of a tile become one token.
func (v *VisionConfig) Shuffle() int { return int(math.Round(1 / v.ShuffleRatio)) }

// PatchDim is the number of values of one patch.
func (v *VisionConfig) PatchDim() int { return v.Channels * v.PatchSize * v.PatchSize }

// VisionFlops is the work of encoding so many tiles.
func (c *Config) VisionFlops(tiles int) float64 {
	v := c.Vision
	n, patches, rows, out := float64(tiles), float64(v.Patches()), float64(v.Patches()+1), float64(v.Tokens())
	dim, ffn, adapter := float64(v.Dim), float64(v.FFNDim), float64(v.AdapterDim)
	layer := 2*rows*(4*dim*dim+2*dim*ffn) + 4*rows*rows*dim
	return n * (2*patches*float64(v.PatchDim())*dim + float64(v.Layers)*layer + 2*out*adapter*(ffn+adapter+float64(c.Dim)))
}

// parseVision reads vision_config. Every size is required: the defaults of the reference's class are not those of any
// published checkpoint.
func parseVision(top object, text *Config) *VisionConfig {
	o := top.child("vision_config")
	v := &VisionConfig{
		Dim:          o.integer("hidden_size", 1, maxDim),
		Layers:       o.integer("num_hidden_layers", 1, maxLayers),
		Heads:        o.integer("num_attention_heads", 1, maxCount),
		FFNDim:       o.integer("intermediate_size", 1, maxDim),
		TileSize:     o.integer("image_size", 1, maxCount),
		PatchSize:    o.integer("patch_size", 1, maxCount),
		Channels:     o.integer("num_channels", 1, 4, 3),
		ShuffleRatio: o.positive("pixel_shuffle_ratio"),
		AdapterDim:   o.integer("vision_output_dim", 1, maxDim),
		Eps:          float32(o.positive("norm_eps", 1e-5)),
		ImageStart:   int32(top.integer("boi_token_index", 0, text.Vocab-1)),
		ImageEnd:     int32(top.integer("eoi_token_index", 0, text.Vocab-1)),
		Patch:        int32(top.integer("image_token_index", 0, text.Vocab-1)),
	}
	v.RoPETheta = o.positive("rope_theta", 10000)
	if o.has("rope_parameters") {
		p := o.child("rope_parameters")
		p.oneOf("rope_type", "default")
		v.RoPETheta = p.positive("rope_theta", v.RoPETheta)
	}
	o.oneOf("hidden_act", "gelu")
	o.oneOf("vision_feature_select_strategy", "default")
	if o.boolean("multi_modal_projector_bias", false) {
		o.fail("multi_modal_projector_bias", "false", "true")
	}
	if *o.err != nil {
		return v
	}
	// The tower's heads rotate by column and by row: two pairs at least.
	if v.Dim%v.Heads != 0 || (v.Dim/v.Heads)%4 != 0 {
		o.fail("num_attention_heads", fmt.Sprintf("a divisor of hidden_size (%d) with heads of a multiple of 4", v.Dim), v.Heads)
	}
	if v.TileSize%v.PatchSize != 0 {
		o.fail("patch_size", fmt.Sprintf("a divisor of image_size (%d)", v.TileSize), v.PatchSize)
	}
	if side := v.TileSize / v.PatchSize; v.ShuffleRatio > 1 || v.Shuffle() > side || math.Abs(v.ShuffleRatio*float64(v.Shuffle())-1) > 1e-9 || side%v.Shuffle() != 0 {
		o.fail("pixel_shuffle_ratio", fmt.Sprintf("1 / a divisor of the %d patches on a side", side), v.ShuffleRatio)
		return v
	}
	if want := v.Dim * v.Shuffle() * v.Shuffle(); v.FFNDim != want {
		o.fail("intermediate_size", fmt.Sprintf("%d (hidden_size / pixel_shuffle_ratio², the adapter's input)", want), v.FFNDim)
	}
	for _, key := range []string{"projector_input_dim", "projector_output_dim"} {
		if got := o.integer(key, 1, maxDim); got != v.AdapterDim {
			o.fail(key, fmt.Sprintf("%d (vision_output_dim)", v.AdapterDim), got)
		}
	}
	return v
}
