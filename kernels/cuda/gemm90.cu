// Prefill products with wgmma and bulk copies (9.0): 128 outputs x up to 256 rows a block, stages of one 64-column tile.
// One thread of the first warpgroup keeps four stages on their way; two warpgroups of 64 outputs each multiply. The width of a
// product is the smallest instruction that holds the tile's rows, so that an expert with few tokens costs little.
//
// Of quantised weights the whole first warpgroup makes bfloat16, while the others multiply what it made before.
#include "gemm.cuh"

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

namespace {

constexpr int WIDTH = 256;
constexpr int STAGES = 4;
constexpr int STAGE = 2 * WEIGHT_TILE + WIDTH * LINE;
constexpr int WARPGROUP = 128;
constexpr int THREADS = 3 * WARPGROUP;

struct Shared {
    u8 stage[STAGES][STAGE];
    u64 full[STAGES], empty[STAGES];
};

// lines is how many lines of activations a tile loads: whole instructions of 16, within what the image holds.
__device__ __forceinline__ int lines(const Tile &tile) { return ceil_div(tile.rows, 16) * 16; }

__device__ __forceinline__ void produce(const GemmParams &p, Shared &s, int count, int pairs) {
    int n = 0;
    for (int i = blockIdx.x; i < count * pairs; i += gridDim.x) {
        int pair;
        const Tile tile = gemm_tile(p, WIDTH, count, pairs, i, pair);
        const int blocks = min(2, p.blocks - 2 * pair), bytes = lines(tile) * LINE;
        const u8 *w = p.weight + u64(tile.expert) * p.expert_stride + u64(2 * pair) * p.tiles * WEIGHT_TILE;
        const u8 *a = p.act + u64(tile.row) * LINE;
        for (int k = 0; k < p.tiles; k++, n++) {
            const int slot = n % STAGES;
            if (n >= STAGES) mbar_wait(&s.empty[slot], (n / STAGES - 1) & 1);
            mbar_expect_tx(&s.full[slot], blocks * WEIGHT_TILE + bytes);
            for (int b = 0; b < blocks; b++) bulk_load(s.stage[slot] + b * WEIGHT_TILE, w + (u64(b) * p.tiles + k) * WEIGHT_TILE, WEIGHT_TILE, &s.full[slot]);
            bulk_load(s.stage[slot] + 2 * WEIGHT_TILE, a + u64(k) * p.R * LINE, bytes, &s.full[slot]);
        }
    }
}

// produce for quantised weights: every warp widens two strips of 16 rows of each stage, whose codes it loads two stages before.
template <Code CODE> __device__ __forceinline__ void widen(const CodedGemmParams &p, Shared &s, int count, int pairs) {
    int n = 0;
    for (int i = blockIdx.x; i < count * pairs; i += gridDim.x) {
        int pair;
        const Tile tile = gemm_tile(p, WIDTH, count, pairs, i, pair);
        const int bytes = lines(tile) * LINE, strip = warp_id() * 2;
        const u8 *w = p.weight + u64(tile.expert) * p.expert_stride + u64(pair) * p.tiles * code_tile(CODE);
        const u64 block = u64(tile.expert) * pairs + pair;
        Strip<CODE> ahead[2][2];
        const auto load = [&](Strip<CODE> (&strips)[2], int k) {
            if (k >= p.tiles) return;
#pragma unroll
            for (int j = 0; j < 2; j++) strips[j].load(w + u64(k) * code_tile(CODE), p.coding, block, k, strip + j);
        };
        const auto stage = [&](Strip<CODE> (&strips)[2], int k) {
            if (k >= p.tiles) return;
            const int slot = n++ % STAGES;
            if (n > STAGES) mbar_wait(&s.empty[slot], ((n - 1) / STAGES - 1) & 1);
            if (threadIdx.x == 0) {
                mbar_expect_tx(&s.full[slot], bytes);
                bulk_load(s.stage[slot] + 2 * WEIGHT_TILE, p.act + (u64(k) * p.R + tile.row) * LINE, bytes, &s.full[slot]);
            }
#pragma unroll
            for (int j = 0; j < 2; j++) strips[j].store(s.stage[slot] + (strip + j) * 16 * LINE, p.coding);
            fence_proxy_async();
            mbar_arrive(&s.full[slot]);
            load(strips, k + 2);
        };
        load(ahead[0], 0);
        load(ahead[1], 1);
        for (int k = 0; k < p.tiles; k += 2) {
            stage(ahead[0], k);
            stage(ahead[1], k + 1);
        }
    }
}

// multiply is one piece of work of a warpgroup: N columns, outputs 64·half.. of the pair. n counts stages.
template <int N, GemmEpilogue EPILOGUE> __device__ __forceinline__ void multiply(const GemmParams &p, Shared &s, const Tile &tile, int pair, int half, int &n) {
    float acc[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) acc[i] = 0;
    const bool elected = threadIdx.x % WARPGROUP == 0;
    for (int k = 0; k < p.tiles; k++, n++) {
        const int slot = n % STAGES;
        mbar_wait(&s.full[slot], (n / STAGES) & 1);
        wgmma_fence();
#pragma unroll
        for (int c = 0; c < TILE; c += 16)
            wgmma_bf16<N>(acc, wgmma_descriptor(s.stage[slot] + half * WEIGHT_TILE + c * 2), wgmma_descriptor(s.stage[slot] + 2 * WEIGHT_TILE + c * 2));
        wgmma_commit();
        wgmma_wait<1>(); // the stage before this one was read
        if (k > 0 && elected) mbar_arrive(&s.empty[(n - 1) % STAGES]);
    }
    wgmma_wait<0>();
    if (elected) mbar_arrive(&s.empty[(n - 1) % STAGES]);
    const int block = 2 * pair + half;
    if (block >= p.blocks) return;
    gemm_store<EPILOGUE, N / 8, N % 32 ? 2 : 4, true>(p, tile, block, warp_id() % 4, lane_id() % 4 * 2, acc);
}

template <GemmEpilogue EPILOGUE> __device__ __forceinline__ void consume(const GemmParams &p, Shared &s, int count, int pairs) {
    const int half = threadIdx.x / WARPGROUP - 1;
    int n = 0;
    for (int i = blockIdx.x; i < count * pairs; i += gridDim.x) {
        int pair;
        const Tile tile = gemm_tile(p, WIDTH, count, pairs, i, pair);
        if (tile.rows <= 16) multiply<16, EPILOGUE>(p, s, tile, pair, half, n);
        else if (tile.rows <= 32) multiply<32, EPILOGUE>(p, s, tile, pair, half, n);
        else if (tile.rows <= 64) multiply<64, EPILOGUE>(p, s, tile, pair, half, n);
        else if (tile.rows <= 96) multiply<96, EPILOGUE>(p, s, tile, pair, half, n);
        else if (tile.rows <= 128) multiply<128, EPILOGUE>(p, s, tile, pair, half, n);
        else if (tile.rows <= 192) multiply<192, EPILOGUE>(p, s, tile, pair, half, n);
        else multiply<256, EPILOGUE>(p, s, tile, pair, half, n);
    }
}

__device__ __forceinline__ void begin(Shared &s, int arrivals) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&s.full[i], arrivals);
            mbar_init(&s.empty[i], 2); // warpgroups
        }
        mbar_init_fence();
    }
    __syncthreads();
    griddep_wait();
    griddep_launch();
}

template <GemmEpilogue EPILOGUE> __device__ __forceinline__ void gemm(const GemmParams &p, u8 *memory) {
    Shared &s = *reinterpret_cast<Shared *>(memory);
    begin(s, 1);
    const int pairs = ceil_div(p.blocks, 2), count = gemm_count(p, WIDTH);
    using Split = Registers<THREADS, 40, 232>;
    if (threadIdx.x < WARPGROUP) {
        Split::give();
        if (threadIdx.x == 0) produce(p, s, count, pairs);
    } else {
        Split::take();
        consume<EPILOGUE>(p, s, count, pairs);
    }
}

template <GemmEpilogue EPILOGUE> __device__ __forceinline__ void gemm(const CodedGemmParams &p, u8 *memory) {
    Shared &s = *reinterpret_cast<Shared *>(memory);
    begin(s, 1 + WARPGROUP);
    const int pairs = p.blocks / 2, count = gemm_count(p, WIDTH);
    using Split = Registers<THREADS, 88, 208>;
    if (threadIdx.x >= WARPGROUP) {
        Split::take();
        consume<EPILOGUE>(p, s, count, pairs);
        return;
    }
    Split::give();
    if (p.coding.code == E4M3) widen<E4M3>(p, s, count, pairs);
    else if (p.coding.code == INT4) widen<INT4>(p, s, count, pairs);
    else widen<TABLE4>(p, s, count, pairs);
}

} // namespace

#define PLAIN(NAME, EPILOGUE)                            \
    KERNEL(THREADS, 1, gemm_##NAME##_90, GemmParams) {   \
        DYNAMIC_SHARED(memory);                          \
        gemm<EPILOGUE>(p, memory);                       \
    }

#define GEMM(NAME, EPILOGUE)                             \
    PLAIN(NAME, EPILOGUE)                                \
    KERNEL(THREADS, 1, gemm_coded_##NAME##_90, CodedGemmParams) { \
        DYNAMIC_SHARED(memory);                          \
        gemm<EPILOGUE>(p, memory);                       \
    }

GEMM(store, STORE)
GEMM(add, ADD)
GEMM(swiglu, SWIGLU)
GEMM(routed, ROUTED)

#endif
