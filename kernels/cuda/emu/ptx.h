// The functions of ptx.cuh on a CPU. What is asynchronous on a GPU is late here as well: a copy arrives, and a product of a
// warpgroup is computed, only when something waits for it, and its destination is NaN until then, so that reading too early,
// or overwriting too early, shows. Forgotten fences and barriers that were not initialised end the launch.
#pragma once
#include "emu.h"

namespace emu {
void async_copy(void *dst, const void *src, bool valid);
void async_commit();
void async_wait(int keep);
void async_arrive(uint64_t *bar);
void bulk(void *dst, const void *src, uint32_t bytes, uint64_t *bar);
void ldmatrix(uint32_t *r, int matrices, const void *row, bool transpose);
void mma(float *d, const uint32_t *a, uint32_t b0, uint32_t b1);
void mma_s8(int *d, const uint32_t *a, uint32_t b0, uint32_t b1);
void wgmma(float *d, int columns, uint64_t a, uint64_t b, bool keep);
void wgmma_rows(float *d, int columns, const uint32_t *a, uint64_t b, bool across);
void wgmma_e4m3_rows(float *d, int columns, const uint32_t *a, uint64_t b, bool keep);
uint32_t e4m3_code(float v);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int keep);
uint64_t descriptor(const void *start);
uint64_t descriptor_t(const void *start, uint32_t leading);
void mbar_init(uint64_t *bar, uint32_t count);
void mbar_init_fence();
bool mbar_test(const uint64_t *bar, uint32_t parity);
void mbar_arrive(uint64_t *bar, int64_t bytes);
void mbar_wait(uint64_t *bar, uint32_t parity);
void proxy_fence();
void grid_waited();
} // namespace emu

template <class T> inline T *opaque(T *p) { return p; }
inline void cp_async16(void *dst, const void *src, bool valid = true) { emu::async_copy(dst, src, valid); }
inline void cp_async_commit() { emu::async_commit(); }
template <int N> inline void cp_async_wait() { emu::async_wait(N); }
inline void cp_async_mbar_arrive(uint64_t *bar) { emu::async_arrive(bar); }
inline void prefetch_l2(const void *) {}
inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) { emu::ldmatrix(r, 4, row, false); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void *row) { emu::ldmatrix(r, 2, row, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) { emu::ldmatrix(r, 4, row, true); }
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emu::mma(d, a, b0, b1); }
inline void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emu::mma_s8(d, a, b0, b1); }
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) { // in float64: a product of bfloat16 and a sum near it are exact
    const auto half = [](uint32_t v) { return double(__uint_as_float(v << 16)); };
    const auto one = [&](int shift) { return uint32_t(__float2bfloat16_rn(float(half(a >> shift) * half(b >> shift) + half(c >> shift))).x) << shift; };
    return one(0) | one(16);
}
inline void mbar_init(uint64_t *bar, uint32_t count) { emu::mbar_init(bar, count); }
inline void mbar_init_fence() { emu::mbar_init_fence(); }
inline void mbar_arrive(uint64_t *bar) { emu::mbar_arrive(bar, 0); }
inline void mbar_wait(uint64_t *bar, uint32_t parity) { emu::mbar_wait(bar, parity); }
inline void mbar_expect_tx(uint64_t *bar, uint32_t bytes) { emu::mbar_arrive(bar, bytes); }
inline void bulk_load(void *dst, const void *src, uint32_t bytes, uint64_t *bar) { emu::bulk(dst, src, bytes, bar); }
inline void bulk_load_once(void *dst, const void *src, uint32_t bytes, uint64_t *bar) { emu::bulk(dst, src, bytes, bar); }
inline void griddep_wait() { emu::grid_waited(); }
inline void griddep_launch() {}
inline void fence_proxy_async() { emu::proxy_fence(); }
inline void fence_proxy_async_global() {}
inline void signal(uint32_t *at) { ++*at; }
inline uint32_t count_all(uint32_t *at, uint32_t n) { return atomicAdd(at, n); }
inline void wait_signals(const uint32_t *at, uint32_t count) { // kernels run one after the other here: what is not there never comes
    if (*at < count) emu::fail("waits for %u signals, of which %u came", count, *at);
}
inline void tell(uint64_t *at, float v, uint32_t about) { *at = uint64_t(about) << 32 | __float_as_uint(v); }
inline float hear(const uint64_t *at, uint32_t about) {
    while (uint32_t(*(const volatile uint64_t *)at >> 32) != about) emu::yield();
    return __uint_as_float(uint32_t(*at));
}
inline void add_there(float *at, float v) { *at += v; }
inline void add_there(float4 *at, float4 v) { at->x += v.x, at->y += v.y, at->z += v.z, at->w += v.w; }
inline void post(uint32_t *flag, uint32_t v) { *flag = v; }
inline uint32_t look(const uint32_t *flag) { return *(const volatile uint32_t *)flag; }
inline void send(uint4 *to, uint4 v) { *to = v; }
inline uint4 receive(const uint4 *at) { return {((const volatile uint32_t *)at)[0], ((const volatile uint32_t *)at)[1], ((const volatile uint32_t *)at)[2], ((const volatile uint32_t *)at)[3]}; }
struct Patience {
    bool more(uint64_t limit) { return emu::wait_peer(limit); }
};
inline void wgmma_fence() { emu::wgmma_fence(); }
inline void wgmma_commit() { emu::wgmma_commit(); }
template <int N> inline void wgmma_wait() { emu::wgmma_wait(N); }
template <int N> inline void setmaxnreg_inc() {}
template <int N> inline void setmaxnreg_dec() {}
inline uint64_t wgmma_descriptor(const void *start) { return emu::descriptor(start); }
inline uint64_t wgmma_descriptor_t(const void *start, uint32_t leading) { return emu::descriptor_t(start, leading); }
inline uint64_t wgmma_at(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }
template <int N, bool KEEP = true> inline void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b) { emu::wgmma(d, N, a, b, KEEP); }
template <int N> inline void wgmma_bf16_rows(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) { emu::wgmma_rows(d, N, a, b, false); }
template <int N> inline void wgmma_bf16_rows_t(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) { emu::wgmma_rows(d, N, a, b, true); }
template <int N, bool KEEP> inline void wgmma_e4m3_rows(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b) { emu::wgmma_e4m3_rows(d, N, a, b, KEEP); }
inline uint32_t e4m3x2(float low, float high) { return emu::e4m3_code(low) | emu::e4m3_code(high) << 8; }
template <int N> inline void done_before(float (&)[N]) {}
inline void bar_sync(int id, int threads) { emu::barrier(id, threads); }
inline void bar_arrive(int id, int threads) { emu::barrier(id, threads, true); }
inline uint32_t xor_and(uint32_t a, uint32_t b, uint32_t c) { return (a ^ b) & c; }
inline uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }
inline float exp2_approx(float x) { return exp2f(x); }
inline float reciprocal_approx(float x) { return 1.0f / x; }
