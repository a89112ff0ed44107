//go:build cuda

package cuda

import "chulengo/kernels/cuda/driver"

// ptr is an address in device memory; 0 is null.
type ptr = driver.Ptr

// The parameters of the kernels. Field for field the structs of the .cu files of the same names. The software GPU refuses a
// launch whose parameters have another size than the kernel's, and the parity tests would see fields in another order.

type slots struct {
	values    ptr
	stride    uint64
	count, ld int32
}

type streamParams struct {
	dense, routed       ptr
	expertStride        uint64
	a, b                ptr
	expert, rows        ptr
	denseOut, routedOut ptr
	experts, blocks     int32
	tiles, splits       int32
	ld, features        int32
	ready, taken        ptr
	readyCount          int32
	_                   int32
}

type gemmParams struct {
	weight          ptr
	expertStride    uint64
	act             ptr
	list, listCount ptr
	out             ptr
	base, tokenOf   ptr
	taken           ptr
	lines, tokens   int32
	blocks, tiles   int32
	ld, features    int32
	outLines, width int32
	heads           headsParams
}

type headsParams struct {
	bias            [3]ptr
	turns           ptr
	perTile         int32
	width, part     int32
	headDim, headLd int32
	step            int32
	lines           int32
	_               int32
}

type towerParams struct {
	weight, act        ptr
	out, base          ptr
	lines, rows, width int32
	blocks, tiles      int32
	parts, each        int32
	ld, features       int32
	outLines           int32
	heads              headsParams
}

type patchParams struct {
	pixels, image        ptr
	lines, columns       int32
	tiles, format        int32
	channels, side, size int32
	_                    int32
}

type layerNormParams struct {
	x, parts              ptr
	weight, bias          ptr
	classToken, positions ptr
	image                 ptr
	positionTiles         int32
	lines, tiles          int32
	rows, perTile, d, ld  int32
	grid, shuffle         int32
	count                 int32
	eps                   float32
	_                     int32
}

type tileAttentionParams struct {
	qkv, z                 ptr
	scale                  float32
	perTile, heads         int32
	headDim, headLd, lines int32
	tilesAlong             int32
	_                      int32
}

type headAttentionParams struct {
	qkv, z             ptr
	scale              float32
	perTile, headLines int32
	items, heads       int32
	headDim            int32
	lines, tilesAlong  int32
}

type embedParams struct {
	table, token, x ptr
	d, tiles        int32
}

type normParams struct {
	x               ptr
	pending         [2]slots
	rows, source    ptr
	weight, image   ptr
	lines, d, tiles int32
	eps             float32
	arrivals        ptr
	arrivalsLd      int32
	exchange        int32
	peers           ptr
	step, squares   ptr
	number          uint32
	digits          int32
	place           ptr
}

type normPartsParams struct {
	norm  normParams
	share shareParams
}

type sumParams struct {
	slots     slots
	out, rows ptr
	ld, width int32
}

type addParams struct {
	a, b, rows ptr
	ld, width  int32
}

type routeParams struct {
	norm           normParams
	router, logits ptr
	expert, gate   ptr
	scaled, counts ptr
	normed, parts  ptr
	status         ptr
	count          int32
	experts, ld    int32
	steps, digits  int32
	_              int32
}

// Steps of route_rows.
const (
	routeNorm = 1 << iota
	routeLogits
	routeChoose
	routeScale
)

type sortParams struct {
	expert, sorted, tokenOf ptr
	tiles, tileCount        ptr
	rows, experts           int32
	capacity, width         int32
}

type gatherParams struct {
	h, tokenOf, gate, out  ptr
	lines, outLines, tiles int32
	_                      int32
}

type digitRowsParams struct {
	images, digits [2]ptr
	rows           ptr
	lines, tiles   int32
}

type ropeTableParams struct {
	turns, pos, table ptr
	half              int32
	_                 int32
}

type temperParams struct {
	pos, temper  ptr
	scale, floor float64
	rows         int32
	_            int32
}

type ropeParams struct {
	qkv                 slots
	table, temper, slot ptr
	rows                ptr
	q, k, v             ptr
	pages               ptr
	pageStride, layerAt uint64
	eps                 float32
	qkNorm              int32
	heads, kvHeads      int32
	headDim, pageTokens int32
	kAt, vAt            int32
	tiled, coded        int32
	steps               int32
	_                   int32
}

// Steps of rope_append.
const (
	ropeRotate = 1 << iota
	ropeAppend
)

type pagesParams struct {
	data                         ptr
	pageStride, layerAt          uint64
	table                        ptr
	pageTokens, kvHeads, headDim int32
	tiled                        int32
}

type decodeParams struct {
	pages                    pagesParams
	q, list, length          ptr
	firstSplit, firstRound   ptr
	rows                     ptr
	out, norm, z             ptr
	scale                    float32
	heads, lines, tilesAlong int32
}

type fusedDecodeParams struct {
	attend    decodeParams
	rope      ropeParams
	arrived   ptr
	arrivedLd int32
	_         int32
}

// queryTile is adjacent prefill rows of one span, at most Device.queryRows of them.
type queryTile struct{ row, rows, slot, list int32 }

type prefillParams struct {
	pages                    pagesParams
	q, tiles, z              ptr
	scale                    float32
	heads, lines, tilesAlong int32
	tileCount                int32
	_                        int32
}

type wantRow struct {
	score, top, draws          int32
	maskAt, adjustAt, adjusts  int32
	topAt, topK                int32
	temperature, topP, minP, _ float32
	seed, index                uint64
}

type adjustRow struct {
	id           int32
	penalty, add float32
}

type topRow struct {
	id      int32
	logProb float32
}

type answerRow struct {
	token          int32
	logProb, score float32
	status         int32
}

// Statuses of an answerRow.
const (
	sampleOK = iota
	sampleNotFinite
	sampleNothingAllowed
	sampleNotFiniteAdjusted
)

type sampleParams struct {
	logits, wants, adjusts, masks ptr
	adjusted, ids                 ptr
	slices                        ptr
	answers, top, count           ptr
	status, statusOut             ptr
	ld, vocab                     int32
}

// sampleSlices is how many parts a row of logits has in sample_slices.
const sampleSlices = 64

// sliceRow is read by kernels alone; its size is needed here, its fields by the test of layouts.
//
//lint:ignore U1000 see above
type sliceRow struct {
	sum           float64
	best          float32
	at, bad, kept int32
}

// uploadPieces is how many pieces one launch of upload_words copies.
const uploadPieces = 12

type uploadPiece struct {
	to, from ptr
	words    uint64
}

type uploadParams struct{ pieces [uploadPieces]uploadPiece }

type packParams struct {
	raw, packed  ptr
	stride       uint64
	n, k, tiles  int32
	first, group int32
	inOut        int32
	format       int32
	kFrom, kRows int32
	_            int32
}

// fillValues is the kernels' struct Fill.
type fillValues struct {
	seed, index  uint64
	nStep, kStep uint64
	std          float32
	_            int32
}

type fillParams struct {
	to   packParams
	fill fillValues
}

// coding is embedded in the parameters of every kernel that reads a quantised weight.
type coding struct {
	scales, zeros       ptr
	expertScales        uint64
	code, groups        int32
	groupStep           uint32
	scaleBytes, fine, _ int32
	table               [16]float32
}

type codedStreamParams struct {
	streamParams
	denseCoding, routedCoding coding
}

type codedGemmParams struct {
	gemmParams
	coding coding
}

type e4m3GemmParams struct {
	codedGemmParams
	actScales ptr
}

type codedRowsParams struct {
	image, tokenOf, gate   ptr
	codes, scales          ptr
	lines, outLines, tiles int32
	_                      int32
}

type codesParams struct {
	raw, rawScales, rawZeros ptr
	codes, scales, zeros     ptr
	n, k, tiles              int32
	first, group             int32
	code, groups, scaleBytes int32
	_                        int32
}

type fillCodesParams struct {
	to             codesParams
	fill           fillValues
	cols           int32
	before, behind int32
	_              int32
}

type embedCodedParams struct {
	table, token, x ptr
	d, tiles        int32
	coding          coding
}

type checkParams struct {
	data     ptr
	pieces   uint64
	firstBad ptr
}

type tapParams struct {
	data, rows, buf ptr
	place           ptr
	ld              uint64
	by              float32
	from, to        int32
	op, kind        int32
	_               int32
}

// maxRanks is the most GPUs that run one model together.
const maxRanks = 8

// mailRows is how many rows a mailbox has: those of decode.
const mailRows = maxDecodeRows

type peers struct {
	ranks, rank   int32
	epoch, status ptr
	patience      uint64
	row           uint64
	mail, flags   [maxRanks]ptr
}

type shareParams struct {
	peers                  ptr
	part                   [maxRanks]ptr
	out, count             ptr
	rows, ld, outLd, width int32
	exchange, add          int32
}

type collectParams struct {
	peers, columns, out ptr
	count               ptr
	ld, outLd           int32
	first, width        int32
	exchange            int32
	_                   int32
}

// Kinds of values that tap_rows reads.
const (
	tapFloat = iota
	tapImage
	tapBF16
	tapInt
)
