// Norm, router and choice of a layer of experts; for prefill, the order of rows by expert.
#include "gemm.cuh"
#include "norm.cuh"

constexpr int MAX_ROUTER_EXPERTS = 1024;

struct RouteParams {
    NormParams norm;
    const u8 *router; // packed [E, D]
    float *logits;    // [rows, ld]
    int *expert;      // [rows]; -1 for rows beyond norm.rows
    float *gate;      // [rows] sigmoid of the chosen logit
    u8 *scaled;       // image [D/64][R]: gate·h, what the chosen expert reads
    u64 *counts;      // [E] rows that each expert was given so far
    u32 *normed;      // counts the blocks of route_rows whose row is in the image; null: nobody asks
    u32 *status;      // bit 0: a logit is not a number; bit 1: a tap chose an expert that is not there
    int count;        // rows, in prefill
    int experts, ld;
    int steps;        // which of RouteStep this launch does
};

enum RouteStep { ROUTE_NORM = 1, ROUTE_LOGITS = 2, ROUTE_CHOOSE = 4, ROUTE_SCALE = 8 };

namespace {

// piece_dot is the dot product of eight pairs of bfloat16, in order.
__device__ __forceinline__ float piece_dot(uint4 a, uint4 b, float sum) {
    sum = fmaf(lo(a.x), lo(b.x), sum), sum = fmaf(hi(a.x), hi(b.x), sum);
    sum = fmaf(lo(a.y), lo(b.y), sum), sum = fmaf(hi(a.y), hi(b.y), sum);
    sum = fmaf(lo(a.z), lo(b.z), sum), sum = fmaf(hi(a.z), hi(b.z), sum);
    sum = fmaf(lo(a.w), lo(b.w), sum), sum = fmaf(hi(a.w), hi(b.w), sum);
    return sum;
}

__device__ __forceinline__ const uint4 *activation_piece(const u8 *image, int R, int row, int i) {
    return (const uint4 *)(image + (u64(i / 8) * R + row) * LINE + ((i % 8) ^ (row & 7)) * PIECE);
}

__device__ __forceinline__ uint4 scaled_piece(uint4 h, float g) {
    return make_uint4(pack(g * lo(h.x), g * hi(h.x)), pack(g * lo(h.y), g * hi(h.y)), pack(g * lo(h.z), g * hi(h.z)), pack(g * lo(h.w), g * hi(h.w)));
}

// Choice is the expert of a row and its gate.
struct Choice {
    int expert;
    float gate;
};

// choose is done by one warp: the largest logit, and the lowest expert among equals.
__device__ __forceinline__ Choice choose(const float *logits, int experts, u32 *status) {
    float best = -INFINITY;
    int at = MAX_ROUTER_EXPERTS;
    bool nan = false;
    for (int e = lane_id(); e < experts; e += WARP) {
        const float v = logits[e];
        nan |= v != v;
        if (v > best) best = v, at = e;
    }
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        const float v = __shfl_xor_sync(0xffffffffu, best, d);
        const int e = __shfl_xor_sync(0xffffffffu, at, d);
        if (v > best || (v == best && e < at)) best = v, at = e;
    }
    if (__any_sync(0xffffffffu, nan) || at >= experts) {
        if (lane_id() == 0) atomicOr(status, 1u);
        at = 0, best = 0;
    }
    return Choice{at, 1.0f / (1.0f + expf(-best))};
}

// decide chooses for a row, or, where that is not among the steps, checks and gives what was chosen. One warp.
__device__ __forceinline__ Choice decide(const RouteParams &p, int row, const float *logits) {
    Choice c{0, 0};
    if (p.steps & ROUTE_CHOOSE) {
        c = choose(logits, p.experts, p.status);
        if (lane_id() == 0) {
            p.expert[row] = c.expert, p.gate[row] = c.gate;
            atomicAdd((unsigned long long *)&p.counts[c.expert], 1ull);
        }
    } else if (p.steps & ROUTE_SCALE) {
        c = Choice{p.expert[row], p.gate[row]};
        __syncwarp();
        if (u32(c.expert) >= u32(p.experts) && lane_id() == 0) atomicOr(p.status, 2u), p.expert[row] = 0; // a tap's doing
    }
    return c;
}

} // namespace

// route_rows (decode): one block a row; D floats and tiles·64 bfloat16 of shared memory. Each warp has its experts, each lane
// its pieces of the row. Pieces of a warp's first expert go into registers before the row is there, the others into the
// cache. The shared expert, which needs no choice, begins when every row is normed: `normed` says so before this kernel ends.
KERNEL(NORM_THREADS, 1, route_rows, RouteParams) {
    DYNAMIC_SHARED(memory);
    __shared__ float scratch[32], logits[MAX_ROUTER_EXPERTS];
    __shared__ Choice chosen;
    griddep_launch();
    constexpr int KEPT = 4; // as many as there are registers for
    const NormParams &n = p.norm;
    const int pieces = n.tiles * 8, row = blockIdx.x;
    const bool score = p.steps & ROUTE_LOGITS;
    uint4 *h = (uint4 *)((float *)memory + n.D);
    const auto router = [&](int e, int i) {
        return *(const uint4 *)(p.router + (u64(e / TILE) * n.tiles + i / 8) * WEIGHT_TILE + e % TILE * LINE + ((i % 8) ^ (e & 7)) * PIECE);
    };
    uint4 kept[KEPT];
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        const int i = lane_id() + j * WARP;
        kept[j] = score && warp_id() < p.experts && i < pieces ? router(warp_id(), i) : make_uint4(0, 0, 0, 0);
    }
    // Of a tile of the router, every expert's line is one line of the cache.
    for (int i = threadIdx.x; score && i < min(p.experts, 16) * (n.tiles - KEPT * WARP / 8); i += NORM_THREADS)
        prefetch_l2(p.router + u64(KEPT * WARP / 8 + i / min(p.experts, 16)) * WEIGHT_TILE + i % min(p.experts, 16) * LINE);
    const NormWeight weight = norm_weight(n);
    const bool there = row < *n.rows;
    griddep_wait();
    if (p.steps & ROUTE_NORM) norm_row<true>(n, NormRow{row, there ? row : -1}, weight, (float *)memory, (uint2 *)h, scratch);
    else
        for (int i = threadIdx.x; there && i < pieces; i += NORM_THREADS) h[i] = *activation_piece(n.image, n.R, row, i);
    if (p.normed) fence_proxy_async_global();
    __syncthreads();
    if (p.normed && threadIdx.x == 0) signal(p.normed);
    if (!there) {
        if (p.steps & ROUTE_CHOOSE && threadIdx.x == 0) p.expert[row] = -1, p.gate[row] = 0;
        for (int i = threadIdx.x; p.steps & ROUTE_SCALE && i < pieces; i += NORM_THREADS)
            *(uint4 *)(p.scaled + (u64(i / 8) * n.R + row) * LINE + i % 8 * PIECE) = make_uint4(0, 0, 0, 0);
        return;
    }
    float *to = p.logits + u64(row) * p.ld;
    for (int e = warp_id(); score && e < p.experts; e += NORM_THREADS / WARP) {
        float sum = 0;
        if (e == warp_id()) {
#pragma unroll
            for (int j = 0; j < KEPT; j++)
                if (lane_id() + j * WARP < pieces) sum = piece_dot(h[lane_id() + j * WARP], kept[j], sum);
        }
        constexpr int AHEAD = 7; // loads on their way
        for (int from = lane_id() + (e == warp_id() ? KEPT * WARP : 0); from < pieces; from += AHEAD * WARP) {
            uint4 w[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++) w[j] = from + j * WARP < pieces ? router(e, from + j * WARP) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int j = 0; j < AHEAD; j++)
                if (from + j * WARP < pieces) sum = piece_dot(h[from + j * WARP], w[j], sum);
        }
        sum = warp_sum(sum);
        if (lane_id() == 0) logits[e] = to[e] = sum;
    }
    __syncthreads();
    if (warp_id() == 0) {
        const Choice c = decide(p, row, score ? logits : to);
        if (lane_id() == 0) chosen = c;
    }
    __syncthreads();
    for (int i = threadIdx.x; p.steps & ROUTE_SCALE && i < pieces; i += NORM_THREADS)
        *(uint4 *)(p.scaled + (u64(i / 8) * n.R + row) * LINE + ((i % 8) ^ (row & 7)) * PIECE) = scaled_piece(h[i], chosen.gate);
}

// choose_rows (prefill): a warp has a row, of which there are p.count. The logits are there.
KERNEL(256, 1, choose_rows, RouteParams) {
    const int row = blockIdx.x * 8 + warp_id();
    griddep_launch();
    griddep_wait();
    if (row < p.count) decide(p, row, p.logits + u64(row) * p.ld);
}

struct SortParams {
    const int *expert; // [rows]
    int *sorted;       // [rows] the row's place in the sorted image
    int *token_of;     // [capacity] the row at a place; -1: padding
    Tile *tiles;       // pieces of up to `width` places of one expert
    int *tile_count;
    int rows, experts, capacity, width;
};

// sort_rows gives every row a place so that the rows of an expert lie together, in their order, each expert's first place a
// multiple of 16. One block.
KERNEL(1024, 1, sort_rows, SortParams) {
    __shared__ int count[MAX_ROUTER_EXPERTS], first[MAX_ROUTER_EXPERTS], seen[MAX_ROUTER_EXPERTS];
    __shared__ unsigned short of_warp[32][MAX_ROUTER_EXPERTS / 4]; // rows of a round of 1,024, by warp; experts in quarters
    griddep_launch();
    griddep_wait();
    for (int e = threadIdx.x; e < p.experts; e += blockDim.x) count[e] = 0, seen[e] = 0;
    for (int i = threadIdx.x; i < p.capacity; i += blockDim.x) p.token_of[i] = -1;
    __syncthreads();
    for (int r = threadIdx.x; r < p.rows; r += blockDim.x) atomicAdd(&count[p.expert[r]], 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        int place = 0, n = 0;
        for (int e = 0; e < p.experts; e++) {
            first[e] = place;
            const int each = ceil_div(ceil_div(count[e], max(ceil_div(count[e], p.width), 1)), 16) * 16; // as equal as can be
            for (int at = 0; at < count[e]; at += each) p.tiles[n++] = Tile{e, place + at, min(each, count[e] - at)};
            place += ceil_div(count[e], 16) * 16;
        }
        *p.tile_count = n;
    }
    __syncthreads();
    constexpr int QUARTER = MAX_ROUTER_EXPERTS / 4;
    for (int from = 0; from < p.rows; from += 1024) {
        const int r = from + threadIdx.x;
        const int e = r < p.rows ? p.expert[r] : -1;
        const u32 same = __match_any_sync(0xffffffffu, e); // lanes of this warp with the same expert
        const int rank = __popc(same & ((1u << lane_id()) - 1));
        for (int q = 0; q < p.experts; q += QUARTER) {
            for (int i = threadIdx.x; i < 32 * QUARTER; i += blockDim.x) of_warp[i / QUARTER][i % QUARTER] = 0;
            __syncthreads();
            const bool mine = e >= q && e < q + QUARTER;
            if (mine && rank == 0) of_warp[warp_id()][e - q] = __popc(same);
            __syncthreads();
            if (mine) {
                int place = first[e] + seen[e] + rank;
                for (int w = 0; w < warp_id(); w++) place += of_warp[w][e - q];
                p.sorted[r] = place;
                p.token_of[place] = r;
            }
            __syncthreads();
            if (threadIdx.x < QUARTER && q + int(threadIdx.x) < p.experts) {
                int n = 0;
                for (int w = 0; w < 32; w++) n += of_warp[w][threadIdx.x];
                seen[q + threadIdx.x] += n;
            }
            __syncthreads();
        }
    }
}

struct GatherParams {
    const u8 *h;         // image [D/64][R]
    const int *token_of; // [capacity]
    const float *gate;   // [rows]
    u8 *out;             // image [D/64][out_R]: gate·h at the row's place; zeros at padding
    int R, out_R, tiles;
};

// gather_rows: what the experts read, in sorted order. One block a place.
KERNEL(128, 1, gather_rows, GatherParams) {
    griddep_launch();
    griddep_wait();
    const int place = blockIdx.x, row = p.token_of[place];
    const float g = row < 0 ? 0.0f : p.gate[row];
    for (int i = threadIdx.x; i < p.tiles * 8; i += blockDim.x) {
        uint4 h = make_uint4(0, 0, 0, 0);
        if (row >= 0) h = *activation_piece(p.h, p.R, row, i);
        *(uint4 *)(p.out + (u64(i / 8) * p.out_R + place) * LINE + ((i % 8) ^ (place & 7)) * PIECE) = scaled_piece(h, g);
    }
}
