// What becomes of q, k and v after their projections: rotation, the heads' norm, the scale by position. Used where it stands
// alone (rope.cu) and inside decode attention (attend_decode90.cu).
#pragma once
#include "codes.cuh"
#include "norm.cuh"

enum RopeStep { ROPE_ROTATE = 1, ROPE_APPEND = 2 };

struct RopeParams {
    Slots qkv;              // [rows, q | k | v]
    const float2 *table;    // [rows][Hd/2]; null: no rotation
    const float *temper;    // [rows] what queries are scaled with for their position; null: nothing
    const int *slot;        // [rows] where the row's key goes: page·page_tokens + place in the page; negative: nowhere
    const int *rows;        // decode: how many there are
    bf16 *q;                // [rows, H·Hd]
    float *k, *v;           // [rows, KvH·Hd] between the steps, where they are apart
    u8 *pages;              // [pages][page_stride]
    u64 page_stride;        // elements of a page
    u64 layer_at;           // of this layer's keys in a page; its values follow the keys
    float eps;
    int qk_norm;
    int heads, kv_heads, head_dim, page_tokens;
    int k_at, v_at;         // first columns of k and v
    int tiled, coded;       // layout of the pages (attend.cuh); they hold e4m3, not bf16
    int steps;              // RopeStep
};

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

// rope_turns is the cos and sin of a lane's columns: 4·lane.. and, in every further round, 128 on.
template <int ROUNDS> __device__ __forceinline__ void rope_turns(float4 (&turn)[ROUNDS], const RopeParams &p, int row) {
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int d = 4 * (lane_id() + j * WARP);
        if (p.table && d < p.head_dim) turn[j] = *(const float4 *)(p.table + u64(row) * (p.head_dim / 2) + d / 2); // of both pairs
    }
}

// rope_heads makes a warp's HEADS heads of a row from the sums of their projections: head(i) says which, of all heads of q, k
// and v; one beyond is none. A lane has two adjacent pairs of a head, again in every round: heads of up to 128·ROUNDS values, a
// multiple of 4. DONE: the projections are one slot; their loads then leave at once.
template <int HEADS, int ROUNDS, bool DONE, typename Which>
__device__ __forceinline__ void rope_heads(float4 (&x)[HEADS][ROUNDS], const RopeParams &p, int row, const float4 (&turn)[ROUNDS], Which head) {
    const int l = lane_id(), all = p.heads + 2 * p.kv_heads;
    const float *from[HEADS]; // the lane's first columns
    bool there[HEADS];
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        there[i] = head(i) < all;
        from[i] = p.qkv.values + u64(row) * p.qkv.ld + head_of(p, head(i)).column + 4 * l;
    }
    const auto load = [&](int i, int j, u64 slot, bool is) {
        return is && there[i] && 4 * (l + j * WARP) < p.head_dim ? *(const float4 *)(from[i] + slot + 4 * j * WARP) : make_float4(0, 0, 0, 0);
    };
#pragma unroll
    for (int i = 0; i < HEADS; i++)
#pragma unroll
        for (int j = 0; j < ROUNDS; j++) x[i][j] = load(i, j, 0, DONE);
    constexpr int AHEAD = 8; // slots whose loads leave before the first is added
#pragma unroll 1
    for (int first = 0; !DONE && first < p.qkv.count; first += AHEAD) {
        float4 v[AHEAD][HEADS][ROUNDS];
#pragma unroll
        for (int s = 0; s < AHEAD; s++)
#pragma unroll
            for (int i = 0; i < HEADS; i++)
#pragma unroll
                for (int j = 0; j < ROUNDS; j++) v[s][i][j] = load(i, j, (first + s) * p.qkv.stride, first + s < p.qkv.count);
#pragma unroll
        for (int s = 0; s < AHEAD; s++)
#pragma unroll
            for (int i = 0; i < HEADS; i++)
#pragma unroll
                for (int j = 0; j < ROUNDS; j++) add_to(x[i][j], v[s][i][j]);
    }
    const float temper = p.temper ? p.temper[row] : 1.0f;
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        const Head h = head_of(p, head(i));
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
        if (h.kind == 0) scale *= temper;
#pragma unroll
        for (int j = 0; j < ROUNDS; j++) x[i][j] = make_float4(x[i][j].x * scale, x[i][j].y * scale, x[i][j].z * scale, x[i][j].w * scale);
    }
}

// pack4 rounds four values to bfloat16.
__device__ __forceinline__ uint2 pack4(float4 v) { return make_uint2(pack(v.x, v.y), pack(v.z, v.w)); }

// rope_place is where column d of a row's key or value lies in the pages of E, if the row has a slot.
template <typename E> __device__ __forceinline__ E *rope_place(const RopeParams &p, int slot, const Head &h, int d) {
    constexpr int WIDE = LINE / sizeof(E), SOME = PIECE / sizeof(E); // values of a line and of a piece
    const int token = slot % p.page_tokens;
    E *base = (E *)p.pages + u64(slot / p.page_tokens) * p.page_stride + p.layer_at + (u64(h.kind == 1 ? 0 : p.kv_heads) + h.h) * p.page_tokens * p.head_dim;
    if (!p.tiled) return base + token * p.head_dim + d;
    return base + (d / WIDE * p.page_tokens + token) * WIDE + (((d % WIDE / SOME) ^ (token & 7)) * SOME) + d % SOME;
}

// rope_store puts four values there, d a multiple of 4.
__device__ __forceinline__ void rope_store(const RopeParams &p, int slot, const Head &h, int d, float4 v) {
    if (p.coded) *(u32 *)rope_place<e4m3>(p, slot, h, d) = e4m3_codes(v);
    else *(uint2 *)rope_place<bf16>(p, slot, h, d) = pack4(v);
}
