// What the prefill products for 9.0 share (gemm90.cu, gemm_e4m3_90.cu): 128 outputs x up to 256 rows a block, from stages of one or two
// 64-column tiles. One thread of the first warpgroup keeps stages on their way; two warpgroups of 64 outputs each multiply. The width of
// a product is the smallest instruction that holds the tile's rows, so that an expert with few tokens costs little.
//
// Pieces of work differ in size, so blocks take them as they can. As long as every block has one they are whole tiles; what is left
// is cut up, so that no block sits idle for long.
//
// A family has a class W for each kind of weights, with
//   Params        of its kernels
//   Widths        of its instructions
//   WIDTH         the widest of them: the most rows of a tile
//   BYTES         of a stage before its lines of activations, a multiple of 1,024
//   TILES         along K in a stage
//   LARGE         weights are what most time goes into bringing here
// and defines Source<W>, which fills stages, and multiply.
#pragma once
#include "gemm.cuh"
#include <type_traits>

namespace {

constexpr int WARPGROUP = 128;
constexpr int THREADS = 3 * WARPGROUP;
constexpr int WARPS = 8; // that multiply
constexpr int MOST_STAGES = 6;
constexpr int RING = MOST_STAGES * (2 * WEIGHT_TILE + 160 * LINE); // bytes

template <int... N> struct Columns {}; // of instructions, ascending

// Unit is a piece of work for a block: a tile and 128 outputs.
struct Unit {
    Tile tile; // without rows: there is nothing to do
    int pair;
};

struct Shared {
    u8 ring[RING]; // stages: weights, then lines of activations
    u64 full[MOST_STAGES], empty[MOST_STAGES];
    Unit unit[MOST_STAGES]; // that begins with this stage; without rows: there are no more
};

// Ring is a warp's place among the stages: as many as there is room for with tiles of so many rows.
template <class W> struct Ring {
    u8 *const memory;
    const int bytes, stages;
    int slot = 0;
    u32 phase = 0;

    __device__ __forceinline__ Ring(Shared &s, int width) : memory(s.ring), bytes(W::BYTES + width * LINE), stages(min(RING / bytes, MOST_STAGES)) {}
    __device__ __forceinline__ u8 *weights() const { return memory + slot * bytes; }
    __device__ __forceinline__ u8 *lines() const { return weights() + W::BYTES; }
    __device__ __forceinline__ void next() {
        if (++slot == stages) slot = 0, phase ^= 1;
    }
};

template <class W> __device__ __forceinline__ int tile_rows(const GemmParams &p) { return p.width ? p.width : W::WIDTH; }

// Work is the units of a product.
template <class W> struct Work {
    using Params = typename W::Params;
    int width, count, pairs; // of a tile; tiles; 128 outputs
    int group;               // tiles whose weights meet: an expert's, or one where most experts have one
    int whole, parts, units; // the first units are whole, of each of the others there are so many parts

    __device__ __forceinline__ Work(const Params &p) : width(tile_rows<W>(p)), count(gemm_count(p, width)), pairs(ceil_div(p.blocks, 2)) {
        group = W::LARGE && p.list ? (width < W::WIDTH ? 1 : 4) : 8;
        constexpr int MOST_PARTS = 4;
        const int pieces = count * pairs, blocks = gridDim.x, rest = pieces % blocks;
        whole = pieces - rest;
        parts = rest > 0 ? min(blocks / rest, MOST_PARTS) : 1;
        units = whole + rest * parts;
    }
    // unit is the i-th; it has no rows where there are fewer parts.
    __device__ __forceinline__ Unit unit(const Params &p, int i) const {
        Unit u;
        if (i < whole) {
            u.tile = gemm_tile(p, width, count, pairs, i, u.pair, group);
            return u;
        }
        const int part = (i - whole) % parts;
        u.tile = gemm_tile(p, width, count, pairs, whole + (i - whole) / parts, u.pair, group);
        const int rows = ceil_div(ceil_div(u.tile.rows, parts), 16) * 16;
        u.tile.row += part * rows, u.tile.rows = max(0, min(rows, u.tile.rows - part * rows));
        return u;
    }
};

// Lines are the activations of a unit: whole instructions of 16, within what the image holds.
struct Lines {
    const u8 *at;
    u64 step;
    u32 bytes;

    __device__ __forceinline__ Lines(const GemmParams &p, const Unit &u)
        : at(p.act + u64(u.tile.row) * LINE), step(u64(p.R) * LINE), bytes(ceil_div(u.tile.rows, 16) * 16 * LINE) {}
};

// Source is where the stages of a unit come from. As little as can be is computed for each: that is between an empty place and its copy.
template <class W> struct Source;

// produce is one thread. What it takes next is asked for a unit ahead.
template <class W> __device__ __forceinline__ void produce(const typename W::Params &p, Shared &s) {
    const Work<W> work(p);
    Ring<W> ring(s, work.width);
    for (int i = blockIdx.x, next; i < work.units; i = next) {
        next = gridDim.x + (p.taken ? atomicAdd(p.taken, 1u) : i);
        const Unit u = work.unit(p, i);
        if (u.tile.rows == 0) continue;
        Source<W> source(p, u);
        for (int k = 0; k < p.tiles; k += W::TILES, ring.next()) {
            mbar_wait(&s.empty[ring.slot], ring.phase ^ 1);
            if (k == 0) s.unit[ring.slot] = u;
            source.fill(p, ring.weights(), &s.full[ring.slot], k);
        }
    }
    mbar_wait(&s.empty[ring.slot], ring.phase ^ 1);
    s.unit[ring.slot].tile.rows = 0;
    mbar_arrive(&s.full[ring.slot]);
}

// store_swiglu and store_routed are gemm_store for what they are named after, BATCH as there.
template <int N> __device__ __forceinline__ void store_swiglu(const GemmParams &p, const Tile &tile, int block, const float (&v)[N / 2]) {
    const int f = block * (TILE / 2) + warp_id() % 4 * 8 + lane_id() / 4, column = lane_id() % 4 * 2 + f % 2;
    if (f >= p.features) return; // all of a warp's, or none
    u8 *out = (u8 *)p.out + image_at(p.out_R, tile.row + column, f & ~1); // rows 8 apart are 8 lines apart
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        float y[2];
#pragma unroll
        for (int c = 0; c < 2; c++) y[c] = v[4 * j + c] * reciprocal_approx(1.0f + __expf(-v[4 * j + c])) * v[4 * j + c + 2];
        const float2 pair = gemm_pair(y);
        if (column + 8 * j < tile.rows) *(u32 *)(out + j * 8 * LINE) = pack(pair.x, pair.y);
    }
}

template <int N, int BATCH> __device__ __forceinline__ void store_routed(const GemmParams &p, const Tile &tile, int block, const float (&v)[N / 2]) {
    const int n = block * TILE + warp_id() % 4 * 16 + lane_id() / 4;
    float *out = (float *)p.out;
    int token[ceil_div(N, WARP)];
#pragma unroll
    for (int i = 0; i < ceil_div(N, WARP); i++) {
        const int row = i * WARP + lane_id();
        token[i] = row < tile.rows ? p.token_of[tile.row + row] : -1;
    }
    const bool add = p.base, read = add && p.base != out;
#pragma unroll
    for (int from = 0; from < N / 8; from += BATCH) {
        int to[BATCH][2]; // rows of out
        float base[BATCH][4];
#pragma unroll
        for (int j = 0; j < BATCH; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) to[j][c] = __shfl_sync(0xffffffffu, token[(from + j) / 4], (from + j) % 4 * 8 + lane_id() % 4 * 2 + c);
#pragma unroll
        for (int j = 0; j < BATCH; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) base[j][i] = read && to[j][i % 2] >= 0 ? p.base[u64(to[j][i % 2]) * p.ld + n + i / 2 * 8] : 0.0f;
#pragma unroll
        for (int j = 0; j < BATCH; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (to[j][i % 2] < 0) continue;
                const float y = base[j][i] + v[(from + j) * 4 + i];
                float *there = out + u64(to[j][i % 2]) * p.ld + n + i / 2 * 8;
                if (add) add_there(there, y);
                else *there = y;
            }
    }
}

// Called is what an epilogue will read, called into the L2 cache meanwhile: its rows are known before the first stage, and there at the
// second.
template <GemmEpilogue EPILOGUE> struct Called {
    const bool reads;
    int token[2] = {-1, -1};

    __device__ __forceinline__ Called(const GemmParams &p, const Tile &tile, int block) : reads(EPILOGUE == ROUTED && p.base && p.base != p.out && block < p.blocks) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = threadIdx.x % WARPGROUP + i * WARPGROUP;
            if (reads && row < tile.rows) token[i] = p.token_of[tile.row + row];
        }
    }
    __device__ __forceinline__ void at_stage(const GemmParams &p, int block, int stage) const {
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (reads && stage == 1 && token[i] >= 0) {
                const float *row = p.base + u64(token[i]) * p.ld + block * TILE;
                prefetch_l2(row), prefetch_l2(row + TILE / 2);
            }
    }
};

// store is the epilogue of a unit's warpgroup. BATCH: for store_routed.
template <int N, GemmEpilogue EPILOGUE, int BATCH> __device__ __forceinline__ void store(const GemmParams &p, const Tile &tile, int block, const float (&acc)[N / 2]) {
    if constexpr (EPILOGUE == SWIGLU) store_swiglu<N>(p, tile, block, acc);
    else if constexpr (EPILOGUE == ROUTED) store_routed<N, BATCH>(p, tile, block, acc);
    else gemm_store<EPILOGUE, N / 8, N % 32 ? 2 : 4, true>(p, tile, block, warp_id() % 4, lane_id() % 4 * 2, acc);
}

// multiply is one unit of a warpgroup: N columns, outputs 64·half.. of the pair.
template <int N, GemmEpilogue EPILOGUE, class W>
__device__ __forceinline__ void multiply(const typename W::Params &p, Shared &s, Ring<W> &ring, const Tile &tile, int pair, int half);

// within says that a tile has at most so many rows. What the whole warp says tells the compiler that places in the ring are the same for
// all of its lanes.
__device__ __forceinline__ bool within(const Tile &tile, int rows) { return __any_sync(0xffffffffu, tile.rows <= rows); }

// dispatch multiplies with the first width that holds the tile's rows.
template <GemmEpilogue EPILOGUE, class W, int N, int... MORE>
__device__ __forceinline__ void dispatch(Columns<N, MORE...>, const typename W::Params &p, Shared &s, Ring<W> &ring, const Tile &tile, int pair, int half) {
    if constexpr (sizeof...(MORE) > 0)
        if (!within(tile, N)) return dispatch<EPILOGUE>(Columns<MORE...>(), p, s, ring, tile, pair, half);
    multiply<N, EPILOGUE>(p, s, ring, tile, pair, half);
}

template <GemmEpilogue EPILOGUE, class W> __device__ __forceinline__ void consume(const typename W::Params &p, Shared &s) {
    const int half = threadIdx.x / WARPGROUP - 1;
    Ring<W> ring(s, tile_rows<W>(p));
    for (;;) {
        mbar_wait(&s.full[ring.slot], ring.phase);
        const Tile tile = s.unit[ring.slot].tile;
        const int pair = s.unit[ring.slot].pair;
        if (within(tile, 0)) return;
        dispatch<EPILOGUE>(typename W::Widths(), p, s, ring, tile, pair, half);
    }
}

template <GemmEpilogue EPILOGUE, class W> __device__ __forceinline__ void gemm(const typename W::Params &p, u8 *memory) {
    Shared &s = *reinterpret_cast<Shared *>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < MOST_STAGES; i++) mbar_init(&s.full[i], 1), mbar_init(&s.empty[i], WARPS);
        mbar_init_fence();
    }
    __syncthreads();
    griddep_wait();
    griddep_launch();
    using Split = Registers<THREADS, 40, 232>;
    if (threadIdx.x < WARPGROUP) {
        Split::give();
        if (threadIdx.x == 0) produce<W>(p, s);
    } else {
        Split::take();
        consume<EPILOGUE, W>(p, s);
    }
}

} // namespace
