package picture

import "fmt"

// Tokens are the ids that frame a picture in a prompt.
type Tokens struct {
	Start, End   int32 // <|image_start|>, <|image_end|>
	Image        int32 // <|image|>: before the global tile; in a chat template it stands for a whole picture
	Patch        int32 // <|patch|>: one for each row that the tower makes
	TileX, TileY int32 // <|tile_x_separator|> between columns, <|tile_y_separator|> after every row of tiles
	PerTile      int   // patches of a tile
}

// Len is the number of tokens of a picture on grid g.
func (t Tokens) Len(g Grid) int {
	n := 3 + g.Tiles()*t.PerTile
	if g.Tiles() > 1 {
		n += g.Rows * g.Cols
	}
	return n
}

// Append appends the tokens of a picture: its tiles row by row, then the global one.
func (t Tokens) Append(ids []int32, g Grid) []int32 {
	patches := func() {
		for range t.PerTile {
			ids = append(ids, t.Patch)
		}
	}
	ids = append(ids, t.Start)
	if g.Tiles() > 1 {
		for range g.Rows {
			for col := range g.Cols {
				if col > 0 {
					ids = append(ids, t.TileX)
				}
				patches()
			}
			ids = append(ids, t.TileY)
		}
	}
	ids = append(ids, t.Image)
	patches()
	return append(ids, t.End)
}

// Expand puts the pictures of a prompt in the places of its <|image|> tokens, in order, and says where each begins.
func (t Tokens) Expand(prompt []int32, pictures []Grid) (ids []int32, starts []int, err error) {
	for _, id := range prompt {
		if id != t.Image {
			ids = append(ids, id)
			continue
		}
		if len(starts) < len(pictures) {
			g := pictures[len(starts)]
			starts = append(starts, len(ids))
			ids = t.Append(ids, g)
		} else {
			return nil, nil, fmt.Errorf("picture: want an <|image|> for each of %d pictures, got more", len(pictures))
		}
	}
	if len(starts) < len(pictures) {
		return nil, nil, fmt.Errorf("picture: want an <|image|> for each of %d pictures, got %d", len(pictures), len(starts))
	}
	return ids, starts, nil
}
