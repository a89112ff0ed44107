package model_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chulengo/kernels"
	"chulengo/model"
)

// visionTolerance on ‖out-ref‖/‖ref‖: as tolerance, for a tower whose reference was summed in another order.
const visionTolerance = 1e-5

func pixels(c *model.VisionConfig, values []float32) *kernels.Pixels {
	p := &kernels.Pixels{Channels: c.Channels, Side: c.TileSize, Format: kernels.F32}
	p.Tiles = len(values) / (p.Channels * p.Side * p.Side)
	for _, v := range values {
		p.Data = binary.LittleEndian.AppendUint32(p.Data, math.Float32bits(v))
	}
	return p
}

// seeing gives the goldens that have pictures.
func seeing(t *testing.T) (list []golden) {
	for _, name := range []string{"tiny-scout", "tiny-maverick"} {
		dir := filepath.Join("..", "..", "shared", "goldens", name)
		if _, err := os.Stat(dir); err != nil {
			t.Skip("the shared goldens are not beside the module")
		}
		list = append(list, golden{name, os.DirFS(dir)})
	}
	return list
}

// see encodes a picture and makes a tap for every row of a hook.
func see(t *testing.T, m *loaded, p *kernels.Pixels, hooks ...model.Hook) kernels.Picture {
	t.Helper()
	v := m.Config.Vision
	for _, h := range hooks {
		p.Taps = append(p.Taps, capture(h, p.Tiles*h.VisionRows(v)))
	}
	seen, err := m.See(m.dev, p)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// multimodal is a prompt with a picture: its ids, and where rows of the picture stand for them.
func multimodal(c *model.Config, prompt []int32, picture kernels.Picture) (places []kernels.PictureRows) {
	next := int32(0)
	for i, id := range prompt {
		if id != c.Vision.Patch {
			continue
		}
		if n := len(places); n > 0 && places[n-1].Row+places[n-1].Rows == int32(i) {
			places[n-1].Rows++
		} else {
			places = append(places, kernels.PictureRows{Row: int32(i), Rows: 1, From: next, Picture: picture})
		}
		next++
	}
	return places
}

func TestVisionReference(t *testing.T) {
	for _, g := range seeing(t) {
		t.Run(g.name, func(t *testing.T) {
			m, want := load(t, g.dir, 0), reference(t, g.dir)
			p := pixels(m.Config.Vision, want("vision.pixel_values"))
			picture := see(t, m, p, model.VisionHooks(m.Config)...)
			check := func(what string, got, ref []float32) {
				t.Helper()
				if e := relativeError(got, ref); !(e <= visionTolerance) {
					t.Errorf("%s: relative error %.2e, want at most %.0e", what, e, visionTolerance)
				} else {
					t.Logf("%s: %.2e", what, e)
				}
			}
			for _, tap := range p.Taps {
				switch tap.At.Hook {
				case kernels.HookVisionFeatures:
					check("features", tap.Buf, want("vision.features"))
				case kernels.HookVisionOut:
					check("projected", tap.Buf, want("vision.projected"))
				}
			}
			prompt := ids(want("multimodal.input_ids"))
			s := newStepper(t, m)
			s.pictures = multimodal(m.Config, prompt, picture)
			logits := s.step([]piece{{&sequence{}, prompt}})
			check("logits", logits, want("multimodal.logits"))

			// The same in pieces that cut the picture, on other threads, and tile by tile: the same bits.
			for _, size := range []int{1, 3, 7} {
				s, q := newStepper(t, m), &sequence{}
				var got []float32
				for at := 0; at < len(prompt); at += size {
					end := min(at+size, len(prompt))
					s.pictures = nil
					for _, p := range multimodal(m.Config, prompt, picture) {
						from, to := max(p.Row, int32(at)), min(p.Row+p.Rows, int32(end))
						if from < to {
							s.pictures = append(s.pictures, kernels.PictureRows{Row: from - int32(at), Rows: to - from, From: p.From + from - p.Row, Picture: picture})
						}
					}
					got = append(got, s.step([]piece{{q, prompt[at:end]}})...)
				}
				if i := firstDifference(got, logits); i >= 0 {
					t.Errorf("pieces of %d: logit %d differs", size, i)
				}
			}
		})
	}
}

// A tile gives the same bits alone, among others, on one thread or many, watched or not.
func TestVisionSameBits(t *testing.T) {
	for _, g := range seeing(t) {
		t.Run(g.name, func(t *testing.T) {
			m, values := load(t, g.dir, 0), reference(t, g.dir)("vision.pixel_values")
			hooks := model.VisionHooks(m.Config)
			out := func(m *loaded, values []float32, hooks ...model.Hook) []float32 {
				p := pixels(m.Config.Vision, values)
				see(t, m, p, hooks...)
				return p.Taps[len(p.Taps)-1].Buf
			}
			last := hooks[len(hooks)-1]
			three := out(m, values, last)
			nine := slices.Concat(values, values, values)
			for name, got := range map[string][]float32{
				"every tap":     out(m, values, hooks...),
				"nine tiles":    out(m, nine, last)[2*len(three):],
				"one thread":    out(load(t, g.dir, 1), values, last),
				"three threads": out(load(t, g.dir, 3), values, last),
			} {
				if i := firstDifference(got, three); i >= 0 {
					t.Errorf("%s: value %d differs", name, i)
				}
			}
			if one := out(m, values[:len(values)/3], last); firstDifference(one, three[:len(three)/3]) >= 0 {
				t.Error("one tile alone differs")
			}
			// Turned pictures look different: columns and rows are not mixed up by both being wrong.
			side := m.Config.Vision.TileSize
			turned := slices.Clone(values)
			for i := range turned {
				plane, y, x := i/(side*side), i/side%side, i%side
				turned[i] = values[plane*side*side+x*side+y]
			}
			if relativeError(out(m, turned, last), three) < 1e-2 {
				t.Error("a mirrored picture gives the same rows")
			}
		})
	}
}

func TestVisionErrors(t *testing.T) {
	g := seeing(t)[0]
	m := load(t, g.dir, 0)
	p := pixels(m.Config.Vision, make([]float32, 3*56*56))
	bad := *p
	bad.Data = bad.Data[1:]
	if _, err := m.See(m.dev, &bad); err == nil {
		t.Error("too few bytes: want an error")
	}
	bad = *p
	bad.Side, bad.Tiles = 28, 4
	if _, err := m.See(m.dev, &bad); err == nil {
		t.Error("tiles of another size: want an error")
	}
	picture := see(t, m, p)
	for name, where := range map[string]kernels.PictureRows{
		"too many rows": {Row: 0, Rows: 5, Picture: picture},
		"beyond":        {Row: 4, Rows: 2, Picture: picture},
		"negative":      {Row: 0, Rows: 2, From: -1, Picture: picture},
		"none":          {Row: 0, Rows: 1},
	} {
		if err := stepError(newStepper(t, m), where); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
	picture.Release()
	if err := stepError(newStepper(t, m), kernels.PictureRows{Rows: 1, Picture: picture}); err == nil {
		t.Error("released: want an error")
	}
}

func stepError(s *stepper, where kernels.PictureRows) error {
	b := &kernels.Batch{KV: s.kv, Token: []int32{1, 2, 3, 4, 5}, Pos: []int32{0, 1, 2, 3, 4}, Pictures: []kernels.PictureRows{where}}
	for g := range b.Spans {
		b.Spans[g] = []kernels.Span{{Rows: 5, Pages: []kernels.Page{0}}}
	}
	if r := <-s.dev.Step(b, func() { s.m.Forward(s.dev) }); r.Err != nil {
		return fmt.Errorf("step: %w", r.Err)
	}
	return nil
}
