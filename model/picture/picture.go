// Package picture turns image files into what Llama 4's vision tower reads: square tiles of normalised pixels, and the
// tokens that stand for them in a prompt.
//
// # Words
//
// A tile is a square of Config.Tile pixels on a side. A picture is laid on a canvas of Rows × Cols tiles; where that is
// more than one, a global tile follows: the whole picture pressed into one square. The grid is the canvas in tiles.
//
// The pixels are those of the reference's fast image processor: resized with antialiasing in integers, padded with black,
// and only then normalised, in bfloat16.
package picture

import (
	"encoding/binary"
	"math"
)

// Config is how a checkpoint wants its pictures: preprocessor_config.json, with the tile's size of config.json.
type Config struct {
	Tile        int        // S, pixels on a side
	MaxTiles    int        // of a canvas, the global tile not counted; max_patches
	ToMaxCanvas bool       // enlarge as far as a canvas allows; resize_to_max_canvas
	Rescale     float64    // factor on the bytes of a pixel; rescale_factor
	Mean, Std   [3]float64 // of red, green, blue, after the factor
}

// Grid is a canvas in tiles.
type Grid struct{ Rows, Cols int }

// Tiles counts the tiles, the global one included.
func (g Grid) Tiles() int {
	if n := g.Rows * g.Cols; n > 1 {
		return n + 1
	}
	return 1
}

// Fit chooses the canvas of a picture of width × height pixels and the size to which it is resized on it. Of the canvases
// that enlarge it the one that does so least is taken (with ToMaxCanvas: most), else the one that shrinks it least; of
// equals the smallest. Without ToMaxCanvas no side grows beyond one tile.
func (c Config) Fit(width, height int) (g Grid, w, h int) {
	var best float32
	for tiles := c.MaxTiles; tiles > 0; tiles-- {
		for rows := 1; rows <= tiles; rows++ {
			if tiles%rows != 0 {
				continue
			}
			cols := tiles / rows
			// In float32, as the reference divides: equal scales must stay equal.
			scale := min(float32(cols*c.Tile)/float32(width), float32(rows*c.Tile)/float32(height))
			better := scale > best
			if best >= 1 && scale >= 1 && !c.ToMaxCanvas {
				better = scale < best
			}
			if better || scale == best && rows*cols < g.Rows*g.Cols {
				best, g = scale, Grid{rows, cols}
			}
		}
	}
	w, h = g.Cols*c.Tile, g.Rows*c.Tile
	if !c.ToMaxCanvas {
		w, h = min(max(width, c.Tile), w), min(max(height, c.Tile), h)
	}
	byWidth, byHeight := float64(w)/float64(width), float64(h)/float64(height)
	if byWidth < byHeight {
		h = min(int(math.Floor(float64(height)*byWidth)), h)
	} else {
		w = min(int(math.Floor(float64(width)*byHeight)), w)
	}
	return g, max(w, 1), max(h, 1)
}

// Tiles gives the pixels of a picture: [tiles, 3, S, S] bfloat16, little-endian, the canvas row by row and then the
// global tile.
func (c Config) Tiles(img *RGB) []byte {
	g, w, h := c.Fit(img.Width, img.Height)
	shown := img.resize(w, h)
	whole := shown
	if g.Tiles() > 1 {
		whole = img.resize(c.Tile, c.Tile)
	}
	levels := c.levels()
	plane := c.Tile * c.Tile
	out := make([]byte, g.Tiles()*3*plane*2)
	for t := range g.Tiles() {
		from, x0, y0 := shown, t%g.Cols*c.Tile, t/g.Cols*c.Tile
		if t == g.Rows*g.Cols {
			from, x0, y0 = whole, 0, 0
		}
		for channel := range 3 {
			to := out[(t*3+channel)*plane*2:]
			for i := range plane {
				level := uint8(0) // black, where the canvas is larger than the picture
				if x, y := x0+i%c.Tile, y0+i/c.Tile; x < from.Width && y < from.Height {
					level = from.Pix[(y*from.Width+x)*3+channel]
				}
				binary.LittleEndian.PutUint16(to[2*i:], levels[channel][level])
			}
		}
	}
	return out
}

// levels is the bfloat16 of every byte of every channel: (byte·Rescale - Mean) / Std, rounded after each operation.
func (c Config) levels() (table [3][256]uint16) {
	for channel := range table {
		mean, std := round(float32(c.Mean[channel])), round(float32(c.Std[channel]))
		for level := range table[channel] {
			v := round(float32(level) * float32(c.Rescale))
			v = round(round(v-mean) / std)
			table[channel][level] = uint16(math.Float32bits(v) >> 16)
		}
	}
	return table
}

// round is x in bfloat16, to nearest even. x is finite.
func round(x float32) float32 {
	b := math.Float32bits(x)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}
