//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"runtime/debug"

	"chulengo/kernels"
)

// tilesAtOnce is how many tiles go through the tower together. Five of Scout's are 2,885 rows, 12 pieces of 256; with 11, 33 and
// 44 pairs of weight blocks that is 1, 3 and 4 waves of an H200's 132 multiprocessors, each full, and buffers of 117 MB.
const tilesAtOnce = 5

// maxTowerWidth is the widest tower: a row lies in the registers of a block while it is normalised (vision.cu).
const maxTowerWidth = 2048

// view is the picture that Encode works on.
type view struct {
	pixels  *kernels.Pixels
	host    []byte // pixels, pinned: filled up to those in work
	tile    int    // the first of those in work
	tiles   int    // in work
	perTile int    // rows of a tile, the class token's among them
	out     *picture
}

// tower is the rows of the tiles in work, [rows, ld] float32, of which d columns count. Parts that the last product left to the next norm,
// count of [rows, ld], are not in them yet.
type tower struct {
	at          ptr
	rows, d, ld int
	parts       ptr
	count       int
}

// picture implements kernels.Picture.
type picture struct {
	dev         *Device
	at          ptr
	host        []byte // where it lies if ranks meet in the host's memory
	rows, width int
	settled     bool // in a group: other ranks may read it
}

func (p *picture) Rows() int    { return p.rows }
func (p *picture) Bytes() int64 { return 4 * int64(p.rows) * int64(p.width) }

// Release implements kernels.Picture. The tower may still be at work on it.
func (p *picture) Release() {
	d := p.dev
	defer d.gpu.enter()()
	if d.left != nil && d.left.of == p {
		d.left = nil
	}
	d.gpu.keep(d.gpu.sync())
	p.free()
}

func (p *picture) free() {
	if p.host != nil {
		p.dev.gpu.unpin(p.host)
	} else if p.at != 0 {
		p.dev.gpu.free(p.at)
	}
	*p = picture{}
}

// make reserves the picture's rows.
func (p *picture) make(rows, width int) (err error) {
	p.rows, p.width = rows, width
	if g := p.dev.group; g == nil || !g.host {
		p.at, err = p.dev.gpu.alloc(int(p.Bytes()))
		return err
	}
	if p.host, err = p.dev.gpu.pin(int(p.Bytes())); err == nil {
		p.at = addressOf(p.host)
	}
	return err
}

// Encode implements kernels.Viewer. Its kernels follow those of steps in the one stream: it returns when they are enqueued, or,
// with taps, when they are done, or, in pieces, when they are written down. What goes wrong later is the next step's error.
func (d *Device) Encode(p *kernels.Pixels, forward func()) (kernels.Picture, error) {
	if p.Format != kernels.BF16 && p.Format != kernels.F32 {
		return nil, fmt.Errorf("kernels/cuda: pixels: want BF16 or F32, got %v", p.Format)
	}
	if want := p.Tiles * p.Channels * p.Side * p.Side * p.Format.Size(); p.Tiles < 1 || p.Channels < 1 || p.Side < 1 || len(p.Data) != want {
		return nil, fmt.Errorf("kernels/cuda: pixels: want %d bytes for [%d, %d, %d, %d] %v, got %d", want, p.Tiles, p.Channels, p.Side, p.Side, p.Format, len(p.Data))
	}
	defer d.gpu.enter()()
	if d.left != nil { // its rows lie in the same buffers
		if err := d.complete(d.left.of); err != nil {
			return nil, err
		}
	}
	d.err, d.open, d.taps, d.gpu.broken = nil, len(p.Taps) > 0, nil, nil
	v := &view{pixels: p, out: &picture{dev: d}}
	if d.recording = p.InPieces && !d.open; d.recording {
		d.left = &unfinished{of: v.out}
	}
	d.view = v
	d.encode(v, forward)
	d.view, d.taps, d.open, d.recording = nil, nil, false, false
	d.stage("")
	if d.err != nil {
		d.left = nil
		d.gpu.abandon()
		v.out.free()
		return nil, d.err
	}
	return v.out, nil
}

// encode runs forward on a few tiles at a time. A panic below is the picture's error.
func (d *Device) encode(v *view, forward func()) {
	defer func() {
		if p := recover(); p != nil {
			d.fail("panic in a stage: %v\n%s", p, debug.Stack())
		}
	}()
	if err := d.gpu.sync(); err != nil { // the last picture's pixels are on the device
		d.fail("%w", err)
		return
	}
	if d.options.Poison {
		for _, b := range d.buffers {
			d.gpu.fill(b.at, 0xff, b.size)
		}
	}
	v.host = d.gpu.pinnedBytes("vision.pixels", len(v.pixels.Data))[:len(v.pixels.Data)]
	d.layViewTaps(v)
	for v.tile < v.pixels.Tiles && d.err == nil {
		v.tiles = min(tilesAtOnce, v.pixels.Tiles-v.tile)
		forward()
		v.tile += v.tiles
	}
	if d.err == nil && v.out.at == 0 {
		d.fail("picture: want stages up to the projector, got none")
	}
	if d.err != nil || !d.open {
		d.gpu.flush()
		if d.err == nil && d.gpu.broken != nil {
			d.fail("%w", d.gpu.broken)
		}
		return
	}
	taps := d.readTaps()
	if err := d.gpu.sync(); err != nil {
		d.fail("%w", err)
		return
	}
	taps()
}

// layViewTaps gives the picture's taps their buffers; their rows are those of the tiles in work (tapView).
func (d *Device) layViewTaps(v *view) {
	if !d.open || d.err != nil {
		return
	}
	var values []float32
	for i := range v.pixels.Taps {
		values = append(values, v.pixels.Taps[i].Buf...)
	}
	buf := d.mem("vision.taps", 4*max(len(values), 1))
	if d.err != nil {
		return
	}
	at := buf
	for i := range v.pixels.Taps {
		t := &v.pixels.Taps[i]
		d.taps = append(d.taps, placedTap{Tap: t, buf: at, host: t.Buf})
		at += ptr(4 * len(t.Buf))
	}
	if err := d.gpu.copyInNow(buf, bytesOf(values)); err != nil {
		d.fail("taps: %w", err)
	}
}

// tapView is a tap of a value with so many rows a tile.
func (d *Device) tapView(layer int, hook kernels.Hook, kind int, data ptr, perTile, ld, width int) {
	if !d.open || d.err != nil {
		return
	}
	v := d.view
	for i := range d.taps {
		t := &d.taps[i]
		if t.At != (kernels.Point{Layer: layer, Hook: hook}) {
			continue
		}
		rows := make([]int32, len(t.Rows))
		for j, r := range t.Rows {
			if rows[j] = r - int32(v.tile*perTile); rows[j] < 0 || int(rows[j]) >= v.tiles*perTile {
				rows[j] = -1
			}
		}
		d.runTap(t, d.tapRows(rows), tapped{kind: kind, data: data, ld: ld, width: width})
	}
}

// viewImage is an image of the tiles in work, with room for tilesAtOnce: buffers of the tower are allocated once.
func (d *Device) viewImage(name string, perTile, k int) image {
	tiles := ceil(k, tile)
	lines := func(n int) int { return ceil(n*perTile, 16) * 16 }
	return image{at: d.mem("vision."+name, (lines(tilesAtOnce)*tiles+fastWidth)*lineBytes), lines: lines(d.view.tiles), tiles: tiles}
}

// keepOnDevice is a copy on the device that stays as long as it.
func (d *Device) keepOnDevice(what string, data []byte) ptr {
	at, err := d.gpu.alloc(len(data))
	if err == nil {
		err = d.gpu.copyInNow(at, data)
	}
	if err != nil {
		d.fail("%s: %w", what, err)
	}
	return at
}

// Patches implements kernels.Viewer.
func (d *Device) Patches(l *kernels.Patch) kernels.Act {
	d.weigh("vision patches", 1)
	if d.err != nil {
		return nil
	}
	v, p, w, positions := d.view, d.view.pixels, d.weightOf(l.Weight), d.weightOf(l.Positions)
	grid := p.Side / l.Size
	v.perTile = grid*grid + 1
	if columns := p.Channels * l.Size * l.Size; w.spec.K != columns || positions.spec.Parts[0] != v.perTile {
		d.fail("%s: want tiles of %d patches of %d values, got %d of %d", w.spec.Tensor(0), positions.spec.Parts[0]-1, w.spec.K, grid*grid, columns)
		return nil
	}
	x := &tower{rows: v.tiles * v.perTile, d: w.spec.Parts[0], ld: w.rows}
	if x.d%4 != 0 || x.d > maxTowerWidth {
		d.fail("%s: want a width of at most %d, a multiple of 4, got %d", w.spec.Tensor(0), maxTowerWidth, x.d)
		return nil
	}
	each := len(v.host) / p.Tiles
	pixels := d.mem("vision.pixels", tilesAtOnce*each)
	in := d.viewImage("in", v.perTile, w.spec.K)
	x.at = d.mem("vision.x", 4*tilesAtOnce*v.perTile*x.ld)
	if d.err != nil {
		return nil
	}
	host := v.host[v.tile*each:][:v.tiles*each]
	copy(host, p.Data[v.tile*each:])
	d.enqueue(func() {
		d.gpu.flush()
		d.gpu.keep(d.gpu.main.CopyIn(pixels, host))
	})
	patch := patchParams{pixels: pixels, image: in.at, lines: int32(in.lines), columns: int32(w.spec.K), tiles: int32(in.tiles),
		channels: int32(p.Channels), side: int32(p.Side), size: int32(l.Size)}
	if p.Format == kernels.F32 {
		patch.format = 1
	}
	launch(d, "patch_rows", x.rows, 1, 0, &patch)
	d.product("store", w, in, x.rows, gemmParams{out: x.at, ld: int32(x.ld)})
	n := d.layerNorm(x, l.Norm, l.Eps)
	n.classToken, n.positions, n.positionTiles = d.weightOf(l.Class).data, positions.data, int32(positions.tiles)
	d.launchNorm("embed", x, &n)
	d.tapTower(0, kernels.HookVisionEmbed, x)
	return x
}

func (d *Device) tapTower(layer int, hook kernels.Hook, x *tower) {
	d.tapView(layer, hook, tapFloat, x.at, d.view.perTile, x.ld, x.d)
}

// VisionLayer implements kernels.Viewer.
func (d *Device) VisionLayer(l *kernels.VisionLayer, xa kernels.Act) {
	d.weigh("vision attend", 1)
	if d.err != nil {
		return
	}
	v, x, w, width := d.view, xa.(*tower), d.weightOf(l.QKV), l.Heads*l.HeadDim
	if l.HeadDim%4 != 0 || l.HeadDim > 128 {
		d.fail("vision layer %d: want heads of at most 128 values, a multiple of 4, got %d", l.Layer, l.HeadDim)
		return
	}
	h := d.normTower(x, l.AttnNorm, l.Eps)
	z := d.viewImage("z", v.perTile, width)
	heads := headsParams{turns: d.turns(l), perTile: int32(v.perTile), width: int32(width), part: int32(w.first[1]), headDim: int32(l.HeadDim), step: int32(8 % v.perTile)}
	for i, b := range l.QKVBias {
		heads.bias[i] = d.weightOf(b).data
	}
	scale := float32(math.Log2E / math.Sqrt(float64(l.HeadDim)))
	if d.fast() && l.HeadDim > 64 && l.HeadDim <= 96 {
		heads.lines = int32(ceil(v.perTile, 16) * 16)
		each := 3 * l.Heads * 2 * int(heads.lines) * lineBytes
		qkv := d.mem("vision.qkv", tilesAtOnce*each)
		if l.Layer == 0 { // what no product writes is zero
			bytes := v.tiles * each
			d.enqueue(func() { d.gpu.zero(qkv, bytes) })
		}
		d.product("heads", w, h, x.rows, gemmParams{out: qkv, heads: heads})
		items := v.tiles * l.Heads * ceil(v.perTile, 128)
		launch(d, "attend_tile_90", min(items, d.gpu.sms), 1, fastTileShared, &headAttentionParams{
			qkv: qkv, z: z.at, scale: scale, perTile: int32(v.perTile), headLines: heads.lines, items: int32(items), heads: int32(l.Heads),
			headDim: int32(l.HeadDim), lines: int32(z.lines), tilesAlong: int32(z.tiles)})
	} else {
		headLd := ceil(l.HeadDim, 8) * 8
		ld := 3 * l.Heads * headLd
		qkv := d.mem("vision.qkv", 2*tilesAtOnce*v.perTile*ld)
		if d.err != nil {
			return
		}
		if headLd != l.HeadDim && l.Layer == 0 {
			d.enqueue(func() { d.gpu.zero(qkv, 2*x.rows*ld) })
		}
		heads.headLd = int32(headLd)
		d.product("heads", w, h, x.rows, gemmParams{out: qkv, ld: int32(ld), heads: heads})
		hd := tileHead(l.HeadDim)
		launch(d, attendTile[hd], v.tiles*ceil(v.perTile, 64), l.Heads, prefillShared(hd, 2), &tileAttentionParams{
			qkv: qkv, z: z.at, scale: scale, perTile: int32(v.perTile), heads: int32(l.Heads),
			headDim: int32(l.HeadDim), headLd: int32(headLd), lines: int32(z.lines), tilesAlong: int32(z.tiles)})
	}
	d.tapView(l.Layer, kernels.HookVisionZ, tapImage, z.at, v.perTile, z.lines, width)
	d.addLinear(x, z, l.Out, l.OutBias)
	d.tapTower(l.Layer, kernels.HookVisionResidMid, x)

	d.weigh("vision ffn", 0)
	h = d.normTower(x, l.FFNNorm, l.Eps)
	d.addLinear(x, d.geluLinear("act", h, v.perTile, l.Up, l.UpBias), l.Down, l.DownBias)
	d.tapTower(l.Layer, kernels.HookVisionResidPost, x)
}

// tileHead is the smallest compiled head that holds one of the tower's.
func tileHead(hd int) int { return max(32, ceil(hd, 32)*32) }

var attendTile = map[int]string{32: "attend_tile_32", 64: "attend_tile_64", 96: "attend_tile_96", 128: "attend_tile_128"}

// turnsKey names cos and sin of a tile's rows.
type turnsKey struct {
	frequencies *float64
	grid        int
}

// turns is cos and sin of a tile's rows on the device, [P+1, Hd/2]: columns and lines count from 1, the class token does not turn.
func (d *Device) turns(l *kernels.VisionLayer) ptr {
	key := turnsKey{&l.RoPE[0], l.Grid}
	at, known := d.turnsOf[key]
	if known {
		return at
	}
	var values []float32
	angles := func(position int) {
		for _, f := range l.RoPE {
			sin, cos := math.Sincos(float64(position) * f)
			values = append(values, float32(cos), float32(sin))
		}
	}
	for i := range l.Grid * l.Grid {
		angles(i%l.Grid + 1)
		angles(i/l.Grid + 1)
	}
	angles(0)
	angles(0)
	if at = d.keepOnDevice("turns", bytesOf(values)); d.err == nil {
		d.turnsOf[key] = at
	}
	return at
}

// Project implements kernels.Viewer.
func (d *Device) Project(l *kernels.Projector, xa kernels.Act) {
	d.weigh("vision project", 1)
	if d.err != nil {
		return
	}
	v, x, w := d.view, xa.(*tower), d.weightOf(l.Out)
	square := l.Shuffle * l.Shuffle
	perTile := l.Grid * l.Grid / square
	in := d.viewImage("shuffled", perTile, x.d*square)
	n := d.layerNorm(x, l.Norm, l.Eps)
	n.image, n.lines, n.tiles, n.grid, n.shuffle = in.at, int32(in.lines), int32(in.tiles), int32(l.Grid), int32(l.Shuffle)
	d.launchNorm("shuffle", x, &n)
	d.tapView(0, kernels.HookVisionShuffled, tapImage, in.at, perTile, in.lines, x.d*square)
	up := d.geluLinear("up", in, perTile, l.Up, nil)
	features := d.geluLinear("features", up, perTile, l.Down, nil)
	d.tapView(0, kernels.HookVisionFeatures, tapImage, features.at, perTile, features.lines, d.weightOf(l.Down).spec.Parts[0])

	o, rows := v.out, v.tiles*perTile
	if o.at == 0 && d.err == nil {
		if err := o.make(v.pixels.Tiles*perTile, w.spec.Parts[0]); err != nil {
			d.fail("picture of %d rows: %w", o.rows, err)
			return
		}
	}
	to := o.at + ptr(4*v.tile*perTile*o.width)
	if w.rows == o.width {
		d.product("store", w, features, rows, gemmParams{out: to, ld: int32(o.width)})
	} else {
		padded := d.mem("vision.out", 4*tilesAtOnce*perTile*w.rows)
		d.product("store", w, features, rows, gemmParams{out: padded, ld: int32(w.rows)})
		launch(d, "sum_slots", rows, 1, 0, &sumParams{slots: slots{values: padded, count: 1, ld: int32(w.rows)}, out: to, ld: int32(o.width), width: int32(o.width)})
	}
	d.tapView(0, kernels.HookVisionOut, tapFloat, to, perTile, o.width, o.width)
}

// checkPictures validates the pictures of a batch with t rows.
func (d *Device) checkPictures(b *kernels.Batch, t int) error {
	free := int32(0) // rows before it are taken
	for i, p := range b.Pictures {
		from, ok := p.Picture.(*picture)
		if !ok || from.at == 0 || from.dev != d && (d.group == nil || from.dev.group != d.group) {
			return fmt.Errorf("kernels/cuda: batch: picture %d: want one of this device that was not released, got %T", i, p.Picture)
		}
		if p.Rows < 1 || p.Row < free || int(p.Row)+int(p.Rows) > t {
			return fmt.Errorf("kernels/cuda: batch: picture %d: want rows from %d on, below %d, got %d rows from %d", i, free, t, p.Rows, p.Row)
		}
		if p.From < 0 || int(p.From)+int(p.Rows) > from.rows {
			return fmt.Errorf("kernels/cuda: batch: picture %d: want rows of its %d, got %d rows from %d", i, from.rows, p.Rows, p.From)
		}
		free = p.Row + p.Rows
	}
	return nil
}

// show puts rows of pictures in the places of embeddings.
func (d *Device) show(x *residual) {
	for _, p := range d.batch.Pictures {
		from := p.Picture.(*picture)
		if from.width != x.d {
			d.fail("picture at row %d: want rows of %d values, got %d", p.Row, x.d, from.width)
			return
		}
		to, rows := x.at+ptr(4*int(p.Row)*x.d), from.at+ptr(4*int(p.From)*x.d)
		if from.host == nil {
			d.gpu.copyWithin(to, rows, 4*int(p.Rows)*x.d)
			continue
		}
		launch(d, "sum_slots", int(p.Rows), 1, 0, &sumParams{slots: slots{values: rows, count: 1, ld: int32(x.d)}, out: to, ld: int32(x.d), width: int32(x.d)})
	}
}
