package kernels

// Batch is one step: T rows, flat over all sequences. The rows of a sequence are adjacent and ascend in position.
// Rows below Decode continue a sequence by one token each; the rest are pieces of prompts.
type Batch struct {
	Token  []int32 // [T] ids
	Pos    []int32 // [T] absolute positions
	Decode int     // rows below it run decode kernels, the others prefill kernels, whatever T is
	KV     KV
	Spans  [Groups][]Span // per page group; every row lies in exactly one span of each group
	Want   []Want
	Taps   []Tap

	// Pictures stand in place of the embeddings of their rows; ascending, not overlapping. Pictures come from the
	// device's Encode (Viewer).
	Pictures []PictureRows
}

// Page groups. Layers that see the whole context keep their keys and values in the global group. Layers that see only
// their chunk keep them in the chunked group, where slots count from the chunk's start, so that no page straddles a
// chunk border and pages of a chunk that was left can be freed.
const (
	GroupGlobal = iota
	GroupChunked
	Groups
)

// Page numbers one page of a group.
type Page int32

// Span maps rows Row..Row+Rows-1 of a step to pages: the row at position p writes slot p-Base and sees slots 0..p-Base.
// Slot s lies in Pages[s/PageTokens] at s%PageTokens. In the chunked group there is one span per chunk that a sequence
// touches in the step.
type Span struct {
	Row, Rows int32
	Base      int32 // position of slot 0: 0, or the chunk's start
	Pages     []Page
}

// KVSpec sizes key/value memory. A page of group g holds PageTokens slots of each of the group's layers.
type KVSpec struct {
	Format     Format // of the stored keys and values
	PageTokens int
	KVHeads    int
	HeadDim    int
	Layers     [Groups]int // layers in each group
	Pages      [Groups]int // pages in each group
}

// PageBytes is the size of one page of group g: keys and values of every layer of the group.
func (s KVSpec) PageBytes(g int) int {
	return s.Layers[g] * 2 * s.PageTokens * s.KVHeads * s.HeadDim * s.Format.Size()
}

// KV is a device's key/value memory. Its methods are called between steps.
type KV interface {
	Copy(group int, dst, src Page) error     // copy on write: several choices from one prompt
	Save(group int, p Page, to []byte) error // PageBytes(group) bytes, in a layout of the device's own
	Load(group int, p Page, from []byte) error
	Close() error
}

// Want asks for the logits of one row.
type Want struct {
	Row    int32
	Score  int32    // also report the log-probability of this id; negative: none
	Top    int32    // also report the Top most probable ids
	Sample *Sampler // nil: no draw
}

// Result is what a step gives back: Outs[i] answers Want[i].
type Result struct {
	Outs []Out
	Err  error
}

// Out answers one Want. Log-probabilities are natural logarithms of the softmax of the plain logits, before penalties,
// bias, temperature and filters.
type Out struct {
	Token   int32   // the id drawn; -1 without a Sampler
	LogProb float32 // of Token
	Score   float32 // of Want.Score
	Top     []TokenLogProb
}

// TokenLogProb is an id with its log-probability.
type TokenLogProb struct {
	ID      int32
	LogProb float32
}

// Sampler says how to draw one id from logits. The order is: Adjust, Mask, temperature, TopK, TopP, MinP, draw.
//
// The draw is the same on every device and in every batch: with u the 64-bit number (word 1 << 32 | word 0) of
// Philox4x32-10 at counter (Index, 0) under key Seed, and w_i the weight of id i relative to the best, exp((l_i-max)/T),
// rounded to the nearest multiple of 2⁻³², the id drawn is the first in id order whose running sum of weights exceeds
// ⌊u·Σw / 2⁶⁴⌋. Sums of such weights are exact integers, so their order does not matter.
type Sampler struct {
	Temperature float32 // 0: the id with the largest adjusted logit, the lowest id among equals
	TopK        int32   // keep the K largest (ties: lower ids); 0: all
	TopP        float32 // keep the smallest set of the largest whose probability reaches TopP, renormalised after TopK; 1 or 0: all
	MinP        float32 // keep ids at least MinP times as probable as the best; 0: all
	Seed, Index uint64  // Index counts a request's draws
	Adjust      []Adjust
	Mask        []uint32 // bit i%32 of word i/32: id i may be drawn; nil: all may
}

// Adjust changes one logit before sampling: l = l/Penalty if l > 0, else l·Penalty (the repetition penalty; 0 and 1
// mean none); then l += Add (presence and frequency penalties, bias).
type Adjust struct {
	ID      int32
	Penalty float32
	Add     float32
}
