// From projections to queries, keys and values: rotation, QK norm, temperature, and the pages.
#include "rope.cuh"

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

struct TemperParams {
    const int *pos; // [rows]
    float *temper;  // [rows]
    double scale, floor;
    int rows;
};

// rope_temper: what queries of layers without rotation are scaled with, in float64. A thread has a row.
KERNEL(128, 1, rope_temper, TemperParams) {
    griddep_launch();
    griddep_wait();
    if (const int row = blockIdx.x * 128 + threadIdx.x; row < p.rows) p.temper[row] = float(1.0 + p.scale * log(floor((p.pos[row] + 1) / p.floor) + 1.0));
}

namespace {

// append does heads first, first + step, … of a row, HEADS of them, with one warp.
template <int HEADS> __device__ __forceinline__ void append(const RopeParams &p, int row, int first, int step) {
    constexpr int ROUNDS = 2;
    const int l = lane_id(), all = p.heads + 2 * p.kv_heads, slot = p.slot[row];
    const auto dense = [&](const Head &h, int d) { return (float4 *)((h.kind == 1 ? p.k : p.v) + (u64(row) * p.kv_heads + h.h) * p.head_dim + d); };
    if (!(p.steps & ROPE_ROTATE)) { // from k and v into the pages
        for (int i = 0; i < HEADS; i++) {
            const Head h = head_of(p, first + i * step);
            for (int d = 4 * l; d < p.head_dim && h.kind > 0 && first + i * step < all && slot >= 0; d += 4 * WARP)
                rope_store(p, slot, h, d, *dense(h, d));
        }
        return;
    }
    float4 turn[ROUNDS];
    float4 y[HEADS][ROUNDS];
    rope_turns(turn, p, row);
    rope_heads<HEADS, ROUNDS, (HEADS > 1)>(y, p, row, turn, [&](int i) { return first + i * step; }); // several heads are prefill's, whose sums are done
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        const Head h = head_of(p, first + i * step);
        const bool to_page = h.kind > 0 && p.steps & ROPE_APPEND;
#pragma unroll
        for (int j = 0; j < ROUNDS; j++) {
            const int d = 4 * (l + j * WARP);
            if (first + i * step >= all || d >= p.head_dim || (to_page && slot < 0)) continue;
            if (h.kind == 0) *(uint2 *)(p.q + (u64(row) * p.heads + h.h) * p.head_dim + d) = pack4(y[i][j]);
            else if (to_page) rope_store(p, slot, h, d, y[i][j]);
            else *dense(h, d) = y[i][j];
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
