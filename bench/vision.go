package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"chulengo/kernels"
	"chulengo/model"
)

// RandomPixels are tiles of bfloat16 noise.
func RandomPixels(v *model.VisionConfig, tiles int) *kernels.Pixels {
	p := &kernels.Pixels{Tiles: tiles, Channels: v.Channels, Side: v.TileSize, Format: kernels.BF16}
	r := rand.New(rand.NewPCG(13, 14))
	for range tiles * v.Channels * v.TileSize * v.TileSize {
		p.Data = binary.LittleEndian.AppendUint16(p.Data, uint16(math.Float32bits(float32(r.NormFloat64()))>>16))
	}
	return p
}

// Encode encodes the tiles n times, one after the other, and gives the time of each.
func Encode(m *model.Model, dev kernels.Device, p *kernels.Pixels, n int) (time.Duration, error) {
	viewer, ok := dev.(kernels.Viewer)
	if !ok || m.Vision == nil {
		return 0, fmt.Errorf("bench: vision: want a device and a model that see, got %s", dev.Name())
	}
	begin := time.Now()
	var last kernels.Picture
	for range n {
		if last != nil {
			defer last.Release()
		}
		var err error
		if last, err = m.See(viewer, p); err != nil {
			return 0, err
		}
	}
	last.Release() // waits for the device
	return time.Since(begin) / time.Duration(n), nil
}

// VerifyVision holds the tower of a device against the CPU device's on random tiles, in the sense of VerifySteps: 8 roundings for each
// layer, and 5 around them.
func VerifyVision(dev, oracle kernels.Device, m, reference *model.Model) (float64, error) {
	c := m.Config
	hooks := model.VisionHooks(c)
	last := hooks[len(hooks)-1]
	var values [2][]float32
	for i, on := range []struct {
		*model.Model
		dev kernels.Device
	}{{m, dev}, {reference, oracle}} {
		p := RandomPixels(c.Vision, 2)
		tap := kernels.Tap{At: last.At, Rows: make([]int32, p.Tiles*last.VisionRows(c.Vision))}
		for j := range tap.Rows {
			tap.Rows[j] = int32(j)
		}
		tap.Buf = make([]float32, len(tap.Rows)*last.Width())
		p.Taps, values[i] = []kernels.Tap{tap}, tap.Buf
		if _, err := Encode(on.Model, on.dev, p, 1); err != nil {
			return 0, err
		}
	}
	var diff, norm float64
	for i, want := range values[1] {
		d := float64(values[0][i]) - float64(want)
		diff, norm = diff+d*d, norm+float64(want)*float64(want)
	}
	off, bound := math.Sqrt(diff/norm), math.Sqrt(8*float64(c.Vision.Layers)+5)/256/math.Sqrt(3)
	if !(off <= bound) {
		return off, fmt.Errorf("bench: vision: want rows within %.4f of the CPU's, got %.4f", bound, off)
	}
	return off, nil
}

// vision measures the tower on so many tiles.
func (r *Report) vision(ctx context.Context, o *StepOptions, name string, tiles int) error {
	p := RandomPixels(o.Model.Config.Vision, tiles)
	op := func() (time.Duration, error) { return Encode(o.Model, o.Device, p, o.Encodings) }
	samples, err := repeat(ctx, o.Repeat, op)
	if err != nil {
		return err
	}
	flops := o.Model.Config.VisionFlops(tiles)
	x := newResult(Result{Name: name, Flops: int64(flops)}, samples)
	if r.Peaks != nil {
		x.Percent = 100 * flops / (r.Peaks.GFlops * 1e9) / (float64(x.Median) / 1e9)
	}
	r.Results = append(r.Results, x)
	return nil
}
