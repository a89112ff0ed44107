// Prefill products with wgmma and bulk copies (9.0): 128 outputs x up to 256 rows a block, stages of one 64-column tile.
// One thread of the first warpgroup keeps stages on their way; two warpgroups of 64 outputs each multiply. The width of a
// product is the smallest instruction that holds the tile's rows, so that an expert with few tokens costs little.
//
// Quantised weights come as codes. The warps that multiply widen their rows of the next stage into registers while the tensor cores
// are at this one: codes lie as such operands want them.
//
// Pieces of work differ in size, so blocks take them as they can. As long as every block has one they are whole tiles; what is left
// is cut up, so that no block sits idle for long.
#include "gemm.cuh"
#include <type_traits>

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

namespace {

constexpr int WARPGROUP = 128;
constexpr int THREADS = 3 * WARPGROUP;
constexpr int WARPS = 8; // that multiply
constexpr int MOST_STAGES = 6;
constexpr int RING = MOST_STAGES * (2 * WEIGHT_TILE + 160 * LINE); // bytes

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

// Weights of a stage, and the most rows of a tile. Codes are followed by the scales and zeros of up to two groups of columns; the
// registers they are widened in are taken from the sums.
struct Plain {
    using Params = GemmParams;
    static constexpr int WIDTH = 256, WIDE = 224, BYTES = 2 * WEIGHT_TILE;
};
struct Coded {
    using Params = CodedGemmParams;
    static constexpr int WIDTH = 208, WIDE = 208, SCALES = code_tile(E4M3), ZEROS = SCALES + 2 * CODE_ROWS * 4, BYTES = 10 << 10;
    static_assert(BYTES >= ZEROS + 2 * CODE_ROWS && BYTES % 1024 == 0, "swizzled lines follow");
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
        group = std::is_same<W, Plain>::value && p.list ? (width < W::WIDTH ? 1 : 4) : 8;
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

// produce is one thread. What it takes next is asked for a unit ahead.
template <class W> __device__ __forceinline__ void produce(const typename W::Params &p, Shared &s) {
    const Work<W> work(p);
    Ring<W> ring(s, work.width);
    for (int i = blockIdx.x, next; i < work.units; i = next) {
        next = gridDim.x + (p.taken ? atomicAdd(p.taken, 1u) : i);
        const Unit u = work.unit(p, i);
        if (u.tile.rows == 0) continue;
        Source<W> source(p, u);
        for (int k = 0; k < p.tiles; k++, ring.next()) {
            mbar_wait(&s.empty[ring.slot], ring.phase ^ 1);
            if (k == 0) s.unit[ring.slot] = u;
            source.fill(p, ring.weights(), &s.full[ring.slot], k);
        }
    }
    mbar_wait(&s.empty[ring.slot], ring.phase ^ 1);
    s.unit[ring.slot].tile.rows = 0;
    mbar_arrive(&s.full[ring.slot]);
}

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
            const u32 two = CODE == E4M3 ? e4m3_pair(words[step * 2 + i / 2], i % 2) : CODE == INT4 ? int4_pair(words[step], i, zero) : table4_index(words[step], i);
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

// multiply is one unit of a warpgroup: N columns, outputs 64·half.. of the pair.
template <int N, GemmEpilogue EPILOGUE, class W>
__device__ __forceinline__ void multiply(const typename W::Params &p, Shared &s, Ring<W> &ring, const Tile &tile, int pair, int half) {
    float acc[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) acc[i] = 0;
    const int block = 2 * pair + half;
    // What the epilogue will read is called into the L2 cache meanwhile: its rows are known before the first stage, and there at the second.
    const bool reads = EPILOGUE == ROUTED && p.base && p.base != p.out && block < p.blocks;
    int token[2] = {-1, -1};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = threadIdx.x % WARPGROUP + i * WARPGROUP;
        if (reads && row < tile.rows) token[i] = p.token_of[tile.row + row];
    }
    int before = 0;
    const auto read = [&](int k) { // the stage before this one
        wgmma_wait<1>();
        if (k > 0 && lane_id() == 0) mbar_arrive(&s.empty[before]);
        before = ring.slot;
    };
    for (int k = 0; k < p.tiles; k++, ring.next()) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (reads && k == 1 && token[i] >= 0) {
                const float *row = p.base + u64(token[i]) * p.ld + block * TILE;
                prefetch_l2(row), prefetch_l2(row + TILE / 2);
            }
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
    if constexpr (EPILOGUE == SWIGLU) store_swiglu<N>(p, tile, block, acc);
    else if constexpr (EPILOGUE == ROUTED) store_routed<N, N % 32 || !std::is_same<W, Plain>::value ? 2 : 4>(p, tile, block, acc);
    else gemm_store<EPILOGUE, N / 8, N % 32 ? 2 : 4, true>(p, tile, block, warp_id() % 4, lane_id() % 4 * 2, acc);
}

template <GemmEpilogue EPILOGUE, class W> __device__ __forceinline__ void consume(const typename W::Params &p, Shared &s) {
    const int half = threadIdx.x / WARPGROUP - 1;
    Ring<W> ring(s, tile_rows<W>(p));
    for (;;) {
        mbar_wait(&s.full[ring.slot], ring.phase);
        const Tile tile = s.unit[ring.slot].tile;
        const int pair = s.unit[ring.slot].pair;
        // What the whole warp says tells the compiler that places in the ring are the same for all of its lanes.
        const auto within = [&](int rows) { return __any_sync(0xffffffffu, tile.rows <= rows); };
        if (within(0)) return;
        if (within(16)) multiply<16, EPILOGUE>(p, s, ring, tile, pair, half);
        else if (within(32)) multiply<32, EPILOGUE>(p, s, ring, tile, pair, half);
        else if (within(64)) multiply<64, EPILOGUE>(p, s, ring, tile, pair, half);
        else if (within(96)) multiply<96, EPILOGUE>(p, s, ring, tile, pair, half);
        else if (within(128)) multiply<128, EPILOGUE>(p, s, ring, tile, pair, half);
        else if (within(160)) multiply<160, EPILOGUE>(p, s, ring, tile, pair, half);
        else if (within(192)) multiply<192, EPILOGUE>(p, s, ring, tile, pair, half);
        else if (within(W::WIDE)) multiply<W::WIDE, EPILOGUE>(p, s, ring, tile, pair, half);
        else multiply<W::WIDTH, EPILOGUE>(p, s, ring, tile, pair, half);
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
