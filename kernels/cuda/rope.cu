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
    griddep_wait();
    griddep_launch();
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
    const int *rows;        // null: all of the grid
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

// rope_append: one warp a head of q, k or v of a row. Grid (rows, heads / 4).
KERNEL(128, 1, rope_append, RopeParams) {
    const int row = blockIdx.x, head = blockIdx.y * 4 + warp_id(), l = lane_id();
    if (head >= p.heads + 2 * p.kv_heads || (p.rows && row >= *p.rows)) {
        griddep_wait();
        griddep_launch();
        return;
    }
    const int half = p.head_dim / 2;
    const bool is_q = head < p.heads, is_k = !is_q && head < p.heads + p.kv_heads;
    const int h = is_q ? head : is_k ? head - p.heads : head - p.heads - p.kv_heads; // within its kind
    const int column = (is_q ? 0 : is_k ? p.k_at : p.v_at) + h * p.head_dim;
    bf16 *dense = is_q ? p.q + (u64(row) * p.heads + h) * p.head_dim : p.k == nullptr ? nullptr : (is_k ? p.k : p.v) + (u64(row) * p.kv_heads + h) * p.head_dim;
    const int slot = is_q ? -1 : p.slot[row];
    bf16 *cached = nullptr; // this head's keys or values in the row's page
    const int token = slot % p.page_tokens;
    if (slot >= 0)
        cached = p.pages + u64(slot / p.page_tokens) * p.page_stride + p.layer_at + (u64(is_k ? 0 : p.kv_heads) + h) * p.page_tokens * p.head_dim;
    const auto place = [&](int d) { // of column d of the row
        if (!p.tiled) return token * p.head_dim + d;
        return (d / TILE * p.page_tokens + token) * TILE + (((d % TILE / 8) ^ (token & 7)) * 8) + d % 8;
    };

    griddep_wait();
    griddep_launch();
    constexpr int PAIRS = 4; // of a lane: heads of up to 256
    float a[PAIRS], b[PAIRS];
    if (p.steps & ROPE_ROTATE) {
        float squares = 0;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const int pair = l + i * WARP;
            a[i] = b[i] = 0;
            if (pair >= half) continue;
            const float2 v = slot_pair(p.qkv, row, column + 2 * pair);
            const float x = v.x, y = v.y;
            a[i] = x, b[i] = y;
            if (p.table && (is_q || is_k)) {
                const float2 t = p.table[u64(row) * half + pair];
                a[i] = x * t.x - y * t.y;
                b[i] = x * t.y + y * t.x;
            }
            squares += a[i] * a[i] + b[i] * b[i];
        }
        float scale = 1;
        if (p.qk_norm && (is_q || is_k)) scale = rsqrtf(warp_sum(squares) / p.head_dim + p.eps);
        if (is_q && p.temp_floor > 0) scale *= float(1.0 + p.temp_scale * log(floor((p.pos[row] + 1) / p.temp_floor) + 1.0));
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const int pair = l + i * WARP;
            if (pair >= half) continue;
            const u32 v = pack(a[i] * scale, b[i] * scale);
            if (is_q || !(p.steps & ROPE_APPEND)) *(u32 *)(dense + 2 * pair) = v;
            else if (cached) *(u32 *)(cached + place(2 * pair)) = v;
        }
        return;
    }
    for (int pair = l; pair < half && cached; pair += WARP) *(u32 *)(cached + place(2 * pair)) = *(const u32 *)(dense + 2 * pair);
}
