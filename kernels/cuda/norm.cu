// Token embedding, sums that are due, and RMS norms.
#include "slice.cuh"

struct EmbedParams {
    const u8 *table;   // packed [V, D]
    const int *token;  // [rows]; negative: padding
    float *x;          // [rows, D]
    int D, tiles;      // width (a multiple of 4), tiles along D
};

// embed_rows: x = table[token]. One block a row. It is a step's first kernel: others may begin when it has seen that what
// the host brought is there, and need not wait to read that.
KERNEL(256, 1, embed_rows, EmbedParams) {
    griddep_wait();
    griddep_launch();
    const int row = blockIdx.x, id = p.token[row];
    float4 *x = (float4 *)(p.x + u64(row) * p.D);
    constexpr int AHEAD = 5;
    for (int from = threadIdx.x; from < p.D / 4; from += AHEAD * 256) {
        uint2 v[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const int i = from + j * 256;
            v[j] = id >= 0 && i < p.D / 4 ? *(const uint2 *)(p.table + weight_at(p.tiles, id, 4 * i)) : make_uint2(0, 0);
        }
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (from + j * 256 < p.D / 4) x[from + j * 256] = make_float4(lo(v[j].x), hi(v[j].x), lo(v[j].y), hi(v[j].y));
    }
}

struct NormPartsParams {
    NormParams norm;
    ShareParams share; // of the rows that are normed; it says neither where the sums go nor how many columns there are
};

// norm_rows: writes the normalised rows. One block a row, D floats of shared memory.
// norm_parts: adds the ranks' parts to the residual first. What another GPU sends takes longer than all the rest.
// rms_norm: adds what is pending to the residual first.
// norm_slices is rms_norm with a block for each slice of each row.
// Each of them, and for rows whose columns are written in an order (NormParams::place), which needs registers.
#define NORM_KERNELS(SUFFIX, ORDERED) \
    KERNEL(NORM_THREADS, ORDERED ? 1 : 3, norm_rows##SUFFIX, NormParams) { \
        DYNAMIC_SHARED(memory); \
        __shared__ float scratch[MAX_GROUPS]; \
        griddep_launch(); \
        const NormWeight weight = norm_weight(p); \
        const NormRow at = norm_find(p, blockIdx.x); \
        griddep_wait(); \
        norm_row<ORDERED>(p, at, weight, (float *)memory, nullptr, scratch, Nothing()); \
    } \
    KERNEL(NORM_THREADS, 1, norm_parts##SUFFIX, NormPartsParams) { \
        DYNAMIC_SHARED(memory); \
        __shared__ float scratch[MAX_GROUPS]; \
        griddep_launch(); \
        const NormWeight weight = norm_weight(p.norm); \
        griddep_wait(); \
        share_meet(p.share); \
        for (int row = blockIdx.x; row < p.share.rows; row += gridDim.x) { \
            norm_row<ORDERED>(p.norm, NormRow{row, row}, weight, (float *)memory, nullptr, scratch, Parts{p.share}); \
            __syncthreads(); \
        } \
    } \
    KERNEL(NORM_THREADS, 1, rms_norm##SUFFIX, NormParams) { \
        DYNAMIC_SHARED(memory); \
        __shared__ float scratch[MAX_GROUPS]; \
        griddep_launch(); \
        const NormWeight weight = norm_weight(p); \
        const NormRow at = norm_find(p, blockIdx.x); \
        griddep_wait(); \
        for (int i = threadIdx.x; p.arrivals && i < p.arrivals_ld; i += NORM_THREADS) p.arrivals[blockIdx.x * p.arrivals_ld + i] = 0; \
        norm_row<ORDERED>(p, at, weight, (float *)memory, nullptr, scratch, Pending{p}); \
    } \
    KERNEL(SLICE_VECTORS, 2, norm_slices##SUFFIX, NormParams) { \
        __shared__ float groups[MAX_GROUPS]; \
        griddep_launch(); \
        const Slice at(p); \
        const float4 weight = slice_weight<ORDERED>(p, at); \
        griddep_wait(); \
        for (int i = threadIdx.x; p.arrivals && at.slice == 0 && i < p.arrivals_ld; i += SLICE_VECTORS) p.arrivals[at.row * p.arrivals_ld + i] = 0; \
        norm_slice<ORDERED>(p, at, weight, groups, nullptr); \
    }

NORM_KERNELS(, false)
NORM_KERNELS(_ordered, true)

struct SumParams {
    Slots slots;
    float *out;      // [rows, ld]
    const int *rows; // null: all of the grid
    int ld, width;
};

// sum_slots: out = the sum of the slots, in the order in which every reader adds them. One block a row.
KERNEL(256, 1, sum_slots, SumParams) {
    griddep_launch();
    griddep_wait();
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
    griddep_launch();
    griddep_wait();
    const int row = blockIdx.x;
    if (p.rows && row >= *p.rows) return;
    for (int n = threadIdx.x; n < p.width; n += blockDim.x) p.a[u64(row) * p.ld + n] += p.b[u64(row) * p.ld + n];
}
