package kernels

// Viewer is a device that runs the vision tower. Letters of its own:
//
//	N tiles      P patches of a tile      Dv width of the tower      Fv its feed-forward width      A width of the adapter
//
// A tile has P+1 rows: its patches line by line, then the class token. Tiles do not see each other.
type Viewer interface {
	Device
	// Encode runs forward, which calls the stages below, on the tiles of p, and gives what they make of it. A device may
	// run forward several times, on some of the tiles each. It is called between steps; whether the rows are there when it
	// returns or only when a step reads them is the device's business. p belongs to the device until it returns.
	Encode(p *Pixels, forward func()) (Picture, error)

	Patches(l *Patch) Act              // x [N·(P+1), Dv]: patches and class token with their positions, normalised
	VisionLayer(l *VisionLayer, x Act) // x += attention(norm(x)); x += fc2(gelu(fc1(norm(x))))
	Project(l *Projector, x Act)       // rows [N·P/Shuffle², D] of the picture
}

// Pixels are the tiles of a picture.
type Pixels struct {
	Tiles, Channels, Side int
	Format                Format // BF16 or F32
	Data                  []byte // [Tiles, Channels, Side, Side]
	Taps                  []Tap  // at the hooks of the tower; Rows count over all tiles
	InPieces              bool   // the picture may be an Unfinished: the caller brings it to its end, steps may come between
}

// Picture is a picture as the text model reads it: [Rows, D] on the device, float32 or what the device embeds in.
type Picture interface {
	Rows() int
	Bytes() int64 // of the device's memory
	// Release gives the memory back. It is called between steps, once.
	Release()
}

// Unfinished is a picture whose device makes it in pieces, which each take a few milliseconds, so that it does not hold up steps.
type Unfinished interface {
	Picture
	// Continue begins the next piece, and says whether it was the last. It is called between steps. A step that shows the
	// picture, or another Encode, has what is left done first.
	Continue() (done bool, err error)
}

// PictureRows puts rows From..From+Rows-1 of a picture in place of the embeddings of rows Row..Row+Rows-1 of a step.
type PictureRows struct {
	Row, Rows, From int32
	Picture         Picture
}

// LayerNorm is x·Weight + Bias after mean and deviation were taken out.
type LayerNorm struct{ Weight, Bias Weight } // [1, Dv] each

// Patch describes how pixels become rows.
type Patch struct {
	Size      int    // pixels on a side of a patch
	Weight    Weight // [Dv, Channels·Size·Size]
	Class     Weight // [1, Dv] the class token, the last row of a tile
	Positions Weight // [P+1, Dv]
	Norm      LayerNorm
	Eps       float32
}

// VisionLayer describes one layer of the tower.
type VisionLayer struct {
	Layer    int
	AttnNorm LayerNorm
	QKV      Weight    // parts q, k, v, each [Dv, Dv]
	QKVBias  [3]Weight // [1, Dv] each
	Out      Weight    // [Dv, Dv]
	OutBias  Weight    // [1, Dv]
	FFNNorm  LayerNorm
	Up       Weight // [Fv, Dv], fc1
	UpBias   Weight // [1, Fv]
	Down     Weight // [Dv, Fv], fc2
	DownBias Weight // [1, Dv]

	Heads, HeadDim int // Hd: no power of two, nor a multiple of 16 (88)
	Grid           int // patches on a side of a tile
	Eps            float32
	// RoPE are the [Hd/4] inverse frequencies of adjacent pairs. The first Hd/4 pairs of a head turn by column+1, the
	// others by row+1; the class token does not turn.
	RoPE []float64
}

// Projector describes what follows the tower: norm, pixel shuffle, adapter, and the projection to the text model's width.
type Projector struct {
	Norm    LayerNorm
	Grid    int    // patches on a side of a tile
	Shuffle int    // patches on a side of the square that becomes one row
	Up      Weight // [A, Dv·Shuffle²], the adapter's fc1, followed by gelu
	Down    Weight // [A, A], its fc2, followed by gelu
	Out     Weight // [D, A]
	Eps     float32
}
