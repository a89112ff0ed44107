// Kernels with one mistake each, which the emulator must find. out [1] float is 0 where a kernel says what it saw.
#include "words.cuh"

KERNEL(64, 1, deadlock, Params) {
    if (warp_id() == 0) __syncthreads();
    else bar_sync(1, 64);
}

KERNEL(64, 1, ended_before_barrier, Params) {
    if (warp_id() == 1) return;
    __syncthreads();
}

KERNEL(32, 1, lanes_apart, Params) {
    if (lane_id() < 16) __shfl_xor_sync(0xffffffffu, 1, 1);
    else __ballot_sync(0xffffffffu, true);
}

KERNEL(32, 1, ended_lanes, Params) {
    if (lane_id() >= 16) return;
    __syncwarp();
}

KERNEL(32, 1, beyond_the_end, Params) { p.out[p.n + threadIdx.x] = 1; }

KERNEL(32, 1, misaligned, Params) {
    DYNAMIC_SHARED(s);
    cp_async16(s, p.a + 4);
}

KERNEL(32, 1, freed, Params) {
    volatile int x = *(const int *)p.b;
    (void)x;
}

KERNEL(32, 1, no_init, Params) {
    DYNAMIC_SHARED(s);
    mbar_wait((u64 *)s, 0);
}

KERNEL(32, 1, no_init_fence, Params) {
    DYNAMIC_SHARED(s);
    if (threadIdx.x) return;
    mbar_init((u64 *)s, 1);
    mbar_expect_tx((u64 *)s, 16);
    bulk_load(s + 16, p.a, 16, (u64 *)s);
    mbar_wait((u64 *)s, 0);
}

KERNEL(32, 1, no_arrival, Params) {
    DYNAMIC_SHARED(s);
    if (threadIdx.x) return;
    mbar_init((u64 *)s, 2);
    mbar_arrive((u64 *)s);
    mbar_wait((u64 *)s, 0);
}

KERNEL(32, 1, bytes_too_few, Params) {
    DYNAMIC_SHARED(s);
    if (threadIdx.x) return;
    mbar_init((u64 *)s, 1);
    mbar_init_fence();
    mbar_expect_tx((u64 *)s, 48);
    bulk_load(s + 16, p.a, 32, (u64 *)s);
    mbar_wait((u64 *)s, 0);
}

KERNEL(32, 1, copy_not_awaited, Params) {
    DYNAMIC_SHARED(s);
    if (threadIdx.x) return;
    *(float *)s = 0;
    cp_async16(s, p.a);
    cp_async_commit();
    cp_async_wait<1>();
    *(float *)p.out = *(const float *)s;
}

KERNEL(32, 1, shared_not_written, Params) {
    __shared__ float x[2];
    DYNAMIC_SHARED(s);
    *(float *)p.out = x[1] + *(const float *)s;
}

KERNEL(32, 1, no_dependency_wait, Params) {}

KERNEL(128, 1, no_wgmma_fence, Params) {
    DYNAMIC_SHARED(s);
    float d[8] = {};
    wgmma_bf16<16>(d, wgmma_descriptor(s), wgmma_descriptor(s + 8192));
}

// An operand's registers change while the product is under way.
KERNEL(128, 1, operand_changed, Params) {
    DYNAMIC_SHARED(s);
    for (int i = threadIdx.x; i < 2 * 64 * 128 / 4; i += 128) ((u32 *)s)[i] = 0;
    fence_proxy_async();
    __syncthreads();
    float d[64] = {};
    u32 a[4] = {};
    wgmma_fence();
    wgmma_bf16_rows_t<128>(d, a, wgmma_descriptor_t(s, 64 * 128));
    wgmma_commit();
    a[threadIdx.x % 4] = 1;
    wgmma_wait<0>();
    if (threadIdx.x == 0) *(float *)p.out = d[0] + a[0];
}

// stores are ordinary stores to what a product then reads.
__device__ __forceinline__ void stores(u8 *s) {
    for (int i = threadIdx.x; i < 10240 / 4; i += 128) ((u32 *)s)[i] = 0;
}

KERNEL(128, 1, no_proxy_fence, Params) {
    DYNAMIC_SHARED(s);
    float d[8] = {};
    stores(s);
    __syncthreads();
    wgmma_fence();
    wgmma_bf16<16>(d, wgmma_descriptor(s), wgmma_descriptor(s + 8192));
    wgmma_commit();
    wgmma_wait<0>();
}

KERNEL(128, 1, product_not_awaited, Params) {
    DYNAMIC_SHARED(s);
    float d[8] = {};
    stores(s);
    fence_proxy_async();
    __syncthreads();
    wgmma_fence();
    wgmma_bf16<16>(d, wgmma_descriptor(s), wgmma_descriptor(s + 8192));
    wgmma_commit();
    wgmma_wait<1>();
    *(float *)p.out = d[0];
    wgmma_wait<0>();
    if (d[0] != 0) *(float *)p.out = -1;
}

// race: a barrier is missing between the first warp's store and the second's load. race_not has it.
KERNEL(64, 1, race, Params) {
    __shared__ int x;
    if (threadIdx.x == 0) x = 0;
    if (threadIdx.x == 32) *(int *)p.out = x;
}

KERNEL(64, 1, race_not, Params) {
    __shared__ int x;
    if (threadIdx.x == 0) x = 0;
    __syncthreads();
    if (threadIdx.x == 32) *(int *)p.out = x;
}

// lane_race: one lane reads what another one writes, without __syncwarp.
KERNEL(32, 1, lane_race, Params) {
    __shared__ int x[32];
    x[threadIdx.x] = 0;
    if (threadIdx.x == 31) *(int *)p.out = x[5];
}
