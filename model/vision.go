package model

import (
	"math"

	"chulengo/kernels"
)

// Vision is the vision tower with its adapter and projector: the description of its stages.
type Vision struct {
	Patch     kernels.Patch
	Layers    []kernels.VisionLayer
	Projector kernels.Projector
}

// Forward enqueues the tower on d: tiles of pixels to rows of the text model's width.
func (v *Vision) Forward(d kernels.Viewer) {
	x := d.Patches(&v.Patch) // [N·(P+1), Dv] patches, then the class token of each tile
	for i := range v.Layers {
		d.VisionLayer(&v.Layers[i], x) // attention within a tile, feed-forward
	}
	d.Project(&v.Projector, x) // norm, pixel shuffle, adapter, projection: [N·P/Shuffle², D]
}

// See encodes the tiles of a picture on d. The picture belongs to the caller.
func (m *Model) See(d kernels.Viewer, p *kernels.Pixels) (kernels.Picture, error) {
	return d.Encode(p, func() { m.Vision.Forward(d) })
}

// describeVision builds the stages of the tower; the weights come later.
func describeVision(c *VisionConfig) *Vision {
	side := c.TileSize / c.PatchSize
	v := &Vision{
		Patch:     kernels.Patch{Size: c.PatchSize, Eps: c.Eps},
		Layers:    make([]kernels.VisionLayer, c.Layers),
		Projector: kernels.Projector{Grid: side, Shuffle: c.Shuffle(), Eps: c.Eps},
	}
	frequencies := c.Frequencies()
	for i := range v.Layers {
		v.Layers[i] = kernels.VisionLayer{Layer: i, Heads: c.Heads, HeadDim: c.Dim / c.Heads, Grid: side, Eps: c.Eps, RoPE: frequencies}
	}
	return v
}

// Frequencies gives the [Hd/4] inverse frequencies, in radians a patch: half of a head's pairs turn by column, half by row.
func (v *VisionConfig) Frequencies() []float64 {
	half := v.Dim / v.Heads / 2
	out := make([]float64, half/2)
	for i := range out {
		out[i] = math.Pow(v.RoPETheta, -2*float64(i)/float64(half))
	}
	return out
}
