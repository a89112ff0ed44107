//go:build cuda

package cuda_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/model"
)

// towerConfig is a text model of one layer with a tower of two.
func towerConfig(heads, headDim, grid, shuffle, patch, channels int) map[string]any {
	dim := heads * headDim
	text := fastConfig()
	maps.Copy(text, map[string]any{"hidden_size": 72, "head_dim": 32, "num_hidden_layers": 1, "num_local_experts": 2, "vocab_size": 100, "no_rope_layers": []int{1}})
	return map[string]any{
		"model_type": "llama4", "text_config": text, "boi_token_index": 1, "eoi_token_index": 2, "image_token_index": 3,
		"vision_config": map[string]any{
			"hidden_size": dim, "num_hidden_layers": 2, "num_attention_heads": heads, "intermediate_size": dim * shuffle * shuffle,
			"image_size": grid * patch, "patch_size": patch, "num_channels": channels, "pixel_shuffle_ratio": 1 / float64(shuffle),
			"vision_output_dim": 40, "projector_input_dim": 40, "projector_output_dim": 40, "norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "gelu",
		},
	}
}

// pixelsOf are tiles of values, which BF16 rounds.
func pixelsOf(v *model.VisionConfig, format kernels.Format, values []float32) *kernels.Pixels {
	p := &kernels.Pixels{Channels: v.Channels, Side: v.TileSize, Format: format, Tiles: len(values) / (v.Channels * v.TileSize * v.TileSize)}
	for _, x := range values {
		if format == kernels.BF16 {
			p.Data = binary.LittleEndian.AppendUint16(p.Data, uint16(math.Float32bits(toBF16(x))>>16))
		} else {
			p.Data = binary.LittleEndian.AppendUint32(p.Data, math.Float32bits(x))
		}
	}
	return p
}

func randomPixels(v *model.VisionConfig, format kernels.Format, r *rand.Rand, tiles int) *kernels.Pixels {
	values := make([]float32, tiles*v.Channels*v.TileSize*v.TileSize)
	for i := range values {
		values[i] = float32(r.NormFloat64())
	}
	return pixelsOf(v, format, values)
}

// see encodes a picture with taps.
func (s *side) see(t testing.TB, p *kernels.Pixels, taps ...kernels.Tap) kernels.Picture {
	t.Helper()
	with := *p
	with.Taps = taps
	picture, err := s.See(s.dev.(kernels.Viewer), &with)
	if err != nil {
		t.Fatal(err)
	}
	return picture
}

// rows is the projected rows of a picture.
func (s *side) rows(t testing.TB, p *kernels.Pixels, more ...kernels.Tap) []float32 {
	t.Helper()
	hooks := model.VisionHooks(s.Config)
	out := visionCapture(s.Config.Vision, hooks[len(hooks)-1], p.Tiles)
	s.see(t, p, append(more, out)...).Release()
	return out.Buf
}

func visionCapture(v *model.VisionConfig, h model.Hook, tiles int) kernels.Tap {
	return capture(h, tiles*h.VisionRows(v))
}

// visionBounds are bounds in the sense of TestStages: what lies between a hook and the one before it.
var visionBounds = map[kernels.Hook]float64{
	kernels.HookVisionEmbed:     1e-5,           // bfloat16 pixels times bfloat16 weights
	kernels.HookVisionZ:         4 * rounding,   // norm, q, k, v, weights of the softmax, output
	kernels.HookVisionResidMid:  1e-5,           // the input was set: already rounded
	kernels.HookVisionResidPost: 1.5 * rounding, // norm, activations
	kernels.HookVisionShuffled:  1.05 * rounding,
	kernels.HookVisionFeatures:  2 * rounding, // activations, output
	kernels.HookVisionOut:       1e-5,
}

// visionRounded are the hooks whose value the GPU keeps in bfloat16.
var visionRounded = map[kernels.Hook]bool{kernels.HookVisionZ: true, kernels.HookVisionShuffled: true, kernels.HookVisionFeatures: true}

// visionParity is parity for the tower.
func visionParity(t *testing.T, p *pair, pixels *kernels.Pixels) {
	t.Helper()
	v, hooks := p.cpu.Config.Vision, model.VisionHooks(p.cpu.Config)
	var first, onCPU, onGPU []kernels.Tap
	for _, h := range hooks {
		first = append(first, visionCapture(v, h, pixels.Tiles))
	}
	p.cpu.see(t, pixels, first...)
	for i, h := range hooks {
		onCPU = append(onCPU, visionCapture(v, h, pixels.Tiles))
		set := first[i]
		set.Op, set.Buf = kernels.Set, slices.Clone(first[i].Buf)
		if visionRounded[h.At.Hook] {
			for j, x := range set.Buf {
				set.Buf[j] = toBF16(x)
			}
			onCPU = append(onCPU, set)
		}
		onGPU = append(onGPU, visionCapture(v, h, pixels.Tiles), set)
	}
	p.cpu.see(t, pixels, onCPU...)
	want := map[kernels.Point][]float32{}
	for _, tap := range onCPU {
		if tap.Op == kernels.Capture {
			want[tap.At] = tap.Buf
		}
	}
	for _, tap := range onGPU {
		if tap.Op == kernels.Set && !visionRounded[tap.At.Hook] {
			copy(tap.Buf, want[tap.At])
		}
	}
	p.gpu.see(t, pixels, onGPU...)
	for _, tap := range onGPU {
		if tap.Op != kernels.Capture {
			continue
		}
		if e := relativeError(tap.Buf, want[tap.At]); !(e <= visionBounds[tap.At.Hook]) {
			t.Errorf("layer %d %s: relative error %.2e, want at most %.1e", tap.At.Layer, hookName(hooks, tap.At), e, visionBounds[tap.At.Hook])
		}
	}
}

// Every value of the tower that has a name, against the CPU's.
func TestVisionStages(t *testing.T) {
	for _, c := range []struct {
		heads, headDim, grid, shuffle, patch, channels int
		tiles                                          []int
	}{
		{4, 16, 4, 2, 5, 3, []int{1, 2, 5, 6, 11}},
		{2, 88, 8, 2, 3, 1, []int{1, 2}},
		{1, 88, 24, 3, 2, 2, []int{1}},
		{3, 20, 3, 3, 3, 2, []int{1, 5}}, // heads with padding, 10 rows a tile
		{1, 4, 2, 1, 7, 4, []int{2}},
		{2, 36, 12, 2, 2, 3, []int{1}},
		{2, 128, 14, 2, 1, 3, []int{1}},
		{2, 128, 15, 3, 1, 2, []int{1}},
		{13, 124, 2, 1, 3, 1, []int{1}}, // rows of more than 1536 values
		{16, 88, 24, 2, 14, 3, []int{1, 5, 6}},
	} {
		for _, portable := range []bool{false, true} {
			t.Run(fmt.Sprintf("heads=%dx%d/grid=%d/portable=%v", c.heads, c.headDim, c.grid, portable), func(t *testing.T) {
				if testing.Short() && c.heads == 16 {
					t.Skip("Scout's sizes take long on a software GPU")
				}
				p := dummyPair(t, towerConfig(c.heads, c.headDim, c.grid, c.shuffle, c.patch, c.channels), cuda.Options{Portable: portable, Poison: true})
				r := rand.New(rand.NewPCG(5, 6))
				for _, tiles := range c.tiles {
					visionParity(t, p, randomPixels(p.cpu.Config.Vision, kernels.BF16, r, tiles))
				}
			})
		}
	}
}

// visionBound is the relative error of a whole tower: roundings of norm, q, k, v, weights, z, norm and activations in a layer,
// of pixels, norm and activations around them (see wholeBound).
func visionBound(v *model.VisionConfig) float64 { return math.Sqrt(8*float64(v.Layers)+5) * rounding }

// places is where rows of a picture stand in a prompt, of which the step has the ids from `at` on.
func places(patch int32, prompt []int32, at, end int, picture kernels.Picture) (list []kernels.PictureRows) {
	from := int32(0)
	for i, id := range prompt[:end] {
		if id != patch {
			continue
		}
		if i >= at {
			list = append(list, kernels.PictureRows{Row: int32(i - at), Rows: 1, From: from, Picture: picture})
		}
		from++
	}
	return list
}

// shown runs a piece of a prompt with a picture, and captures logits and choices of experts; set replays choices.
func (s *side) shown(t testing.TB, q *sequence, tokens []int32, pictures []kernels.PictureRows, set map[kernels.Point][]float32) (logits []float32, experts map[kernels.Point][]float32) {
	t.Helper()
	b := s.batch([]piece{{q, tokens}})
	b.Pictures, experts = pictures, map[kernels.Point][]float32{}
	for _, h := range model.Hooks(s.Config) {
		tap := capture(h, len(tokens))
		switch h.At.Hook {
		case kernels.HookExpertIndex:
			experts[h.At] = tap.Buf
			if set != nil {
				tap.Op, tap.Buf = kernels.Set, set[h.At]
			}
		case kernels.HookLogits:
			logits = tap.Buf
		default:
			continue
		}
		b.Taps = append(b.Taps, tap)
	}
	if r := <-s.dev.Step(b, func() { s.Forward(s.dev) }); r.Err != nil {
		t.Fatal(r.Err)
	}
	q.pos += len(tokens)
	return logits, experts
}

// The reference implementation's results: the tower's, and the logits of a prompt with a picture, read at once and in pieces
// that cut it. The CPU's choices of experts are replayed.
func TestVisionReference(t *testing.T) {
	for _, g := range goldens(t) {
		if !strings.HasPrefix(g.name, "tiny") {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			p := newPair(t, g.dir, cuda.Options{})
			c := p.gpu.Config
			v := c.Vision
			pixels := pixelsOf(v, kernels.F32, expected(t, g.dir, "vision.pixel_values"))
			check := func(what string, got, want []float32, bound float64) {
				t.Helper()
				if e := relativeError(got, want); !(e <= bound) {
					t.Errorf("%s: want a relative error of at most %.4f, got %.4f", what, bound, e)
				} else {
					t.Logf("%s: %.4f of %.4f", what, e, bound)
				}
			}
			hooks := model.VisionHooks(c)
			features, projected := visionCapture(v, hooks[len(hooks)-2], pixels.Tiles), visionCapture(v, hooks[len(hooks)-1], pixels.Tiles)
			onGPU, onCPU := p.gpu.see(t, pixels, features, projected), p.cpu.see(t, pixels)
			check("features", features.Buf, expected(t, g.dir, "vision.features"), visionBound(v))
			check("projected", projected.Buf, expected(t, g.dir, "vision.projected"), visionBound(v))
			var prompt []int32
			for _, id := range expected(t, g.dir, "multimodal.input_ids") {
				prompt = append(prompt, int32(id))
			}
			n := len(prompt)
			spec := c.KVSpec(kernels.F32, pageTokens) // for the reference's own choices
			spec.Pages = [kernels.Groups]int{pages, pages}
			exact, err := p.cpu.dev.NewKV(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer exact.Close()
			p.cpu.kv = exact
			bound := math.Hypot(visionBound(v), wholeBound(c))
			for _, size := range []int{n, 7} {
				same := &sequence{}
				var logits []float32
				for at := 0; at < n; at += size {
					end := min(n, at+size)
					_, experts := p.cpu.shown(t, same, prompt[at:end], places(v.Patch, prompt, at, end, onCPU), nil)
					same.pos -= end - at
					got, _ := p.gpu.shown(t, same, prompt[at:end], places(v.Patch, prompt, at, end, onGPU), experts)
					logits = append(logits, got...)
				}
				check(fmt.Sprintf("logits in pieces of %d", size), logits, expected(t, g.dir, "multimodal.logits"), bound)
			}
		})
	}
}

// A tile gives the same bits alone and among others, watched or not, from float32 and from bfloat16.
func TestVisionSameBits(t *testing.T) {
	for _, portable := range []bool{false, true} {
		t.Run(fmt.Sprintf("portable=%v", portable), func(t *testing.T) {
			visionSameBits(t, portable, towerConfig(2, 44, 4, 2, 3, 3), 13)
			visionSameBits(t, portable, towerConfig(1, 128, 5, 5, 2, 1), 7) // the last product's sum has three parts
			if !testing.Short() {
				visionSameBits(t, portable, towerConfig(16, 88, 24, 2, 14, 3), 9)
			}
		})
	}
}

func visionSameBits(t *testing.T, portable bool, config map[string]any, tiles int) {
	p := dummyPair(t, config, cuda.Options{Portable: portable})
	v, r := p.gpu.Config.Vision, rand.New(rand.NewPCG(7, 8))
	all := randomPixels(v, kernels.BF16, r, tiles)
	each := len(all.Data) / all.Tiles
	part := func(from, tiles int) *kernels.Pixels {
		one := *all
		one.Tiles, one.Data = tiles, all.Data[from*each:][:tiles*each]
		return &one
	}
	want := p.gpu.rows(t, all)
	perTile := len(want) / all.Tiles
	same := func(what string, got []float32, from int) {
		t.Helper()
		if !slices.Equal(got, want[from*perTile:][:len(got)]) {
			t.Errorf("%s: other bits", what)
		}
	}
	for tile := range all.Tiles {
		same(fmt.Sprint("tile ", tile, " alone"), p.gpu.rows(t, part(tile, 1)), tile)
	}
	same("tiles from 4 on", p.gpu.rows(t, part(4, tiles-6)), 4)
	var every []kernels.Tap
	for _, h := range model.VisionHooks(p.gpu.Config) {
		every = append(every, visionCapture(v, h, all.Tiles))
	}
	same("with every tap", p.gpu.rows(t, all, every...), 0)
	values := make([]float32, len(all.Data)/2)
	for i := range values {
		values[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(all.Data[2*i:])) << 16)
	}
	same("float32 pixels", p.gpu.rows(t, pixelsOf(v, kernels.F32, values)), 0)
}

func TestVisionErrors(t *testing.T) {
	p := dummyPair(t, towerConfig(2, 16, 4, 2, 3, 3), cuda.Options{})
	v, viewer := p.gpu.Config.Vision, p.gpu.dev.(kernels.Viewer)
	good := randomPixels(v, kernels.BF16, rand.New(rand.NewPCG(9, 10)), 1)
	for name, change := range map[string]func(*kernels.Pixels){
		"too few bytes":         func(p *kernels.Pixels) { p.Data = p.Data[1:] },
		"tiles of another size": func(p *kernels.Pixels) { p.Side, p.Tiles = 6, 4 },
		"another format":        func(p *kernels.Pixels) { p.Format = kernels.F16 },
		"no tiles":              func(p *kernels.Pixels) { p.Tiles, p.Data = 0, nil },
	} {
		bad := *good
		change(&bad)
		if _, err := p.gpu.See(viewer, &bad); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
	if _, err := viewer.Encode(good, func() { panic("on purpose") }); err == nil || !strings.Contains(err.Error(), "on purpose") {
		t.Errorf("a panic: got %v", err)
	}
	if _, err := viewer.Encode(good, func() {}); err == nil {
		t.Error("no stages: want an error")
	}
	picture := p.gpu.see(t, good)
	step := func(where kernels.PictureRows) error {
		b := p.gpu.batch([]piece{{&sequence{}, []int32{4, 5, 6, 7, 8}}})
		b.Pictures = []kernels.PictureRows{where}
		return (<-p.gpu.dev.Step(b, func() { p.gpu.Forward(p.gpu.dev) })).Err
	}
	for name, where := range map[string]kernels.PictureRows{
		"too many rows":  {Rows: 5, Picture: picture},
		"beyond":         {Row: 4, Rows: 2, Picture: picture},
		"negative":       {Rows: 2, From: -1, Picture: picture},
		"none":           {Rows: 1},
		"another device": {Rows: 1, Picture: p.cpu.see(t, good)},
	} {
		if err := step(where); err == nil || !strings.Contains(err.Error(), "picture") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := step(kernels.PictureRows{Rows: 4, Picture: picture}); err != nil {
		t.Errorf("after all this: %v", err)
	}
	picture.Release()
	if err := step(kernels.PictureRows{Rows: 1, Picture: picture}); err == nil {
		t.Error("released: want an error")
	}
}

// On 9.0 the tower has products and attention of its own.
func TestVisionKernels(t *testing.T) {
	p := dummyPair(t, towerConfig(2, 88, 8, 2, 3, 1), cuda.Options{})
	p.gpu.see(t, randomPixels(p.gpu.Config.Vision, kernels.BF16, rand.New(rand.NewPCG(17, 18)), 1)).Release()
	ran := p.gpu.dev.(*cuda.Device).Ran()
	for _, name := range []string{"tower_store_90", "tower_heads_90", "tower_bias_90", "tower_gelu_90", "attend_tile_90"} {
		if ran[name]+ran[name+"x2"] == 0 {
			t.Errorf("%s did not run", name)
		}
	}
	if ran["attend_tile_96"] != 0 {
		t.Error("portable attention ran where the fast one should")
	}
}

// Where rows are few, a long sum's parts are left to the norm; where somebody watches, they are added at once.
func TestVisionParts(t *testing.T) {
	p := dummyPair(t, towerConfig(1, 128, 5, 5, 2, 1), cuda.Options{})
	dev, v := p.gpu.dev.(*cuda.Device), p.gpu.Config.Vision
	pixels := randomPixels(v, kernels.BF16, rand.New(rand.NewPCG(19, 20)), 1)
	ran := func(taps ...kernels.Tap) int {
		before := dev.Ran()["tower_bias_90"]
		p.gpu.see(t, pixels, taps...).Release()
		return dev.Ran()["tower_bias_90"] - before
	}
	if n := ran(); n != v.Layers {
		t.Errorf("want one product a layer that adds, got %d in %d layers", n, v.Layers)
	}
	if n := ran(visionCapture(v, model.VisionHooks(p.gpu.Config)[0], 1)); n != 2*v.Layers {
		t.Errorf("watched: want two products a layer that add, got %d in %d layers", n, v.Layers)
	}
}

// shownRows are the first rows of a step that shows all of a picture.
func (s *side) shownRows(t testing.TB, picture kernels.Picture) []float32 {
	t.Helper()
	n := picture.Rows()
	b := s.batch([]piece{{&sequence{}, make([]int32, n)}})
	b.Pictures = []kernels.PictureRows{{Rows: int32(n), Picture: picture}}
	tap := capture(model.Hooks(s.Config)[0], n)
	b.Taps = []kernels.Tap{tap}
	if r := <-s.dev.Step(b, func() { s.Forward(s.dev) }); r.Err != nil {
		t.Fatal(r.Err)
	}
	return tap.Buf
}

// A picture in pieces, with steps between them, has the rows of one that was encoded at once; whoever shows it early, or encodes
// another one, gets all of it.
func TestVisionInPieces(t *testing.T) {
	t.Run("fast", func(t *testing.T) { testInPieces(t, cuda.Options{Poison: true}) })
	t.Run("portable", func(t *testing.T) { testInPieces(t, cuda.Options{Portable: true, Poison: true}) })
	for _, way := range []cuda.Way{cuda.ByPeers, cuda.ByHost} { // the other rank reads what one has encoded
		t.Run(fmt.Sprint("group by ", way), func(t *testing.T) {
			onRanks(t, 2)
			testInPieces(t, cuda.Options{Way: way})
		})
	}
}

func testInPieces(t *testing.T, o cuda.Options) {
	p := dummyPair(t, towerConfig(2, 88, 4, 2, 3, 3), o)
	s, viewer := p.gpu, p.gpu.dev.(kernels.Viewer)
	pixels := randomPixels(s.Config.Vision, kernels.BF16, rand.New(rand.NewPCG(15, 16)), 13)
	whole := s.see(t, pixels)
	want := s.shownRows(t, whole)
	whole.Release()
	pixels.InPieces = true
	begin := func() kernels.Unfinished {
		picture, err := s.See(viewer, pixels)
		if err != nil {
			t.Fatal(err)
		}
		return picture.(kernels.Unfinished)
	}
	proceed := func(x kernels.Unfinished) bool {
		done, err := x.Continue()
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	same := func(what string, x kernels.Picture) {
		t.Helper()
		if !slices.Equal(s.shownRows(t, x), want) {
			t.Errorf("%s: other rows", what)
		}
		x.Release()
	}
	x, pieces, decode := begin(), 1, &sequence{}
	for !proceed(x) {
		pieces++
		s.run(t, []piece{{decode, []int32{7}}}, false, nil)
	}
	if pieces < 2 {
		t.Errorf("want several pieces of %d tiles, got %d", pixels.Tiles, pieces)
	}
	if !proceed(x) {
		t.Errorf("not done after the last piece")
	}
	same("in pieces", x)
	x = begin()
	proceed(x)
	same("shown early", x)
	x = begin()
	proceed(x)
	y := begin()
	same("beside another one", x)
	same("after another one", y)
	begin().Release()
	x = begin()
	proceed(x)
	x.Release()
	if _, err := x.Continue(); err == nil {
		t.Errorf("released: want an error")
	}
	same("after some that were released", begin())
}
