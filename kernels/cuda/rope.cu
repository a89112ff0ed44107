// From projections to queries, keys and values: rotation, QK norm, temperature, and the pages.
#include "norm.cuh"

struct RopeTableParams {
    const double *turns; // [half] inverse frequency / π of each adjacent pair
    const int *pos;      // [rows]
    float2 *table;       // [rows][half] cos and sin of pos·frequency
    int half;
};

// rope_table: one cos and sin for every row and pair of a step, from float64 angles. One block a row.
KERNEL(128, 1, rope_table, RopeTableParams) {
    griddep_launch();
    griddep_wait();
    const int row = blockIdx.x;
    for (int i = threadIdx.x; i < p.half; i += blockDim.x) {
        double sin, cos;
        sincospi(double(p.pos[row]) * p.turns[i], &sin, &cos);
        p.table[row * p.half + i] = make_float2(float(cos), float(sin));
    }
}

enum RopeStep { ROPE_ROTATE = 1, ROPE_APPEND = 2 };

struct RopeParams {
    Slots qkv;              // [rows, q | k | v]
    const float2 *table;    // [rows][Hd/2]; null: no rotation
    const int *pos;         // [rows]
    const int *slot;        // [rows] where the row's key goes: page·page_tokens + place in the page; negative: nowhere
    const int *rows;        // decode: how many there are
    bf16 *q;                // [rows, H·Hd]
    bf16 *k, *v;            // [rows, KvH·Hd] between the steps, where they are apart
    bf16 *pages;            // [pages][page_stride]
    u64 page_stride;        // elements of a page
    u64 layer_at;           // of this layer's keys in a page; its values follow the keys
    double temp_scale, temp_floor; // floor 0: no temperature
    float eps;
    int qk_norm;
    int heads, kv_heads, head_dim, page_tokens;
    int k_at, v_at;         // first columns of k and v
    int tiled;              // layout of the pages (attend.cuh)
    int steps;              // RopeStep
};

namespace {

// Head is one of q, k or v of a row.
struct Head {
    int kind, h, column; // 0, 1, 2; which of its kind; first column of the projections
};

__device__ __forceinline__ Head head_of(const RopeParams &p, int n) {
    if (n < p.heads) return Head{0, n, n * p.head_dim};
    n -= p.heads;
    if (n < p.kv_heads) return Head{1, n, p.k_at + n * p.head_dim};
    return Head{2, n - p.kv_heads, p.v_at + (n - p.kv_heads) * p.head_dim};
}

// append does heads first, first + step, … of a row, HEADS of them, with one warp. A lane has two adjacent pairs of a head, and
// again 64 pairs on: heads of up to 256, a multiple of 4.
template <int HEADS> __device__ __forceinline__ void append(const RopeParams &p, int row, int first, int step) {
    constexpr int ROUNDS = 2;
    const int l = lane_id(), half = p.head_dim / 2, all = p.heads + 2 * p.kv_heads;
    const int slot = p.slot[row], token = slot % p.page_tokens;
    bf16 *page = p.pages + u64(slot / p.page_tokens) * p.page_stride + p.layer_at;
    const auto cached = [&](const Head &h, int d) { // where column d of a key or value lies
        bf16 *base = page + (u64(h.kind == 1 ? 0 : p.kv_heads) + h.h) * p.page_tokens * p.head_dim;
        if (!p.tiled) return base + token * p.head_dim + d;
        return base + (d / TILE * p.page_tokens + token) * TILE + (((d % TILE / 8) ^ (token & 7)) * 8) + d % 8;
    };
    const auto dense = [&](const Head &h, int d) {
        if (h.kind == 0) return p.q + (u64(row) * p.heads + h.h) * p.head_dim + d;
        return (h.kind == 1 ? p.k : p.v) + (u64(row) * p.kv_heads + h.h) * p.head_dim + d;
    };
    if (!(p.steps & ROPE_ROTATE)) { // from k and v into the pages
        for (int i = 0; i < HEADS; i++) {
            const Head h = head_of(p, first + i * step);
            for (int d = 4 * l; d < p.head_dim && h.kind > 0 && first + i * step < all && slot >= 0; d += 4 * WARP)
                *(uint2 *)cached(h, d) = *(const uint2 *)dense(h, d);
        }
        return;
    }
    float4 x[HEADS][ROUNDS], turn[ROUNDS];
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int d = 4 * (l + j * WARP);
        if (p.table && d < p.head_dim) turn[j] = *(const float4 *)(p.table + u64(row) * half + d / 2); // cos, sin of both pairs
    }
#pragma unroll
    for (int i = 0; i < HEADS; i++)
#pragma unroll
        for (int j = 0; j < ROUNDS; j++) {
            const int d = 4 * (l + j * WARP);
            x[i][j] = make_float4(0, 0, 0, 0);
            if (first + i * step >= all || d >= p.head_dim) continue;
            const int column = head_of(p, first + i * step).column + d;
            // Several heads are prefill's, whose sums are done: without a loop all loads leave at once.
            x[i][j] = HEADS > 1 ? *(const float4 *)(p.qkv.values + u64(row) * p.qkv.ld + column) : slot_four(p.qkv, row, column);
        }
    const double temp = p.temp_floor > 0 ? 1.0 + p.temp_scale * log(floor((p.pos[row] + 1) / p.temp_floor) + 1.0) : 1.0;
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        const Head h = head_of(p, first + i * step);
        float squares = 0, scale = 1;
#pragma unroll
        for (int j = 0; j < ROUNDS; j++) {
            const float4 v = x[i][j], t = turn[j];
            if (p.table && h.kind < 2 && 4 * (l + j * WARP) < p.head_dim)
                x[i][j] = make_float4(v.x * t.x - v.y * t.y, v.x * t.y + v.y * t.x, v.z * t.z - v.w * t.w, v.z * t.w + v.w * t.z);
            squares += x[i][j].x * x[i][j].x + x[i][j].y * x[i][j].y + x[i][j].z * x[i][j].z + x[i][j].w * x[i][j].w;
        }
        if (p.qk_norm) squares = warp_sum(squares);
        if (p.qk_norm && h.kind < 2) scale = rsqrtf(squares / p.head_dim + p.eps);
        if (h.kind == 0) scale *= float(temp);
        const bool to_page = h.kind > 0 && p.steps & ROPE_APPEND;
#pragma unroll
        for (int j = 0; j < ROUNDS; j++) {
            const int d = 4 * (l + j * WARP);
            if (first + i * step >= all || d >= p.head_dim || (to_page && slot < 0)) continue;
            *(uint2 *)(to_page ? cached(h, d) : dense(h, d)) = make_uint2(pack(x[i][j].x * scale, x[i][j].y * scale), pack(x[i][j].z * scale, x[i][j].w * scale));
        }
    }
}

} // namespace

// rope_append (decode): grid (rows, heads / 4); a warp has one head.
KERNEL(128, 1, rope_append, RopeParams) {
    const bool there = int(blockIdx.x) < *p.rows; // known before the step
    griddep_launch();
    griddep_wait();
    if (there) append<1>(p, blockIdx.x, blockIdx.y * 4 + warp_id(), 1);
}

// rope_append_rows (prefill): one block a row; a warp has every 8th head, four at a time.
KERNEL(256, 1, rope_append_rows, RopeParams) {
    griddep_launch();
    griddep_wait();
    for (int first = warp_id(); first < p.heads + 2 * p.kv_heads; first += 4 * 8) append<4>(p, blockIdx.x, first, 8);
}
