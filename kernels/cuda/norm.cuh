// The residual stream and its norms. A stage that adds to the residual may leave its products as slots, partial sums that
// the next reader adds in slot order: splits of K, and the shared and the routed expert apart.
#pragma once
#include "image.cuh"
#include "peers.cuh"

// Slots is a sum that is not done yet: y[row, n] = Σ_s values[s·stride + row·ld + n].
struct Slots {
    const float *values; // null: zero
    u64 stride;          // elements between slots
    int count;
    int ld;
};

__device__ __forceinline__ float slot_sum(const Slots &s, int row, int n) {
    float y = 0;
    const float *v = s.values + u64(row) * s.ld + n;
#pragma unroll 4
    for (int i = 0; i < s.count; i++) y += v[i * s.stride];
    return y;
}

__device__ __forceinline__ void add_to(float4 &a, float4 b) { a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w; }
__device__ __forceinline__ float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

struct NormParams {
    float *x;            // [rows, D] the residual; the pending sums are added to it
    Slots pending[2];    // x + (first + second)
    const int *rows;     // how many rows there are; null: all of the grid. The others become zero in the image
    const int *source;   // [rows] output row r is x row source[r] (nothing may be pending then); null: r
    const float *weight; // [D]
    u8 *image;           // [K/64][R] the normalised rows; null: only add what is pending
    int R, D, tiles;     // lines of the image, width, tiles along D
    float eps;
    u32 *arrivals;       // [rows][arrivals_ld] counters that later kernels of the layer need at 0 (rms_norm); null: none
    int arrivals_ld;
    int exchange;
    const Peers *peers;  // whose pending sums are added, too; null: there are none
    const u32 *step;     // of slices (slice.cuh): the number of the step,
    u64 *squares;        // [rows][MAX_GROUPS] sums on their way between blocks,
    u32 number;          // and which norm of the step this is
    int digits;          // route's kernels: the image is one of digits (digits.cuh), which they write
    const int *place;    // [D] of kernels that are ORDERED: column c of x is column place[c] of the row, as weight has them
};

constexpr int NORM_THREADS = 512;
constexpr int NORM_VECTORS = 3; // of four columns that a thread has on their way at a time: 6,144 columns in one pass

// The order of a row's sum of squares, whoever adds: 128 columns as a warp adds a vector of four for each lane, then these groups,
// every 32nd for each lane.
constexpr int NORM_GROUP = 4 * WARP;
constexpr int MAX_GROUPS = 128; // MAX_WIDTH / NORM_GROUP

__device__ __forceinline__ float norm_squares(float4 v) { return warp_sum(v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w); }

// slot_vectors is slot_sum of this thread's vectors from `from` on; beyond D/4 they are zero.
__device__ __forceinline__ void slot_vectors(float4 (&y)[NORM_VECTORS], const Slots &s, int row, int from, int vectors) {
    const float4 *v = (const float4 *)(s.values + u64(row) * s.ld) + from + threadIdx.x;
    const auto load = [&](int i, int j) {
        return from + int(threadIdx.x) + j * NORM_THREADS < vectors ? v[i * (s.stride / 4) + j * NORM_THREADS] : make_float4(0, 0, 0, 0);
    };
    constexpr int AHEAD = 3; // slots at a time
#pragma unroll
    for (int j = 0; j < NORM_VECTORS; j++) y[j] = make_float4(0, 0, 0, 0);
    for (int first = 0; first < s.count; first += AHEAD) {
        float4 o[AHEAD][NORM_VECTORS];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int j = 0; j < NORM_VECTORS; j++) o[i][j] = first + i < s.count ? load(first + i, j) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int j = 0; j < NORM_VECTORS; j++) add_to(y[j], o[i][j]); // adding 0 to a sum changes nothing
    }
}

// NormWeight is this thread's part of the norm's weight, of the first pass: it may be read before griddep_wait.
struct NormWeight {
    float4 w[NORM_VECTORS];
};

__device__ __forceinline__ NormWeight norm_weight(const NormParams &p) {
    NormWeight n;
#pragma unroll
    for (int j = 0; j < NORM_VECTORS; j++) {
        const int i = threadIdx.x + j * NORM_THREADS;
        n.w[j] = p.image && i < p.D / 4 ? ((const float4 *)p.weight)[i] : make_float4(0, 0, 0, 0);
    }
    return n;
}

// NormRow says where a row comes from. The step's metadata lies in memory before its first kernel begins: it may be read
// before griddep_wait.
struct NormRow {
    int row;    // of the image
    int source; // of x; negative: the row is not there
};

__device__ __forceinline__ NormRow norm_find(const NormParams &p, int row) {
    if (p.rows && row >= *p.rows) return NormRow{row, -1};
    return NormRow{row, p.source ? p.source[row] : row};
}

constexpr u32 NORMS_A_STEP = 1 << 13;

// sum_vector is a vector of a row's sum over all ranks.
__device__ __forceinline__ float4 sum_vector(const NormParams &p, int row, int i, float4 own) {
    const u32 epoch = *p.peers->epoch + p.exchange;
    mail_send(*p.peers, epoch, p.exchange, row, i, own);
    return mail_sum(*p.peers, epoch, p.exchange, row, i, own);
}

// sum_peers makes this thread's sums those of all ranks. All of them are on their way before the first is waited for.
__device__ __forceinline__ void sum_peers(const NormParams &p, int row, int from, int vectors, float4 (&sum)[NORM_VECTORS]) {
    const Peers &peers = *p.peers;
    const u32 epoch = *peers.epoch + p.exchange;
#pragma unroll
    for (int j = 0; j < NORM_VECTORS; j++)
        if (const int i = from + threadIdx.x + j * NORM_THREADS; i < vectors) mail_send(peers, epoch, p.exchange, row, i, sum[j]);
#pragma unroll
    for (int j = 0; j < NORM_VECTORS; j++)
        if (const int i = from + threadIdx.x + j * NORM_THREADS; i < vectors) sum[j] = mail_sum(peers, epoch, p.exchange, row, i, sum[j]);
}

// norm_scale is what a row is multiplied with, of the sums of its groups. Every warp asks.
__device__ __forceinline__ float norm_scale(const NormParams &p, const float *groups) {
    float all = 0;
#pragma unroll 1
    for (int g = lane_id(); g < ceil_div(p.D, NORM_GROUP); g += WARP) all += groups[g];
    return rsqrtf(warp_sum(all) / p.D + p.eps);
}

// norm_pack is four normalised columns, and norm_place where vector i of a row lies in the image, half a piece.
__device__ __forceinline__ uint2 norm_pack(float4 v, float r, float4 w) { return make_uint2(pack(v.x * r * w.x, v.y * r * w.y), pack(v.z * r * w.z, v.w * r * w.w)); }
__device__ __forceinline__ uint2 *norm_place(const NormParams &p, int row, int i) {
    return (uint2 *)(p.image + (u64(i / 16) * p.R + row) * LINE + ((i / 2 % 8) ^ (row & 7)) * PIECE + i % 2 * 8);
}

// What is due to the residual before a norm: due(sum, row, from, vectors) is this thread's vectors of it, if there is anything.
struct Nothing {
    __device__ __forceinline__ bool operator()(float4 (&)[NORM_VECTORS], int, int, int) const { return false; }
};

struct Pending { // slots, of all ranks if there are peers
    const NormParams &p;

    __device__ __forceinline__ bool operator()(float4 (&sum)[NORM_VECTORS], int row, int from, int vectors) const {
        if (!p.pending[0].values && !p.pending[1].values) return false;
        slot_vectors(sum, p.pending[0], row, from, vectors); // without values its count is 0
        if (p.pending[1].values) {
            float4 second[NORM_VECTORS];
            slot_vectors(second, p.pending[1], row, from, vectors);
#pragma unroll
            for (int j = 0; j < NORM_VECTORS; j++) add_to(sum[j], second[j]);
        }
        if (p.peers) sum_peers(p, row, from, vectors, sum);
        return true;
    }
};

struct Parts { // of all ranks, where they lie
    const ShareParams &p;

    __device__ __forceinline__ bool operator()(float4 (&sum)[NORM_VECTORS], int row, int from, int vectors) const {
        share_vectors<NORM_VECTORS, NORM_THREADS>(sum, p, row, from + threadIdx.x, vectors);
        return true;
    }
};

// norm_row does one row with the whole block of NORM_THREADS. values [D] and h, bfloat16 [tiles·64] of the normalised row, are
// shared memory; scratch [MAX_GROUPS], too. D is a multiple of 4. ORDERED, the columns change places on their way into shared memory,
// after the sum of squares, whose order stays.
//
// A block works alone on its row, so nothing but latency counts in decode: all loads of a pass leave before the first is used.
template <bool ORDERED, class Due>
__device__ __forceinline__ void norm_row(const NormParams &p, NormRow at, const NormWeight &weight, float *values, uint2 *h, float *scratch, const Due &due) {
    const int row = at.row;
    if (at.source < 0) {
        for (int i = threadIdx.x; p.image && !p.digits && i < p.tiles * 8; i += NORM_THREADS) {
            uint4 *piece = (uint4 *)(p.image + (u64(i / 8) * p.R + row) * LINE + i % 8 * PIECE);
            *piece = make_uint4(0, 0, 0, 0);
        }
        return;
    }
    float4 *x = (float4 *)(p.x + u64(at.source) * p.D);
    const int vectors = p.D / 4;
    for (int from = 0; from < vectors; from += NORM_THREADS * NORM_VECTORS) {
        float4 v[NORM_VECTORS], sum[NORM_VECTORS];
#pragma unroll
        for (int j = 0; j < NORM_VECTORS; j++) {
            const int i = from + threadIdx.x + j * NORM_THREADS;
            v[j] = i < vectors ? x[i] : make_float4(0, 0, 0, 0);
        }
        const bool pending = due(sum, row, from, vectors);
#pragma unroll
        for (int j = 0; j < NORM_VECTORS; j++) {
            const int i = from + threadIdx.x + j * NORM_THREADS;
            if (pending) add_to(v[j], sum[j]);
            const float squares = norm_squares(v[j]); // beyond the columns they are zero
            if (lane_id() == 0 && i < vectors) scratch[i / WARP] = squares;
            if (i >= vectors) continue;
            if (pending) x[i] = v[j];
            if constexpr (ORDERED) {
                const int4 to = ((const int4 *)p.place)[i];
                values[to.x] = v[j].x, values[to.y] = v[j].y, values[to.z] = v[j].z, values[to.w] = v[j].w;
            } else {
                ((float4 *)values)[i] = v[j];
            }
        }
    }
    if (!p.image) return;
    __syncthreads();
    const float r = norm_scale(p, scratch);
    const auto write = [&](int i, float4 w) {
        const uint2 packed = i < vectors ? norm_pack(((const float4 *)values)[i], r, w) : make_uint2(0, 0);
        if (!p.digits) *norm_place(p, row, i) = packed;
        if (h) h[i] = packed;
    };
#pragma unroll
    for (int j = 0; j < NORM_VECTORS; j++)
        if (const int i = threadIdx.x + j * NORM_THREADS; i < p.tiles * 16) write(i, weight.w[j]);
    for (int i = threadIdx.x + NORM_VECTORS * NORM_THREADS; i < p.tiles * 16; i += NORM_THREADS)
        write(i, i < vectors ? ((const float4 *)p.weight)[i] : make_float4(0, 0, 0, 0));
}
