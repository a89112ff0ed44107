//go:build cuda

package cuda

import (
	"math"

	"chulengo/kernels"
)

// The vision tower's products and norms.

// product multiplies a weight with rows of the tower; the caller fills what becomes of the result.
func (d *Device) product(epilogue string, w *weight, a image, rows int, params gemmParams) {
	if w.coded != nil {
		d.fail("%s: want plain weights of the vision tower, got %v", w.spec.Tensor(0), w.spec.Coding)
		return
	}
	if d.fast() {
		width, _ := towerPieces(rows, w.blocks(), w.tiles, 1, false, d.gpu.sms)
		d.launchTower(epilogue, w, a, rows, width, 1, 1, params)
		return
	}
	params.weight, params.act, params.lines, params.tokens = w.data, a.at, int32(a.lines), int32(rows)
	params.blocks, params.tiles = int32(w.blocks()), int32(w.tiles)
	launch(d, "gemm_"+epilogue+"_80", min(ceil(rows, portableWidth)*ceil(w.blocks(), 2), 2*d.gpu.sms), 1, portableShared, &params)
}

// launchTower is a product of gemm_tower90.cu: of pieces of work of so many rows and so many (each) of the parts of K.
func (d *Device) launchTower(epilogue string, w *weight, a image, rows, width, parts, each int, params gemmParams) {
	pieces := ceil(rows, width) * ceil(w.blocks(), 2) * ceil(parts, each)
	launch(d, "tower_"+epilogue+"_90", min(pieces, d.gpu.sms), 1, towerShared, &towerParams{
		weight: w.data, act: a.at, out: params.out, base: params.base, lines: int32(a.lines), rows: int32(rows), width: int32(width),
		blocks: int32(w.blocks()), tiles: int32(w.tiles), parts: int32(parts), each: int32(each),
		ld: params.ld, features: params.features, outLines: params.outLines, heads: params.heads})
}

// towerWidths are the widths of products that gemm_tower90.cu has.
var towerWidths = [...]int{56, 104, 152, 200, 248}

// towerPieces is how many rows and how many of the parts of K a piece of a product has (all of them, unless the parts may be apart): of all
// ways the one with which the blocks are done first, in clocks of an H200. Results do not depend on it. 64 columns of a piece take as
// long as they are multiplied or come from the L2 cache; what is done for each row behind a part counts 22 clocks.
func towerPieces(rows, blocks, tiles, parts int, apart bool, sms int) (width, each int) {
	const all, most, behind = 44, 56, 22 // bytes a clock that each multiprocessor gets if all read, and one alone
	least := math.Inf(1)
	for e := parts; e == parts || apart && e > 0; e-- {
		for _, w := range towerWidths {
			pieces := ceil(rows, w) * ceil(blocks, 2) * ceil(parts, e)
			busy := min(pieces, sms)
			columns := max(float64(4*w), float64((2*tile+w)*lineBytes)/min(most, all*float64(sms)/float64(busy)))
			clocks := float64(ceil(pieces, sms)*e) * (columns*float64(tiles)/float64(parts) + float64(behind*w))
			if e < parts { // the norm reads them
				clocks += float64(parts*rows*blocks*tile*4) / float64(all*sms)
			}
			if clocks < least {
				width, each, least = w, e, clocks
			}
		}
	}
	return width, each
}

// partTiles is the least and mostParts the largest number of tiles and parts into which addLinear's sum along K is cut. That is a matter of the
// weight alone, so that a tile of a picture has the same bits among few and among many.
const partTiles, mostParts = 16, 3

// maxParted is the widest row to which a norm adds parts (vision.cu).
const maxParted = 1536

// addLinear is x += a·Wᵀ + bias. Where rows are so few that it pays, the next norm adds the parts of the result; not where x is watched.
func (d *Device) addLinear(x *tower, a image, weight, bias kernels.Weight) {
	w := d.weightOf(weight)
	params := gemmParams{out: x.at, base: d.weightOf(bias).data, features: int32(x.d), ld: int32(x.ld)}
	if !d.fast() || w.coded != nil {
		d.product("bias", w, a, x.rows, params)
		return
	}
	parts := min(max(w.tiles/partTiles, 1), mostParts)
	width, each := towerPieces(x.rows, w.blocks(), w.tiles, parts, x.d <= maxParted && !d.open, d.gpu.sms)
	epilogue := "bias"
	if each < parts {
		x.parts, x.count = d.mem("vision.parts", 4*parts*tilesAtOnce*d.view.perTile*x.ld), parts
		epilogue, params.out = "store", x.parts
	}
	d.launchTower(epilogue, w, a, x.rows, width, parts, each, params)
}

// geluLinear is gelu(a·Wᵀ + bias), of rows of which a tile has so many. bias nil: none.
func (d *Device) geluLinear(name string, a image, perTile int, up, bias kernels.Weight) image {
	w := d.weightOf(up)
	out := d.viewImage(name, perTile, w.rows)
	params := gemmParams{out: out.at, features: int32(w.spec.Parts[0]), outLines: int32(out.lines)}
	if bias != nil {
		params.base = d.weightOf(bias).data
	}
	d.product("gelu", w, a, d.view.tiles*perTile, params)
	return out
}

// layerNorm describes a norm of the rows of the tower, which get the parts that they lack; the caller says where the result goes.
func (d *Device) layerNorm(x *tower, n kernels.LayerNorm, eps float32) layerNormParams {
	p := layerNormParams{x: x.at, parts: x.parts, count: int32(x.count), weight: d.weightOf(n.Weight).data, bias: d.weightOf(n.Bias).data,
		rows: int32(x.rows), perTile: int32(d.view.perTile), d: int32(x.d), ld: int32(x.ld), eps: eps}
	x.parts, x.count = 0, 0
	return p
}

func (d *Device) launchNorm(target string, x *tower, p *layerNormParams) {
	if p.count > 0 {
		target += "_parts"
	}
	launch(d, "layer_norm_"+target, x.rows, 1, 0, p)
}

// normTower is the normalised rows of the tower.
func (d *Device) normTower(x *tower, n kernels.LayerNorm, eps float32) image {
	h, params := d.viewImage("h", d.view.perTile, x.d), d.layerNorm(x, n, eps)
	params.image, params.lines, params.tiles = h.at, int32(h.lines), int32(h.tiles)
	d.launchNorm("rows", x, &params)
	return h
}
