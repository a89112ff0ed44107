// The instructions that C++ has no words for, one function each, named as the PTX manual names them. Everything that is
// only on compute capability 9.0 says so; the portable image (8.0) must not call it.
#pragma once

#ifdef CHULENGO_EMU
#include "emu/ptx.h"
#else

#include <cstdint>

// smem_addr is a shared-memory pointer as the 32-bit address that PTX takes.
__device__ __forceinline__ uint32_t smem_addr(const void *p) { return uint32_t(__cvta_generic_to_shared(p)); }

// opaque is p, whose origin the compiler does not see: it stays in registers, where it would be worked out again for every instruction.
template <class T> __device__ __forceinline__ T *opaque(T *p) {
    asm volatile("" : "+l"(p));
    return p;
}

// ---- asynchronous copies, 16 bytes a thread (8.0) ----

// cp_async16 copies 16 bytes from global to shared memory, or writes zeros if !valid (src is then not read).
__device__ __forceinline__ void cp_async16(void *dst, const void *src, bool valid = true) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_addr(dst)), "l"(src), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// cp_async_wait returns when at most N of the thread's latest groups are still on their way.
template <int N> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
// cp_async_mbar_arrive makes the barrier's phase wait for all copies that this thread has issued, and arrives (the
// barrier's count must include it).
__device__ __forceinline__ void cp_async_mbar_arrive(uint64_t *bar) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(smem_addr(bar)) : "memory");
}

// prefetch_l2 brings the line at an address of global memory into the L2 cache.
__device__ __forceinline__ void prefetch_l2(const void *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// ---- matrix fragments (8.0) ----

// ldmatrix_x4 loads four 8x8 matrices of 16-bit values: lane l gives the address of row l%8 of matrix l/8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_addr(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(smem_addr(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_addr(row))
                 : "memory");
}

// mma_bf16 is d [16, 8] += a [16, 16] · b [16, 8] of a warp (m16n8k16, float32 accumulators). With g = lane/4, t = lane%4:
// a holds (row g, columns 2t, 2t+1), (g+8, same), (g, 2t+8, 2t+9), (g+8, same); b holds (rows 2t, 2t+1, column g),
// (2t+8, 2t+9, g); d holds (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// mma_s8 is d [16, 8] += a [16, 32] · b [32, 8] of integers of 8 bits (m16n8k32). a holds (row g, columns 4t to 4t+3), (g+8, same),
// (g, 4t+16 and on), (g+8, same); b holds (rows 4t to 4t+3, column g), (4t+16 and on, g); d as above.
__device__ __forceinline__ void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// fma_bf16x2 is a·b + c of two pairs of bfloat16, rounded once; subnormal numbers count (8.0).
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// and_or is (a & b) | c in one instruction, which the compiler misses where b and c are constants.
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// xor_and is (a ^ b) & c in one instruction.
__device__ __forceinline__ uint32_t xor_and(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0x28;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// e4m3x2 is the codes nearest to two numbers, the first in the low byte: ties to even, 448 at most (e4m3_code does it everywhere; 9.0).
__device__ __forceinline__ uint32_t e4m3x2(float low, float high) {
    uint16_t d = 0;
#if __CUDA_ARCH__ >= 900
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
#endif
    return d;
}

// ---- barriers in shared memory (8.0) ----

__device__ __forceinline__ void mbar_init(uint64_t *bar, uint32_t count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(smem_addr(bar)), "r"(count) : "memory");
}
// mbar_init_fence makes initialised barriers visible to the asynchronous copies of 9.0; a block barrier must follow.
__device__ __forceinline__ void mbar_init_fence() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void mbar_arrive(uint64_t *bar) {
    asm volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(smem_addr(bar)) : "memory");
}
// mbar_wait returns when the phase with the given parity has completed.
__device__ __forceinline__ void mbar_wait(uint64_t *bar, uint32_t parity) {
    uint32_t done;
    do {
#if __CUDA_ARCH__ >= 900
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(smem_addr(bar)), "r"(parity)
                     : "memory");
#else
        // 8.0 has no wait by parity: the tests of the portable image use it on 9.0 through its PTX, where it exists
        // since PTX 7.1 as test_wait.parity.
        asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(smem_addr(bar)), "r"(parity)
                     : "memory");
#endif
    } while (!done);
}

// ---- bulk copies and dependent launches (9.0) ----

// mbar_expect_tx arrives and makes the phase wait for so many more bytes of bulk copies.
__device__ __forceinline__ void mbar_expect_tx(uint64_t *bar, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared::cta.b64 t, [%0], %1; }" ::"r"(smem_addr(bar)), "r"(bytes) : "memory");
#endif
}
// bulk_load copies bytes (a multiple of 16; 16-byte aligned at both ends) from global to shared memory; they count on bar.
__device__ __forceinline__ void bulk_load(void *dst, const void *src, uint32_t bytes, uint64_t *bar) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem_addr(dst)), "l"(src), "r"(bytes),
                 "r"(smem_addr(bar))
                 : "memory");
#endif
}
// bulk_load_once is bulk_load for bytes that no other block will read: they leave the L2 cache first.
__device__ __forceinline__ void bulk_load_once(void *dst, const void *src, uint32_t bytes, uint64_t *bar) {
#if __CUDA_ARCH__ >= 900
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(smem_addr(dst)), "l"(src),
                 "r"(bytes), "r"(smem_addr(bar)), "l"(policy)
                 : "memory");
#endif
}

// griddep_wait returns when the kernels before this one in the stream have finished and what they wrote is visible. Every
// thread that reads or overwrites what an earlier kernel touched calls it first.
__device__ __forceinline__ void griddep_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// griddep_launch allows the next kernel of the stream to be brought onto the multiprocessors. It is a hint.
__device__ __forceinline__ void griddep_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- warpgroup matrix products (9.0a) ----

// fence_proxy_async makes this thread's ordinary writes to shared memory visible to wgmma and bulk copies; a barrier follows.
__device__ __forceinline__ void fence_proxy_async() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// fence_proxy_async_global does that for global memory: for what bulk copies of other blocks of running kernels read.
__device__ __forceinline__ void fence_proxy_async_global() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}

// count_all adds to a counter of global memory and gives what it was: what blocks wrote before they counted is visible to whoever
// counts after them, each to its whole block with a barrier.
__device__ __forceinline__ uint32_t count_all(uint32_t *at, uint32_t n) {
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(at), "r"(n) : "memory");
    return before;
}
// signal counts at an address of global memory, after everything that the block wrote before the barrier that preceded the call.
__device__ __forceinline__ void signal(uint32_t *at) { asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(at) : "memory"); }
// wait_signals returns when so many were counted. Whoever signals must be running already: blocks do not make room for others.
__device__ __forceinline__ void wait_signals(const uint32_t *at, uint32_t count) {
    uint32_t seen;
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(at) : "memory");
    while (seen < count);
}

// tell gives blocks of the same launch a number, which hear waits for. It carries with it what it is about: no fence is needed, and places
// can be used again for other things.
__device__ __forceinline__ void tell(uint64_t *at, float v, uint32_t about) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(at), "l"(uint64_t(about) << 32 | __float_as_uint(v)) : "memory");
}
__device__ __forceinline__ float hear(const uint64_t *at, uint32_t about) {
    uint64_t v;
    do asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(at) : "memory");
    while (uint32_t(v >> 32) != about);
    return __uint_as_float(uint32_t(v));
}

// add_there adds to a number in global memory without reading it here. Numbers below 2⁻¹²⁶ count as 0.
__device__ __forceinline__ void add_there(float *at, float v) { asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(at), "f"(v) : "memory"); }

// The same for four numbers, 16-byte aligned, in one instruction (9.0).
__device__ __forceinline__ void add_there(float4 *at, float4 v) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
#endif
}

// ---- what several GPUs share ----

// post sets a flag in any GPU's memory after everything that this thread has seen written; look reads one, before what it reads next.
__device__ __forceinline__ void post(uint32_t *flag, uint32_t v) { asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(v) : "memory"); }
__device__ __forceinline__ uint32_t look(const uint32_t *flag) {
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");
    return v;
}
// send and receive move 16 bytes that tell by themselves whether they are there: halves of 8 bytes arrive whole.
__device__ __forceinline__ void send(uint4 *to, uint4 v) {
    asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ uint4 receive(const uint4 *at) {
    uint4 v;
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at) : "memory");
    return v;
}
// Patience is asked between looks for something from another GPU.
struct Patience {
    uint64_t since = 0;
    uint32_t looks = 0;
    // more is false when so many nanoseconds have passed.
    __device__ __forceinline__ bool more(uint64_t limit) {
        if (++looks % 1024 != 0) return true;
        uint64_t now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
        if (since == 0) since = now;
        return now - since < limit;
    }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
template <int N> __device__ __forceinline__ void setmaxnreg_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void setmaxnreg_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
// wgmma_descriptor names a K-major, 128-byte swizzled operand: lines of 128 bytes, groups of 8 lines one after the other.
// start is 1024-byte aligned, plus 32 bytes for every 16 columns.
__device__ __forceinline__ uint64_t wgmma_descriptor(const void *start) {
    constexpr uint64_t group = 1024, swizzle128 = 1;
    return uint64_t((smem_addr(start) & 0x3ffff) >> 4) | uint64_t(1) << 16 | (group >> 4) << 32 | swizzle128 << 62;
}
// wgmma_descriptor_t names an N-major operand [K, N]: lines of 64 values of N, 128-byte swizzled, for every K; the tiles of
// 64 values lie `leading` bytes apart. start is 1024-byte aligned.
__device__ __forceinline__ uint64_t wgmma_descriptor_t(const void *start, uint32_t leading) {
    constexpr uint64_t group = 1024, swizzle128 = 1;
    return uint64_t((smem_addr(start) & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 | (group >> 4) << 32 | swizzle128 << 62;
}
// wgmma_at is the descriptor of what lies so many bytes (a multiple of 16) further on. Addresses do not reach its upper half.
__device__ __forceinline__ uint64_t wgmma_at(uint64_t descriptor, uint32_t bytes) { return (descriptor & 0xffffffff00000000) | uint32_t(uint32_t(descriptor) + (bytes >> 4)); }
#include "wgmma.cuh"
#endif

// done_before keeps what makes these values before the next asm volatile: the compiler would move it behind a wait that it does not
// depend on, to where the values are used.
template <int N> __device__ __forceinline__ void done_before(float (&v)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(v[i]));
}

// bar_sync is a barrier of some of a block's threads (a multiple of 32), numbered 1 to 15.
__device__ __forceinline__ void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
// bar_arrive counts at such a barrier without waiting.
__device__ __forceinline__ void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// exp2_approx is 2^x to 2 ulp; 2^-inf is 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// reciprocal_approx is 1/x to 1 ulp.
__device__ __forceinline__ float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
