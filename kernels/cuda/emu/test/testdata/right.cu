// Kernels that do what main.cpp computes with plain loops.
#include "words.cuh"

// mma: out [16, 8] float = a [16, 16] · b [8, 16]ᵀ, fragments by ldmatrix.
KERNEL(32, 1, mma, Params) {
    DYNAMIC_SHARED(s);
    const int l = threadIdx.x, g = l / 4, t = l % 4;
    for (int i = l; i < 32 + 16; i += 32) cp_async16(s + i * 16, i < 32 ? p.a + i * 16 : p.b + (i - 32) * 16);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    u32 a[4], b[2];
    ldmatrix_x4(a, s + l % 16 * 32 + l / 16 * 16);
    ldmatrix_x2(b, s + 512 + l % 8 * 32 + l / 8 % 2 * 16);
    float d[4] = {};
    mma_bf16(d, a, b[0], b[1]);
    float *out = (float *)p.out;
    out[g * 8 + 2 * t] = d[0], out[g * 8 + 2 * t + 1] = d[1];
    out[(g + 8) * 8 + 2 * t] = d[2], out[(g + 8) * 8 + 2 * t + 1] = d[3];
}

// mma_s8_tile: out [16, 8] int = row·8 + column + a [16, 32] · b [8, 32]ᵀ of integers of 8 bits.
KERNEL(32, 1, mma_s8_tile, Params) {
    const int l = threadIdx.x, g = l / 4, t = l % 4;
    const auto word = [&](const u8 *m, int row, int k) { return *(const u32 *)(m + row * 32 + k); };
    const u32 a[4] = {word(p.a, g, 4 * t), word(p.a, g + 8, 4 * t), word(p.a, g, 4 * t + 16), word(p.a, g + 8, 4 * t + 16)};
    int d[4] = {g * 8 + 2 * t, g * 8 + 2 * t + 1, (g + 8) * 8 + 2 * t, (g + 8) * 8 + 2 * t + 1};
    mma_s8(d, a, word(p.b, g, 4 * t), word(p.b, g, 4 * t + 16));
    int *out = (int *)p.out;
    out[g * 8 + 2 * t] = d[0], out[g * 8 + 2 * t + 1] = d[1];
    out[(g + 8) * 8 + 2 * t] = d[2], out[(g + 8) * 8 + 2 * t + 1] = d[3];
}

// transpose: out [16, 16] of 16 bits = aᵀ, by ldmatrix.trans.
KERNEL(32, 1, transpose, Params) {
    DYNAMIC_SHARED(s);
    const int l = threadIdx.x;
    for (int i = l; i < 32; i += 32) *(uint4 *)(s + i * 16) = *(const uint4 *)(p.a + i * 16);
    __syncwarp();
    u32 r[4]; // matrices: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15
    ldmatrix_x4_trans(r, s + l % 16 * 32 + l / 16 * 16);
    for (int i = 0; i < 4; i++) *(u32 *)(p.out + (i / 2 * 8 + l / 4) * 32 + i % 2 * 16 + l % 4 * 4) = r[i];
}

// wgmma_N: out [64, N] float = a [64, n·64] · b [N, n·64]ᵀ; operands are tiles of 64 columns, swizzled as in memory. Two
// stages by bulk copies; one warpgroup multiplies, one thread of another warp copies.
template <int N> __device__ __forceinline__ void product(const Params &p, u8 *s) {
    constexpr int A = 64 * 128, STAGE = A + (N * 128 + 1023) / 1024 * 1024, STAGES = 2;
    u64 *full = (u64 *)(s + STAGES * STAGE), *empty = full + STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) mbar_init(full + i, 1), mbar_init(empty + i, 128);
        mbar_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        for (int k = 0; k < p.n && threadIdx.x == 128; k++) {
            const int slot = k % STAGES;
            if (k >= STAGES) mbar_wait(empty + slot, (k / STAGES - 1) & 1);
            mbar_expect_tx(full + slot, A + N * 128);
            bulk_load(s + slot * STAGE, p.a + k * A, A, full + slot);
            bulk_load(s + slot * STAGE + A, p.b + k * N * 128, N * 128, full + slot);
        }
        return;
    }
    float d[N / 2] = {};
    for (int k = 0; k < p.n; k++) {
        const int slot = k % STAGES;
        mbar_wait(full + slot, k / STAGES & 1);
        wgmma_fence();
        for (int c = 0; c < 4; c++) wgmma_bf16<N>(d, wgmma_descriptor(s + slot * STAGE + c * 32), wgmma_descriptor(s + slot * STAGE + A + c * 32));
        wgmma_commit();
        wgmma_wait<1>();
        if (k > 0) mbar_arrive(empty + (k - 1) % STAGES);
    }
    wgmma_wait<0>();
    const int w = warp_id(), g = lane_id() / 4, t = lane_id() % 4;
    for (int j = 0; j < N / 8; j++)
        for (int i = 0; i < 4; i++) ((float *)p.out)[(w * 16 + g + i / 2 * 8) * N + j * 8 + 2 * t + i % 2] = d[4 * j + i];
}
#define PRODUCT(N)                         \
    KERNEL(160, 1, wgmma_##N, Params) {    \
        DYNAMIC_SHARED(s);                 \
        product<N>(p, s);                  \
    }
PRODUCT(16)
PRODUCT(32)
PRODUCT(64)
PRODUCT(96)
PRODUCT(128)
PRODUCT(192)
PRODUCT(256)

// transposed: out [64, 128] float = a [64, 64] · b [64, 128]; a is plain and comes into registers, b lies in two tiles of 64
// columns, swizzled.
KERNEL(128, 1, transposed, Params) {
    DYNAMIC_SHARED(s);
    constexpr int TILE_BYTES = 64 * 128;
    u64 *full = (u64 *)(s + 2 * TILE_BYTES);
    if (threadIdx.x == 0) {
        mbar_init(full, 1);
        mbar_init_fence();
        mbar_expect_tx(full, 2 * TILE_BYTES);
        bulk_load(s, p.b, 2 * TILE_BYTES, full);
    }
    __syncthreads();
    mbar_wait(full, 0);
    const int w = warp_id(), g = lane_id() / 4, t = lane_id() % 4;
    u32 a[4][4];
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 4; i++) a[k][i] = *(const u32 *)(p.a + ((w * 16 + g + i % 2 * 8) * 64 + k * 16 + i / 2 * 8 + 2 * t) * 2);
    float d[64] = {};
    wgmma_fence();
    for (int k = 0; k < 4; k++) wgmma_bf16_rows_t<128>(d, a[k], wgmma_descriptor_t(s + k * 16 * 128, TILE_BYTES));
    wgmma_commit();
    wgmma_wait<0>();
    for (int j = 0; j < 16; j++)
        for (int i = 0; i < 4; i++) ((float *)p.out)[(w * 16 + g + i / 2 * 8) * 128 + j * 8 + 2 * t + i % 2] = d[4 * j + i];
}

// codes: out [64, 32] float = a [64, 128] · b [32, 128]ᵀ of e4m3; a is plain and comes into registers, b lies in lines of 128 codes, swizzled.
// What is in out's place before does not count.
KERNEL(128, 1, codes, Params) {
    DYNAMIC_SHARED(s);
    constexpr int BYTES = 32 * 128;
    u64 *full = (u64 *)(s + BYTES);
    if (threadIdx.x == 0) {
        mbar_init(full, 1);
        mbar_init_fence();
        mbar_expect_tx(full, BYTES);
        bulk_load(s, p.b, BYTES, full);
    }
    __syncthreads();
    mbar_wait(full, 0);
    const int w = warp_id(), g = lane_id() / 4, t = lane_id() % 4;
    u32 a[4][4];
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 4; i++) a[k][i] = *(const u32 *)(p.a + (w * 16 + g + i % 2 * 8) * 128 + k * 32 + i / 2 * 16 + 4 * t);
    float d[16];
    for (float &v : d) v = 7;
    wgmma_fence();
    wgmma_e4m3_rows<32, false>(d, a[0], wgmma_descriptor(s));
    for (int k = 1; k < 4; k++) wgmma_e4m3_rows<32, true>(d, a[k], wgmma_at(wgmma_descriptor(s), k * 32));
    wgmma_commit();
    wgmma_wait<0>();
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++) ((float *)p.out)[(w * 16 + g + i / 2 * 8) * 32 + j * 8 + 2 * t + i % 2] = d[4 * j + i];
}

// nearest: out [n] int = the e4m3 codes of a [n] float and of its negative.
KERNEL(128, 1, nearest, Params) {
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) {
        const float v = ((const float *)p.a)[i];
        ((u32 *)p.out)[i] = e4m3x2(v, -v);
    }
}

// pipeline: out [128] int = sums over n rows of 128 ints, a ring of three stages, one producer warp, four consumer warps.
KERNEL(160, 1, pipeline, Params) {
    DYNAMIC_SHARED(s);
    constexpr int STAGES = 3, ROW = 512;
    u64 *full = (u64 *)(s + STAGES * ROW), *empty = full + STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) mbar_init(full + i, 1), mbar_init(empty + i, 4);
        mbar_init_fence();
    }
    __syncthreads();
    if (warp_id() == 4) {
        for (int i = 0; i < p.n && lane_id() == 0; i++) {
            if (i >= STAGES) mbar_wait(empty + i % STAGES, (i / STAGES - 1) & 1);
            mbar_expect_tx(full + i % STAGES, ROW);
            bulk_load(s + i % STAGES * ROW, p.a + i * ROW, ROW, full + i % STAGES);
        }
        return;
    }
    int sum = 0;
    for (int i = 0; i < p.n; i++) {
        mbar_wait(full + i % STAGES, i / STAGES & 1);
        sum += ((const int *)(s + i % STAGES * ROW))[threadIdx.x];
        __syncwarp();
        if (lane_id() == 0) mbar_arrive(empty + i % STAGES);
    }
    ((int *)p.out)[threadIdx.x] = sum;
}

// copies: out [128] int = sums over n rows, through cp.async into a ring of two that an mbarrier announces.
KERNEL(64, 1, copies, Params) {
    DYNAMIC_SHARED(s);
    constexpr int ROW = 512;
    u64 *full = (u64 *)(s + 2 * ROW), *empty = full + 2;
    if (threadIdx.x == 0)
        for (int i = 0; i < 2; i++) mbar_init(full + i, 32), mbar_init(empty + i, 32);
    __syncthreads();
    int sum[4] = {};
    for (int i = 0; i < p.n; i++) {
        u8 *row = s + i % 2 * ROW;
        if (warp_id() == 1) {
            if (i >= 2) mbar_wait(empty + i % 2, (i / 2 - 1) & 1);
            cp_async16(row + lane_id() * 16, p.a + i * ROW + lane_id() * 16, i % 3 != 2); // every third row is taken as zeros
            cp_async_mbar_arrive(full + i % 2);
        } else {
            mbar_wait(full + i % 2, i / 2 & 1);
            for (int j = 0; j < 4; j++) sum[j] += ((const int *)row)[lane_id() + 32 * j];
            mbar_arrive(empty + i % 2);
        }
    }
    if (warp_id() == 0)
        for (int j = 0; j < 4; j++) ((int *)p.out)[lane_id() + 32 * j] = sum[j];
}

// lanes: operations of a warp on a [64]; out [64] int.
KERNEL(64, 1, lanes, Params) {
    const int i = threadIdx.x, l = lane_id(), v = ((const int *)p.a)[i];
    const u32 all = 0xffffffffu, half = l < 16 ? 0xffffu : 0xffff0000u;
    int x = __shfl_xor_sync(all, v, 5) * 3 + __shfl_up_sync(all, v, 2) * 5 + __shfl_down_sync(all, v, 3) * 7 + __shfl_sync(all, v, 9) * 11;
    x += __popc(__ballot_sync(all, v & 1)) * 13 + __any_sync(all, v == 7) * 17 + __all_sync(all, v >= 0) * 19;
    x += __popc(__match_any_sync(all, v % 4)) * 23 + int(__reduce_add_sync(half, unsigned(v))) * 29 + int(__reduce_max_sync(all, unsigned(v))) * 31;
    x += __syncthreads_count(v & 1) * 37 + (__syncthreads_or(v == 3) != 0) * 41 + (__syncthreads_and(v >= 0) != 0) * 43;
    ((int *)p.out)[i] = x;
}

// turns: warps 0 to 3 append to a list in turn, through named barriers; out [n] int.
KERNEL(128, 1, turns, Params) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const int w = warp_id();
    for (int i = 0; i < p.n / 4; i++) {
        if (w > 0 || i > 0) bar_sync(1 + w, 64); // with the arrival of the warp before
        if (lane_id() == 0) ((int *)p.out)[count++] = w;
        __syncwarp();
        if (w < 3 || i + 1 < p.n / 4) bar_arrive(1 + (w + 1) % 4, 64);
    }
}

// blocks: every block adds its number.
KERNEL(32, 1, blocks, Params) {
    if (threadIdx.x == 0) atomicAdd((int *)p.out, int(blockIdx.x + gridDim.x * blockIdx.y));
}
