// Package kernels states what a device must be able to do to run Llama 4: the stages of the forward pass, the handles
// they work on, and the plain data of one step. It holds no arithmetic; kernels/cpu is the specification in Go, other
// devices are tested against it.
//
// # Words
//
// A step is one forward pass over one batch. Shapes are written outermost first with the letters
//
//	B sequences in the batch     T rows (tokens) of this step, flat over all sequences     S key/value length
//	D model width                H query heads      KvH key/value heads     Hd head size
//	F feed-forward width         E experts          V vocabulary            L layers
//
// A row is one token of one sequence in one step. A page is the unit of key/value memory, a slot one token's place
// in it. A span is the part of a step in which rows of one sequence look at one list of pages.
//
// # The seam
//
// The residual stream x is mathematically complete at every stage boundary; how it is stored between stages (a base
// plus partial sums that the next reader adds, a copy per rank) is the device's business. Stages only enqueue work: they
// neither allocate nor read results back, and they do not branch on device data. What a step needs to know is in its
// Batch; what a stage needs to know is in its layer description (Attn, MoE, Dense, Head), which package model builds
// once from the configuration. No rule of the model is decided here.
//
// Where a checkpoint's codes are sorted by the groups of their inputs, a layer description has an Order [D]: the normalised row is made
// with column j from column Order[j] of x, and Norm and all matrices that read the row have their columns so. Everything else, and
// what taps see, keeps the model's own order.
package kernels

// Device runs stages. Between Step's begin and end a device belongs to one goroutine. The first error of a step is kept
// and leaves through Step's Result; stages called after it do nothing.
type Device interface {
	// Name says what the device is, for people ("cpu: 2 threads, avx512").
	Name() string
	// NewWeight reserves a weight; its parts arrive through Put.
	NewWeight(WeightSpec) (Weight, error)
	// NewKV reserves key/value pages.
	NewKV(KVSpec) (KV, error)
	// Step runs forward, which calls the stages below, on b. A device may capture what forward enqueues and replay it.
	// b and everything it points to belong to the device until the result is read.
	Step(b *Batch, forward func()) <-chan Result

	Embed(table Weight) Act         // x [T, D]: the rows of table at Batch.Token
	AttnIn(l *Attn, x Act) Act      // q [T, H, Hd], ready for the scores; k and v of the step's rows are in their pages
	Attend(l *Attn, q Act) Act      // z [T, H, Hd]: the row at position p sees slots 0..p-Base of its span
	AttnOut(l *Attn, x, z Act)      // x += z·Woᵀ
	Route(l *MoE, x Act) (h, r Act) // h [T, D] = norm(x); r [T]: the chosen expert and its gate, sigmoid of its logit
	Experts(l *MoE, x, h, r Act)    // x += shared(h) + expert(gate·h): the gate scales the expert's input
	FFN(l *Dense, x Act)            // x += down(silu(gate·h) · up·h), h = norm(x)
	Logits(l *Head, x Act)          // the rows of Batch.Want only: draw, score, top-n

	Close() error
}

// ExpertCounter is a device that counts by itself how many rows its routers gave to each expert. Other devices are watched
// with taps, which on a GPU would keep steps out of graphs.
type ExpertCounter interface {
	// ExpertRows gives the counts since the device was opened, [layer][expert]; layers without experts, and those that have not run
	// yet, are nil or missing. It is called between steps.
	ExpertRows() ([][]uint64, error)
}

// Act is a device's handle on activations. It lives until the stage that made it runs again.
type Act any

// Attn describes the attention of one layer.
type Attn struct {
	Layer int
	Group int // KV page group: GroupGlobal or GroupChunked
	Slot  int // index of the layer within its group

	Norm Weight // [1, D]: RMS norm before the projections
	QKV  Weight // parts q [H·Hd, D], k [KvH·Hd, D], v [KvH·Hd, D]
	Out  Weight // [D, H·Hd]

	Order []int32 // [D] of the normalised row, and of the columns of Norm and QKV; nil: that of x

	Heads, KVHeads, HeadDim int
	Eps                     float32
	RoPE                    []float64    // [Hd/2] inverse frequencies of the adjacent pairs (2i, 2i+1); nil: no rotation
	QKNorm                  bool         // weightless RMS norm of every head of q and k, after the rotation
	Temp                    *Temperature // scales q by position; nil: off
}

// Temperature scales q at position p by 1 + Scale·ln(⌊(p+1)/Floor⌋ + 1).
type Temperature struct{ Scale, Floor float64 }

// MoE describes a feed-forward layer of routed experts (top-1) and one shared expert.
type MoE struct {
	Layer        int
	Norm         Weight  // [1, D]
	Router       Weight  // [E, D]
	GateUp       Weight  // E experts, parts gate [F, D], up [F, D]
	Down         Weight  // E experts, [D, F]
	SharedGateUp Weight  // parts gate [F, D], up [F, D]
	SharedDown   Weight  // [D, F]
	Order        []int32 // [D] of the normalised row, and of the columns of Norm, Router, GateUp and SharedGateUp; nil: that of x
	Eps          float32
}

// Dense describes a feed-forward layer without experts.
type Dense struct {
	Layer  int
	Norm   Weight  // [1, D]
	GateUp Weight  // parts gate [F, D], up [F, D]
	Down   Weight  // [D, F]
	Order  []int32 // [D] of the normalised row, and of the columns of Norm and GateUp; nil: that of x
	Eps    float32
}

// Head describes the final norm and the output projection.
type Head struct {
	Norm Weight // [1, D]
	Out  Weight // [V, D]
	Eps  float32
}
