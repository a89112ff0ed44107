// Router and choice of a layer of experts: what route.cu launches, and the decode layer (layer90.cu) does in passing.
#pragma once
#include "norm.cuh"

constexpr int MAX_ROUTER_EXPERTS = 1024;

struct RouteParams {
    NormParams norm;
    const u8 *router; // packed [E, D]
    float *logits;    // [rows, ld]
    int *expert;      // [rows]; -1 for rows beyond norm.rows
    float *gate;      // [rows] sigmoid of the chosen logit
    u8 *scaled;       // image [D/64][R]: gate·h, what the chosen expert reads
    u64 *counts;      // [E] rows that each expert was given so far
    u32 *normed;      // counts the blocks whose part of a row is in the image; null: nobody asks
    u64 *parts;       // of slices (slice.cuh): [rows][slices][E] parts of logits on their way between blocks
    u32 *status;      // bit 0: a logit is not a number; bit 1: a tap chose an expert that is not there
    int count;        // rows, in prefill
    int experts, ld;
    int steps;        // which of RouteStep this launch does
    int digits;       // scaled is an image of digits (digits.cuh)
};

enum RouteStep { ROUTE_NORM = 1, ROUTE_LOGITS = 2, ROUTE_CHOOSE = 4, ROUTE_SCALE = 8 };

// The order of a logit's sum, whoever adds: 640 columns as a warp adds every 32nd piece of eight for each lane, then these slices one after
// the other.
constexpr int ROUTE_SLICE = 5 * NORM_GROUP, SLICE_PIECES = ROUTE_SLICE / 8;
constexpr int LANE_PIECES = (SLICE_PIECES + WARP - 1) / WARP; // of a slice, for each lane

// piece_dot is the dot product of eight pairs of bfloat16, in order.
__device__ __forceinline__ float piece_dot(uint4 a, uint4 b, float sum) {
    sum = fmaf(lo(a.x), lo(b.x), sum), sum = fmaf(hi(a.x), hi(b.x), sum);
    sum = fmaf(lo(a.y), lo(b.y), sum), sum = fmaf(hi(a.y), hi(b.y), sum);
    sum = fmaf(lo(a.z), lo(b.z), sum), sum = fmaf(hi(a.z), hi(b.z), sum);
    sum = fmaf(lo(a.w), lo(b.w), sum), sum = fmaf(hi(a.w), hi(b.w), sum);
    return sum;
}

__device__ __forceinline__ const uint4 *activation_piece(const u8 *image, int R, int row, int i) {
    return (const uint4 *)(image + (u64(i / 8) * R + row) * LINE + ((i % 8) ^ (row & 7)) * PIECE);
}

__device__ __forceinline__ uint4 scaled_piece(uint4 h, float g) {
    return make_uint4(pack(g * lo(h.x), g * hi(h.x)), pack(g * lo(h.y), g * hi(h.y)), pack(g * lo(h.z), g * hi(h.z)), pack(g * lo(h.w), g * hi(h.w)));
}

// Choice is the expert of a row and its gate.
struct Choice {
    int expert;
    float gate;
};

// choose is done by one warp: the largest logit, and the lowest expert among equals.
__device__ __forceinline__ Choice choose(const float *logits, int experts, u32 *status) {
    float best = -INFINITY;
    int at = MAX_ROUTER_EXPERTS;
    bool nan = false;
#pragma unroll 1
    for (int e = lane_id(); e < experts; e += WARP) {
        const float v = logits[e];
        nan |= v != v;
        if (v > best) best = v, at = e;
    }
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        const float v = __shfl_xor_sync(0xffffffffu, best, d);
        const int e = __shfl_xor_sync(0xffffffffu, at, d);
        if (v > best || (v == best && e < at)) best = v, at = e;
    }
    if (__any_sync(0xffffffffu, nan) || at >= experts) {
        if (lane_id() == 0) atomicOr(status, 1u);
        at = 0, best = 0;
    }
    return Choice{at, 1.0f / (1.0f + expf(-best))};
}

// record is what the stages after this one, and the host, know of a choice. One lane.
__device__ __forceinline__ void record(const RouteParams &p, int row, Choice c) {
    p.expert[row] = c.expert, p.gate[row] = c.gate;
    atomicAdd((unsigned long long *)&p.counts[c.expert], 1ull);
}

// decide chooses for a row, or, where that is not among the steps, checks and gives what was chosen. One warp.
__device__ __forceinline__ Choice decide(const RouteParams &p, int row, const float *logits) {
    Choice c{0, 0};
    if (p.steps & ROUTE_CHOOSE) {
        c = choose(logits, p.experts, p.status);
        if (lane_id() == 0) record(p, row, c);
    } else if (p.steps & ROUTE_SCALE) {
        c = Choice{p.expert[row], p.gate[row]};
        __syncwarp();
        if (u32(c.expert) >= u32(p.experts) && lane_id() == 0) atomicOr(p.status, 2u), p.expert[row] = 0; // a tap's doing
    }
    return c;
}

// router_piece is piece i of an expert's line of the packed router; zero beyond the columns.
__device__ __forceinline__ uint4 router_piece(const RouteParams &p, int e, int i) {
    if (i >= p.norm.tiles * 8) return make_uint4(0, 0, 0, 0);
    return *(const uint4 *)(p.router + (u64(e / TILE) * p.norm.tiles + i / 8) * WEIGHT_TILE + e % TILE * LINE + ((i % 8) ^ (e & 7)) * PIECE);
}

// RouterSlice is a lane's pieces of an expert in one slice.
struct RouterSlice {
    uint4 w[LANE_PIECES];

    __device__ __forceinline__ void load(const RouteParams &p, int e, int slice) {
#pragma unroll
        for (int j = 0; j < LANE_PIECES; j++)
            w[j] = lane_id() + j * WARP < SLICE_PIECES ? router_piece(p, e, slice * SLICE_PIECES + lane_id() + j * WARP) : make_uint4(0, 0, 0, 0);
    }
    // dot is a slice's part of the logit. h: the slice's pieces, of which there are so many.
    __device__ __forceinline__ float dot(const uint4 *h, int pieces) const {
        float sum = 0;
#pragma unroll
        for (int j = 0; j < LANE_PIECES; j++)
            if (const int i = lane_id() + j * WARP; i < min(pieces, SLICE_PIECES)) sum = piece_dot(h[i], w[j], sum);
        return warp_sum(sum);
    }
};
