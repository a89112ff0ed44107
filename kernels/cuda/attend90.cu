// Attention on 9.0, for heads of 128 and pages of whole tiles (Pages.tiled): keys and values come by bulk copies as they lie
// in memory, which is how ldmatrix and wgmma read them. Prefill otherwise does what attend_prefill.cu does. Decode is one kernel
// from the sums of the projections to z, where attend_decode.cu needs one before and one after: each costs a step some 3 µs a
// layer.
#include "attend.cuh"
#include "rope.cuh"

struct FusedDecodeParams {
    DecodeParams attend;
    RopeParams rope; // qkv: null where q and the rows' own keys are there already
    u32 *arrived;    // [rows][arrived_ld] splits of each key/value head that are done; 0 before
    int arrived_ld;
};

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

namespace {

constexpr int HD = 128;
constexpr int HALVES = HD / TILE; // tiles of 64 columns in a head; of e4m3 there is one, of 128
template <typename E> constexpr int halves = HD * sizeof(E) / LINE;

// tile_of is line `slot` of a page table, tile `half` of a head's keys (which 0) or values (1).
template <typename E> __device__ __forceinline__ const u8 *tile_of(const Pages &p, const int *table, int which, int head, int slot, int half) {
    const E *at = kv_head<E>(p, table[slot / p.page_tokens], which, head);
    return (const u8 *)at + (half * p.page_tokens + slot % p.page_tokens) * LINE;
}

// ---- decode: a block has a run of splits, those of a key/value head of a row one after the other ----
//
// One warp keeps a ring of stages of 64 keys and values on their way, also from one split to the next; four warps take 16
// keys of a stage each. Every block makes the queries that it needs itself. The row's own key and value are made by the block
// that has the last split; it puts them into the pages and into its stage. The block that finishes a head's last split adds
// the splits.

constexpr int WARPS = 4;
constexpr int DECODE_KEYS = 64, WARP_KEYS = DECODE_KEYS / WARPS;
template <typename E> constexpr int decode_stages = 4 / sizeof(E); // the same bytes on their way
constexpr int MAX_ROWS = 64, MAX_GROUP = 16;
constexpr int MAX_SPLITS = 64; // of a row (decode_split_keys)
constexpr int QUERY = HD + 8;  // elements of a query in shared memory: rows in different banks

template <typename E> struct DecodeShared {
    u8 kv[decode_stages<E>][2][halves<E>][DECODE_KEYS * LINE];
    float out[WARPS][MAX_GROUP][HD + 4]; // where the warps' results meet
    union {
        bf16 query[MAX_GROUP][QUERY];
        float share[MAX_GROUP][MAX_SPLITS]; // when the splits are added
    };
    float largest[WARPS][MAX_GROUP], sum[WARPS][MAX_GROUP];
    u64 full[decode_stages<E>], empty[decode_stages<E>];
    int first_split[MAX_ROWS + 1];
    int last; // this block finished a head
};

struct DecodeTile { // where a piece of 16 bytes of a stage lies
    __device__ __forceinline__ int operator()(int line, int piece) const { return piece / 8 * DECODE_KEYS * LINE + line * LINE + ((piece % 8) ^ (line & 7)) * PIECE; }
};

// DecodeItem is a split of a key/value head: keys begin..end-1 of a row.
struct DecodeItem {
    int row, head, split, splits; // splits of the row
    int begin, end, length;
    const int *table;
};

// decode_item finds item i: rows, then heads, then splits. A whole warp asks.
template <typename E> __device__ __forceinline__ DecodeItem decode_item(const DecodeParams &p, const DecodeShared<E> &s, int rows, int i) {
    DecodeItem it;
    const int l = lane_id(), heads = p.pages.kv_heads;
    const auto before = [&](int r) { return r < rows && s.first_split[r + 1] * heads <= i; };
    it.row = __popc(__ballot_sync(0xffffffffu, before(l))) + __popc(__ballot_sync(0xffffffffu, before(l + WARP)));
    i -= s.first_split[it.row] * heads;
    it.splits = s.first_split[it.row + 1] - s.first_split[it.row];
    it.head = i / it.splits, it.split = i % it.splits;
    it.length = p.length[it.row];
    const int each = decode_split_keys(it.length);
    it.begin = it.split * each;
    it.end = min(it.begin + each, it.length);
    it.table = p.pages.table + p.list[it.row];
    return it;
}

// Items are dealt out in runs: block b has those from first(b) to first(b + 1).
__device__ __forceinline__ int decode_first(int items, int block) { return block * (items / int(gridDim.x)) + min(block, items % int(gridDim.x)); }

// decode_produce is one warp. What says where the keys lie is there since before the step, and so are all keys but the rows'
// own: copies of the others need not wait for the kernels before this one.
template <typename E> __device__ __forceinline__ void decode_produce(const FusedDecodeParams &f, DecodeShared<E> &s, int rows, int from, int to) {
    constexpr int STAGES = decode_stages<E>, HALVES = halves<E>;
    const DecodeParams &p = f.attend;
    const int l = lane_id(), step = min(p.pages.page_tokens, DECODE_KEYS);
    const bool rotates = f.rope.qkv.values;
    bool waited = false;
    int n = 0; // stages issued
    for (int i = from; i < to; i++) {
        const DecodeItem it = decode_item(p, s, rows, i);
        for (int first = it.begin; first < it.end; first += DECODE_KEYS, n++) {
            const int slot = n % STAGES, seen = min(it.end - first, DECODE_KEYS);
            const bool own = first + seen == it.length; // the row's own key is in this stage
            const int lines = seen - (own && rotates);
            if (own && !rotates && !waited) {
                griddep_wait();
                waited = true;
            }
            if (n >= STAGES) mbar_wait(&s.empty[slot], (n / STAGES - 1) & 1);
            if (seen < DECODE_KEYS) { // what a weight of 0 meets must be a number
                for (int j = l; j < (DECODE_KEYS - seen) * 8 * HALVES; j += WARP)
                    *(uint4 *)(s.kv[slot][1][j % HALVES] + seen * LINE + j / HALVES * PIECE) = make_uint4(0, 0, 0, 0);
                fence_proxy_async(); // a later copy overwrites them
            }
            // Every lane arrives: each has written zeros.
            if (l == 0) mbar_expect_tx(&s.full[slot], 2 * HALVES * lines * LINE);
            else mbar_arrive(&s.full[slot]);
            __syncwarp();
            for (int j = l; j < ceil_div(lines, step) * 2 * HALVES; j += WARP) {
                const int line = j / (2 * HALVES) * step, which = j / HALVES % 2, half = j % HALVES;
                bulk_load(s.kv[slot][which][half] + line * LINE, tile_of<E>(p.pages, it.table, which, it.head, first + line, half), min(step, lines - line) * LINE, &s.full[slot]);
            }
        }
    }
    if (!waited) griddep_wait();
}

// Own is a lane's four values of a row's own key or value, as they are kept.
template <typename E> struct Own {
    uint2 v;
    __device__ __forceinline__ void set(float4 x) { v = pack4(x); }
};
template <> struct Own<e4m3> {
    u32 v;
    __device__ __forceinline__ void set(float4 x) { v = e4m3_codes(x); }
};

// decode_rotate makes the queries of a head's group, in shared memory, with all warps. The warps of places group and group + 1
// get the row's own key and value as well (4 values a lane), which the first puts into `own`.
template <typename E> __device__ __forceinline__ void decode_rotate(const FusedDecodeParams &f, DecodeShared<E> &s, const DecodeItem &it, int group, Own<E> &own) {
    constexpr int TOGETHER = 2; // heads that a warp makes at a time
    const RopeParams &r = f.rope;
    const int w = warp_id(), l = lane_id(), none = r.heads + 2 * r.kv_heads;
    float4 turn[1] = {};
    rope_turns(turn, r, it.row);
    for (int first = 0; first < group + 2; first += TOGETHER * WARPS) {
        const auto place = [&](int i) { return first + i * WARPS + w; };
        const auto head = [&](int i) {
            const int at = place(i);
            if (at < group) return it.head * group + at;
            return at < group + 2 ? r.heads + (at - group) * r.kv_heads + it.head : none;
        };
        float4 y[TOGETHER][1];
        rope_heads<TOGETHER, 1, false>(y, r, it.row, turn, head);
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            if (place(i) < group) *(uint2 *)&s.query[place(i)][4 * l] = pack4(y[i][0]);
            else if (place(i) < group + 2) own.set(y[i][0]);
        }
    }
}

// decode_append puts the row's own key (which 0) or value (1) where it belongs: line `line` of a stage, and its page.
template <typename E>
__device__ __forceinline__ void decode_append(const RopeParams &r, DecodeShared<E> &s, const DecodeItem &it, int which, int stage, int line, int slot, Own<E> own) {
    const int d = 4 * lane_id(), byte = d * sizeof(E);
    *(decltype(own.v) *)(s.kv[stage][which][byte / LINE] + line * LINE + line_at(line, byte % LINE / 2)) = own.v;
    fence_proxy_async(); // a later copy overwrites it
    if (slot >= 0) *(decltype(own.v) *)rope_place<E>(r, slot, Head{1 + which, it.head, 0}, d) = own.v;
}

// decode_add adds the splits of a head's group and writes z: each warp takes a quarter of the splits, whose sums are added in
// order. It stands at the end of a chain of kernels: what counts is that few loads wait for others.
template <typename E> __device__ __forceinline__ void decode_add(const DecodeParams &p, DecodeShared<E> &s, const DecodeItem &it, int group) {
    constexpr int AHEAD = 12; // splits of heads that a warp has on their way
    const int w = warp_id(), l = lane_id(), from = s.first_split[it.row];
    const int each = ceil_div(it.splits, WARPS), first = min(w * each, it.splits), last = min(first + each, it.splits);
    const auto next = [&](int &r, int &i) {
        if (++i >= last) i = first, r++;
    };
    float4 v[AHEAD];
    int r = first < last ? 0 : group, i = first; // of the next load
    const auto load = [&] {
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            v[j] = r < group ? __ldcg((const float4 *)(p.out + (u64(from + i) * p.heads + it.head * group + r) * HD) + l) : make_float4(0, 0, 0, 0);
            if (r < group) next(r, i);
        }
    };
    load();
    float2 n[MAX_GROUP / WARPS][2]; // maximum and sum of splits l and l + 32 of this warp's heads
#pragma unroll
    for (int j = 0; j < MAX_GROUP / WARPS; j++)
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int at = l + k * WARP;
            n[j][k] = w + j * WARPS < group && at < it.splits ? __ldcg(&p.norm[u64(from + at) * p.heads + it.head * group + w + j * WARPS]) : make_float2(-INFINITY, 0);
        }
#pragma unroll
    for (int j = 0; j < MAX_GROUP / WARPS; j++) {
        if (w + j * WARPS >= group) break;
        const float largest = warp_max(fmaxf(n[j][0].x, n[j][1].x));
        const float mine[2] = {exp2_approx(n[j][0].x - largest), exp2_approx(n[j][1].x - largest)};
        const float inverse = 1.0f / warp_sum(n[j][0].y * mine[0] + n[j][1].y * mine[1]);
        s.share[w + j * WARPS][l] = mine[0] * inverse, s.share[w + j * WARPS][l + WARP] = mine[1] * inverse;
    }
    bar_sync(1, WARPS * WARP);
    float4 sum = make_float4(0, 0, 0, 0);
    for (int head = 0; first == last && head < group; head++) *(float4 *)&s.out[w][head][4 * l] = sum;
    for (int head = 0, split = first; first < last && head < group; load())
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            if (head >= group) break;
            const float share = s.share[head][split];
            sum.x += v[j].x * share, sum.y += v[j].y * share, sum.z += v[j].z * share, sum.w += v[j].w * share;
            if (split + 1 == last) {
                *(float4 *)&s.out[w][head][4 * l] = sum;
                sum = make_float4(0, 0, 0, 0);
            }
            next(head, split);
        }
    bar_sync(1, WARPS * WARP);
    const int d = threadIdx.x;
    for (int head = 0; head < group; head++)
        *(bf16 *)(p.z + image_at(p.R, it.row, (it.head * group + head) * HD + d)) =
            __float2bfloat16_rn((s.out[0][head][d] + s.out[1][head][d]) + (s.out[2][head][d] + s.out[3][head][d]));
}

template <typename E> __device__ __forceinline__ void decode_consume(const FusedDecodeParams &f, DecodeShared<E> &s, int rows, int from, int to) {
    constexpr int STAGES = decode_stages<E>;
    const DecodeParams &p = f.attend;
    const int w = warp_id(), l = lane_id(), g = l / 4, t = l % 4, group = p.heads / p.pages.kv_heads;
    const bool rotates = f.rope.qkv.values;
    DecodeItem it = decode_item(p, s, rows, from);
    int page = rotates ? f.rope.slot[it.row] : -1; // where the row's own key goes
    griddep_wait();
    u32 q[HD / 16][4];
    Own<E> own = {};
    int n = 0, done = 0; // stages seen; splits of this row and head
    for (int i = from; i < to; i++) {
        if (i > from) it = decode_item(p, s, rows, i);
        if (done == 0) { // another row or head
            if (rotates) {
                if (i > from) page = f.rope.slot[it.row];
                decode_rotate(f, s, it, group, own);
                bar_sync(1, WARPS * WARP);
            }
            attention_query<HD, E>(q, HD, [&](int r) -> const bf16 * {
                if (r >= group) return nullptr;
                return rotates ? s.query[r] : p.q + (u64(it.row) * p.heads + it.head * group + r) * HD;
            });
        }
        Attention<HD> a;
        attention_begin(a);
        for (int first = it.begin; first < it.end; first += DECODE_KEYS, n++) {
            const int slot = n % STAGES, keys = min(it.end - first, DECODE_KEYS), seen = min(keys - w * WARP_KEYS, WARP_KEYS);
            mbar_wait(&s.full[slot], n / STAGES & 1);
            if (rotates && first + keys == it.length) {
                if (w == group % WARPS) decode_append(f.rope, s, it, 0, slot, keys - 1, page, own);
                if (w == (group + 1) % WARPS) decode_append(f.rope, s, it, 1, slot, keys - 1, page, own);
                bar_sync(1, WARPS * WARP);
            }
            const int limit[2] = {seen, seen};
            if (seen > 0)
                attention_keys<HD, WARP_KEYS, E>(a, q, s.kv[slot][0][0] + w * WARP_KEYS * LINE, s.kv[slot][1][0] + w * WARP_KEYS * LINE, p.scale, limit, DecodeTile());
            __syncwarp();
            if (l == 0) mbar_arrive(&s.empty[slot]);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float sum = attention_total(a.sum[r]);
            if (t == 0) s.largest[w][g + 8 * r] = a.largest[r], s.sum[w][g + 8 * r] = sum;
#pragma unroll
            for (int j = 0; j < HD / 8; j++) {
                float2 v;
                const int d = attention_pair<HD, E>(a, j, r, v);
                *(float2 *)&s.out[w][g + 8 * r][d] = v;
            }
        }
        bar_sync(1, WARPS * WARP);
        decode_meet<WARPS>(p, s.first_split[it.row] + it.split, it.head, group, s.largest, s.sum, s.out);
        done++;
        if (i + 1 < to && it.split + 1 < it.splits) {
            bar_sync(1, WARPS * WARP); // before the next split overwrites out
            continue;
        }
        // Whoever sees all splits counted adds them.
        bar_sync(1, WARPS * WARP);
        if (threadIdx.x == 0) s.last = done == it.splits || int(count_all(&f.arrived[it.row * f.arrived_ld + it.head], u32(done))) + done == it.splits;
        bar_sync(1, WARPS * WARP);
        if (s.last) {
            decode_add(p, s, it, group);
            bar_sync(1, WARPS * WARP);
        }
        done = 0;
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

// prefill_stages fills the stages of a block's work, one after the other; n counts them.
template <typename Load> __device__ __forceinline__ void prefill_stages(const PrefillParams &p, PrefillShared &s, int &n, Load load) {
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
            bulk_load(stage + (half * KEYS + line) * LINE, tile_of<bf16>(p.pages, table, which, kv, first + line, half), min(step, lines - line) * LINE, full);
        }
    };
    prefill_stages(p, s, n, load);
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

template <typename E> __device__ __forceinline__ void attend_decode(const FusedDecodeParams &p, u8 *memory) {
    DecodeShared<E> &s = *reinterpret_cast<DecodeShared<E> *>(memory);
    const int rows = *p.attend.rows;
    for (int i = threadIdx.x; i <= rows; i += blockDim.x) s.first_split[i] = p.attend.first_split[i];
    if (threadIdx.x == 0) {
        for (int i = 0; i < decode_stages<E>; i++) mbar_init(&s.full[i], WARP), mbar_init(&s.empty[i], WARPS);
        mbar_init_fence();
    }
    __syncthreads();
    griddep_launch();
    const int items = s.first_split[rows] * p.attend.pages.kv_heads, from = decode_first(items, blockIdx.x), to = decode_first(items, blockIdx.x + 1);
    if (from == to) return; // makes room for the blocks of the kernels that follow
    if (warp_id() == WARPS) decode_produce(p, s, rows, from, to);
    else decode_consume(p, s, rows, from, to);
}

template <typename E> __device__ __forceinline__ void attend_prefill(const PrefillParams &p, u8 *memory) {
    constexpr bool CODED = sizeof(E) == 1;
    PrefillShared &s = *reinterpret_cast<PrefillShared *>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&s.keys_full[i], CODED ? WARPGROUP : 1), mbar_init(&s.keys_empty[i], GROUPS);
            mbar_init(&s.values_full[i], CODED ? WARPGROUP : 1), mbar_init(&s.values_empty[i], GROUPS);
        }
        mbar_init_fence();
    }
    __syncthreads();
    griddep_wait();
    griddep_launch();
    if (threadIdx.x < WARPGROUP) {
        setmaxnreg_dec<CODED ? 88 : 56>();
        if (CODED) widen(p, s);
        else if (warp_id() == 0) produce(p, s);
    } else {
        setmaxnreg_inc<CODED ? 208 : 224>();
        int done = 0;
        for (int item = blockIdx.x; item < p.tile_count * p.heads; item += gridDim.x) {
            const PrefillItem it = prefill_item(p, item);
            attend_item(p, s, it, done);
            done += it.rounds;
        }
    }
}

} // namespace

// Decode: a grid of resident blocks. Prefill: a block for each multiprocessor, over tiles of up to 128 rows and heads.
#define ATTEND(E, DECODE, PREFILL)                                   \
    KERNEL((WARPS + 1) * WARP, 2, DECODE, FusedDecodeParams) {       \
        DYNAMIC_SHARED(memory);                                      \
        attend_decode<E>(p, memory);                                 \
    }                                                                \
    KERNEL((GROUPS + 1) * WARPGROUP, 1, PREFILL, PrefillParams) {    \
        DYNAMIC_SHARED(memory);                                      \
        attend_prefill<E>(p, memory);                                \
    }

ATTEND(bf16, attend_decode_90, attend_prefill_90)
ATTEND(e4m3, attend_decode_e4m3_90, attend_prefill_e4m3_90)

#endif
