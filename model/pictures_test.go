package model_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"chulengo/demo"
	"chulengo/model"
	"chulengo/model/picture"
)

func specials(name string) (int32, bool) {
	id, ok := map[string]int32{"<|image|>": 90, "<|tile_x_separator|>": 84, "<|tile_y_separator|>": 85}[name]
	return id, ok
}

func TestLoadPictures(t *testing.T) {
	c, err := model.LoadConfig(demo.FS())
	if err != nil {
		t.Fatal(err)
	}
	p, err := model.LoadPictures(demo.FS(), c, specials)
	if err != nil {
		t.Fatal(err)
	}
	half := [3]float64{0.5, 0.5, 0.5}
	if want := (picture.Config{Tile: 112, MaxTiles: 4, Rescale: 0.00392156862745098, Mean: half, Std: half}); p.Config != want {
		t.Errorf("got %+v, want %+v", p.Config, want)
	}
	want := picture.Tokens{Start: c.Vision.ImageStart, End: c.Vision.ImageEnd, Patch: c.Vision.Patch, Image: 90, TileX: 84, TileY: 85, PerTile: 16}
	if p.Tokens != want {
		t.Errorf("got %+v, want %+v", p.Tokens, want)
	}
	const newer = `{"image_processor": {"size": {"height": 112, "width": 112}, "max_patches": 9}}`
	if p, err := model.LoadPictures(fstest.MapFS{"processor_config.json": {Data: []byte(newer)}}, c, specials); err != nil || p.MaxTiles != 9 {
		t.Errorf("newer layout: got %+v, %v", p, err)
	}
}

func TestLoadPicturesErrors(t *testing.T) {
	c, err := model.LoadConfig(demo.FS())
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`{"size": {"height": 336, "width": 112}}`: "size.height: want 112 (vision_config.image_size), got 336",
		`{"max_patches": 0}`:                      "max_patches: want an integer from 1 to 64, got 0",
		`{"max_patches": 1e9}`:                    "max_patches",
		`{"image_mean": [1, 2]}`:                  "image_mean: want three numbers",
		`{"image_std": [1, 0, 1]}`:                "image_std: want three numbers above 0, got 0 at index 1",
		`{"resample": 3}`:                         "resample",
		`{"do_normalize": false}`:                 "do_normalize: want true, got false",
		`[]`:                                      "preprocessor_config.json",
	} {
		_, err := model.LoadPictures(fstest.MapFS{"preprocessor_config.json": {Data: []byte(text)}}, c, specials)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	if _, err := model.LoadPictures(fstest.MapFS{}, c, specials); err == nil || !strings.Contains(err.Error(), "preprocessor_config.json") {
		t.Errorf("no file: got %v", err)
	}
	none := func(string) (int32, bool) { return 0, false }
	if _, err := model.LoadPictures(demo.FS(), c, none); err == nil || !strings.Contains(err.Error(), "<|image|>") {
		t.Errorf("no tokens: got %v", err)
	}
	text := *c
	text.Vision = nil
	if _, err := model.LoadPictures(demo.FS(), &text, specials); err == nil || !strings.Contains(err.Error(), "vision_config") {
		t.Errorf("text checkpoint: got %v", err)
	}
}
