// Prefill attention on 9.0, for heads of 128 and pages of whole tiles (Pages.tiled): keys and values come by bulk copies as they lie
// in memory, which is how wgmma reads them; codes are widened on the way. Otherwise what attend_prefill.cu does. A block has 128
// positions of one query head at a time.
//
// The first warpgroup keeps stages on their way, also from one piece of work to the next: two warps queries, one keys, one values. Two
// warpgroups multiply. Late positions see the most: they come first, and a block that had the longest piece of a round has the shortest of
// the next.
#include "attend_weigh.cuh"

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

namespace {

constexpr int HD = 128;
constexpr int HALVES = HD / TILE; // tiles of 64 columns in a head

// PrefillItem is piece `item` of the work.
struct PrefillItem {
    QueryTile tile;
    int head, end, rounds; // keys that the last row sees, in stages
};

constexpr int WARPGROUP = 128;
constexpr int GROUPS = 2; // warpgroups that multiply, 64 positions each
constexpr int KEYS = 128; // a stage
constexpr int STAGES = 3;

struct PrefillShared {
    u8 queries[GROUPS][HALVES][64 * LINE];
    u8 keys[STAGES][HALVES][KEYS * LINE], values[STAGES][HALVES][KEYS * LINE];
    u64 keys_full[STAGES], keys_empty[STAGES], values_full[STAGES], values_empty[STAGES], queries_full[GROUPS], queries_empty[GROUPS];
};

// prefill_place is the n-th piece of work of this block: to and fro.
__device__ __forceinline__ int prefill_place(int n) { return n * gridDim.x + (n % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x); }

__device__ __forceinline__ PrefillItem prefill_item(const PrefillParams &p, int item) {
    PrefillItem it;
    it.tile = p.tiles[p.tile_count - 1 - item / p.heads];
    it.head = item % p.heads;
    it.end = it.tile.slot + it.tile.rows;
    it.rounds = ceil_div(it.end, KEYS);
    return it;
}

// queries is the work of N threads: those of a group for a piece of work, as wgmma reads them once every thread has returned.
template <int N> __device__ __forceinline__ void queries(const PrefillParams &p, PrefillShared &s, const PrefillItem &it, int group) {
    constexpr int PIECES = HD / 8; // of 8 values in a row
    const int first = threadIdx.x % N / PIECES, piece = threadIdx.x % PIECES;
    u8 *to = s.queries[group][piece / 8];
    const bf16 *from = p.q + (u64(it.tile.row + group * 64) * p.heads + it.head) * HD + piece * 8;
#pragma unroll 8
    for (int r = first; r < 64; r += N / PIECES)
        cp_async16(to + r * LINE + ((piece % 8) ^ (r & 7)) * PIECE, from + u64(r) * p.heads * HD, group * 64 + r < it.tile.rows);
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
}

// prefill_stages fills the stages of a block's work, one after the other; n counts them.
template <typename Load> __device__ __forceinline__ void prefill_stages(const PrefillParams &p, PrefillShared &s, int &n, Load load) {
    for (int turn = 0, item; (item = prefill_place(turn)) < p.tile_count * p.heads; turn++) {
        const PrefillItem it = prefill_item(p, item);
        const int *table = p.pages.table + it.tile.list;
        const int kv = it.head / (p.heads / p.pages.kv_heads);
        for (int i = 0; i < it.rounds; i++, n++) {
            const int slot = n % STAGES, first = i * KEYS, lines = min(KEYS, it.end - first);
            load(table, kv, first, lines, 0, s.keys[slot][0], &s.keys_full[slot], &s.keys_empty[slot]);
            load(table, kv, first, lines, 1, s.values[slot][0], &s.values_full[slot], &s.values_empty[slot]);
        }
    }
}

// widen is the first warpgroup's work where keys and values are in e4m3: it reads and widens them, into the same rings that produce
// fills with copies. What is read need not wait for its place.
__device__ __forceinline__ void widen(const PrefillParams &p, PrefillShared &s) {
    constexpr int PIECES = HD / PIECE, SOME = KEYS * PIECES / WARPGROUP; // pieces of 16 codes in a line; of a thread
    const int shift = __ffs(p.pages.page_tokens) - 1, piece = threadIdx.x % PIECES; // a power of two
    int n = 0;
    const auto load = [&](const int *table, int kv, int first, int lines, int which, u8 *stage, u64 *full, u64 *empty) {
        uint4 codes[SOME];
#pragma unroll
        for (int i = 0; i < SOME; i++) {
            const int line = (threadIdx.x + i * WARPGROUP) / PIECES, slot = first + line;
            codes[i] = make_uint4(0, 0, 0, 0); // what a weight of 0 meets must be a number
            if (line >= lines) continue;
            const e4m3 *at = kv_head<e4m3>(p.pages, table[slot >> shift], which, kv);
            codes[i] = *(const uint4 *)((const u8 *)at + (slot & (p.pages.page_tokens - 1)) * LINE + (piece ^ (slot & 7)) * PIECE);
        }
        if (n >= STAGES) mbar_wait(empty, (n / STAGES - 1) & 1);
#pragma unroll
        for (int i = 0; i < SOME; i++) {
            const int line = (threadIdx.x + i * WARPGROUP) / PIECES, at = 2 * piece % 8;
            const u32 words[4] = {codes[i].x, codes[i].y, codes[i].z, codes[i].w};
            u32 pairs[8];
#pragma unroll
            for (int j = 0; j < 8; j++) pairs[j] = e4m3_pair(__byte_perm(words[j / 2], 0, 0x3120), j % 2);
            u8 *to = stage + (piece / 4 * KEYS + line) * LINE;
            *(uint4 *)(to + (at ^ (line & 7)) * PIECE) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            *(uint4 *)(to + ((at + 1) ^ (line & 7)) * PIECE) = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
        }
        fence_proxy_async();
        mbar_arrive(full);
    };
    prefill_stages(p, s, n, load);
}

// produce is one warp's work: of keys (0) or values (1), which have rings of their own, since keys are done with earlier.
__device__ __forceinline__ void produce(const PrefillParams &p, PrefillShared &s, int own) {
    const int step = min(p.pages.page_tokens, KEYS);
    int n = 0; // stages issued
    const auto load = [&](const int *table, int kv, int first, int lines, int which, u8 *stage, u64 *full, u64 *empty) {
        if (which != own) return;
        const int pieces = ceil_div(lines, step) * HALVES;
        const auto from = [&](int j) { return tile_of<bf16>(p.pages, table, which, kv, first + j / HALVES * step, j % HALVES); };
        const u8 *const at = lane_id() < pieces ? from(lane_id()) : nullptr; // the page's number comes while the place is waited for
        if (n >= STAGES) mbar_wait(empty, (n / STAGES - 1) & 1);
        if (which == 1 && lines < KEYS) { // what a weight of 0 meets must be a number
            for (int j = lane_id(); j < (KEYS - lines) * 8 * HALVES; j += WARP)
                *(uint4 *)(stage + j % HALVES * KEYS * LINE + lines * LINE + j / HALVES * PIECE) = make_uint4(0, 0, 0, 0);
            fence_proxy_async();
        }
        __syncwarp();
        if (lane_id() == 0) mbar_expect_tx(full, HALVES * lines * LINE);
        __syncwarp();
        for (int j = lane_id(); j < pieces; j += WARP) {
            const int line = j / HALVES * step;
            bulk_load(stage + (j % HALVES * KEYS + line) * LINE, j < WARP ? at : from(j), min(step, lines - line) * LINE, full);
        }
    };
    prefill_stages(p, s, n, load);
}

// bring is a warp's work: a group's queries for all of the block's work, each piece's while the one before it ends.
__device__ __forceinline__ void bring(const PrefillParams &p, PrefillShared &s, int group) {
    for (int turn = 0, item; (item = prefill_place(turn)) < p.tile_count * p.heads; turn++) {
        if (turn > 0) mbar_wait(&s.queries_empty[group], (turn - 1) & 1);
        queries<WARP>(p, s, prefill_item(p, item), group);
        mbar_arrive(&s.queries_full[group]);
    }
}

// scores issues s = q·Kᵀ of a stage.
__device__ __forceinline__ void scores(float (&s)[KEYS / 2], const u8 *queries, const u8 *keys) {
    const u64 q = wgmma_descriptor(queries), b = wgmma_descriptor(keys);
    wgmma_bf16<KEYS, false>(s, q, b);
#pragma unroll
    for (int k = 1; k < HD / 16; k++) wgmma_bf16<KEYS>(s, wgmma_at(q, k / 4 * 64 * LINE + k % 4 * 32), wgmma_at(b, k / 4 * KEYS * LINE + k % 4 * 32));
    wgmma_commit();
}

// weigh makes weights of scores (attention_weigh). Rows g and g+8 see `seen` and `seen`+8 keys of the stage.
__device__ __forceinline__ void weigh(float (&s)[KEYS / 2], float scale, int seen, float (&largest)[2], float (&sum)[2], float (&shrink)[2]) {
    const int t = lane_id() % 4;
    if (seen < KEYS) {
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++)
            if (i / 4 * 8 + 2 * t + i % 2 >= seen + i / 2 % 2 * 8) s[i] = -INFINITY;
    }
    attention_weigh<KEYS, true>(s, scale, largest, sum, shrink);
}

// attend_item is one piece of work of a warpgroup, its block's n-th; `done` stages came before it. Where the first warpgroup has
// codes to widen, this one brings its queries itself.
template <bool CODED> __device__ __forceinline__ void attend_item(const PrefillParams &p, PrefillShared &s, const PrefillItem &it, int n, int done) {
    const QueryTile &tile = it.tile;
    const int group = threadIdx.x / WARPGROUP - 1, w = warp_id() % 4, g = lane_id() / 4, t = lane_id() % 4;
    const bool elected = threadIdx.x % WARPGROUP == 0;
    const int row = group * 64 + w * 16; // of this warp, within the tile
    const auto slot = [&](int i) { return (done + i) % STAGES; };
    const auto phase = [&](int i) { return u32((done + i) / STAGES & 1); };
    const u8 *q = s.queries[group][0];
    float score[KEYS / 2], out[HD / 2];
#pragma unroll
    for (int i = 0; i < HD / 2; i++) out[i] = 0;
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, shrink[2];
    u32 weights[KEYS / 16][4];
    const int last = it.rounds - 1;
    const auto scored = [&](int i) { // of stage i
        if (!elected) return;
        mbar_arrive(&s.keys_empty[slot(i)]);
        if (!CODED && i == last) mbar_arrive(&s.queries_empty[group]);
    };
    if (CODED) {
        bar_sync(1 + group, WARPGROUP); // nobody multiplies with the last ones any more
        queries<WARPGROUP>(p, s, it, group);
        bar_sync(1 + group, WARPGROUP);
    } else mbar_wait(&s.queries_full[group], n & 1);
    mbar_wait(&s.keys_full[slot(0)], phase(0));
    wgmma_fence();
    scores(score, q, s.keys[slot(0)][0]);
    wgmma_wait<0>();
    scored(0);
    // The compiler moves the wait before what weighs, so that it is the other warpgroup's products that hide it. Held behind, it was no
    // faster, nor were turns at the tensor cores: bench/LOG.md, 2026-11-28.
    const auto settle = [&](int i) {
        weigh(score, p.scale, tile.slot + row + g + 1 - i * KEYS, largest, sum, shrink);
        wgmma_wait<0>();
        if (i > 0 && elected) mbar_arrive(&s.values_empty[slot(i - 1)]);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
            for (int j = 0; j < 4; j++) weights[k][j] = pack(score[8 * k + 2 * j], score[8 * k + 2 * j + 1]);
#pragma unroll
        for (int j = 0; j < HD / 2; j++) out[j] *= shrink[j / 2 % 2];
    };
    const auto add_values = [&](int i) {
        const u64 b = wgmma_descriptor_t(s.values[slot(i)][0], KEYS * LINE);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) wgmma_bf16_rows_t<HD>(out, weights[k], wgmma_at(b, k * 16 * LINE));
        wgmma_commit();
    };
    for (int i = 0; i < last; i++) {
        settle(i);
        mbar_wait(&s.keys_full[slot(i + 1)], phase(i + 1));
        mbar_wait(&s.values_full[slot(i)], phase(i));
        wgmma_fence();
        scores(score, q, s.keys[slot(i + 1)][0]);
        add_values(i);
        wgmma_wait<1>();
        scored(i + 1);
    }
    settle(last);
    mbar_wait(&s.values_full[slot(last)], phase(last));
    wgmma_fence();
    add_values(last);
    wgmma_wait<0>();
    if (elected) mbar_arrive(&s.values_empty[slot(last)]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / attention_total(sum[r]);
        if (row + g + 8 * r >= tile.rows) continue;
#pragma unroll
        for (int j = 0; j < HD / 8; j++)
            *(u32 *)(p.z + image_at(p.R, tile.row + row + g + 8 * r, it.head * HD + j * 8 + 2 * t)) = pack(out[4 * j + 2 * r] * inverse, out[4 * j + 2 * r + 1] * inverse);
    }
}

template <typename E> __device__ __forceinline__ void attend_prefill(const PrefillParams &p, u8 *memory) {
    constexpr bool CODED = sizeof(E) == 1;
    PrefillShared &s = *reinterpret_cast<PrefillShared *>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&s.keys_full[i], CODED ? WARPGROUP : 1), mbar_init(&s.keys_empty[i], GROUPS);
            mbar_init(&s.values_full[i], CODED ? WARPGROUP : 1), mbar_init(&s.values_empty[i], GROUPS);
        }
        for (int i = 0; i < GROUPS; i++) mbar_init(&s.queries_full[i], WARP), mbar_init(&s.queries_empty[i], 1);
        mbar_init_fence();
    }
    __syncthreads();
    griddep_wait();
    griddep_launch();
    using Split = Registers<(GROUPS + 1) * WARPGROUP, CODED ? 104 : 72, CODED ? 200 : 216>;
    if (threadIdx.x < WARPGROUP) {
        Split::give();
        if (CODED) widen(p, s);
        else if (warp_id() < GROUPS) bring(p, s, warp_id());
        else produce(p, s, warp_id() - GROUPS);
    } else {
        Split::take();
        int done = 0;
        for (int turn = 0, item; (item = prefill_place(turn)) < p.tile_count * p.heads; turn++) {
            const PrefillItem it = prefill_item(p, item);
            attend_item<CODED>(p, s, it, turn, done);
            done += it.rounds;
        }
    }
}

} // namespace

// attend_prefill_90: a block for each multiprocessor, over tiles of up to 128 rows and heads.
#define ATTEND(E, NAME)                                        \
    KERNEL((GROUPS + 1) * WARPGROUP, 1, NAME, PrefillParams) { \
        DYNAMIC_SHARED(memory);                                \
        attend_prefill<E>(p, memory);                          \
    }

ATTEND(bf16, attend_prefill_90)
ATTEND(e4m3, attend_prefill_e4m3_90)

#endif
