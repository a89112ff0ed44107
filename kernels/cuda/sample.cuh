// What sampling needs of one block: sums and scans in a fixed order, the k-th largest without sorting, and
// random numbers. All sums of weights are exact integers (package kernels, Sampler), so their order is free.
#pragma once
#include "kernel.cuh"

constexpr int SAMPLE_THREADS = 512;

struct SampleShared {
    u64 scan[SAMPLE_THREADS / WARP];
    u64 mass[256]; // radix histogram
    u32 key;       // digits found so far
    u64 above;     // count or mass of larger keys
    float best[SAMPLE_THREADS / WARP];
    int best_at[SAMPLE_THREADS / WARP];
    int flag;
    u64 picked;
};

// order_key maps a float to an integer of the same order; both zeros are equal.
__device__ __forceinline__ u32 order_key(float v) {
    const u32 b = __float_as_uint(v + 0.0f);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

__device__ __forceinline__ u64 shfl_up_u64(u64 v, int d) {
    const u32 low = __shfl_up_sync(0xffffffffu, u32(v), d), high = __shfl_up_sync(0xffffffffu, u32(v >> 32), d);
    return u64(high) << 32 | low;
}

// scan gives the sum of the values of the threads before this one, and in total that of all. The block's barrier is passed.
__device__ __forceinline__ u64 scan(u64 v, u64 &total, SampleShared &s) {
    u64 sum = v;
#pragma unroll
    for (int d = 1; d < WARP; d *= 2) {
        const u64 other = shfl_up_u64(sum, d);
        if (lane_id() >= d) sum += other;
    }
    __syncthreads();
    if (lane_id() == WARP - 1) s.scan[warp_id()] = sum;
    __syncthreads();
    u64 before = 0;
    total = 0;
    for (int w = 0; w < SAMPLE_THREADS / WARP; w++) {
        if (w < warp_id()) before += s.scan[w];
        total += s.scan[w];
    }
    return before + sum - v;
}

// argmax is the largest value and the lowest index among equals; nan says that a value was not a number.
__device__ __forceinline__ float argmax(const float *x, int n, int &at, bool &nan, SampleShared &s) {
    float best = -INFINITY;
    at = 0x7fffffff;
    bool bad = false;
    for (int i = threadIdx.x; i < n; i += SAMPLE_THREADS) {
        const float v = x[i];
        bad |= v != v;
        if (v > best || (v == best && i < at)) best = v, at = i;
    }
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        const float v = __shfl_xor_sync(0xffffffffu, best, d);
        const int i = __shfl_xor_sync(0xffffffffu, at, d);
        if (v > best || (v == best && i < at)) best = v, at = i;
    }
    __syncthreads();
    if (lane_id() == 0) s.best[warp_id()] = best, s.best_at[warp_id()] = at;
    nan = __syncthreads_or(bad);
    for (int w = 0; w < SAMPLE_THREADS / WARP; w++)
        if (s.best[w] > best || (s.best[w] == best && s.best_at[w] < at)) best = s.best[w], at = s.best_at[w];
    return best;
}

// Selected keeps the values above a key, and the first `ties` values equal to it.
struct Selected {
    u32 key;
    u32 ties;
};

// select finds the shortest run of the largest values, ties in list order, for which enough(count or mass) holds; the whole
// list must satisfy it. Values are value(i), their mass is mass(i), for i below n.
template <typename Value, typename Mass, typename Enough>
__device__ __forceinline__ Selected select(int n, Value value, Mass mass, Enough enough, SampleShared &s) {
    if (threadIdx.x == 0) s.key = 0, s.above = 0;
#pragma unroll 1
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += SAMPLE_THREADS) s.mass[i] = 0;
        __syncthreads();
        const u32 prefix = s.key;
        for (int i = threadIdx.x; i < n; i += SAMPLE_THREADS) {
            const u32 key = order_key(value(i));
            if (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8)) atomicAdd((unsigned long long *)&s.mass[key >> shift & 255], (unsigned long long)mass(i));
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = 255;
            u64 above = s.above;
            while (digit > 0 && !enough(above + s.mass[digit])) above += s.mass[digit--];
            s.key = prefix | u32(digit) << shift;
            s.above = above;
        }
        __syncthreads();
    }
    // Every value with this key has the same mass: the fewest of them that are enough.
    const u32 key = s.key;
    u64 one = 0;
    for (int i = threadIdx.x; i < n; i += SAMPLE_THREADS)
        if (order_key(value(i)) == key) one = mass(i);
    if (one) s.picked = one; // all writers write the same
    __syncthreads();
    one = s.picked;
    const u64 of_key = s.mass[key & 255], above = s.above;
    u64 low = 1, high = of_key / one; // enough(above + high·one) holds
    while (low < high) {
        const u64 middle = (low + high) / 2;
        if (enough(above + middle * one)) high = middle;
        else low = middle + 1;
    }
    __syncthreads();
    return Selected{key, u32(low)};
}

// philox is block `counter` of Philox4x32-10 under a key, its first two words: word 1 << 32 | word 0.
__device__ __forceinline__ u64 philox(u64 key, u64 counter) {
    u32 c0 = u32(counter), c1 = u32(counter >> 32), c2 = 0, c3 = 0, k0 = u32(key), k1 = u32(key >> 32);
#pragma unroll
    for (int i = 0; i < 10; i++) {
        const u64 p0 = u64(0xD2511F53u) * c0, p1 = u64(0xCD9E8D57u) * c2;
        c0 = u32(p1 >> 32) ^ c1 ^ k0, c1 = u32(p1);
        c2 = u32(p0 >> 32) ^ c3 ^ k1, c3 = u32(p0);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return u64(c1) << 32 | c0;
}
