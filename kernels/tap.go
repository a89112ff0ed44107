package kernels

// Tap looks at, or changes, one value of the forward pass. Taps are declarative, so that they can be validated before a
// step, run on the device, and survive graph capture. With no tap set nothing is computed, copied or changed, and a
// capturing tap changes no bit of the result.
type Tap struct {
	At   Point
	Rows []int32  // batch rows, ascending; at HookFinalNorm and HookLogits they must be rows that Batch.Want names
	Cols [2]int32 // columns [from, to), e.g. of one head; zero: all
	Op   Op
	Buf  []float32 // [len(Rows), columns]: filled by Capture, read by Add and Set
	By   float32   // factor of Scale
}

// Point is a place in the forward pass.
type Point struct {
	Layer int // 0 at hooks that belong to no layer
	Hook  Hook
}

// Op is what a tap does at its point.
type Op uint8

const (
	Capture Op = iota // Buf = value
	Zero              // value = 0
	Add               // value += Buf
	Set               // value = Buf
	Scale             // value *= By
)

// Hook names a value of the forward pass as a mathematical quantity, whatever kernels compute it. Every value is
// [T, columns] float32; package model knows the published names and the widths.
type Hook uint8

const (
	HookEmbed        Hook = iota // [D] after the embedding
	HookResidPre                 // [D] residual before the layer
	HookAttnNorm                 // [D] normalised input of attention
	HookQ                        // [H·Hd] before rotation, norm and temperature
	HookK                        // [KvH·Hd] likewise
	HookV                        // [KvH·Hd]
	HookRotQ                     // [H·Hd] as it enters the scores: after rotation, QK norm and temperature
	HookRotK                     // [KvH·Hd] as it is cached: after rotation and QK norm
	HookZ                        // [H·Hd] attention's weighted values
	HookAttnOut                  // [D] after the output projection, before it joins the residual
	HookResidMid                 // [D] residual between attention and feed-forward
	HookFFNNorm                  // [D] normalised input of the feed-forward layer
	HookRouterLogits             // [E]
	HookExpertIndex              // [1] the chosen expert
	HookExpertGate               // [1] sigmoid of its logit
	HookExpertIn                 // [D] gate · normalised input: what the routed expert reads
	HookRoutedOut                // [D] the routed expert's output
	HookSharedOut                // [D] the shared expert's output
	HookFFNOut                   // [D] routed + shared, or the dense layer's output
	HookResidPost                // [D] residual after the layer
	HookFinalNorm                // [D] normalised input of the output projection
	HookLogits                   // [V] plain logits

	// Of the vision tower (Pixels.Taps); rows count over all tiles of a picture, P+1 to a tile before the pixel shuffle.
	HookVisionEmbed     // [Dv] patches and class tokens with their positions, normalised
	HookVisionZ         // [Dv] attention's weighted values
	HookVisionResidMid  // [Dv] between attention and feed-forward
	HookVisionResidPost // [Dv] after the layer
	HookVisionShuffled  // [Dv·Shuffle²] normalised patches after the pixel shuffle: what the adapter reads
	HookVisionFeatures  // [A] after the adapter
	HookVisionOut       // [D] after the projection: in place of embeddings
	Hooks               // the number of hooks
)
