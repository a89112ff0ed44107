// Prefill products of e4m3 with e4m3 (9.0): weights and activations are codes, nothing is widened. Stages are 128 columns: two tiles of
// the weights' codes and a line of codes for each row of activations (coded_column in codes.cuh). What decode streams is at the same time
// the weights' operand: a lane loads its 16 bytes and multiplies.
//
//   y[row, n] = scale[row] · Σ_g scale[n, g] · Σ_{k in g} weight[n, k]·act[row, k]
//
// The tensor cores of 9.0 add products of e4m3 with about 14 bits, counted from the largest summand. So the sum of a stage is taken out of
// them and added in float32, times the weights' scale of its columns: groups are 128 columns, a multiple of that, or all. The
// registers of a second sum bound the rows of a tile. While one warpgroup adds, the other's products are under way.
//
// quantise_rows makes codes and scales of an image of bfloat16, one scale for each row (kernels.Quantise): a row's result does not
// depend on its company. What an expert reads is quantised after its gate. A gate is a factor of the row: but for rounding, h has the
// same codes, and its scale could take the gate. But gate·h is rounded to bfloat16 first, as in the checkpoints' own code and where
// taps look at it, which moves the scale and some codes; and h would be read all the same.
#include "gemm90.cuh"
#include "route.cuh"

// CodedRows are activations in codes.
struct CodedRowsParams {
    const u8 *image;     // [K/64][R] bfloat16
    const int *token_of; // [rows] the row of the image that goes to this one, times its gate; negative: none. null: each its own
    const float *gate;   // [R]; null with token_of
    u8 *codes;           // [K/128][out_R] lines
    float *scales;       // [rows]
    int R, out_R, tiles; // tiles along K of the image
    int pad;
};

struct E4M3GemmParams : CodedGemmParams { // act: an image of codes
    const float *act_scales; // [R]
};

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

namespace {

struct E4M3Codes {
    using Params = E4M3GemmParams;
    using Widths = Columns<16, 32, 64, 96, 128, 160, 192>;
    static constexpr int WIDTH = 192, TILES = 2, SCALES = TILES * code_tile(E4M3), BYTES = SCALES + 1024;
    static constexpr bool LARGE = true; // bytes and products are both half of bfloat16's
    static_assert(BYTES >= SCALES + CODE_ROWS * 4 && TILES * TILE == CODED_TILE, "a stage has one line of codes for each row");
};

template <> struct Source<E4M3Codes> {
    Lines lines;
    const u8 *codes;
    u64 scale; // of the first group

    __device__ __forceinline__ Source(const E4M3GemmParams &p, const Unit &u) : lines(p, u) {
        codes = p.weight + u64(u.tile.expert) * p.expert_stride + u64(u.pair) * p.tiles * code_tile(E4M3);
        scale = (u64(u.tile.expert) * (p.blocks / 2) + u.pair) * p.coding.groups * CODE_ROWS;
    }
    // fill: where there is one more tile, it comes twice, since the second must hold numbers: they meet codes of 0.
    __device__ __forceinline__ void fill(const E4M3GemmParams &p, u8 *stage, u64 *full, int k) {
        constexpr int EACH = code_tile(E4M3), BOTH = 2 * EACH;
        const Coding &c = p.coding;
        const u64 at = scale + coding_group(c, k, 0) * CODE_ROWS;
        mbar_expect_tx(full, BOTH + CODE_ROWS * c.scale_bytes + lines.bytes);
        if (k + 1 < p.tiles) bulk_load(stage, codes, BOTH, full);
        else bulk_load(stage, codes, EACH, full), bulk_load(stage + EACH, codes, EACH, full);
        bulk_load(stage + E4M3Codes::BYTES, lines.at, lines.bytes, full);
        bulk_load(stage + E4M3Codes::SCALES, c.scales + at * c.scale_bytes, CODE_ROWS * c.scale_bytes, full);
        codes += BOTH, lines.at += lines.step;
    }
};

template <int N, GemmEpilogue EPILOGUE, class W>
__device__ __forceinline__ void multiply(const typename W::Params &p, Shared &s, Ring<W> &ring, const Tile &tile, int pair, int half) {
    constexpr int STEPS = W::TILES * TILE / 32; // products of a stage
    float acc[N / 2], sum[N / 2];               // of all stages, scaled; of the last one
    float by[2] = {0, 0};                       // its scales, of rows g and g+8
#pragma unroll
    for (int i = 0; i < N / 2; i++) acc[i] = 0, sum[i] = 0;
    const int block = 2 * pair + half, strip = half * 4 + warp_id() % 4;
    const Called<EPILOGUE> called(p, tile, block);
    const auto promote = [&] {
#pragma unroll
        for (int i = 0; i < N / 2; i++) acc[i] = __fmaf_rn(sum[i], by[i / 2 % 2], acc[i]);
    };
    for (int k = 0, stage = 0; k < p.tiles; k += W::TILES, stage++, ring.next()) {
        called.at_stage(p, block, stage);
        mbar_wait(&s.full[ring.slot], ring.phase);
        const u8 *weights = ring.weights();
        u32 a[STEPS][4];
#pragma unroll
        for (int i = 0; i < STEPS; i++) *(uint4 *)a[i] = *(const uint4 *)(weights + i / 2 * code_tile(E4M3) + ((strip * 2 + i % 2) * WARP + lane_id()) * 16);
        float next[2];
#pragma unroll
        for (int r = 0; r < 2; r++) next[r] = scale_near(weights + W::SCALES, p.coding.scale_bytes, strip * 16 + lane_id() / 4 + 8 * r);
        promote(); // of the stage before, while these are on their way from shared memory
        by[0] = next[0], by[1] = next[1];
        const u64 lines = wgmma_descriptor(ring.lines());
        wgmma_fence();
        wgmma_e4m3_rows<N, false>(sum, a[0], lines);
#pragma unroll
        for (int i = 1; i < STEPS; i++) wgmma_e4m3_rows<N, true>(sum, a[i], wgmma_at(lines, i * 32));
        wgmma_commit();
        wgmma_wait<0>();
        if (lane_id() == 0) mbar_arrive(&s.empty[ring.slot]);
    }
    promote();
    if (block >= p.blocks) return;
    const float *scales = p.act_scales + tile.row + lane_id() % 4 * 2; // what lies behind the rows is not stored
    float2 of_rows[N / 8]; // all on their way before the first is used
#pragma unroll
    for (int j = 0; j < N / 8; j++) of_rows[j] = *(const float2 *)(scales + 8 * j);
#pragma unroll
    for (int i = 0; i < N / 2; i++) acc[i] *= i % 2 ? of_rows[i / 4].y : of_rows[i / 4].x;
    store<N, EPILOGUE, 2>(p, tile, block, acc);
}

} // namespace

#define GEMM(NAME, EPILOGUE)                                     \
    KERNEL(THREADS, 1, gemm_e4m3_##NAME##_90, E4M3GemmParams) {  \
        DYNAMIC_SHARED(memory);                                  \
        gemm<EPILOGUE, E4M3Codes>(p, memory);                    \
    }

GEMM(store, STORE)
GEMM(add, ADD)
GEMM(swiglu, SWIGLU)
GEMM(routed, ROUTED)

#endif

// quantise_rows: one block a row. With a gate, gate·h is rounded to bfloat16 before anything else, as gather_rows does.
KERNEL(128, 1, quantise_rows, CodedRowsParams) {
    __shared__ u32 largest[4];
    griddep_launch();
    griddep_wait();
    const int to = blockIdx.x, row = p.token_of ? p.token_of[to] : to;
    const float gate = row >= 0 && p.gate ? p.gate[row] : 1.0f;
    const auto piece = [&](int i) { // eight columns
        if (row < 0 || i >= p.tiles * 8) return make_uint4(0, 0, 0, 0);
        const uint4 v = *activation_piece(p.image, p.R, row, i);
        return p.gate ? scaled_piece(v, gate) : v;
    };
    const int pieces = ceil_div(p.tiles * TILE, CODED_TILE) * 8; // of 16 columns
    u32 most = 0; // as bits, which are ordered as numbers are: infinity and then NaN above them
    for (int i = threadIdx.x; i < 2 * pieces; i += blockDim.x) {
        const uint4 v = piece(i);
        const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++) most = max(most, max(words[j] & 0x7fff, words[j] >> 16 & 0x7fff));
    }
    most = __reduce_max_sync(0xffffffffu, most);
    if (lane_id() == 0) largest[warp_id()] = most;
    __syncthreads();
    most = max(max(largest[0], largest[1]), max(largest[2], largest[3])) << 16;
    // Of a row that is not finite, no result is: codes alone would hide it.
    const float scale = most < 0x7f800000 ? code_scale(__uint_as_float(most), E4M3_LARGEST, 4) : __uint_as_float(0x7fffffff);
    if (threadIdx.x == 0) p.scales[to] = scale;
    for (int i = threadIdx.x; i < pieces; i += blockDim.x) {
        const uint4 low = piece(2 * i), high = piece(2 * i + 1);
        const u32 from[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}; // pairs of columns
        u32 codes[4];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            float v[4];
#pragma unroll
            for (int b = 0; b < 4; b++) {
                const int column = coded_column(4 * w + b);
                v[b] = (column % 2 ? hi(from[column / 2]) : lo(from[column / 2])) / scale;
            }
            codes[w] = e4m3x2(v[0], v[1]) | e4m3x2(v[2], v[3]) << 16;
        }
        *(uint4 *)(p.codes + (u64(i / 8) * p.out_R + to) * LINE + ((i % 8) ^ (to & 7)) * PIECE) = make_uint4(codes[0], codes[1], codes[2], codes[3]);
    }
}
