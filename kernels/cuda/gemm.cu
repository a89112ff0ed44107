// Prefill products with mma.sync and cp.async, for every GPU from 8.0 on: 128 outputs x 128 rows a block, stages of one
// 64-column tile. gemm90.cu does the same work with the instructions of 9.0.
#include "gemm.cuh"

namespace {

constexpr int WIDTH = 128; // rows of activations in a tile
constexpr int STAGES = 3;
constexpr int STAGE = 2 * WEIGHT_TILE + WIDTH * LINE;
constexpr int THREADS = 256;

// Weights of a piece of work on their way to the stages, in the order of k. Of an odd number of blocks, the last piece's
// second 64 outputs keep what they had.
struct Plain {
    using Params = GemmParams;
    const Tile &tile;
    int pair;

    __device__ __forceinline__ Plain(const Params &, const Tile &tile, int pair) : tile(tile), pair(pair) {}
    __device__ __forceinline__ void load(const Params &p, int k, u8 *stage) {
        const int blocks = min(2, p.blocks - 2 * pair);
        const u8 *w = p.weight + u64(tile.expert) * p.expert_stride + (u64(2 * pair) * p.tiles + k) * WEIGHT_TILE;
#pragma unroll 1
        for (int i = threadIdx.x * PIECE; i < blocks * WEIGHT_TILE; i += THREADS * PIECE)
            cp_async16(stage + i, w + (i / WEIGHT_TILE) * u64(p.tiles) * WEIGHT_TILE + i % WEIGHT_TILE);
    }
};

// Coded widens codes to bfloat16: every warp a strip of 16 rows, loaded one stage before it is stored.
template <Code CODE> struct Coded {
    using Params = CodedGemmParams;
    const u8 *w;
    u64 block;
    Strip<CODE> next;

    __device__ __forceinline__ Coded(const Params &p, const Tile &tile, int pair)
        : w(p.weight + u64(tile.expert) * p.expert_stride + u64(pair) * p.tiles * code_tile(CODE)), block(u64(tile.expert) * (p.blocks / 2) + pair) {
        fetch(p, 0);
    }
    __device__ __forceinline__ void fetch(const Params &p, int k) {
        if (k < p.tiles) next.load(w + u64(k) * code_tile(CODE), p.coding, block, k, warp_id());
    }
    __device__ __forceinline__ void load(const Params &p, int k, u8 *stage) {
        next.store(stage + warp_id() * 16 * LINE, p.coding);
        fetch(p, k + 1);
    }
};

// load fills a stage with tile k of both operands: lines beyond the tile's rows keep what they had.
template <class W> __device__ __forceinline__ void load(W &weights, const typename W::Params &p, const Tile &tile, int k, u8 *stage) {
    weights.load(p, k, stage);
    const u8 *a = p.act + (u64(k) * p.R + tile.row) * LINE;
#pragma unroll 1
    for (int i = threadIdx.x * PIECE; i < tile.rows * LINE; i += THREADS * PIECE) cp_async16(stage + 2 * WEIGHT_TILE + i, a + i);
}

// gemm: warp w computes outputs 32·(w%4).. of 64 rows from 64·(w/4) on.
template <class W, GemmEpilogue EPILOGUE> __device__ __forceinline__ void gemm(const typename W::Params &p, u8 *memory) {
    const int l = lane_id(), outputs = warp_id() % 4 * 32, rows = warp_id() / 4 * 64;
    const int pairs = ceil_div(p.blocks, 2), count = gemm_count(p, WIDTH);
    for (int i = blockIdx.x; i < count * pairs; i += gridDim.x) {
        int pair;
        const Tile tile = gemm_tile(p, WIDTH, count, pairs, i, pair);
        float acc[2][8][4] = {};
        W weights(p, tile, pair);
        __syncthreads(); // the stages of the last piece of work were read
        for (int k = 0; k < STAGES - 1; k++) {
            if (k < p.tiles) load(weights, p, tile, k, memory + k * STAGE);
            cp_async_commit();
        }
        for (int k = 0; k < p.tiles; k++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            if (k + STAGES - 1 < p.tiles) load(weights, p, tile, k + STAGES - 1, memory + (k + STAGES - 1) % STAGES * STAGE);
            cp_async_commit();
            const u8 *const stage = memory + k % STAGES * STAGE; // a lane's lines in it:
            const u8 *const weight = stage + (outputs + l % 16) * LINE, *const act = stage + 2 * WEIGHT_TILE + (rows + l / 16 * 8 + l % 8) * LINE;
#pragma unroll
            for (int step = 0; step < 4; step++) { // 16 columns
                u32 a[2][4];
#pragma unroll
                for (int m = 0; m < 2; m++) ldmatrix_x4(a[m], weight + m * 16 * LINE + (((2 * step + l / 16) ^ (l % 8)) * PIECE));
#pragma unroll
                for (int j = 0; j < 8; j += 2) {
                    u32 b[4]; // 16 rows
                    ldmatrix_x4(b, act + j * 8 * LINE + (((2 * step + l / 8 % 2) ^ (l % 8)) * PIECE));
#pragma unroll
                    for (int m = 0; m < 2; m++) {
                        mma_bf16(acc[m][j], a[m], b[0], b[1]);
                        mma_bf16(acc[m][j + 1], a[m], b[2], b[3]);
                    }
                }
            }
        }
        cp_async_wait<0>();
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const int block = 2 * pair + outputs / TILE, rows16 = (outputs % TILE) / 16 + m;
            if (block >= p.blocks) continue;
            gemm_store<EPILOGUE, 8, 1>(p, tile, block, rows16, rows + l % 4 * 2, &acc[m][0][0]);
        }
    }
}

} // namespace

#define PLAIN(NAME, EPILOGUE, BLOCKS)                       \
    KERNEL(THREADS, BLOCKS, gemm_##NAME##_80, GemmParams) { \
        DYNAMIC_SHARED(memory);                             \
        griddep_wait();                                     \
        griddep_launch();                                   \
        gemm<Plain, EPILOGUE>(p, memory);                   \
    }

#define GEMM(NAME, EPILOGUE, BLOCKS)                                           \
    PLAIN(NAME, EPILOGUE, BLOCKS)                                              \
    KERNEL(THREADS, 1, gemm_coded_##NAME##_80, CodedGemmParams) {              \
        DYNAMIC_SHARED(memory);                                                \
        griddep_wait();                                                        \
        griddep_launch();                                                      \
        if (p.coding.code == E4M3) gemm<Coded<E4M3>, EPILOGUE>(p, memory);     \
        else if (p.coding.code == INT4) gemm<Coded<INT4>, EPILOGUE>(p, memory); \
        else gemm<Coded<TABLE4>, EPILOGUE>(p, memory);                         \
    }

GEMM(store, STORE, 2)
GEMM(add, ADD, 2)
GEMM(swiglu, SWIGLU, 2)
GEMM(routed, ROUTED, 1) // its epilogue needs more registers than two blocks have
PLAIN(bias, BIAS, 1)    // as do these
PLAIN(gelu, GELU, 1)
PLAIN(heads, HEADS, 1)
