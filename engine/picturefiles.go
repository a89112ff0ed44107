package engine

import (
	"crypto/sha256"
	"fmt"

	"chulengo/kernels"
	"chulengo/model"
	"chulengo/model/picture"
)

// MaxPictureBytes bounds the file of a picture.
const MaxPictureBytes = picture.MaxBytes

// PictureReader makes pictures of files, as a checkpoint wants them, and puts them into prompts.
type PictureReader struct{ pictures *model.Pictures }

// NewPictureReader reads pictures for a checkpoint.
func NewPictureReader(p *model.Pictures) *PictureReader { return &PictureReader{p} }

// PictureFile is a file whose header was read and that is within the limits.
type PictureFile struct {
	Width, Height int    // pixels, upright
	Format        string // "png", "jpeg", "gif", "webp", "bmp"
	Tokens        int    // that stand for it in a prompt

	grid picture.Grid
	file []byte
}

// Open looks at a file, which must not change afterwards. Errors are *picture.Error.
func (r *PictureReader) Open(file []byte) (*PictureFile, error) {
	info, err := picture.Inspect(file)
	if err != nil {
		return nil, err
	}
	grid, _, _ := r.pictures.Fit(info.Width, info.Height)
	return &PictureFile{info.Width, info.Height, info.Format, r.pictures.Tokens.Len(grid), grid, file}, nil
}

// Expand puts the tokens of pictures in the places of the <|image|> tokens that a chat template left for them, in order.
func (r *PictureReader) Expand(prompt []int32, files []*PictureFile) ([]int32, []Media, error) {
	grids := make([]picture.Grid, len(files))
	for i, f := range files {
		grids[i] = f.grid
	}
	ids, starts, err := r.pictures.Tokens.Expand(prompt, grids)
	if err != nil {
		return nil, nil, fmt.Errorf("engine: %w", err)
	}
	media := make([]Media, len(files))
	for i, f := range files {
		media[i] = Media{Pos: starts[i], Len: f.Tokens, Hash: sha256.Sum256(f.file), Pixels: func() (*kernels.Pixels, error) { return r.pixels(f) }}
	}
	return ids, media, nil
}

// Put puts the tokens of pictures before a prompt that has no places for them, behind its begin-of-text.
func (r *PictureReader) Put(prompt []int32, bos int32, files []*PictureFile) ([]int32, []Media, error) {
	at := 0
	if len(prompt) > 0 && prompt[0] == bos {
		at = 1
	}
	marked := append([]int32(nil), prompt[:at]...)
	for range files {
		marked = append(marked, r.pictures.Tokens.Image)
	}
	ids, media, err := r.Expand(marked, files)
	return append(ids, prompt[at:]...), media, err
}

// pixels decodes a file.
func (r *PictureReader) pixels(f *PictureFile) (*kernels.Pixels, error) {
	img, err := picture.Decode(f.file)
	if err != nil {
		return nil, err
	}
	return &kernels.Pixels{Tiles: f.grid.Tiles(), Channels: 3, Side: r.pictures.Tile, Format: kernels.BF16, Data: r.pictures.Config.Tiles(img)}, nil
}
