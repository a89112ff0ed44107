// A decode row normed and routed by several blocks, a slice of 640 columns each. One block would read the sums of a row's splits, up to
// 16 rows of float32, and the router, at the pace of one multiprocessor. The blocks of a row are all running: they tell
// each other the sums of their squares and their parts of the logits. Orders of sums are norm.cuh's and route.cuh's, and so are the bits.
#pragma once
#include "route.cuh"

constexpr int SLICE_VECTORS = ROUTE_SLICE / 4, SLICE_GROUPS = ROUTE_SLICE / NORM_GROUP;
static_assert(SLICE_VECTORS >= MAX_GROUPS && SLICE_VECTORS % WARP == 0);

// Slice is a block's part of a row: thread t has vector slice·SLICE_VECTORS + t.
struct Slice {
    int row, slice, slices, vector;
    bool there;  // the row is
    bool image;  // the thread's vector is in the image,
    bool column; // and it is no padding
    u32 about;   // tells this norm from all others

    __device__ __forceinline__ Slice(const NormParams &n) {
        slices = ceil_div(n.tiles * TILE, ROUTE_SLICE);
        row = blockIdx.x / slices, slice = blockIdx.x % slices, vector = slice * SLICE_VECTORS + threadIdx.x;
        there = row < *n.rows;
        image = int(threadIdx.x) < SLICE_VECTORS && vector < n.tiles * 16;
        column = image && 4 * vector < n.D;
        about = *n.step * NORMS_A_STEP + n.number;
    }
};

// slice_due is the thread's vector of what is due: all loads leave before the first is used.
__device__ __forceinline__ float4 slice_due(const NormParams &n, const Slice &at) {
    constexpr int AHEAD = 8; // splits
    float4 sum[2] = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
    const float *next[2];
#pragma unroll
    for (int which = 0; which < 2; which++) next[which] = n.pending[which].values + u64(at.row) * n.pending[which].ld + 4 * at.vector;
#pragma unroll 1
    for (int first = 0; first < max(n.pending[0].count, n.pending[1].count); first += AHEAD) {
        float4 v[2][AHEAD];
#pragma unroll
        for (int which = 0; which < 2; which++)
#pragma unroll
            for (int j = 0; j < AHEAD; j++, next[which] += n.pending[which].stride)
                v[which][j] = first + j < n.pending[which].count ? *(const float4 *)next[which] : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int which = 0; which < 2; which++)
#pragma unroll
            for (int j = 0; j < AHEAD; j++) add_to(sum[which], v[which][j]); // adding 0 to a sum changes nothing
    }
    return n.pending[1].values ? add(sum[0], sum[1]) : sum[0];
}

// norm_slice adds what is due to the slice of x and writes it normed to the image and to h, [ROUTE_SLICE] of bfloat16 in shared memory (null:
// nobody reads it). weight: of the thread's vector. groups [MAX_GROUPS] is shared memory. ORDERED, its columns go where they belong in the image,
// and h is null.
template <bool ORDERED = false> __device__ __forceinline__ void norm_slice(const NormParams &n, const Slice &at, float4 weight, float *groups, uint2 *h) {
    float4 v = make_float4(0, 0, 0, 0);
    float r = 0;
    if (at.there) {
        float4 *x = (float4 *)(n.x + u64(at.row) * n.D) + at.vector;
        if (at.column) {
            v = *x;
            if (n.pending[0].values) {
                float4 due = slice_due(n, at);
                if (n.peers) due = sum_vector(n, at.row, at.vector, due);
                *x = v = add(v, due);
            }
        }
        u64 *told = n.squares + at.row * MAX_GROUPS;
        const int all = ceil_div(n.D, NORM_GROUP), group = at.slice * SLICE_GROUPS + warp_id();
        const float own = norm_squares(v);
        if (lane_id() == 0 && warp_id() < SLICE_GROUPS && group < all) tell(told + group, own, at.about);
        if (int(threadIdx.x) < all) groups[threadIdx.x] = hear(told + threadIdx.x, at.about);
        __syncthreads();
        r = norm_scale(n, groups);
    }
    if (!at.image) return;
    if constexpr (ORDERED) {
        if (at.there && at.column) {
            const int4 to = ((const int4 *)n.place)[at.vector];
            const auto put = [&](int column, float value) { *(bf16 *)(n.image + image_at(n.R, at.row, column)) = __float2bfloat16_rn(value); };
            put(to.x, v.x * r * weight.x), put(to.y, v.y * r * weight.y), put(to.z, v.z * r * weight.z), put(to.w, v.w * r * weight.w);
            return;
        }
    }
    const uint2 packed = at.there && at.column ? norm_pack(v, r, weight) : make_uint2(0, 0);
    if (!n.digits) *norm_place(n, at.row, at.vector) = packed;
    if (h) h[threadIdx.x] = packed;
}

template <bool ORDERED = false> __device__ __forceinline__ float4 slice_weight(const NormParams &n, const Slice &at) {
    if (!at.column) return make_float4(0, 0, 0, 0);
    if constexpr (ORDERED) {
        const int4 to = ((const int4 *)n.place)[at.vector];
        return make_float4(n.weight[to.x], n.weight[to.y], n.weight[to.z], n.weight[to.w]);
    }
    return ((const float4 *)n.weight)[at.vector];
}
