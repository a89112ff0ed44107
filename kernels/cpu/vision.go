package cpu

import (
	"fmt"
	"math"

	"chulengo/kernels"
	"chulengo/kernels/cpu/simd"
)

// tilesAtOnce is how many tiles go through the tower together: enough rows to read the weights seldom, few enough to
// bound the memory of its activations (of Scout's tower about 30 MB a tile).
const tilesAtOnce = 4

// encoding is the picture that Encode works on.
type encoding struct {
	pixels *kernels.Pixels
	tile   int // the first of those in work
	tiles  int // in work
	grid   int // patches on a side of a tile

	out  *seen
	x    act // [tiles·(P+1), Dv] residual
	norm act // [tiles·(P+1), Dv]
	qkv  act // [tiles·(P+1), 3·Dv]
	z    act
	wide act // [tiles·(P+1), Fv], pixels of patches, and the adapter's input
	add  act
	cos  act // [P, Hd/2] of every patch of a tile
	sin  act
}

// seen implements kernels.Picture.
type seen struct {
	act      act // [rows, D]
	released bool
}

func (s *seen) Rows() int {
	if s.act.width == 0 {
		return 0
	}
	return len(s.act.data) / s.act.width
}

func (s *seen) Bytes() int64 { return 4 * int64(cap(s.act.data)) }

func (s *seen) Release() { *s = seen{released: true} }

// Encode implements kernels.Viewer. It runs at once on the calling goroutine.
func (d *Device) Encode(p *kernels.Pixels, forward func()) (kernels.Picture, error) {
	if p.Format != kernels.BF16 && p.Format != kernels.F32 {
		return nil, fmt.Errorf("kernels/cpu: pixels: want BF16 or F32, got %v", p.Format)
	}
	if want := p.Tiles * p.Channels * p.Side * p.Side * p.Format.Size(); p.Tiles < 1 || p.Channels < 1 || p.Side < 1 || len(p.Data) != want {
		return nil, fmt.Errorf("kernels/cpu: pixels: want %d bytes for [%d, %d, %d, %d] %v, got %d", want, p.Tiles, p.Channels, p.Side, p.Side, p.Format, len(p.Data))
	}
	e := &encoding{pixels: p, out: &seen{}}
	d.seeing, d.err = e, nil
	defer func() { d.seeing = nil }()
	d.work.jobs = d.work.jobs[:0]
	for e.tile < p.Tiles && d.err == nil {
		e.tiles = min(tilesAtOnce, p.Tiles-e.tile)
		d.run(forward)
		e.tile += e.tiles
	}
	if d.err != nil {
		return nil, d.err
	}
	return e.out, nil
}

// tap runs the picture's taps at one point over a, the rows of the tiles in work.
func (e *encoding) tap(d *Device, layer int, hook kernels.Hook, a *act) {
	rows := len(a.data) / a.width
	first := e.tile * (rows / e.tiles)
	for i := range e.pixels.Taps {
		t := &e.pixels.Taps[i]
		if t.At != (kernels.Point{Layer: layer, Hook: hook}) {
			continue
		}
		for j, row := range t.Rows {
			if at := int(row) - first; at >= 0 && at < rows {
				d.tapRow(t, j, a.row(at))
			}
		}
	}
}

// Patches implements kernels.Viewer.
func (d *Device) Patches(l *kernels.Patch) kernels.Act {
	if d.err != nil {
		return nil
	}
	e, p := d.seeing, d.seeing.pixels
	w, positions := weightOf(l.Weight).parts[0][0], weightOf(l.Positions).parts[0][0]
	e.grid = p.Side / l.Size
	patches := e.grid * e.grid
	if w.K != p.Channels*l.Size*l.Size || positions.N != patches+1 {
		d.fail("%s: want tiles of %d patches of %d values, got %d of %d", weightOf(l.Weight).spec.Tensor(0),
			positions.N-1, w.K, patches, p.Channels*l.Size*l.Size)
		return nil
	}
	// A patch is a row of pixels: channel by channel, line by line. The class token's row stays zero.
	in := e.wide.resize(e.tiles*(patches+1), w.K)
	size := p.Format.Size()
	d.each(len(in.data)/in.width, len(in.data), func(_, i int) {
		row, tile, at := in.row(i), e.tile+i/(patches+1), i%(patches+1)
		if at == patches {
			clear(row)
			return
		}
		for c := range p.Channels {
			for y := range l.Size {
				line := (tile*p.Channels+c)*p.Side + at/e.grid*l.Size + y
				convert(row[(c*l.Size+y)*l.Size:][:l.Size], p.Format, p.Data[(line*p.Side+at%e.grid*l.Size)*size:])
			}
		}
	})
	x := e.x.resize(e.tiles*(patches+1), w.N)
	d.part(x, in, 0, l.Weight, 0, 0)
	d.multiply()
	class := weightOf(l.Class).vector
	d.each(len(x.data)/x.width, len(x.data), func(worker, i int) {
		row, position := x.row(i), d.scratch(worker, x.width)
		if i%(patches+1) == patches {
			copy(row, class)
		}
		convert(position, positions.Format, positions.Data[i%(patches+1)*positions.RowStride()*positions.Format.Size():])
		simd.AddScaled(row, 1, position)
	})
	d.layerNorm(x, x, l.Norm, l.Eps)
	e.tap(d, 0, kernels.HookVisionEmbed, x)
	return x
}

// VisionLayer implements kernels.Viewer.
func (d *Device) VisionLayer(l *kernels.VisionLayer, xa kernels.Act) {
	if d.err != nil {
		return
	}
	x, e := xa.(*act), d.seeing
	rows, dim := len(x.data)/x.width, x.width

	n := d.layerNorm(&e.norm, x, l.AttnNorm, l.Eps)
	qkv := e.qkv.resize(rows, 3*dim)
	for part := range 3 {
		d.part(qkv, n, part*dim, l.QKV, part, 0)
	}
	d.multiply()
	if l.Layer == 0 {
		e.angles(l)
	}
	perTile := rows / e.tiles
	biases := [3][]float32{weightOf(l.QKVBias[0]).vector, weightOf(l.QKVBias[1]).vector, weightOf(l.QKVBias[2]).vector}
	d.eachRow(qkv, func(i int) {
		for part, bias := range biases {
			simd.AddScaled(qkv.row(i)[part*dim:][:dim], 1, bias)
		}
		if at := i % perTile; at < perTile-1 { // the class token does not turn
			for heads := qkv.row(i)[:2*dim]; len(heads) > 0; heads = heads[l.HeadDim:] {
				turn(heads[:l.HeadDim], e.cos.row(at), e.sin.row(at))
			}
		}
	})
	z := e.z.resize(rows, dim)
	d.each(rows*l.Heads, 2*rows*perTile*dim, func(worker, unit int) {
		d.attendTile(worker, l, qkv, z, unit%rows, unit/rows, perTile)
	})
	e.tap(d, l.Layer, kernels.HookVisionZ, z)
	d.addLinear(x, z, l.Out, l.OutBias)
	e.tap(d, l.Layer, kernels.HookVisionResidMid, x)

	n = d.layerNorm(&e.norm, x, l.FFNNorm, l.Eps)
	up := e.wide.resize(rows, weightOf(l.Up).spec.Parts[0])
	d.part(up, n, 0, l.Up, 0, 0)
	d.multiply()
	d.gelu(up, weightOf(l.UpBias).vector)
	d.addLinear(x, up, l.Down, l.DownBias)
	e.tap(d, l.Layer, kernels.HookVisionResidPost, x)
}

// addLinear is x += in·Wᵀ + bias.
func (d *Device) addLinear(x, in *act, w, bias kernels.Weight) {
	out := d.seeing.add.resize(len(x.data)/x.width, x.width)
	d.part(out, in, 0, w, 0, 0)
	d.multiply()
	b := weightOf(bias).vector
	d.eachRow(x, func(i int) {
		simd.AddScaled(out.row(i), 1, b)
		simd.AddScaled(x.row(i), 1, out.row(i))
	})
}

// attendTile is softmax(q·Kᵀ/√Hd)·V of one row and head over all rows of its tile.
func (d *Device) attendTile(worker int, l *kernels.VisionLayer, qkv, z *act, row, head, perTile int) {
	dim, hd := z.width, l.HeadDim
	scores := d.scratch(worker, perTile)
	tile := qkv.data[row/perTile*perTile*qkv.width:]
	simd.DotRows(scores, qkv.row(row)[head*hd:][:hd], tile[dim+head*hd:], qkv.width)
	scale := float32(1 / math.Sqrt(float64(hd)))
	for i := range scores {
		scores[i] *= scale
	}
	inverse := 1 / softmaxWeights(scores)
	out := z.row(row)[head*hd:][:hd]
	clear(out)
	simd.AddScaledRows(out, scores, tile[2*dim+head*hd:], qkv.width)
	for i := range out {
		out[i] *= inverse
	}
}

// angles fills cos and sin of the patches of a tile: columns and rows count from 1.
func (e *encoding) angles(l *kernels.VisionLayer) {
	n, each := l.Grid*l.Grid, len(l.RoPE)
	cos, sin := e.cos.resize(n, 2*each), e.sin.resize(n, 2*each)
	for i := range n {
		for j, f := range l.RoPE {
			s, c := math.Sincos(float64(i%l.Grid+1) * f)
			sin.row(i)[j], cos.row(i)[j] = float32(s), float32(c)
			s, c = math.Sincos(float64(i/l.Grid+1) * f)
			sin.row(i)[each+j], cos.row(i)[each+j] = float32(s), float32(c)
		}
	}
}

// Project implements kernels.Viewer.
func (d *Device) Project(l *kernels.Projector, xa kernels.Act) {
	if d.err != nil {
		return
	}
	x, e := xa.(*act), d.seeing
	n := d.layerNorm(&e.norm, x, l.Norm, l.Eps)

	// The patches of a square, line by line, side by side in one row; class tokens stay behind.
	side, square := l.Grid/l.Shuffle, l.Shuffle*l.Shuffle
	patches, perTile := l.Grid*l.Grid, l.Grid/l.Shuffle*side
	in := e.wide.resize(e.tiles*perTile, x.width*square)
	d.eachRow(in, func(i int) {
		tile, at := i/perTile, i%perTile
		for j := range square {
			row, col := at/side*l.Shuffle+j/l.Shuffle, at%side*l.Shuffle+j%l.Shuffle
			copy(in.row(i)[j*x.width:], n.row(tile*(patches+1)+row*l.Grid+col))
		}
	})
	e.tap(d, 0, kernels.HookVisionShuffled, in)

	rows := e.tiles * perTile
	up := e.z.resize(rows, weightOf(l.Up).spec.Parts[0])
	d.part(up, in, 0, l.Up, 0, 0)
	d.multiply()
	d.gelu(up, nil)
	features := e.add.resize(rows, weightOf(l.Down).spec.Parts[0])
	d.part(features, up, 0, l.Down, 0, 0)
	d.multiply()
	d.gelu(features, nil)
	e.tap(d, 0, kernels.HookVisionFeatures, features)

	width := weightOf(l.Out).spec.Parts[0]
	if e.out.act.data == nil {
		e.out.act.resize(e.pixels.Tiles*perTile, width)
	}
	out := &act{data: e.out.act.data[e.tile*perTile*width:][:rows*width], width: width}
	d.part(out, features, 0, l.Out, 0, 0)
	d.multiply()
	e.tap(d, 0, kernels.HookVisionOut, out)
}

// layerNorm is (x - mean)/√(variance + eps)·weight + bias of every row. into may be x.
func (d *Device) layerNorm(into, x *act, n kernels.LayerNorm, eps float32) *act {
	rows := len(x.data) / x.width
	if into != x {
		into.resize(rows, x.width)
	}
	weight, bias := weightOf(n.Weight).vector, weightOf(n.Bias).vector
	d.eachRow(x, func(i int) {
		from, to := x.row(i), into.row(i)
		var sum, squares float64
		for _, v := range from {
			sum += float64(v)
		}
		mean := sum / float64(len(from))
		for _, v := range from {
			squares += (float64(v) - mean) * (float64(v) - mean)
		}
		r := 1 / math.Sqrt(squares/float64(len(from))+float64(eps))
		for j, v := range from {
			to[j] = float32((float64(v)-mean)*r)*weight[j] + bias[j]
		}
	})
	return into
}

// gelu is x·Φ(x) of every value plus its bias, with the exact normal distribution. nil: no bias.
func (d *Device) gelu(a *act, bias []float32) {
	const erf = 20 // as many multiplications
	d.each(len(a.data)/a.width, len(a.data)*erf, func(_, i int) {
		row := a.row(i)
		if bias != nil {
			simd.AddScaled(row, 1, bias)
		}
		for j, v := range row {
			row[j] = float32(0.5 * float64(v) * (1 + math.Erf(float64(v)/math.Sqrt2)))
		}
	})
}
