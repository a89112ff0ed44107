// Random values for timing without a checkpoint, the same on every device (kernels.Fill).
#pragma once
#include "kernel.cuh"

struct Fill {
    u64 seed;           // already mixed with the tensor's name
    u64 index;          // of (n 0, k 0) in the checkpoint's tensor
    u64 n_step, k_step; // what one n, one k adds to it
    float std;
    int pad;
};

// fill_value is bf16(std·(s - 1020)/209.02), s the sum of the 8 bytes of a number of splitmix64.
__device__ __forceinline__ float fill_value(const Fill &f, int n, int k) {
    u64 z = f.seed + (f.index + n * f.n_step + u64(int64_t(k)) * f.k_step + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    int s = 0;
    for (int b = 0; b < 8; b++) s += int(z >> 8 * b & 255);
    return __bfloat162float(__float2bfloat16_rn(f.std * (float(s - 1020) / 209.02f)));
}
