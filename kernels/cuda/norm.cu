// Token embedding, sums that are due, and RMS norms.
#include "norm.cuh"

struct EmbedParams {
    const u8 *table;   // packed [V, D]
    const int *token;  // [rows]; negative: padding
    float *x;          // [rows, D]
    int D, tiles;      // width (a multiple of 4), tiles along D
};

// embed_rows: x = table[token]. One block a row.
KERNEL(256, 1, embed_rows, EmbedParams) {
    griddep_wait();
    griddep_launch();
    const int row = blockIdx.x, id = p.token[row];
    float4 *x = (float4 *)(p.x + u64(row) * p.D);
    for (int i = threadIdx.x; i < p.D / 4; i += blockDim.x) {
        const uint2 v = id < 0 ? make_uint2(0, 0) : *(const uint2 *)(p.table + weight_at(p.tiles, id, 4 * i));
        x[i] = make_float4(lo(v.x), hi(v.x), lo(v.y), hi(v.y));
    }
}

// norm_rows: writes the normalised rows. One block a row, D floats of shared memory.
KERNEL(NORM_THREADS, 3, norm_rows, NormParams) {
    DYNAMIC_SHARED(memory);
    __shared__ float scratch[32];
    const NormRow at = norm_find(p, blockIdx.x);
    griddep_wait();
    griddep_launch();
    norm_row<false>(p, at, (float *)memory, nullptr, scratch);
}

// rms_norm: adds what is pending to the residual first.
KERNEL(NORM_THREADS, 1, rms_norm, NormParams) {
    DYNAMIC_SHARED(memory);
    __shared__ float scratch[32];
    norm_prefetch(p);
    const NormRow at = norm_find(p, blockIdx.x);
    griddep_wait();
    griddep_launch();
    norm_row<true>(p, at, (float *)memory, nullptr, scratch);
}

struct SumParams {
    Slots slots;
    float *out;      // [rows, ld]
    const int *rows; // null: all of the grid
    int ld, width;
};

// sum_slots: out = the sum of the slots, in the order in which every reader adds them. One block a row.
KERNEL(256, 1, sum_slots, SumParams) {
    griddep_wait();
    griddep_launch();
    const int row = blockIdx.x;
    if (p.rows && row >= *p.rows) return;
    for (int n = threadIdx.x; n < p.width; n += blockDim.x) p.out[u64(row) * p.ld + n] = slot_sum(p.slots, row, n);
}

struct AddParams {
    float *a;        // [rows, ld]: a += b
    const float *b;  // [rows, ld]
    const int *rows; // null: all of the grid
    int ld, width;
};

// add_rows: one block a row.
KERNEL(256, 1, add_rows, AddParams) {
    griddep_wait();
    griddep_launch();
    const int row = blockIdx.x;
    if (p.rows && row >= *p.rows) return;
    for (int n = threadIdx.x; n < p.width; n += blockDim.x) p.a[u64(row) * p.ld + n] += p.b[u64(row) * p.ld + n];
}
