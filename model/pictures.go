package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"chulengo/model/picture"
)

// Pictures is how a checkpoint takes pictures: their pixels, and their tokens in a prompt.
type Pictures struct {
	picture.Config
	Tokens picture.Tokens
}

const (
	preprocessorFile = "preprocessor_config.json"
	processorFile    = "processor_config.json" // of newer writers: the same under image_processor
	maxCanvas        = 64                      // tiles of a canvas that a checkpoint may ask for
)

// LoadPictures reads how the checkpoint's image processor works. special gives the id of a special token. A checkpoint
// that cannot take pictures is an error that says what it lacks.
func LoadPictures(fsys fs.FS, c *Config, special func(name string) (int32, bool)) (*Pictures, error) {
	v := c.Vision
	if v == nil {
		return nil, errors.New("model: config.json: pictures need a vision_config, got none: the checkpoint is for text")
	}
	p := &Pictures{Tokens: picture.Tokens{Start: v.ImageStart, End: v.ImageEnd, Patch: v.Patch, PerTile: v.Tokens()}}
	for _, t := range []struct {
		name string
		id   *int32
	}{{"<|image|>", &p.Tokens.Image}, {"<|tile_x_separator|>", &p.Tokens.TileX}, {"<|tile_y_separator|>", &p.Tokens.TileY}} {
		id, ok := special(t.name)
		if !ok {
			return nil, fmt.Errorf("model: pictures need the special token %s; the tokenizer lacks it", t.name)
		}
		*t.id = id
	}
	o, err := imageProcessor(fsys)
	if err != nil {
		return nil, err
	}
	size := o.child("size")
	for _, side := range []string{"height", "width"} {
		if got := size.integer(side, 1, maxCount, v.TileSize); got != v.TileSize {
			size.fail(side, fmt.Sprintf("%d (vision_config.image_size)", v.TileSize), got)
		}
	}
	if v.Channels != 3 {
		o.fail("num_channels", "3 (red, green, blue)", v.Channels)
	}
	p.Config = picture.Config{
		Tile:        v.TileSize,
		MaxTiles:    o.integer("max_patches", 1, maxCanvas, 16),
		ToMaxCanvas: o.boolean("resize_to_max_canvas", false),
		Rescale:     o.positive("rescale_factor", 1.0/255),
		Mean:        o.channels("image_mean"),
		Std:         o.channels("image_std"),
	}
	for i, std := range p.Std {
		if !(std > 0) {
			o.fail("image_std", "three numbers above 0", fmt.Sprintf("%v at index %d", std, i))
		}
	}
	const bilinear = 2
	o.integer("resample", bilinear, bilinear, bilinear)
	for _, step := range []string{"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"} {
		if !o.boolean(step, true) {
			o.fail(step, "true", "false")
		}
	}
	if *o.err != nil {
		return nil, *o.err
	}
	return p, nil
}

// imageProcessor opens the file that describes it.
func imageProcessor(fsys fs.FS) (object, error) {
	var err error
	for _, file := range []string{preprocessorFile, processorFile} {
		data, readErr := fs.ReadFile(fsys, file)
		if errors.Is(readErr, fs.ErrNotExist) {
			continue
		}
		if readErr != nil {
			return object{}, fmt.Errorf("model: %w", readErr)
		}
		o := parseObject(file, data, &err)
		if err != nil {
			return object{}, err
		}
		if file == preprocessorFile {
			return o, nil
		}
		if o.has("image_processor") {
			o = o.child("image_processor")
			return o, err
		}
	}
	return object{}, fmt.Errorf("model: pictures need %s (or image_processor in %s); the checkpoint has neither", preprocessorFile, processorFile)
}

// channels reads one number for each of red, green and blue; 0.5 if the key is absent.
func (o object) channels(name string) [3]float64 {
	list := []float64{0.5, 0.5, 0.5}
	if o.has(name) && (json.Unmarshal(o.values[name], &list) != nil || len(list) != 3) {
		o.fail(name, "three numbers", o.shown(name))
		return [3]float64{}
	}
	return [3]float64(list)
}
