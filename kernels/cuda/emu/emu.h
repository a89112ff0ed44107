// CUDA C++ for a CPU: what the kernels of this project use of the language. The threads of a block are fibers that run one
// after the other; whatever waits for other threads lets them run. Blocks run one after the other. Functional only: no
// timing, no caches, and memory is sequentially consistent.
//
// What a GPU leaves undefined is made to show: shared and device memory begin as NaN, what is copied or multiplied
// asynchronously is NaN until it was waited for, threads that do not meet as they must end the launch with a report. In
// test mode (seed, or CHULENGO_EMU_SEED in the environment) blocks, warps, lanes and asynchronous work come in random order.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#ifndef CHULENGO_EMU_ARCH
#define CHULENGO_EMU_ARCH 900
#endif
#define __CUDA_ARCH__ CHULENGO_EMU_ARCH
#if CHULENGO_EMU_ARCH == 900
#define __CUDA_ARCH_FEAT_SM90_ALL 1
#endif
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __shared__ __attribute__((section("emu_shared"))) static
#define __restrict__
#define __align__(n) alignas(n)

struct dim3 { unsigned x, y, z; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emu {

extern dim3 thread, block, block_size, grid_size; // of the fiber that runs

// fail ends the launch with a message: a mistake in the kernel.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// dynamic_shared is the block's dynamic shared memory, aligned to 1,024 bytes.
unsigned char *dynamic_shared();

void barrier(int id, int threads, bool arrive_only = false); // 0 threads: the block
void yield();                                                // lets others run
int lane();
bool wait_peer(uint64_t patience); // lets other GPUs run; false: so many nanoseconds have passed

// Kernel is an entry point; KERNEL registers it.
struct Kernel {
    const char *name;
    void (*run)(const void *params);
    size_t size; // of the parameters
    int threads; // at most, in a block
    Kernel *next;
    Kernel(const char *name, void (*run)(const void *), size_t size, int threads);
};

Kernel *find(const char *name); // null: none

// Codes of the driver.
enum {
    OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
    ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALID = 901,
    PARKED = -1, // of this machine alone: the launch waits for another GPU
};
struct Result {
    int code;
    std::string text; // what went wrong, where
};

// Rest is what a parked launch has still to do. A block in which threads wait for another GPU, and none can go on, begins
// again later, so that until then it may write only what it will write again.
struct Rest {
    bool begun = false;
    std::vector<unsigned> blocks;
    uint64_t patience = 0; // nanoseconds after which the kernel itself gives up
    bool expired = false;  // they have passed
    uint64_t state[2] = {}; // of work that is no launch (emu_enqueue)
};

// launch runs a grid to its end. dependent: as if it began before its predecessor has ended, so it must wait for it.
// PARKED: it is to be launched again with the same rest when other GPUs have done something.
Result launch(const Kernel *k, dim3 grid, int threads, size_t shared, const void *params, bool dependent = false, Rest *rest = nullptr);

void seed(uint64_t value); // test mode

// on_memory_fault says who can tell what lies at an address.
void on_memory_fault(void (*describe)(const void *address, char *text, size_t size));

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
inline float __uint2float_rn(unsigned v) { return float(v); }
inline int __float_as_int(float v) { return int(__float_as_uint(v)); }
inline float __int_as_float(int v) { return __uint_as_float(unsigned(v)); }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __logf(float v) { return logf(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int64_t __mul64hi(int64_t a, int64_t b) { return int64_t((__int128)a * b >> 64); }
inline int __popcll(uint64_t v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline int __clzll(int64_t v) { return v ? __builtin_clzll(uint64_t(v)) : 64; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline unsigned __brev(unsigned v) {
    unsigned out = 0;
    for (int i = 0; i < 32; i++) out |= (v >> i & 1) << (31 - i);
    return out;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned order) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned pick = order >> 4 * i, byte = unsigned(bytes >> 8 * (pick & 7)) & 0xff;
        out |= (pick & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << 8 * i;
    }
    return out;
}
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
inline __nv_bfloat16 __float2bfloat16(float v) { return __float2bfloat16_rn(v); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) { return {v}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16_rn(a), __float2bfloat16_rn(b)}; }

// ---- threads of a block ----

inline void __syncthreads() { emu::barrier(0, 0); }
int __syncthreads_or(int v);
int __syncthreads_and(int v);
int __syncthreads_count(int v);
void __syncwarp(unsigned mask = 0xffffffffu);
unsigned __activemask();
unsigned __ballot_sync(unsigned mask, bool v);
bool __any_sync(unsigned mask, bool v);
bool __all_sync(unsigned mask, bool v);
unsigned __match_any_sync(unsigned mask, int v);
unsigned __reduce_add_sync(unsigned mask, unsigned v);
unsigned __reduce_min_sync(unsigned mask, unsigned v);
unsigned __reduce_max_sync(unsigned mask, unsigned v);
unsigned __reduce_or_sync(unsigned mask, unsigned v);

namespace emu {
unsigned shuffle(const char *kind, unsigned mask, unsigned v, int source); // source < 0 or > 31: the lane's own value

template <typename T> inline T shuffle_as(const char *kind, unsigned mask, T v, int source) {
    static_assert(sizeof(T) % 4 == 0);
    unsigned u[sizeof(T) / 4];
    memcpy(u, &v, sizeof v);
    for (unsigned &word : u) word = shuffle(kind, mask, word, source);
    memcpy(&v, u, sizeof v);
    return v;
}
} // namespace emu
template <typename T> inline T __shfl_sync(unsigned mask, T v, int lane) { return emu::shuffle_as("shfl", mask, v, lane & 31); }
template <typename T> inline T __shfl_xor_sync(unsigned mask, T v, int d) { return emu::shuffle_as("shfl_xor", mask, v, emu::lane() ^ d); }
template <typename T> inline T __shfl_up_sync(unsigned mask, T v, int d) { return emu::shuffle_as("shfl_up", mask, v, emu::lane() - d); }
template <typename T> inline T __shfl_down_sync(unsigned mask, T v, int d) { return emu::shuffle_as("shfl_down", mask, v, emu::lane() + d); }

// Nothing interrupts a fiber between two statements, and blocks do not overlap: plain memory operations are atomic.
template <typename T> inline T atomicAdd(T *p, T v) { const T old = *p; *p = old + v; return old; }
template <typename T> inline T atomicMin(T *p, T v) { const T old = *p; *p = min(old, v); return old; }
template <typename T> inline T atomicMax(T *p, T v) { const T old = *p; *p = max(old, v); return old; }
template <typename T> inline T atomicOr(T *p, T v) { const T old = *p; *p = old | v; return old; }
template <typename T> inline T atomicAnd(T *p, T v) { const T old = *p; *p = old & v; return old; }
template <typename T> inline T atomicExch(T *p, T v) { const T old = *p; *p = v; return old; }
template <typename T> inline T atomicCAS(T *p, T expected, T v) { const T old = *p; if (old == expected) *p = v; return old; }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
template <typename T> inline T __ldg(const T *p) { return *p; }
template <typename T> inline T __ldcs(const T *p) { return *p; }
template <typename T> inline T __ldcg(const T *p) { return *p; }
template <typename T> inline void __stcs(T *p, T v) { *p = v; }
[[noreturn]] inline void __trap() { emu::fail("trap"); }
inline void __nanosleep(unsigned) { emu::yield(); }
