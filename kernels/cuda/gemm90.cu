// Prefill products with wgmma and bulk copies (9.0): 128 outputs x up to 256 rows a block, stages of one 64-column tile.
// One thread of the first warpgroup keeps four stages on their way; two warpgroups of 64 outputs each multiply. The width of a
// product is the smallest instruction that holds the tile's rows, so that an expert with few tokens costs little.
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
    gemm_store<EPILOGUE, N / 8, N / 8 < 4 ? N / 8 : 4>(p, tile, block, warp_id() % 4, lane_id() % 4 * 2, acc);
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

template <GemmEpilogue EPILOGUE> __device__ __forceinline__ void gemm(const GemmParams &p, u8 *memory) {
    Shared &s = *reinterpret_cast<Shared *>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&s.full[i], 1);
            mbar_init(&s.empty[i], 2); // warpgroups
        }
        mbar_init_fence();
    }
    __syncthreads();
    griddep_wait();
    griddep_launch();
    const int pairs = ceil_div(p.blocks, 2), count = gemm_count(p, WIDTH);
    if (threadIdx.x < WARPGROUP) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0) produce(p, s, count, pairs);
    } else {
        setmaxnreg_inc<232>();
        consume<EPILOGUE>(p, s, count, pairs);
    }
}

} // namespace

#define GEMM(NAME, EPILOGUE)                 \
    KERNEL(THREADS, 1, NAME, GemmParams) {   \
        DYNAMIC_SHARED(memory);              \
        gemm<EPILOGUE>(p, memory);           \
    }

GEMM(gemm_store_90, STORE)
GEMM(gemm_add_90, ADD)
GEMM(gemm_swiglu_90, SWIGLU)
GEMM(gemm_routed_90, ROUTED)

#endif
