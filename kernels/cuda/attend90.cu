// Attention on 9.0, for heads of 128 and pages of whole tiles (Pages.tiled): keys and values come by bulk copies as they lie
// in memory, which is how ldmatrix and wgmma read them. Decode and prefill otherwise do what attend_decode.cu and
// attend_prefill.cu do.
#include "attend.cuh"

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

namespace {

constexpr int HD = 128;
constexpr int HALVES = HD / TILE; // tiles of 64 columns in a head

// tile_of is line `slot` of a page table, columns 64·half.. of a head's keys (which 0) or values (1).
__device__ __forceinline__ const u8 *tile_of(const Pages &p, const int *table, int which, int head, int slot, int half) {
    const bf16 *at = kv_head(p, table[slot / p.page_tokens], which, head);
    return (const u8 *)(at + (half * p.page_tokens + slot % p.page_tokens) * TILE);
}

// ---- decode: a block has a split of one key/value head ----
//
// One warp keeps a ring of stages of 64 keys and values on their way, also from one split to the next; four warps take 16
// keys of a stage each.

constexpr int WARPS = 4;
constexpr int DECODE_KEYS = 64, WARP_KEYS = DECODE_KEYS / WARPS;
constexpr int DECODE_STAGES = 2;
constexpr int MAX_ROWS = 64;

struct DecodeShared {
    u8 kv[DECODE_STAGES][2][HALVES][DECODE_KEYS * LINE];
    float out[WARPS][16][HD + 4]; // where the warps' results meet
    float largest[WARPS][16], sum[WARPS][16];
    u64 full[DECODE_STAGES], empty[DECODE_STAGES];
    int first_split[MAX_ROWS + 1];
};

struct DecodeTile { // where a piece of 16 bytes of a stage lies
    __device__ __forceinline__ int operator()(int line, int piece) const { return piece / 8 * DECODE_KEYS * LINE + line * LINE + ((piece % 8) ^ (line & 7)) * PIECE; }
};

// DecodeItem is a split of a key/value head: keys begin..end-1 of a row.
struct DecodeItem {
    int split, head, row, begin, end, length;
    const int *table;
};

__device__ __forceinline__ DecodeItem decode_item(const DecodeParams &p, const DecodeShared &s, int item) {
    DecodeItem it;
    it.split = item / p.pages.kv_heads, it.head = item % p.pages.kv_heads, it.row = 0;
    while (s.first_split[it.row + 1] <= it.split) it.row++;
    it.length = p.length[it.row];
    const int each = decode_split_keys(it.length);
    it.begin = (it.split - s.first_split[it.row]) * each;
    it.end = min(it.begin + each, it.length);
    it.table = p.pages.table + p.list[it.row];
    return it;
}

// decode_produce is one warp. What says where the keys lie is there since before the step, and so are all keys but the rows'
// own: copies of the others need not wait for the kernels before this one.
__device__ __forceinline__ void decode_produce(const DecodeParams &p, DecodeShared &s, int items) {
    const int l = lane_id(), step = min(p.pages.page_tokens, DECODE_KEYS);
    bool waited = false;
    int n = 0; // stages issued
    for (int i = blockIdx.x; i < items; i += gridDim.x) {
        const DecodeItem it = decode_item(p, s, i);
        for (int first = it.begin; first < it.end; first += DECODE_KEYS, n++) {
            const int slot = n % DECODE_STAGES, lines = min(it.end - first, DECODE_KEYS);
            if (!waited && first + lines == it.length) {
                griddep_wait();
                waited = true;
            }
            if (n >= DECODE_STAGES) mbar_wait(&s.empty[slot], (n / DECODE_STAGES - 1) & 1);
            if (lines < DECODE_KEYS) // what a weight of 0 meets must be a number
                for (int j = l; j < (DECODE_KEYS - lines) * 8 * HALVES; j += WARP)
                    *(uint4 *)(s.kv[slot][1][j % HALVES] + lines * LINE + j / HALVES * PIECE) = make_uint4(0, 0, 0, 0);
            // Every lane arrives: each has written zeros.
            if (l == 0) mbar_expect_tx(&s.full[slot], 2 * HALVES * lines * LINE);
            else mbar_arrive(&s.full[slot]);
            __syncwarp();
            for (int j = l; j < ceil_div(lines, step) * 2 * HALVES; j += WARP) {
                const int line = j / (2 * HALVES) * step, which = j / HALVES % 2, half = j % HALVES;
                bulk_load(s.kv[slot][which][half] + line * LINE, tile_of(p.pages, it.table, which, it.head, first + line, half), min(step, lines - line) * LINE, &s.full[slot]);
            }
        }
    }
    if (!waited) griddep_wait();
}

__device__ __forceinline__ void decode_consume(const DecodeParams &p, DecodeShared &s, int items) {
    const int w = warp_id(), l = lane_id(), g = l / 4, t = l % 4, group = p.heads / p.pages.kv_heads;
    griddep_wait();
    int n = 0;
    for (int i = blockIdx.x; i < items; i += gridDim.x) {
        const DecodeItem it = decode_item(p, s, i);
        u32 q[HD / 16][4];
        attention_query<HD>(q, HD, [&](int r) -> const bf16 * { return r < group ? p.q + (u64(it.row) * p.heads + it.head * group + r) * HD : nullptr; });
        Attention<HD> a;
        attention_begin(a);
        for (int first = it.begin; first < it.end; first += DECODE_KEYS, n++) {
            const int slot = n % DECODE_STAGES, seen = min(it.end - first - w * WARP_KEYS, WARP_KEYS);
            mbar_wait(&s.full[slot], n / DECODE_STAGES & 1);
            const int limit[2] = {seen, seen};
            if (seen > 0)
                attention_keys<HD, WARP_KEYS>(a, q, s.kv[slot][0][0] + w * WARP_KEYS * LINE, s.kv[slot][1][0] + w * WARP_KEYS * LINE, p.scale, limit, DecodeTile());
            __syncwarp();
            if (l == 0) mbar_arrive(&s.empty[slot]);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float sum = attention_total(a.sum[r]);
            if (t == 0) s.largest[w][g + 8 * r] = a.largest[r], s.sum[w][g + 8 * r] = sum;
#pragma unroll
            for (int j = 0; j < HD / 8; j++) *(float2 *)&s.out[w][g + 8 * r][j * 8 + 2 * t] = make_float2(a.out[j][2 * r], a.out[j][2 * r + 1]);
        }
        bar_sync(1, WARPS * WARP);
        decode_meet<WARPS>(p, it.split, it.head, group, s.largest, s.sum, s.out);
        bar_sync(1, WARPS * WARP);
    }
}

// ---- prefill: a block has 128 positions of one query head at a time ----
//
// One warp keeps stages of keys and values on their way, also from one piece of work to the next; two warpgroups multiply. Late
// positions see the most: they come first, and every block has about as many of each.

// PrefillItem is piece `item` of the work.
struct PrefillItem {
    QueryTile tile;
    int head, end, rounds; // keys that the last row sees, in stages
};

constexpr int WARPGROUP = 128;
constexpr int GROUPS = 2; // warpgroups that multiply, 64 positions each
constexpr int KEYS = 128; // a stage
constexpr int STAGES = 2;

struct PrefillShared {
    u8 queries[GROUPS][HALVES][64 * LINE];
    u8 keys[STAGES][HALVES][KEYS * LINE], values[STAGES][HALVES][KEYS * LINE];
    u64 keys_full[STAGES], keys_empty[STAGES], values_full[STAGES], values_empty[STAGES];
};

__device__ __forceinline__ PrefillItem prefill_item(const PrefillParams &p, int item) {
    PrefillItem it;
    it.tile = p.tiles[p.tile_count - 1 - item / p.heads];
    it.head = item % p.heads;
    it.end = it.tile.slot + it.tile.rows;
    it.rounds = ceil_div(it.end, KEYS);
    return it;
}

// produce is one warp. Keys and values have rings of their own, since keys are done with earlier.
__device__ __forceinline__ void produce(const PrefillParams &p, PrefillShared &s) {
    const int step = min(p.pages.page_tokens, KEYS);
    int n = 0; // stages issued
    const auto load = [&](const int *table, int kv, int first, int lines, int which, u8 *stage, u64 *full, u64 *empty) {
        if (n >= STAGES) mbar_wait(empty, (n / STAGES - 1) & 1);
        if (which == 1 && lines < KEYS) { // what a weight of 0 meets must be a number
            for (int j = lane_id(); j < (KEYS - lines) * 8 * HALVES; j += WARP)
                *(uint4 *)(stage + j % HALVES * KEYS * LINE + lines * LINE + j / HALVES * PIECE) = make_uint4(0, 0, 0, 0);
            fence_proxy_async();
        }
        __syncwarp();
        if (lane_id() == 0) mbar_expect_tx(full, HALVES * lines * LINE);
        __syncwarp();
        for (int j = lane_id(); j < ceil_div(lines, step) * HALVES; j += WARP) {
            const int line = j / HALVES * step, half = j % HALVES;
            bulk_load(stage + (half * KEYS + line) * LINE, tile_of(p.pages, table, which, kv, first + line, half), min(step, lines - line) * LINE, full);
        }
    };
    for (int item = blockIdx.x; item < p.tile_count * p.heads; item += gridDim.x) {
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

// scores issues s = q·Kᵀ of a stage.
__device__ __forceinline__ void scores(float (&s)[KEYS / 2], const u8 *queries, const u8 *keys) {
    wgmma_bf16<KEYS, false>(s, wgmma_descriptor(queries), wgmma_descriptor(keys));
#pragma unroll
    for (int k = 1; k < HD / 16; k++)
        wgmma_bf16<KEYS>(s, wgmma_descriptor(queries + k / 4 * 64 * LINE + k % 4 * 32), wgmma_descriptor(keys + k / 4 * KEYS * LINE + k % 4 * 32));
    wgmma_commit();
}

// weigh makes weights of scores, in place: 2^(score·scale - largest). Rows g and g+8 see `seen` and `seen`+8 keys of the
// stage. The running maxima (of unscaled scores) and sums are brought up to date; shrink is by how much older sums lose.
__device__ __forceinline__ void weigh(float (&s)[KEYS / 2], float scale, int seen, float (&largest)[2], float (&sum)[2], float (&shrink)[2]) {
    const int t = lane_id() % 4;
    if (seen < KEYS) {
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++)
            if (i / 4 * 8 + 2 * t + i % 2 >= seen + i / 2 % 2 * 8) s[i] = -INFINITY;
    }
    // Four chains for each row: one would be slower than the tensor cores.
    constexpr int CHAINS = 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most[CHAINS];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            const float two = fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]);
            most[j % CHAINS] = j < CHAINS ? two : fmaxf(most[j % CHAINS], two);
        }
        float all = fmaxf(largest[r], fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])));
        all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, 1));
        all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, 2));
        const float origin = all == -INFINITY ? 0.0f : all * scale; // nothing seen so far: every weight is 0
        shrink[r] = exp2_approx(largest[r] * scale - origin);
        largest[r] = all;
        float total[CHAINS] = {sum[r] * shrink[r], 0, 0, 0};
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            float &x = s[4 * j + 2 * r], &y = s[4 * j + 2 * r + 1];
            x = exp2_approx(fmaf(x, scale, -origin));
            y = exp2_approx(fmaf(y, scale, -origin));
            total[j % CHAINS] += x + y;
        }
        sum[r] = (total[0] + total[1]) + (total[2] + total[3]);
    }
}

// attend_item is one piece of work of a warpgroup; `done` stages came before it.
__device__ __forceinline__ void attend_item(const PrefillParams &p, PrefillShared &s, const PrefillItem &it, int done) {
    const QueryTile &tile = it.tile;
    const int group = threadIdx.x / WARPGROUP - 1, w = warp_id() % 4, g = lane_id() / 4, t = lane_id() % 4;
    const bool elected = threadIdx.x % WARPGROUP == 0;
    const int row = group * 64 + w * 16; // of this warp, within the tile
    const auto slot = [&](int i) { return (done + i) % STAGES; };
    const auto phase = [&](int i) { return u32((done + i) / STAGES & 1); };
    u8 *q = s.queries[group][0];
    for (int i = threadIdx.x % WARPGROUP; i < 64 * HD / 8; i += WARPGROUP) {
        const int r = i / (HD / 8), piece = i % (HD / 8), from = group * 64 + r;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (from < tile.rows) v = *(const uint4 *)(p.q + (u64(tile.row + from) * p.heads + it.head) * HD + piece * 8);
        *(uint4 *)(q + piece / 8 * 64 * LINE + r * LINE + ((piece % 8) ^ (r & 7)) * PIECE) = v;
    }
    fence_proxy_async();
    bar_sync(1 + group, WARPGROUP);

    float score[KEYS / 2], out[HD / 2];
#pragma unroll
    for (int i = 0; i < HD / 2; i++) out[i] = 0;
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, shrink[2];
    u32 weights[KEYS / 16][4];
    mbar_wait(&s.keys_full[slot(0)], phase(0));
    wgmma_fence();
    scores(score, q, s.keys[slot(0)][0]);
    wgmma_wait<0>();
    if (elected) mbar_arrive(&s.keys_empty[slot(0)]);
    // Scores become weights while the tensor cores add the values of the stage before.
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
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) wgmma_bf16_rows_t<HD>(out, weights[k], wgmma_descriptor_t(s.values[slot(i)][0] + k * 16 * LINE, KEYS * LINE));
        wgmma_commit();
    };
    // The warpgroups take turns at the tensor cores, so that one weighs while the other multiplies.
    constexpr int TURN = 1 + GROUPS;
    const int last = it.rounds - 1;
    if (group == 1 && last > 0) bar_arrive(TURN, GROUPS * WARPGROUP);
    for (int i = 0; i < last; i++) {
        settle(i);
        mbar_wait(&s.keys_full[slot(i + 1)], phase(i + 1));
        mbar_wait(&s.values_full[slot(i)], phase(i));
        bar_sync(TURN + group, GROUPS * WARPGROUP);
        wgmma_fence();
        scores(score, q, s.keys[slot(i + 1)][0]);
        add_values(i);
        if (group == 0 || i + 1 < last) bar_arrive(TURN + 1 - group, GROUPS * WARPGROUP);
        wgmma_wait<1>();
        if (elected) mbar_arrive(&s.keys_empty[slot(i + 1)]);
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

} // namespace

// attend_decode_90: grid of resident blocks; see attend_decode.cu.
KERNEL((WARPS + 1) * WARP, 2, attend_decode_90, DecodeParams) {
    DYNAMIC_SHARED(memory);
    DecodeShared &s = *reinterpret_cast<DecodeShared *>(memory);
    const int rows = *p.rows;
    for (int i = threadIdx.x; i <= rows; i += blockDim.x) s.first_split[i] = p.first_split[i];
    if (threadIdx.x == 0) {
        for (int i = 0; i < DECODE_STAGES; i++) mbar_init(&s.full[i], WARP), mbar_init(&s.empty[i], WARPS);
        mbar_init_fence();
    }
    __syncthreads();
    griddep_launch();
    const int items = s.first_split[rows] * p.pages.kv_heads;
    if (int(blockIdx.x) >= items) return; // makes room for the blocks of the kernels that follow
    if (warp_id() == WARPS) decode_produce(p, s, items);
    else decode_consume(p, s, items);
}

// attend_prefill_90: a block for each multiprocessor, over tiles of up to 128 rows and heads.
KERNEL((GROUPS + 1) * WARPGROUP, 1, attend_prefill_90, PrefillParams) {
    DYNAMIC_SHARED(memory);
    PrefillShared &s = *reinterpret_cast<PrefillShared *>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&s.keys_full[i], 1), mbar_init(&s.keys_empty[i], GROUPS);
            mbar_init(&s.values_full[i], 1), mbar_init(&s.values_empty[i], GROUPS);
        }
        mbar_init_fence();
    }
    __syncthreads();
    griddep_wait();
    griddep_launch();
    if (threadIdx.x < WARPGROUP) {
        setmaxnreg_dec<56>();
        if (warp_id() == 0) produce(p, s);
    } else {
        setmaxnreg_inc<224>();
        int done = 0;
        for (int item = blockIdx.x; item < p.tile_count * p.heads; item += gridDim.x) {
            const PrefillItem it = prefill_item(p, item);
            attend_item(p, s, it, done);
            done += it.rounds;
        }
    }
}

#endif
