package engine

import (
	"fmt"

	"chulengo/kernels"
	"chulengo/model"
)

// ForModel lets the engine run a loaded checkpoint. Keys and values are float32 (KeysAs).
// g's stop ids end answers; without g those of the configuration do.
func ForModel(m *model.Model, g *model.Generation) Model {
	c := m.Config
	widths := map[kernels.Point]int{}
	for _, h := range model.Hooks(c) {
		widths[h.At] = h.Width()
	}
	s := Spec{
		Vocab: c.Vocab, Context: c.Context, StopIDs: c.EOS,
		Experts: c.Experts, KV: c.KVSpec(kernels.F32, 0),
		Columns: func(p kernels.Point) (int, error) {
			if w, ok := widths[p]; ok {
				return w, nil
			}
			return 0, fmt.Errorf("layer %d hook %d", p.Layer, p.Hook)
		},
	}
	for l := range c.Layers {
		s.Chunk = max(s.Chunk, c.ChunkSize(l))
	}
	if m.Vision != nil {
		s.See, s.Patch, s.PictureRow = m.See, c.Vision.Patch, 4*int64(c.Dim)
	}
	if g != nil {
		s.StopIDs = g.EOS
	}
	return llama{m, s}
}

type llama struct {
	*model.Model
	spec Spec
}

func (l llama) Spec() Spec { return l.spec }

// Defaults is how the checkpoint's makers draw tokens.
func Defaults(g *model.Generation) Sampling {
	if g == nil || !g.Sample {
		return Sampling{}
	}
	return Sampling{Temperature: float32(g.Temperature), TopK: g.TopK, TopP: float32(g.TopP)}
}

// ForTokenizer lets the engine decode with a tokenizer whose decoders have a type of their own. A checkpoint without a
// tokenizer has nil instead. If t is a Speller so is the result.
func ForTokenizer[D Decoder](t interface{ NewDecoder() D }) Tokenizer {
	d := decoders[D]{t}
	if s, ok := t.(Speller); ok {
		return struct {
			Tokenizer
			Speller
		}{d, s}
	}
	return d
}

type decoders[D Decoder] struct {
	tokenizer interface{ NewDecoder() D }
}

func (d decoders[D]) NewDecoder() Decoder { return d.tokenizer.NewDecoder() }

// keysAs is a model whose keys and values are kept in a format.
type keysAs struct {
	Model
	format kernels.Format
}

// KeysAs has the engine keep a model's keys and values in a format that the device has: GPUs have BF16 and F8E4M3.
func KeysAs(m Model, f kernels.Format) Model { return keysAs{m, f} }

// Spec implements Model.
func (m keysAs) Spec() Spec {
	s := m.Model.Spec()
	s.KV.Format = m.format
	return s
}
