// CUDA C++ for a CPU: what the kernels of this project use of the language, run one thread after the other. The threads of
// a block are fibers; whatever waits for other threads lets them run. Functional only: no timing, no caches, and memory
// is sequentially consistent.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#define __CUDA_ARCH__ 900
#define __CUDA_ARCH_FEAT_SM90_ALL 1
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__
#define __align__(n) alignas(n)

struct dim3 { unsigned x, y, z; };
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emu {

extern thread_local dim3 thread, block, block_size, grid_size; // of the fiber that runs

// fail ends the launch with a message: a mistake in the kernel.
[[noreturn]] void fail(const char *format, ...);

// dynamic_shared is the block's dynamic shared memory, aligned to 1,024 bytes and filled with NaN.
unsigned char *dynamic_shared();

// Collective operations: every lane of the warp (or thread of the warpgroup, or of the barrier) that is in mask calls with
// the same kind and its own arguments; the last to arrive runs work on all arguments, by lane.
void collective(const char *kind, uint32_t mask, void *arguments, const std::function<void(void **by_lane)> &work);
void collective_group(const char *kind, void *arguments, const std::function<void(void **by_thread)> &work); // warpgroup
void barrier(int id, int threads); // 0 threads: the block
void yield();                      // lets others run; a launch in which nothing moves any more fails
int lane();
int group(); // number of the warpgroup

struct Kernel {
    const char *name;
    void (*run)(const void *params);
    size_t size;
    int threads;
    Kernel *next;
    Kernel(const char *name, void (*run)(const void *), size_t size, int threads);
};

Kernel *find(const char *name);

// launch runs a grid to its end. It returns an empty string, or what went wrong.
std::string launch(const Kernel *k, dim3 grid, int threads, size_t shared, const void *params);

} // namespace emu

#define threadIdx (emu::thread)
#define blockIdx (emu::block)
#define blockDim (emu::block_size)
#define gridDim (emu::grid_size)

#define KERNEL(THREADS, BLOCKS, NAME, PARAMS)                                                          \
    static void NAME##_body(const PARAMS &p);                                                          \
    static emu::Kernel NAME##_entry(#NAME, [](const void *p) { NAME##_body(*(const PARAMS *)p); }, sizeof(PARAMS), THREADS); \
    static void NAME##_body(const PARAMS &p)
#define DYNAMIC_SHARED(NAME) unsigned char *NAME = emu::dynamic_shared()

// ---- arithmetic ----

using std::max;
using std::min;
using std::isinf;
inline float __uint_as_float(unsigned v) { float f; memcpy(&f, &v, 4); return f; }
inline unsigned __float_as_uint(float v) { unsigned u; memcpy(&u, &v, 4); return u; }
inline float rsqrtf(float v) { return float(1.0 / std::sqrt(double(v))); }
inline float __expf(float v) { return expf(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)a * b >> 64); }
inline void sincospi(double x, double *s, double *c) {
    const double r = x - 2 * std::floor(x / 2); // [0, 2)
    *s = std::sin(r * M_PI);
    *c = std::cos(r * M_PI);
}

struct __nv_bfloat16 { unsigned short x; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
    unsigned b = __float_as_uint(v);
    if (v != v) return {0x7fff};
    return {(unsigned short)((b + 0x7fff + (b >> 16 & 1)) >> 16)};
}
inline float __bfloat162float(__nv_bfloat16 v) { return __uint_as_float(unsigned(v.x) << 16); }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)}; }

// ---- threads of a block ----

inline void __syncthreads() { emu::barrier(0, 0); }
int __syncthreads_or(int v);
void __syncwarp(unsigned mask = 0xffffffffu);
unsigned __ballot_sync(unsigned mask, bool v);
bool __any_sync(unsigned mask, bool v);
unsigned __match_any_sync(unsigned mask, int v);
unsigned shuffle(const char *kind, unsigned mask, unsigned v, int source); // source < 0 or > 31: the lane's own value

template <typename T> inline T shuffle_as(const char *kind, unsigned mask, T v, int source) {
    static_assert(sizeof(T) == 4);
    unsigned u;
    memcpy(&u, &v, 4);
    u = shuffle(kind, mask, u, source);
    memcpy(&v, &u, 4);
    return v;
}
template <typename T> inline T __shfl_xor_sync(unsigned mask, T v, int d) { return shuffle_as("shfl_xor", mask, v, emu::lane() ^ d); }
template <typename T> inline T __shfl_up_sync(unsigned mask, T v, int d) { return shuffle_as("shfl_up", mask, v, emu::lane() - d < 0 ? -1 : emu::lane() - d); }
template <> inline double __shfl_xor_sync(unsigned mask, double v, int d) {
    uint64_t u;
    memcpy(&u, &v, 8);
    const unsigned low = __shfl_xor_sync(mask, unsigned(u), d), high = __shfl_xor_sync(mask, unsigned(u >> 32), d);
    u = uint64_t(high) << 32 | low;
    memcpy(&v, &u, 8);
    return v;
}

template <typename T> inline T atomicAdd(T *p, T v) { T old = *p; *p = old + v; return old; }
template <typename T> inline T atomicMin(T *p, T v) { T old = *p; *p = min(old, v); return old; }
inline unsigned atomicOr(unsigned *p, unsigned v) { unsigned old = *p; *p |= v; return old; }
