// The decode engine: products of large matrices with few rows of activations (at most 64), as fast as the weights can be
// read. Weights are the 16-row operand of the tensor cores and tokens the 8-column one, so that one row and eight rows
// are the same instructions.
//
// One producer warp keeps a ring of stages full; eight consumer warps multiply. A stage is a few weight tiles along K, in one
// copy, with the matching tiles of all activations. Each warp multiplies 16 rows; where tiles have 64, warps 0 to 3 take the
// first of every two tiles and the others the second, and the two halves of K are added at the end. What the tiles are is the
// business of a type W: Plain below (bfloat16), Coded in stream_codes.cuh.
//
// The order of every sum is a function of the matrix alone (columns, then tile halves, then splits of K in the reader),
// so a row's result does not depend on which other rows are there.
#pragma once
#include "image.cuh"

constexpr int STREAM_WARPS = 8;
constexpr int STREAM_THREADS = (STREAM_WARPS + 1) * WARP;
constexpr int STREAM_PREPARING = STREAM_THREADS + WARP; // with the warp more that some weights want
constexpr int MAX_DECODE_ROWS = 64;
constexpr int MAX_EXPERTS = 1024;

// StreamParams: out = dense·aᵀ for all rows, and routed[expert of the row]·bᵀ likewise; either part may be absent.
// The decode rows are 0..*rows-1; images have R = 8·NT rows.
struct StreamParams {
    const u8 *dense;      // packed [blocks·64, K] or null
    const u8 *routed;     // packed [E][blocks·64, K] or null
    u64 expert_stride;    // bytes
    const u8 *a;          // image [K/64][R] of the dense part, of bfloat16 or digits
    const u8 *b;          // image [K/64][R] of the routed part
    const int *expert;    // [rows] of the routed part; negative: none
    const int *rows;      // one number
    void *dense_out;      // float [splits][R][ld], or image [F/64][R] after SwiGLU
    void *routed_out;     // likewise
    int experts;          // E
    int blocks;           // blocks of 64 rows in each matrix
    int tiles;            // tiles along K
    int splits;           // cuts of K; 1 with SwiGLU
    int ld;               // of the float outputs
    int features;         // F: rows of the image that SwiGLU writes (the padding above it gets zeros)
    const u32 *ready;     // says when `a` is there, before the kernel that makes `b` and `expert` has ended; null: with its end
    u32 *taken;           // units that blocks took beyond their first; 0 before
    u32 ready_count;
};

enum Epilogue { PARTIAL, SWIGLU };

// stream_act loads the fragments of 8 rows of activations for 32 columns of a tile. row: the one of lane l and of those with the
// same l % 8.
__device__ __forceinline__ void stream_act(u32 (&b)[4], const u8 *act, int row, int pair) {
    ldmatrix_x4(b, act + row * LINE + (((4 * pair + lane_id() / 8) ^ (row % 8)) * PIECE));
}

// Plain is weights of bfloat16: a stage is two tiles of 64 rows x 64 columns, 16 KiB.
template <int NT> struct Plain {
    using Params = StreamParams;
    static constexpr int ROWS = 64;          // of a tile, and outputs of a unit
    static constexpr int TILES = 2;          // in a stage
    static constexpr int GRAIN = 2;          // tiles: where splits of K may lie, for any NT
    static constexpr int HALVES = 2;         // of K, which warps share: as many as tiles in a stage
    static constexpr int TILE_BYTES = WEIGHT_TILE;
    static constexpr int STAGES = NT <= 2 ? 5 : NT <= 4 ? 4 : 3;
    static constexpr int EXTRA = 0;          // bytes of a stage beside tiles and activations
    static constexpr bool GATHERS = false;   // an expert that at most 8 rows chose is multiplied with these alone
    static constexpr bool PREPARES = false;  // a warp more prepares the activations of few rows
    struct Shared {};

    // Beside is where what lies beside the tiles of a unit begins. extra issues the copies of a stage's part of it, which are so many bytes.
    struct Beside {};
    static __device__ __forceinline__ Beside beside(const Params &, int, int) { return {}; }
    static __device__ __forceinline__ int extra_bytes(const Params &, int, int) { return 0; }
    static __device__ __forceinline__ void extra(const Params &, const Beside &, int, int, u8 *, u64 *) {}
    static __device__ __forceinline__ void prepare(const Params &, Shared &) {}

    // activations issues the copies of a stage's activations, from tile `first` along K on, of so many bytes.
    static constexpr __device__ __forceinline__ int activation_bytes(int tiles) { return tiles * NT * 8 * LINE; }
    static __device__ __forceinline__ void activations(const u8 *image, int first, int tiles, u8 *to, u64 *full);

    struct Scale {};

    // begin and end are what happens to the sum of a unit's strip.
    static __device__ __forceinline__ Scale begin(const Params &, int, int, int, const short *, int) { return {}; }
    static __device__ __forceinline__ void end(const Params &, const Scale &, float (&)[NT][4]) {}

    // multiply adds the products of a strip of the stage's tiles, of every second one from `half` on, with groups of 8 rows; along K the
    // stage begins with tile `first`.
    static __device__ __forceinline__ void multiply(const Params &, const Shared &, const Scale &, float (&acc)[NT][4], u8 *stage, int tiles, int, int strip, int half, int) {
        const int l = lane_id(), row = strip * 16 + l % 16;
        if (half >= tiles) return;
        const u8 *weight = stage + half * WEIGHT_TILE, *act = stage + TILES * WEIGHT_TILE + half * NT * 8 * LINE;
#pragma unroll
        for (int pair = 0; pair < 2; pair++) { // 32 columns
            u32 a[2][4];
#pragma unroll
            for (int k = 0; k < 2; k++) ldmatrix_x4(a[k], weight + row * LINE + (((4 * pair + 2 * k + l / 16) ^ (row & 7)) * PIECE));
#pragma unroll
            for (int j = 0; j < NT; j++) {
                u32 b[4];
                stream_act(b, act, j * 8 + l % 8, pair);
                mma_bf16(acc[j], a[0], b[0], b[1]);
                mma_bf16(acc[j], a[1], b[2], b[3]);
            }
        }
    }
};

template <class W, int NT> constexpr __host__ __device__ int stream_stage_bytes() { return W::TILES * (W::TILE_BYTES + NT * 8 * LINE) + W::EXTRA; }

// Unit is what one block computes at a time: the outputs of a block of rows over one split of K.
struct alignas(16) Unit {
    int expert, hit; // -1: dense
    int block, split;
    int first, tiles; // along K; no tiles: there are no more units
};

// StreamShared is small enough for two blocks on a multiprocessor. Every unit has a stage at least, so its place in `unit` is free when
// its first stage is: whoever is done with the stage that is STAGES back has stored the sums of all units before that stage's.
template <class W, int NT> struct StreamShared {
    u8 stage[W::STAGES][stream_stage_bytes<W, NT>()];
    float half[W::HALVES > 1 ? 4 : 0][NT][WARP][4]; // the second half of K of a unit, on its way to the first
    u64 full[W::STAGES], empty[W::STAGES];
    u64 prepared[W::PREPARES ? W::STAGES : 0]; // full, and activations as products want them
    int of[W::STAGES];          // the unit whose stage it is,
    int along[W::STAGES];       // and its first tile
    short hits[MAX_DECODE_ROWS]; // experts that some row chose, ascending
    short first[MAX_DECODE_ROWS + 1]; // GATHERS: where a hit's rows begin in order
    short order[MAX_DECODE_ROWS]; // GATHERS: rows by expert
    short expert[MAX_DECODE_ROWS]; // negative: none
    u32 hit[MAX_EXPERTS / 32];  // their set
    int hit_count;
    int rows;
    typename W::Shared more;
    Unit unit[W::STAGES + 1]; // one after the other
};

// stream_dense is how many units the dense part has; they come first.
__device__ __forceinline__ int stream_dense(const StreamParams &p) { return p.dense ? p.blocks * p.splits : 0; }

// stream_units is how many there are at all, once the choice is known.
template <class W, int NT> __device__ __forceinline__ int stream_units(const typename W::Params &p, const StreamShared<W, NT> &s) { return stream_dense(p) + s.hit_count * p.blocks * p.splits; }

// stream_unit is unit i.
template <class W, int NT> __device__ __forceinline__ Unit stream_unit(const typename W::Params &p, const StreamShared<W, NT> &s, int i) {
    Unit u;
    u.expert = u.hit = -1;
    if (const int dense = stream_dense(p); i >= dense) {
        const int units = p.blocks * p.splits; // of a matrix
        i -= dense;
        u.hit = i / units;
        u.expert = s.hits[u.hit];
        i -= u.hit * units;
    }
    u.block = i / p.splits;
    u.split = i - u.block * p.splits;
    // Splits are whole grains, the first ones one grain longer where they do not divide.
    const int grains = ceil_div(p.tiles, W::GRAIN), each = grains / p.splits, longer = grains - each * p.splits;
    u.first = (u.split * each + min(u.split, longer)) * W::GRAIN;
    u.tiles = min((each + (u.split < longer)) * W::GRAIN, p.tiles - u.first);
    return u;
}

// stream_copies says who issues copies: one lane bulk copies on 9.0, every lane pieces before.
__device__ __forceinline__ bool stream_copies() {
#if __CUDA_ARCH__ >= 900
    return lane_id() == 0;
#else
    return true;
#endif
}
__device__ __forceinline__ void stream_copy(u8 *dst, const u8 *src, int bytes, u64 *bar, bool once) {
#if __CUDA_ARCH__ >= 900
    if (once) bulk_load_once(dst, src, bytes, bar);
    else bulk_load(dst, src, bytes, bar);
#else
    for (int i = lane_id() * PIECE; i < bytes; i += WARP * PIECE) cp_async16(dst + i, src + i);
#endif
}

// stream_begin announces a stage's bytes, stream_end says that its copies were issued.
__device__ __forceinline__ void stream_begin(u64 *bar, int bytes) {
#if __CUDA_ARCH__ >= 900
    mbar_expect_tx(bar, bytes);
#endif
}
__device__ __forceinline__ void stream_end(u64 *bar) {
#if __CUDA_ARCH__ < 900
    __threadfence_block(); // the stage's unit before the arrival, which comes by itself
    cp_async_mbar_arrive(bar);
#endif
}
// Arrivals that complete a full stage: the announcement, or every lane of the producer.
#if __CUDA_ARCH__ >= 900
constexpr int STREAM_FULL_ARRIVALS = 1;
#else
constexpr int STREAM_FULL_ARRIVALS = WARP;
#endif

template <int NT> __device__ __forceinline__ void Plain<NT>::activations(const u8 *image, int first, int tiles, u8 *to, u64 *full) {
    stream_copy(to, image + u64(first) * NT * 8 * LINE, activation_bytes(tiles), full, false);
}

__device__ __forceinline__ float silu(float v) { return v / (1.0f + __expf(-v)); }

// stream_hits lists the experts that the rows chose. The producer does it; consumers see it with the first stage that needs it.
template <class W, int NT> __device__ __forceinline__ void stream_hits(const StreamParams &p, StreamShared<W, NT> &s) {
    const int l = lane_id();
    s.hit[l] = 0;
    static_assert(MAX_EXPERTS / 32 == WARP);
    __syncwarp();
#pragma unroll 1
    for (int i = l; i < NT * 8; i += WARP) {
        const int e = i < s.rows ? p.expert[i] : -1;
        const bool is = u32(e) < u32(p.experts);
        s.expert[i] = is ? e : -1;
        if (is) atomicOr(&s.hit[e / 32], 1u << e % 32);
    }
    __syncwarp();
    int n = 0;
#pragma unroll 1
    for (int w = 0; w < ceil_div(p.experts, 32); w++) {
        const u32 set = s.hit[w];
        if (set >> l & 1) s.hits[n + __popc(set & ((1u << l) - 1))] = w * 32 + l;
        n += __popc(set);
    }
    if (l == 0) s.hit_count = n;
    __syncwarp();
    if (!W::GATHERS) return;
    int rows = 0;
#pragma unroll 1
    for (int h = 0; h < n; h++) {
        if (l == 0) s.first[h] = rows;
#pragma unroll 1
        for (int from = 0; from < NT * 8; from += WARP) {
            const bool chose = from + l < NT * 8 && s.expert[from + l] == s.hits[h];
            const u32 set = __ballot_sync(0xffffffffu, chose);
            if (chose) s.order[rows + __popc(set & ((1u << l) - 1))] = from + l;
            rows += __popc(set);
        }
    }
    if (l == 0) s.first[n] = rows;
    __syncwarp();
}

// Rows are those that a unit multiplies.
template <class W, int NT> struct Rows {
    const short *order; // null: all, as they lie
    int count;

    __device__ __forceinline__ Rows(const StreamShared<W, NT> &s, const Unit &u) : order(nullptr), count(s.rows) {
        if (!W::GATHERS || u.expert < 0) return;
        const int from = s.first[u.hit], n = s.first[u.hit + 1] - from;
        if (n <= 8) order = s.order + from, count = n;
    }
    // operator[] is row i, or, beyond the last, one that is there.
    __device__ __forceinline__ int operator[](int i) const { return order ? order[i < count ? i : 0] : i; }
};

// stream_produce keeps the ring full. Units of the dense part come first, which need nothing but `a`. The first unit is the
// block's own, the others go to whoever is ready: multiprocessors differ by a fifth in what they get of a busy memory. Who
// computes a unit changes nothing in its result.
//
// The weights of a dense first unit depend on nothing that earlier kernels write: they are on their way before those kernels have
// ended. That is a turn of the same loop, since code that runs once comes slowly, and stands in the way of other kernels' code.
//
// One lane does it, one instruction after the other, so little is worked out with every stage, and addresses stay in registers.
template <class W, int NT> __device__ __forceinline__ void stream_produce(const typename W::Params &p, StreamShared<W, NT> &s) {
    constexpr int STAGES = W::STAGES;
#if __CUDA_ARCH__ >= 900
    bool early = int(blockIdx.x) < stream_dense(p);
#else
    bool early = false;
#endif
    bool known = false; // the choice
    int filled = 0;     // stages of the first unit whose weights are on their way
    int n = 0;          // stages issued
    int at = 0;         // of s.unit
    u8 *const stages = opaque(s.stage[0]);
    u64 *const full = opaque(s.full), *const empty = opaque(s.empty);
    int slot = 0, phase = 1; // what is empty from the beginning has this one
    int i = blockIdx.x;
#pragma unroll 1
    for (;;) {
        if (!early && !known && (!p.ready || i >= stream_dense(p))) {
            griddep_wait();
            if (p.routed) stream_hits(p, s);
            known = true;
        } else if (!early && n == 0) {
            wait_signals(p.ready, p.ready_count);
            fence_proxy_async_global();
        }
        if (i >= stream_dense(p) && (!p.routed || i >= (stream_units<W, NT>(p, s)))) break;
        u32 taken = 0; // the answer is there when the unit has been issued
        if (!early && lane_id() == 0) taken = atomicAdd(p.taken, 1u);
        const Unit u = stream_unit<W, NT>(p, s, i);
        const u8 *weight = opaque((u.expert < 0 ? p.dense : p.routed + u64(u.expert) * p.expert_stride) + (u64(u.block) * p.tiles + u.first) * W::TILE_BYTES);
        const u8 *const image = opaque(u.expert < 0 ? p.a : p.b);
        const typename W::Beside beside = W::beside(p, u.expert, u.block);
#pragma unroll 1
        for (int t = 0; t < u.tiles && (!early || n < STAGES); t += W::TILES, n++) {
            const int tiles = min(W::TILES, u.tiles - t), first = u.first + t;
            u8 *const stage = stages + slot * stream_stage_bytes<W, NT>();
            u64 *const bar = full + slot;
            mbar_wait(empty + slot, phase);
            if (lane_id() == 0) {
                if (t == 0) s.unit[at] = u;
                s.of[slot] = at, s.along[slot] = first;
            }
            if (stream_copies()) {
                if (n >= filled) {
                    stream_begin(bar, tiles * W::TILE_BYTES + W::activation_bytes(tiles) + W::extra_bytes(p, first, tiles));
                    stream_copy(stage, weight, tiles * W::TILE_BYTES, bar, true);
                    W::extra(p, beside, first, tiles, stage + W::TILES * (W::TILE_BYTES + NT * 8 * LINE), bar);
                }
                if (!early) W::activations(image, first, tiles, stage + W::TILES * W::TILE_BYTES, bar);
            }
            if (!early) stream_end(bar);
            weight += W::TILES * W::TILE_BYTES;
            if (++slot == STAGES) slot = 0, phase ^= 1;
        }
        if (early) {
            filled = n, n = 0, slot = 0, phase = 1, early = false;
            continue;
        }
        i = int(gridDim.x + __shfl_sync(0xffffffffu, taken, 0));
        if (++at == STAGES + 1) at = 0;
    }
    mbar_wait(&s.empty[slot], phase);
    if (lane_id() == 0) s.unit[at].tiles = 0, s.of[slot] = at;
    if (lane_id() < STREAM_FULL_ARRIVALS) mbar_arrive(&s.full[slot]);
}

// stream_store writes 16 rows of outputs of a unit. Lane (g, t) holds rows g and g+8 of tokens 8j+2t and 8j+2t+1.
template <class W, int NT, Epilogue EPILOGUE>
__device__ __forceinline__ void stream_store(const StreamParams &p, const StreamShared<W, NT> &s, const Unit &u, const float (&acc)[NT][4], int rows16) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    void *out = u.expert < 0 ? p.dense_out : p.routed_out;
    const Rows<W, NT> rows(s, u);
#pragma unroll
    for (int j = 0; j < NT; j++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const int i = j * 8 + t * 2 + c, token = rows[i];
            if (i >= rows.count || (u.expert >= 0 && s.expert[token] != u.expert)) continue;
            if (EPILOGUE == PARTIAL) {
                float *y = (float *)out + (u64(u.split) * NT * 8 + token) * p.ld + u.block * W::ROWS + rows16 * 16 + g;
                y[0] = acc[j][c];
                y[8] = acc[j][c + 2];
            } else {
                const int f = u.block * (W::ROWS / 2) + rows16 * 8 + g; // rows g are gates, g+8 their ups
                if (f < p.features)
                    *(bf16 *)((u8 *)out + image_at(NT * 8, token, f)) = __float2bfloat16_rn(silu(acc[j][c]) * acc[j][c + 2]);
            }
        }
    }
}

// stream_prepare is the warp more: it prepares stages as they come. Consumers wait for it with every stage, so it lets them go first, and
// then sees to it that copies may come to the stage again: it is one of those that empty it.
template <class W, int NT> __device__ __forceinline__ void stream_prepare(StreamShared<W, NT> &s) {
    int slot = 0, phase = 0;
#pragma unroll 1
    for (;;) {
        mbar_wait(&s.full[slot], phase);
        const Unit &unit = s.unit[s.of[slot]];
        int left = unit.tiles;
        if (left == 0) break;
        const Rows<W, NT> rows(s, unit);
#pragma unroll 1
        for (;;) {
            if (rows.count <= 8) W::prepare_rows(s.stage[slot], rows.order, rows.count, left);
            __syncwarp();
            if (lane_id() == 0) mbar_arrive(&s.prepared[slot]);
            fence_proxy_async();
            __syncwarp();
            if (lane_id() == 0) mbar_arrive(&s.empty[slot]);
            if (++slot == W::STAGES) slot = 0, phase ^= 1;
            if ((left -= W::TILES) <= 0) break;
            mbar_wait(&s.full[slot], phase);
        }
    }
    if (lane_id() == 0) mbar_arrive(&s.prepared[slot]);
}

// stream_filled are the barriers that consumers wait for.
template <class W, int NT> __device__ __forceinline__ u64 *stream_filled(StreamShared<W, NT> &s) { return W::PREPARES ? s.prepared : s.full; }

template <class W, int NT, Epilogue EPILOGUE>
__device__ __forceinline__ void stream_consume(const typename W::Params &p, StreamShared<W, NT> &s) {
    constexpr int STRIPS = STREAM_WARPS / W::HALVES;
    const int strip = warp_id() % STRIPS, half = warp_id() / STRIPS;
    // With `ready`, what the dense units write was last read before the kernel that signals began.
    if (!p.ready) griddep_wait();
    int slot = 0, phase = 0;
    for (;;) {
        mbar_wait(&stream_filled<W, NT>(s)[slot], phase);
        int at = s.of[slot], left = s.unit[at].tiles;
        if (left == 0) break;
        float acc[NT][4] = {};
        const Rows<W, NT> rows(s, s.unit[at]);
        const typename W::Scale scale = W::begin(p, s.unit[at].expert, s.unit[at].block, strip, rows.order, rows.count);
        for (;;) {
            W::multiply(p, s.more, scale, acc, s.stage[slot], left, s.along[slot], strip, half, s.rows);
            at = s.of[slot]; // registers are too few to keep it
            __syncwarp();
            if (lane_id() == 0) mbar_arrive(&s.empty[slot]);
            if (++slot == W::STAGES) slot = 0, phase ^= 1;
            if ((left -= W::TILES) <= 0) break;
            mbar_wait(&stream_filled<W, NT>(s)[slot], phase);
        }
        W::end(p, scale, acc);
        if (W::HALVES > 1) {
            if (half == 1) {
#pragma unroll
                for (int j = 0; j < NT; j++) *(float4 *)s.half[strip][j][lane_id()] = make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]);
            }
            bar_sync(1, STREAM_WARPS * WARP);
            if (half == 0) {
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    const float4 v = *(const float4 *)s.half[strip][j][lane_id()];
                    acc[j][0] += v.x, acc[j][1] += v.y, acc[j][2] += v.z, acc[j][3] += v.w;
                }
            }
        }
        if (half == 0) stream_store<W, NT, EPILOGUE>(p, s, s.unit[at], acc, strip);
        if (W::HALVES > 1) bar_sync(1, STREAM_WARPS * WARP); // before the next unit overwrites half
    }
}

template <class W, int NT, Epilogue EPILOGUE> __device__ __forceinline__ void stream(const typename W::Params &p, u8 *memory) {
    StreamShared<W, NT> &s = *reinterpret_cast<StreamShared<W, NT> *>(memory);
    constexpr int STAGES = W::STAGES;
    griddep_launch();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&s.full[i], STREAM_FULL_ARRIVALS);
            mbar_init(&s.empty[i], STREAM_WARPS + W::PREPARES);
            if (W::PREPARES) mbar_init(&s.prepared[i], 1);
        }
        mbar_init_fence();
        s.rows = min(*p.rows, NT * 8); // lies there since before the step
    }
    W::prepare(p, s.more);
    __syncthreads();

    if (warp_id() == STREAM_WARPS) stream_produce<W, NT>(p, s);
    else if (warp_id() < STREAM_WARPS) stream_consume<W, NT, EPILOGUE>(p, s);
    else if constexpr (W::PREPARES) stream_prepare<W, NT>(s);
}
