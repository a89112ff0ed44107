// Norm, router and choice of a layer of experts, and digits of what is between their products; for prefill, the order of rows by expert.
#include "gemm.cuh"
#include "digits.cuh"
#include "slice.cuh"

// route_rows (decode): one block a row; D floats and tiles·64 bfloat16 of shared memory. Each warp has its experts. Pieces of a warp's
// first expert go into registers before the row is there, the others into the cache. The shared expert, which needs no choice,
// begins when every row is normed: `normed` says so before this kernel ends. ORDERED, the router has the columns of the normalised row.
template <bool ORDERED>
__device__ __forceinline__ void route_rows_of(const RouteParams &p, u8 *memory, float *scratch, float *logits, Choice &chosen) {
    griddep_launch();
    constexpr int AHEAD = 2; // slices of an expert on their way
    const NormParams &n = p.norm;
    const int pieces = n.tiles * 8, row = blockIdx.x, slices = ceil_div(pieces, SLICE_PIECES);
    const bool score = p.steps & ROUTE_LOGITS;
    uint4 *h = (uint4 *)((float *)memory + n.D);
    RouterSlice w[AHEAD];
    const auto load = [&](int e, int from) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) w[i].load(p, e, from + i);
    };
    if (score && warp_id() < p.experts) load(warp_id(), 0);
    // Of a tile of the router, every expert's line is one line of the cache.
    constexpr int KEPT = AHEAD * SLICE_PIECES / 8;
    for (int i = threadIdx.x; score && i < min(p.experts, 16) * (n.tiles - KEPT); i += NORM_THREADS)
        prefetch_l2(p.router + u64(KEPT + i / min(p.experts, 16)) * WEIGHT_TILE + i % min(p.experts, 16) * LINE);
    const NormWeight weight = norm_weight(n);
    const bool there = row < *n.rows;
    griddep_wait();
    if (p.steps & ROUTE_NORM) norm_row<ORDERED>(n, NormRow{row, there ? row : -1}, weight, (float *)memory, (uint2 *)h, scratch, Pending{n});
    else
        for (int i = threadIdx.x; there && i < pieces; i += NORM_THREADS) h[i] = *activation_piece(n.image, n.R, row, i);
    if (n.digits && there) {
        __syncthreads();
        write_digits<false>(n.image, n.R, row, 0, (const uint2 *)h, n.tiles, 1);
    }
    if (p.normed) fence_proxy_async_global();
    __syncthreads();
    if (p.normed && threadIdx.x == 0) signal(p.normed);
    if (!there) {
        if (p.steps & ROUTE_CHOOSE && threadIdx.x == 0) p.expert[row] = -1, p.gate[row] = 0;
        for (int i = threadIdx.x; p.steps & ROUTE_SCALE && !p.digits && i < pieces; i += NORM_THREADS)
            *(uint4 *)(p.scaled + (u64(i / 8) * n.R + row) * LINE + i % 8 * PIECE) = make_uint4(0, 0, 0, 0);
        return;
    }
    float *to = p.logits + u64(row) * p.ld;
    for (int e = warp_id(); score && e < p.experts; e += NORM_THREADS / WARP) {
        float sum = 0;
        for (int from = 0; from < slices; from += AHEAD) {
            if (e != warp_id() || from > 0) load(e, from);
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (const int first = (from + i) * SLICE_PIECES; first < pieces) sum += w[i].dot(h + first, pieces - first);
        }
        if (lane_id() == 0) logits[e] = to[e] = sum;
    }
    __syncthreads();
    if (warp_id() == 0) {
        const Choice c = decide(p, row, score ? logits : to);
        if (lane_id() == 0) chosen = c;
    }
    __syncthreads();
    if (p.digits) {
        write_digits<true>(p.scaled, n.R, row, 0, (const uint2 *)h, n.tiles, chosen.gate);
        return;
    }
    for (int i = threadIdx.x; p.steps & ROUTE_SCALE && i < pieces; i += NORM_THREADS)
        *(uint4 *)(p.scaled + (u64(i / 8) * n.R + row) * LINE + ((i % 8) ^ (row & 7)) * PIECE) = scaled_piece(h[i], chosen.gate);
}

#define ROUTE_ROWS(NAME, ORDERED) \
    KERNEL(NORM_THREADS, 1, NAME, RouteParams) { \
        DYNAMIC_SHARED(memory); \
        __shared__ float scratch[MAX_GROUPS], logits[MAX_ROUTER_EXPERTS]; \
        __shared__ Choice chosen; \
        route_rows_of<ORDERED>(p, memory, scratch, logits, chosen); \
    }

ROUTE_ROWS(route_rows, false)
ROUTE_ROWS(route_rows_ordered, true)

// route_slices is route_rows with all of its steps and a block for each slice of each row; slices·E floats of shared memory. Each warp has its
// experts; the slice's pieces of its first one are in registers before the row is there.
KERNEL(NORM_THREADS, 1, route_slices, RouteParams) {
    DYNAMIC_SHARED(memory);
    __shared__ float groups[MAX_GROUPS], logits[MAX_ROUTER_EXPERTS];
    __shared__ uint4 h[SLICE_PIECES];
    __shared__ Choice chosen;
    griddep_launch();
    const NormParams &n = p.norm;
    const Slice at(n);
    const int pieces = min(n.tiles * 8 - at.slice * SLICE_PIECES, SLICE_PIECES), all = at.slices * p.experts;
    RouterSlice w;
    if (warp_id() < p.experts) w.load(p, warp_id(), at.slice);
    const float4 weight = slice_weight(n, at);
    griddep_wait();
    norm_slice(n, at, weight, groups, (uint2 *)h);
    if (n.digits && at.there) {
        __syncthreads();
        write_digits<false>(n.image, n.R, at.row, at.slice * ROUTE_SLICE / (2 * TILE), (const uint2 *)h, pieces / 8, 1);
    }
    fence_proxy_async_global();
    __syncthreads();
    if (p.normed && threadIdx.x == 0) signal(p.normed);
    if (at.there) {
        float *heard = (float *)memory;
        u64 *parts = p.parts + at.row * all;
#pragma unroll 1
        for (int e = warp_id(); e < p.experts; e += NORM_THREADS / WARP) {
            if (e != warp_id()) w.load(p, e, at.slice);
            const float part = w.dot(h, pieces);
            if (lane_id() == 0) tell(parts + at.slice * p.experts + e, part, at.about);
        }
#pragma unroll 1
        for (int i = threadIdx.x; i < all; i += NORM_THREADS) heard[i] = hear(parts + i, at.about);
        __syncthreads();
#pragma unroll 1
        for (int e = threadIdx.x; e < p.experts; e += NORM_THREADS) {
            float sum = 0;
#pragma unroll 4
            for (int i = 0; i < at.slices; i++) sum += heard[i * p.experts + e];
            logits[e] = sum;
            if (at.slice == 0) p.logits[u64(at.row) * p.ld + e] = sum;
        }
        __syncthreads();
        if (warp_id() == 0) {
            const Choice c = choose(logits, p.experts, p.status);
            if (lane_id() == 0) chosen = c;
            if (lane_id() == 0 && at.slice == 0) record(p, at.row, c);
        }
        __syncthreads();
    } else if (threadIdx.x == 0) {
        p.expert[at.row] = -1, p.gate[at.row] = 0, chosen.gate = 0;
    }
    __syncthreads();
    if (p.digits) {
        if (at.there) write_digits<true>(p.scaled, n.R, at.row, at.slice * ROUTE_SLICE / (2 * TILE), (const uint2 *)h, pieces / 8, chosen.gate);
        return;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < pieces; i += NORM_THREADS) {
        const int piece = at.slice * SLICE_PIECES + i;
        *(uint4 *)(p.scaled + (u64(piece / 8) * n.R + at.row) * LINE + ((piece % 8) ^ (at.row & 7)) * PIECE) = scaled_piece(h[i], chosen.gate);
    }
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

// DigitRowsParams: images, one or two, of as many tiles, and where their digits go.
struct DigitRowsParams {
    const u8 *images[2]; // [tiles][R]
    u8 *digits[2];
    const int *rows; // one number
    int R, tiles;
};

// digit_rows makes digits of images of bfloat16, which many rows want made once, not by every block that multiplies them. Grid (rows, images
// times blocks of a row); a warp has 256 columns.
KERNEL(256, 1, digit_rows, DigitRowsParams) {
    griddep_launch();
    const int warps = blockDim.x / WARP, blocks = ceil_div(p.tiles, DIGIT_TILES * warps), image = blockIdx.y / blocks;
    const int row = blockIdx.x, group = blockIdx.y % blocks * warps + warp_id(), tiles = min(p.tiles - group * DIGIT_TILES, DIGIT_TILES);
    griddep_wait();
    if (row >= *p.rows || tiles <= 0) return;
    Piece piece;
    piece.load(p.images[image] + (u64(group) * DIGIT_TILES * p.R + row) * LINE, p.R * LINE, row, tiles);
    u8 *to = p.digits[image] + u64(group) * digit_group(p.R);
    store_digits(piece, to + row * LINE, p.R * LINE, row, tiles, (float *)(to + digit_lines(p.R)) + row, p.R);
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
