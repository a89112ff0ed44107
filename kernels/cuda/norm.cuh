// The residual stream and its norms. A stage that adds to the residual may leave its products as slots, partial sums that
// the next reader adds in slot order: splits of K, and the shared and the routed expert apart.
#pragma once
#include "image.cuh"

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
    for (int i = 0; i < s.count; i++) y += v[i * s.stride];
    return y;
}

struct NormParams {
    float *x;            // [rows, D] the residual; the pending sums are added to it
    Slots pending[2];    // x + (first + second)
    const int *rows;     // how many rows there are; null: all of the grid. The others become zero in the image
    const int *source;   // [rows] output row r is x row source[r] (nothing may be pending then); null: r
    const float *weight; // [D]
    u8 *image;           // [K/64][R] the normalised rows; null: only add what is pending
    int R, D, tiles;     // lines of the image, width, tiles along D
    float eps;
};

constexpr int NORM_THREADS = 512;

// norm_row does one row with the whole block. values [D] is dynamic shared memory, scratch [32] static.
__device__ __forceinline__ void norm_row(const NormParams &p, int row, float *values, float *scratch) {
    if (p.rows && row >= *p.rows) {
        for (int i = threadIdx.x; p.image && i < p.tiles * 8; i += blockDim.x) {
            uint4 *piece = (uint4 *)(p.image + (u64(i / 8) * p.R + row) * LINE + i % 8 * PIECE);
            *piece = make_uint4(0, 0, 0, 0);
        }
        return;
    }
    float *x = p.x + u64(p.source ? p.source[row] : row) * p.D;
    const bool pending = p.pending[0].values || p.pending[1].values;
    float squares = 0;
    for (int n = threadIdx.x; n < p.D; n += blockDim.x) {
        float v = x[n];
        if (pending) {
            float sum = p.pending[0].values ? slot_sum(p.pending[0], row, n) : 0.0f;
            if (p.pending[1].values) sum += slot_sum(p.pending[1], row, n);
            v += sum;
            x[n] = v;
        }
        values[n] = v;
        squares += v * v;
    }
    if (!p.image) return;
    const float r = rsqrtf(block_sum(squares, scratch) / p.D + p.eps); // the barrier inside makes values visible
    for (int i = threadIdx.x; i < p.tiles * 8; i += blockDim.x) {
        float h[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const int n = i * 8 + j;
            h[j] = n < p.D ? values[n] * r * p.weight[n] : 0.0f;
        }
        *(uint4 *)(p.image + (u64(i / 8) * p.R + row) * LINE + ((i % 8) ^ (row & 7)) * PIECE) =
            make_uint4(pack(h[0], h[1]), pack(h[2], h[3]), pack(h[4], h[5]), pack(h[6], h[7]));
    }
}
