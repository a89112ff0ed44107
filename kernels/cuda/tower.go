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
	pairs := ceil(w.blocks(), 2)
	if d.fast() {
		width := towerWidth(rows, pairs, d.gpu.sms)
		launch(d, "tower_"+epilogue+"_90", min(ceil(rows, width)*pairs, d.gpu.sms), 1, towerShared, &towerParams{
			weight: w.data, act: a.at, out: params.out, base: params.base, lines: int32(a.lines), rows: int32(rows), width: int32(width),
			blocks: int32(w.blocks()), tiles: int32(w.tiles), ld: params.ld, features: params.features, outLines: params.outLines, heads: params.heads})
		return
	}
	params.weight, params.act, params.lines, params.tokens = w.data, a.at, int32(a.lines), int32(rows)
	params.blocks, params.tiles = int32(w.blocks()), int32(w.tiles)
	launch(d, "gemm_"+epilogue+"_80", min(ceil(rows, portableWidth)*pairs, 2*d.gpu.sms), 1, portableShared, &params)
}

// towerWidths are the widths of products that gemm_tower90.cu has.
var towerWidths = [...]int{56, 104, 152, 200, 248}

// towerWidth is how many rows a piece of a product has, of those widths the one with which the blocks are done first; results do not
// depend on it. 64 columns of a piece take as long as they are multiplied or come from the L2 cache, in clocks of an H200; what is done
// for each row behind them counts as so much.
func towerWidth(rows, pairs, sms int) int {
	const all, most = 44, 56 // bytes a clock that each multiprocessor gets if all read, and one alone
	best, least := 0, math.Inf(1)
	for _, w := range towerWidths {
		pieces := ceil(rows, w) * pairs
		busy := min(pieces, sms)
		each := max(float64(4*w), float64((2*tile+w)*lineBytes)/min(most, all*float64(sms)/float64(busy)))
		if cost := float64(ceil(pieces, sms)) * (each + float64(w)); cost < least {
			best, least = w, cost
		}
	}
	return best
}

// addLinear is x += a·Wᵀ + bias.
func (d *Device) addLinear(x *tower, a image, w, bias kernels.Weight) {
	d.product("bias", d.weightOf(w), a, x.rows, gemmParams{out: x.at, base: d.weightOf(bias).data, features: int32(x.d), ld: int32(x.ld)})
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

// layerNorm describes a norm of the rows of the tower; the caller says where the result goes.
func (d *Device) layerNorm(x *tower, n kernels.LayerNorm, eps float32) layerNormParams {
	return layerNormParams{x: x.at, weight: d.weightOf(n.Weight).data, bias: d.weightOf(n.Bias).data,
		rows: int32(x.rows), perTile: int32(d.view.perTile), d: int32(x.d), ld: int32(x.ld), eps: eps}
}

func (d *Device) launchNorm(target string, x *tower, p *layerNormParams) {
	name := "layer_norm_" + target
	if x.d > 1536 {
		name += "_2048"
	}
	launch(d, name, ceil(x.rows, 4), 1, 0, p)
}

// normTower is the normalised rows of the tower.
func (d *Device) normTower(x *tower, n kernels.LayerNorm, eps float32) image {
	h, params := d.viewImage("h", d.view.perTile, x.d), d.layerNorm(x, n, eps)
	params.image, params.lines, params.tiles = h.at, int32(h.lines), int32(h.tiles)
	d.launchNorm("rows", x, &params)
	return h
}
