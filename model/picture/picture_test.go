package picture

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chulengo/safetensors"
)

func config(tile, tiles int) Config {
	half := [3]float64{0.5, 0.5, 0.5}
	return Config{Tile: tile, MaxTiles: tiles, Rescale: 1.0 / 255, Mean: half, Std: half}
}

// The canvas, the size on it, the tiles and the tokens of Llama 4's published settings.
func TestFit(t *testing.T) {
	c, tokens := config(336, 16), Tokens{PerTile: 144}
	for _, want := range []struct{ w, h, rows, cols, rw, rh, tiles, tokens int }{
		{100, 100, 1, 1, 336, 336, 1, 147},
		{336, 336, 1, 1, 336, 336, 1, 147},
		{1, 1, 1, 1, 336, 336, 1, 147},
		{448, 448, 2, 2, 448, 448, 5, 727},
		{640, 480, 2, 2, 640, 480, 5, 727},
		{672, 336, 1, 2, 672, 336, 3, 437},
		{800, 600, 2, 3, 800, 600, 7, 1017},
		{1024, 768, 3, 4, 1024, 768, 13, 1887},
		{1280, 720, 3, 4, 1280, 720, 13, 1887},
		{1920, 1080, 3, 5, 1680, 945, 16, 2322},
		{2000, 2000, 4, 4, 1344, 1344, 17, 2467},
		{4000, 3000, 3, 4, 1344, 1008, 13, 1887},
		{5000, 300, 1, 15, 5000, 300, 16, 2322},
		{10000, 100, 1, 16, 5376, 53, 17, 2467},
		{100, 10000, 16, 1, 53, 5376, 17, 2467}, // as many separators: one after each row, none between columns
	} {
		g, w, h := c.Fit(want.w, want.h)
		if g != (Grid{want.rows, want.cols}) || w != want.rw || h != want.rh || g.Tiles() != want.tiles {
			t.Errorf("%d × %d: got %v, %d × %d, %d tiles, want %+v", want.w, want.h, g, w, h, g.Tiles(), want)
		}
		n := tokens.Len(g)
		if ids := tokens.Append(nil, g); len(ids) != n {
			t.Errorf("%d × %d: %d ids, Len says %d", want.w, want.h, len(ids), n)
		}
		if n != want.tokens {
			t.Errorf("%d × %d: %d tokens, want %d", want.w, want.h, n, want.tokens)
		}
	}
}

func TestToMaxCanvas(t *testing.T) {
	c := config(336, 16)
	c.ToMaxCanvas = true
	if g, w, h := c.Fit(100, 50); g != (Grid{3, 5}) || w != 1680 || h != 840 {
		t.Errorf("got %v %d × %d, want 3 × 5 tiles filled to the width", g, w, h)
	}
	if g, w, h := c.Fit(100, 100); g != (Grid{4, 4}) || w != 1344 || h != 1344 {
		t.Errorf("got %v %d × %d, want 4 × 4 tiles filled", g, w, h)
	}
}

func TestTokens(t *testing.T) {
	tokens := Tokens{Start: 1, End: 2, Image: 3, Patch: 4, TileX: 5, TileY: 6, PerTile: 2}
	ids, starts, err := tokens.Expand([]int32{9, 3, 8, 3, 7}, []Grid{{2, 2}, {1, 1}})
	want := []int32{9, 1, 4, 4, 5, 4, 4, 6, 4, 4, 5, 4, 4, 6, 3, 4, 4, 2, 8, 1, 3, 4, 4, 2, 7}
	if err != nil || !slices.Equal(ids, want) || !slices.Equal(starts, []int{1, 19}) {
		t.Errorf("got %v, %v, %v, want %v", ids, starts, err, want)
	}
	for _, grids := range [][]Grid{nil, {{1, 1}}, {{1, 1}, {1, 1}, {1, 1}}} {
		if _, _, err := tokens.Expand([]int32{3, 3}, grids); err == nil || !strings.Contains(err.Error(), "<|image|>") {
			t.Errorf("%d pictures for two places: got %v", len(grids), err)
		}
	}
}

// bf16Order maps bfloat16 to integers in which neighbours differ by one.
func bf16Order(b uint16) int {
	if b&0x8000 != 0 {
		return -int(b & 0x7fff)
	}
	return int(b)
}

// Pixels of the reference's image processor, for tiles of two sizes; of the larger cases mean and deviation alone.
func TestReferencePixels(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "goldens", "images")
	meta, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		t.Skip("the shared goldens are not beside the module")
	}
	var cases map[string]struct {
		Shape     []int
		Aspect    [][2]int
		Mean, Std float64
	}
	if err := json.Unmarshal(meta, &cases); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "expected.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := safetensors.Parse("expected.safetensors", data)
	if err != nil {
		t.Fatal(err)
	}
	exact := 0
	for name, want := range cases {
		parts := strings.Split(name, "|")
		var tile, tiles int
		fmt.Sscan(parts[1], &tile)
		fmt.Sscan(parts[2], &tiles)
		file, err := os.ReadFile(filepath.Join(dir, parts[0]))
		if err != nil {
			t.Fatal(err)
		}
		img, err := Decode(file)
		if err != nil {
			t.Fatal(err)
		}
		c := config(tile, tiles)
		got := c.Tiles(img)
		g, _, _ := c.Fit(img.Width, img.Height)
		if g != (Grid{want.Aspect[0][0], want.Aspect[0][1]}) || len(got) != 2*want.Shape[0]*want.Shape[1]*want.Shape[2]*want.Shape[3] {
			t.Errorf("%s: grid %v, %d bytes, want %v %v", name, g, len(got), want.Aspect, want.Shape)
			continue
		}
		var sum, squares float64
		for i := 0; i < len(got); i += 2 {
			v := float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(got[i:])) << 16))
			sum, squares = sum+v, squares+v*v
		}
		n := float64(len(got) / 2)
		mean, std := sum/n, math.Sqrt((squares-sum*sum/n)/(n-1))
		// The reference's own sums are float32.
		if math.Abs(mean-want.Mean) > 1e-5 || math.Abs(std-want.Std) > 1e-5 {
			t.Errorf("%s: mean %.7f deviation %.7f, want %.7f %.7f", name, mean, std, want.Mean, want.Std)
		}
		ref, err := stored.Tensor(name)
		if err != nil {
			continue // mean and deviation stand for it
		}
		exact++
		steps, different := 0, 0
		for i := 0; i < len(got); i += 2 {
			d := bf16Order(binary.LittleEndian.Uint16(got[i:])) - bf16Order(binary.LittleEndian.Uint16(ref.Data[i:]))
			if d != 0 {
				different++
			}
			steps = max(steps, d, -d)
		}
		if steps > 1 {
			t.Errorf("%s: pixels differ by up to %d bfloat16 steps, want 1", name, steps)
		}
		t.Logf("%s: %d of %d values differ", name, different, len(got)/2)
	}
	if exact != 8 {
		t.Errorf("%d cases compared pixel by pixel, want 8", exact)
	}
}
