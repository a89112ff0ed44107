// How a kernel of this folder is declared, and the few words that all of them share.
//
// KERNEL(threads, blocks, name, Params) declares an entry point: at most `threads` threads a block, registers limited so
// that `blocks` blocks fit on a multiprocessor, one plain struct of parameters called p. The host launches it by name
// with the struct's bytes, so the struct's twin in Go must have the same layout; ABI() below makes the compiler's view
// of it checkable.
//
// DYNAMIC_SHARED(name) is the block's dynamic shared memory, aligned for swizzled tiles.
//
// Kernels of a step overlap (programmatic dependent launch). Each calls griddep_launch as early as it can, so that the next
// one's blocks take their places, and griddep_wait before it touches anything that a kernel of the step writes or reads.
// Before that it may read weights, what the host brought for the step (embed_rows, the first kernel, lets nobody begin
// before that is there), and keys and values of earlier steps. A kernel may begin long before those that it follows, many of
// them: what is counted within a step (wait_signals) has a counter of its own, which the host sets to 0 for the step.
#pragma once

#ifdef CHULENGO_EMU
#include "emu/emu.h"
#else
#include <cuda_bf16.h>
#include <cstdint>
#define KERNEL(threads, blocks, name, Params) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#endif

#include "ptx.cuh"

using bf16 = __nv_bfloat16;
using u8 = unsigned char;
using u32 = uint32_t;
using u64 = uint64_t;

constexpr int WARP = 32;

// Registers divides a multiprocessor's registers anew in a block that has it alone: the first warpgroup keeps FEW a thread, the
// others get MANY. What is taken must have been given: setmaxnreg waits for it, and for what is not there forever.
template <int THREADS, int FEW, int MANY> struct Registers {
    static constexpr int WARPGROUP = 128, LAUNCHED = 65536 / THREADS / 8 * 8; // a thread, as the kernel begins
    static_assert(FEW <= LAUNCHED && LAUNCHED <= MANY && WARPGROUP * FEW + (THREADS - WARPGROUP) * MANY <= LAUNCHED * THREADS, "more registers than the block has");
#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    static __device__ __forceinline__ void give() { setmaxnreg_dec<FEW>(); }
    static __device__ __forceinline__ void take() { setmaxnreg_inc<MANY>(); }
#endif
};

__device__ __forceinline__ int warp_id() { return threadIdx.x / WARP; }
__device__ __forceinline__ int lane_id() { return threadIdx.x % WARP; }

constexpr __host__ __device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// pack rounds two floats to bfloat16, the first in the low half.
__device__ __forceinline__ u32 pack(float lo, float hi) {
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<u32 *>(&v);
}

// The halves of a packed pair as floats.
__device__ __forceinline__ float lo(u32 v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float hi(u32 v) { return __uint_as_float(v & 0xffff0000u); }

// Sums over the lanes of a warp, in a fixed order; every lane gets the result.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

// block_sum adds a value of every thread in a fixed order; every thread gets the result. scratch [32] is shared memory
// that no other call of the same kernel uses without a barrier between.
__device__ __forceinline__ float block_sum(float v, float *scratch) {
    v = warp_sum(v);
    if (lane_id() == 0) scratch[warp_id()] = v;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < int(blockDim.x) / WARP; w++) sum += scratch[w];
    return sum;
}
