//go:build cuda

package cuda

import (
	"fmt"
	"math"

	"chulengo/kernels"
)

// The two engines for products, and the images between them.

const (
	portableWidth = 128 // rows of a tile of the portable prefill product
	fastWidth     = 256 // of the one for 9.0, at most
	fastCodeWidth = 208 // likewise, of weights in codes
	fastBothWidth = 192 // likewise, of weights and activations in codes
)

// image is activations [rows, K] in bfloat16 tiles, or in codes.
type image struct {
	at     ptr
	lines  int  // R
	tiles  int  // along K
	place  ptr  // column c of the value is column place[c]; 0: c
	scales ptr  // [R] of lines of e4m3 codes, which have the columns of two tiles; 0: bfloat16
	digits bool // for weights of INT4 (digits.cuh)
}

// imageOf is the image of a phase under a name, for K columns. The slack behind it lets the last tile of a product read a
// whole tile's lines.
func (d *Device) imageOf(p *phase, name string, lines, k int) image {
	tiles := ceil(k, tile)
	capacity := lines
	if p.decode {
		capacity = maxDecodeRows
	} else {
		capacity = grow(lines)
	}
	return image{at: d.mem(p.name+name, (capacity*tiles+fastWidth)*lineBytes), lines: lines, tiles: tiles}
}

const digitTiles = 4 // in a group of an image of digits: DIGIT_TILES of digits.cuh

// digitsOf is an image of digits of a phase's decode rows (digits.cuh).
func (d *Device) digitsOf(p *phase, name string, lines, k int) image {
	tiles := ceil(k, tile)
	const group = digitTiles*maxDecodeRows*lineBytes + digitTiles/2*maxDecodeRows*4
	return image{at: d.mem(p.name+name+".digits", ceil(tiles, digitTiles)*group), lines: lines, tiles: tiles, digits: true}
}

// floats is a [rows, width] float32 buffer of a phase.
func (d *Device) floats(p *phase, name string, rows, width int) ptr {
	if p.decode {
		rows = max(rows, maxDecodeRows)
	} else {
		rows = grow(rows)
	}
	return d.mem(p.name+name, 4*rows*width)
}

// splits is how often the decode engine cuts K of a matrix that shares its launch with so many others of its geometry: a function of these
// alone, since results must not depend on the GPU at hand.
// Blocks take units as they can, so half a unit's time is lost at the end, on the H200's 264 resident blocks; against that
// stands the cost of slots: each is written once, and read by the one block that normalises the row next. Units of codes are few and
// large: best are as many as give no block a second one (bench/LOG.md, 2026-11-24).
func (d *Device) splits(w *weight, launched int) int {
	const resident, slot = 264, 0.08
	grain := 2 // tiles; the GRAIN of stream.cuh
	if w.coded != nil && w.coded.bits == 4 {
		grain = 4
	}
	stages, blocks := ceil(w.tiles, grain), w.units()
	most := min(max(stages/4, 1), 8)
	if w.coded != nil {
		return max(1, min(most, resident/(blocks*launched)))
	}
	best, least := 1, math.Inf(1)
	for s := 1; s <= most; s++ {
		if cost := resident/2/float64(blocks*s) + slot*float64(s); cost < least {
			best, least = s, cost
		}
	}
	return best
}

// units is how many pieces of outputs the decode engine makes of a matrix.
func (w *weight) units() int {
	if w.coded != nil {
		return w.rows / codeRows
	}
	return w.rows / tile
}

// streamBlocks is the number of resident blocks of the decode engine: two fit on a multiprocessor.
func (d *Device) streamBlocks() int { return 2 * d.gpu.sms }

// streamWidth is the smallest tile of tokens of the decode engine for the lines of an image.
func streamWidth(lines int) int {
	for _, w := range []int{8, 16, 32} {
		if lines <= w {
			return w
		}
	}
	return maxDecodeRows
}

// streamShared is the size of StreamShared<Plain<width/8>> (stream.cuh).
func streamShared(width int) int {
	nt := width / 8
	stages := map[int]int{1: 5, 2: 5, 4: 4, 8: 3}[nt]
	return streamBytes(stages, 2*(tileBytes+nt*8*lineBytes), 4*nt*32*16, 0)
}

// streamCodedShared is the size of StreamShared<Coded<code, width/8>> (stream_codes.cuh).
func streamCodedShared(code string, width int) int {
	nt := width / 8
	tiles, bytes := 2, codeRows*tile
	stages := map[int]int{1: 5, 2: 4, 4: 3, 8: 5}[nt]
	if code != "e4m3" {
		bytes /= 2
		stages = map[int]int{4: 4, 8: 6}[nt]
		if nt <= 2 || nt == 4 && code != "table4" {
			tiles, stages = 4, map[int]int{1: 4, 2: 3, 4: 3}[nt]
		}
	}
	extra, pairs := tiles*2*codeRows*4, 4
	prepared := 0
	switch code {
	case "int4", "digits":
		extra += tiles*2*codeRows + tiles/2*width*4
		if code == "int4" {
			prepared = 8 * stages
		}
	case "table4":
		pairs = 4 * 256
	}
	return streamBytes(stages, tiles*(bytes+nt*8*lineBytes)+extra, prepared, pairs)
}

func streamBytes(stages, stage, half, more int) int {
	bytes := stages*stage + half + 8*2*stages + 2*4*stages + (2*(4*maxDecodeRows+1)+3)&^3 + 4*1024/32 + 8 + more
	return (bytes+15)&^15 + 32*(stages+1)
}

// stream multiplies dense and routed weights with the decode rows of a and b; either may be nil, and both have one geometry (alike).
// The caller fills what becomes of the results, how often K is cut, and who says which experts and when.
func (d *Device) stream(p *phase, swiglu bool, dense, routed *weight, a, b image, params streamParams) {
	w := dense
	if w == nil {
		w = routed
	}
	width := streamWidth(a.lines)
	params.a, params.b, params.rows, params.taken = a.at, b.at, p.count, d.counter()
	params.blocks, params.tiles = int32(w.units()), int32(w.tiles)
	name := "stream_partial"
	if swiglu {
		name, params.splits = "stream_swiglu", 1
	}
	units := 0
	if dense != nil {
		params.dense = dense.data
		units += w.units() * int(params.splits)
	}
	if routed != nil {
		params.routed, params.expertStride, params.experts = routed.data, routed.expertBytes(), int32(routed.spec.Experts)
		units += w.units() * int(params.splits) * min(routed.spec.Experts, width)
	}
	blocks := min(units, d.streamBlocks())
	if w.coded == nil {
		launch(d, fmt.Sprint(name, "_", width), blocks, 1, streamShared(width), &params)
		return
	}
	quantised := codedStreamParams{streamParams: params, denseCoding: w.coded.coding, routedCoding: w.coded.coding}
	if routed != nil {
		quantised.routedCoding = routed.coded.coding
	}
	code := w.coded.name
	if a.digits {
		code = "digits"
	}
	if width == maxDecodeRows {
		blocks = min(blocks, d.gpu.sms) // its sums take a multiprocessor's registers
	}
	launch(d, fmt.Sprint(name, "_", code, "_", width), blocks, 1, streamCodedShared(code, width), &quantised)
}

// alike says that one launch can multiply with both.
func alike(a, b *weight) bool {
	return a.rows == b.rows && a.tiles == b.tiles && a.spec.Coding == b.spec.Coding
}

// partial is the product of a phase's decode rows into slots.
func (d *Device) partial(p *phase, name string, w *weight, a image) slots {
	s, n := d.splits(w, 1), w.rows
	out := d.floats(p, name, 0, s*n)
	d.stream(p, false, w, nil, a, image{}, streamParams{denseOut: out, ld: int32(n), splits: int32(s)})
	return slots{values: out, stride: uint64(streamWidth(a.lines) * n), count: int32(s), ld: int32(n)}
}

// gemmShared is the dynamic shared memory of the prefill products.
const (
	portableShared = 3 * (2*tileBytes + portableWidth*lineBytes)
	fastShared     = 6*(2*tileBytes+160*lineBytes) + 2*8*6 + 16*6
)

// tileWidths are how many rows the tiles of a weight's prefill products may have: the portable kernel's, or those that gemm90.cu and
// gemm_e4m3_90.cu have instructions for.
func (d *Device) tileWidths(w *weight) []int {
	switch {
	case !d.fast():
		return []int{portableWidth}
	case d.bothCoded(w):
		return []int{portableWidth, 160, fastBothWidth}
	case w.coded != nil:
		return []int{portableWidth, 160, 192, fastCodeWidth}
	}
	return []int{portableWidth, 160, 192, 224, fastWidth}
}

// tileWidth is the one with which the blocks of a product are done first: as in Work (gemm90.cu), every block has whole tiles, and what is
// left is cut up, of which a part costs no less than its weights.
func (d *Device) tileWidth(w *weight, rows int) int {
	const fixed, least, mostParts = 16, 80, 4 // in rows
	sms := d.gpu.sms
	best, fewest := 0, math.MaxInt
	for _, width := range d.tileWidths(w) {
		pieces := ceil(rows, width) * ceil(w.blocks(), 2)
		cost := pieces / sms * (width + fixed)
		if rest := pieces % sms; rest > 0 {
			cost += max(ceil(width, min(sms/rest, mostParts)), least) + fixed
		}
		if cost <= fewest {
			best, fewest = width, cost
		}
	}
	return best
}

// expertTileWidth is the one that holds the rows of most experts, if chance chooses. The fewer, the more stages there is room for: what
// reads its weights from memory wants many.
func (d *Device) expertTileWidth(w *weight, rows int) int {
	widths := d.tileWidths(w)
	mean := float64(rows) / float64(w.spec.Experts)
	for _, width := range widths {
		if mean+2*math.Sqrt(mean) <= float64(width) {
			return width
		}
	}
	return widths[len(widths)-1]
}

// bothCoded says that prefill quantises what it multiplies with a weight (gemm_e4m3_90.cu).
func (d *Device) bothCoded(w *weight) bool {
	return d.options.Activations == kernels.F8E4M3 && w.coded != nil && w.spec.Coding.Format == kernels.F8E4M3
}

// quantised makes codes of an image's rows: of each line of it, or, where tokenOf is set, of gate·h at so many places. They stay until
// the next call.
func (d *Device) quantised(from codedRowsParams, lines int) image {
	a := image{lines: lines, tiles: ceil(int(from.tiles), 2)}
	a.at = d.mem("prefill.codes", (grow(lines)*a.tiles+fastBothWidth)*lineBytes)
	a.scales = d.mem("prefill.codes.scales", 4*(grow(lines)+fastBothWidth)) // of the last tile's rows, too, that are not there
	from.codes, from.scales, from.outLines = a.at, a.scales, int32(lines)
	launch(d, "quantise_rows", lines, 1, 0, &from)
	return a
}

// gemm multiplies a weight with prefill rows; the caller fills what becomes of the result.
func (d *Device) gemm(epilogue string, w *weight, a image, rows int, params gemmParams) {
	if d.bothCoded(w) && a.scales == 0 {
		a = d.quantised(codedRowsParams{image: a.at, lines: int32(a.lines), tiles: int32(a.tiles)}, a.lines)
	}
	params.weight, params.expertStride = w.data, w.expertBytes()
	params.act, params.lines, params.tokens = a.at, int32(a.lines), int32(rows)
	params.blocks, params.tiles = int32(w.blocks()), int32(w.tiles)
	if params.list == 0 {
		params.width = int32(d.tileWidth(w, rows))
	}
	family, blocks, shared := "_90", d.gpu.sms, fastShared
	if d.fast() {
		params.taken = d.counter()
	} else {
		tiles := ceil(rows, portableWidth)
		if params.list != 0 {
			tiles += w.spec.Experts // each may have one that is not full
		}
		family, blocks, shared = "_80", min(tiles*ceil(w.blocks(), 2), 2*d.gpu.sms), portableShared
	}
	if w.coded == nil {
		launch(d, "gemm_"+epilogue+family, blocks, 1, shared, &params)
		return
	}
	coded := codedGemmParams{params, w.coded.coding}
	if d.bothCoded(w) {
		launch(d, "gemm_e4m3_"+epilogue+family, blocks, 1, shared, &e4m3GemmParams{coded, a.scales})
		return
	}
	launch(d, "gemm_coded_"+epilogue+family, blocks, 1, shared, &coded)
}
