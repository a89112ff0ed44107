// Prefill products with wgmma and bulk copies (9.0) of bfloat16, in stages of one 64-column tile.
//
// Quantised weights come as codes. The warps that multiply widen their rows of the next stage into registers while the tensor cores
// are at this one: codes lie as such operands want them.
#include "gemm90.cuh"

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

namespace {

// Weights of a stage. Codes are followed by the scales and zeros of up to two groups of columns; the registers they are widened in are
// taken from the sums.
struct Plain {
    using Params = GemmParams;
    using Widths = Columns<16, 32, 64, 96, 128, 160, 192, 224, 256>;
    static constexpr int WIDTH = 256, BYTES = 2 * WEIGHT_TILE, TILES = 1;
    static constexpr bool LARGE = true;
};
struct Coded {
    using Params = CodedGemmParams;
    using Widths = Columns<16, 32, 64, 96, 128, 160, 192, 208>;
    static constexpr int WIDTH = 208, SCALES = code_tile(E4M3), ZEROS = SCALES + 2 * CODE_ROWS * 4, BYTES = 10 << 10, TILES = 1;
    static constexpr bool LARGE = false;
    static_assert(BYTES >= ZEROS + 2 * CODE_ROWS && BYTES % 1024 == 0, "swizzled lines follow");
};

template <> struct Source<Plain> {
    Lines lines;
    const u8 *weights, *second; // null: the pair has one block

    __device__ __forceinline__ Source(const GemmParams &p, const Unit &u) : lines(p, u) {
        weights = p.weight + u64(u.tile.expert) * p.expert_stride + u64(2 * u.pair) * p.tiles * WEIGHT_TILE;
        second = 2 * u.pair + 1 < p.blocks ? weights + u64(p.tiles) * WEIGHT_TILE : nullptr;
    }
    // fill brings the next stage.
    __device__ __forceinline__ void fill(const GemmParams &, u8 *stage, u64 *full, int) {
        mbar_expect_tx(full, (second ? 2 * WEIGHT_TILE : WEIGHT_TILE) + lines.bytes);
        bulk_load(stage, weights, WEIGHT_TILE, full);
        if (second) bulk_load(stage + WEIGHT_TILE, second, WEIGHT_TILE, full), second += WEIGHT_TILE;
        bulk_load(stage + Plain::BYTES, lines.at, lines.bytes, full);
        weights += WEIGHT_TILE, lines.at += lines.step;
    }
};

template <> struct Source<Coded> {
    Lines lines;
    const u8 *codes;
    u64 scale; // of the first group
    u32 bytes;

    __device__ __forceinline__ Source(const CodedGemmParams &p, const Unit &u) : lines(p, u), bytes(CODE_ROWS * TILE * (p.coding.code == E4M3 ? 8 : 4) / 8) {
        codes = p.weight + u64(u.tile.expert) * p.expert_stride + u64(u.pair) * p.tiles * bytes;
        scale = (u64(u.tile.expert) * (p.blocks / 2) + u.pair) * p.coding.groups * CODE_ROWS;
    }
    __device__ __forceinline__ void fill(const CodedGemmParams &p, u8 *stage, u64 *full, int k) {
        const Coding &c = p.coding;
        const int group = coding_group(c, k, 0), values = (coding_group(c, k, 1) - group + 1) * CODE_ROWS;
        const u64 at = scale + group * CODE_ROWS;
        mbar_expect_tx(full, bytes + values * (c.scale_bytes + (c.zeros ? 1 : 0)) + lines.bytes);
        bulk_load(stage, codes, bytes, full);
        bulk_load(stage + Coded::BYTES, lines.at, lines.bytes, full);
        bulk_load(stage + Coded::SCALES, c.scales + at * c.scale_bytes, values * c.scale_bytes, full);
        if (c.zeros) bulk_load(stage + Coded::ZEROS, c.zeros + at, values, full);
        codes += bytes, lines.at += lines.step;
    }
};

// widen makes a warp's 16 rows of half a stage: the operands of two steps, rounded as Strip (codes.cuh) does. EXACT: with
// scales of 8 bits, whose products need no float32.
template <Code CODE, bool EXACT> __device__ __forceinline__ void widen(u32 (&a)[2][4], const Coding &c, const u8 *weights, int strip, int half) {
    u32 words[code_bits(CODE) / 2];
    if (CODE == E4M3) *(uint4 *)words = *(const uint4 *)(weights + ((strip * 2 + half) * WARP + lane_id()) * 16);
    else *(uint2 *)words = *(const uint2 *)(weights + (strip * WARP + lane_id()) * 16 + half * 8);
    const int row = strip * 16 + lane_id() / 4 + (c.group_step >> 31 ? half * CODE_ROWS : 0); // of the scales: halves may have their own
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float by = scale_near(weights + Coded::SCALES, EXACT ? 2 : c.scale_bytes, row + 8 * r) * (CODE == INT4 ? INT4_PARTS : 1);
        const u32 twice = __byte_perm(__float_as_uint(by), 0, 0x3232);
        u32 zero = 0;
        if (CODE == INT4) zero = int4_zero(c.zeros ? weights[Coded::ZEROS + row + 8 * r] : 8, r);
#pragma unroll
        for (int j = 0; j < 4; j++) { // registers of these rows
            const int step = j / 2, i = r + j % 2 * 2;
            const u32 two = CODE == E4M3 ? e4m3_fragment(words, step, i) : CODE == INT4 ? int4_pair(words[step], i, zero) : table4_index(words[step], i);
            a[step][i] = EXACT ? fma_bf16x2(two, twice, BF16_NEGATIVE_ZEROS)
                : CODE == TABLE4 ? pack(c.table[two & 15] * by, c.table[two >> 4] * by) : pack(lo(two) * by, hi(two) * by);
        }
    }
}

__device__ __forceinline__ void widen(u32 (&a)[2][4], const Coding &c, const u8 *weights, int strip, int half) {
    const bool exact = c.scale_bytes == 2;
    if (c.code == INT4 && exact) widen<INT4, true>(a, c, weights, strip, half);
    else if (c.code == E4M3 && exact) widen<E4M3, true>(a, c, weights, strip, half);
    else if (c.code == INT4) widen<INT4, false>(a, c, weights, strip, half);
    else if (c.code == E4M3) widen<E4M3, false>(a, c, weights, strip, half);
    else widen<TABLE4, false>(a, c, weights, strip, half);
}

template <int N, GemmEpilogue EPILOGUE, class W>
__device__ __forceinline__ void multiply(const typename W::Params &p, Shared &s, Ring<W> &ring, const Tile &tile, int pair, int half) {
    float acc[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) acc[i] = 0;
    const int block = 2 * pair + half;
    const Called<EPILOGUE> called(p, tile, block);
    int before = 0;
    const auto read = [&](int k) { // the stage before this one
        wgmma_wait<1>();
        if (k > 0 && lane_id() == 0) mbar_arrive(&s.empty[before]);
        before = ring.slot;
    };
    for (int k = 0; k < p.tiles; k++, ring.next()) {
        called.at_stage(p, block, k);
        mbar_wait(&s.full[ring.slot], ring.phase);
        const u64 lines = wgmma_descriptor(ring.lines());
        if constexpr (std::is_same<W, Plain>::value) {
            const u64 weights = wgmma_descriptor(ring.weights() + half * WEIGHT_TILE);
            wgmma_fence();
#pragma unroll
            for (int c = 0; c < TILE / 16; c++) wgmma_bf16<N>(acc, wgmma_at(weights, c * 32), wgmma_at(lines, c * 32));
            wgmma_commit();
            read(k);
        } else {
            u32 a[2][2][4]; // of both halves of the stage: one is made while the other is multiplied
            const int strip = half * 4 + warp_id() % 4;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                widen(a[i], p.coding, ring.weights(), strip, i);
                wgmma_fence();
#pragma unroll
                for (int c = 0; c < 2; c++) wgmma_bf16_rows<N>(acc, a[i][c], wgmma_at(lines, i * 64 + c * 32));
                wgmma_commit();
                if (i == 0) read(k);
                else wgmma_wait<1>();
            }
        }
    }
    wgmma_wait<0>();
    if (lane_id() == 0) mbar_arrive(&s.empty[before]);
    if (block >= p.blocks) return;
    store<N, EPILOGUE, N % 32 || !std::is_same<W, Plain>::value ? 2 : 4>(p, tile, block, acc);
}

} // namespace

#define GEMM(NAME, EPILOGUE)                                      \
    KERNEL(THREADS, 1, gemm_##NAME##_90, GemmParams) {            \
        DYNAMIC_SHARED(memory);                                   \
        gemm<EPILOGUE, Plain>(p, memory);                         \
    }                                                             \
    KERNEL(THREADS, 1, gemm_coded_##NAME##_90, CodedGemmParams) { \
        DYNAMIC_SHARED(memory);                                   \
        gemm<EPILOGUE, Coded>(p, memory);                         \
    }

GEMM(store, STORE)
GEMM(add, ADD)
GEMM(swiglu, SWIGLU)
GEMM(routed, ROUTED)

#endif
