// Kernels with one planted mistake each, and one without: what the tools that look for mistakes must find, and must not. They
// lie in an image of their own, which only tests embed (planted_test.go).
#include "../kernel.cuh"

// Planted: out [32·n] = the sum of 0..31, by 32·n threads that exchange numbers through shared memory.
struct Planted {
    int *out;
    int n; // warps
};

template <bool BARRIER> __device__ __forceinline__ int planted_sum(int warps) {
    __shared__ int numbers[WARP];
    if (warp_id() == warps - 1) numbers[lane_id()] = lane_id(); // the last warp writes, and all read
    if (BARRIER) __syncthreads();
    int sum = 0;
    for (int i = 0; i < WARP; i++) sum += *(volatile int *)&numbers[i];
    return sum;
}

KERNEL(256, 1, planted_nothing, Planted) { p.out[threadIdx.x] = planted_sum<true>(p.n); }

// For racecheck: the barrier is missing.
KERNEL(256, 1, planted_race, Planted) { p.out[threadIdx.x] = planted_sum<false>(p.n); }

// For memcheck: the last thread writes behind the end of its allocation.
KERNEL(256, 1, planted_write, Planted) { p.out[threadIdx.x + (threadIdx.x == blockDim.x - 1)] = planted_sum<true>(p.n); }
