// Decode attention on 9.0, for heads of 128 and pages of whole tiles (Pages.tiled): keys and values come by bulk copies as they lie
// in memory, which is how ldmatrix reads them. One kernel from the sums of the projections to z, where attend_decode.cu needs one
// before and one after: each costs a step some 3 µs a layer.
//
// A block has a run of splits, those of a key/value head of a row one after the other.
// One warp keeps a ring of stages of 64 keys and values on their way, also from one split to the next; four warps take 16
// keys of a stage each. Every block makes the queries that it needs itself. The row's own key and value are made by the block
// that has the last split; it puts them into the pages and into its stage. The block that finishes a head's last split adds
// the splits.
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
template <typename E> constexpr int halves = HD * sizeof(E) / LINE; // tiles of a head: 64 columns of bf16, 128 of e4m3

constexpr int WARPS = 4;
constexpr int DECODE_KEYS = 64, WARP_KEYS = DECODE_KEYS / WARPS;
template <typename E> constexpr int decode_stages = 4 / sizeof(E); // the same bytes on their way
constexpr int MAX_ROWS = 64, MAX_GROUP = 16;
constexpr int MAX_SPLITS = 64; // of a row (decode_split_keys)
constexpr int PARTS = 17 * 5;  // heads of splits that lie side by side: of groups of 5, 16 and their sum, as many as contexts of 8,192 keys have
constexpr int QUERY = HD + 8;  // elements of a query in shared memory: rows in different banks

template <typename E> struct DecodeShared {
    u8 kv[decode_stages<E>][2][halves<E>][DECODE_KEYS * LINE];
    union {
        float out[WARPS][MAX_GROUP][HD + 4]; // where the warps' results meet
        float parts[PARTS * HD];             // and then splits
    };
    union {
        bf16 query[MAX_GROUP][QUERY];
        float share[MAX_GROUP][MAX_SPLITS]; // when the splits are added
    };
    float largest[WARPS][MAX_GROUP], sum[WARPS][MAX_GROUP];
    u64 full[decode_stages<E>], empty[decode_stages<E>];
    u64 brought; // splits that are to be added
    int first_split[MAX_ROWS + 1], first_round[MAX_ROWS + 1];
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
    const int each = decode_split_keys(it.length, heads);
    it.begin = it.split * each;
    it.end = min(it.begin + each, it.length);
    it.table = p.pages.table + p.list[it.row];
    return it;
}

// Items are dealt out in runs of about as many rounds of keys, which the splits of long contexts have more of: block b has those from first(b)
// to first(b + 1). A whole warp asks.
template <typename E> __device__ __forceinline__ int decode_first(const DecodeShared<E> &s, int rows, int heads, int block) {
    const int all = s.first_round[rows] * heads, grid = gridDim.x, at = block * (all / grid) + min(block, all % grid); // rounds before this block's
    const auto before = [&](int r) { return r < rows && s.first_round[r + 1] * heads <= at; };
    const int row = __popc(__ballot_sync(0xffffffffu, before(lane_id()))) + __popc(__ballot_sync(0xffffffffu, before(lane_id() + WARP)));
    if (row == rows) return s.first_split[rows] * heads;
    const int each = (s.first_round[row + 1] - s.first_round[row]) / (s.first_split[row + 1] - s.first_split[row]);
    return s.first_split[row] * heads + ceil_div(at - s.first_round[row] * heads, each);
}

// decode_produce is one warp. What says where the keys lie is there since before the step, and so are all keys but the rows'
// own: copies of the others need not wait for the kernels before this one.
template <typename E> __device__ __forceinline__ void decode_produce(const FusedDecodeParams &f, DecodeShared<E> &s, int rows, int from, int to) {
    constexpr int STAGES = decode_stages<E>, HALVES = halves<E>;
    const DecodeParams &p = f.attend;
    const int l = lane_id(), step = min(p.pages.page_tokens, DECODE_KEYS);
    const bool rotates = f.rope.qkv.values;
    bool waited = false;
    int n = 0; // stages issued
#pragma unroll 1
    for (int i = from; i < to; i++) {
        const DecodeItem it = decode_item(p, s, rows, i);
#pragma unroll 1
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
#pragma unroll 1
                for (int j = l; j < (DECODE_KEYS - seen) * 8 * HALVES; j += WARP)
                    *(uint4 *)(s.kv[slot][1][j % HALVES] + seen * LINE + j / HALVES * PIECE) = make_uint4(0, 0, 0, 0);
                fence_proxy_async(); // a later copy overwrites them
            }
            // Every lane arrives: each has written zeros.
            if (l == 0) mbar_expect_tx(&s.full[slot], 2 * HALVES * lines * LINE);
            else mbar_arrive(&s.full[slot]);
            __syncwarp();
#pragma unroll 1
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
#pragma unroll 1
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

// decode_add adds the splits of a head's group, one after the other, and writes z. It stands at the end of a chain of kernels, and its
// code is run once, from a cold instruction cache: short loops over what bulk copies bring are faster than loads into many registers.
template <typename E> __device__ __forceinline__ void decode_add(const DecodeParams &p, DecodeShared<E> &s, const DecodeItem &it, int group, u32 &phase) {
    const int w = warp_id(), l = lane_id(), from = s.first_split[it.row], each = group * HD;
    float *sum = s.parts, *parts = sum + each;  // [group][HD], [most][group][HD]
    const int most = PARTS / group - 1;         // splits that there is room for
    const u64 first_part = (u64(from) * p.heads + it.head * group) * HD;
#pragma unroll 1
    for (int first = 0; first < it.splits; first += most, phase ^= 1) {
        const int count = min(most, it.splits - first);
        if (first > 0) bar_sync(1, WARPS * WARP); // all have read the splits before these
        if (l == 0) { // every warp has its splits: a copy takes 0.2 µs to issue
            if (first == 0) fence_proxy_async_global();
            fence_proxy_async(); // what was there has been read
            mbar_expect_tx(&s.brought, w < count ? ceil_div(count - w, WARPS) * each * 4 : 0);
#pragma unroll 1
            for (int i = w; i < count; i += WARPS) bulk_load((u8 *)(parts + i * each), (const u8 *)(p.out + first_part + u64(first + i) * p.heads * HD), each * 4, &s.brought);
        }
#pragma unroll 1
        for (int r = w; r < group && first == 0; r += WARPS) {
            float2 n[2]; // maximum and sum of splits l and l + 32
#pragma unroll
            for (int k = 0; k < 2; k++) n[k] = l + k * WARP < it.splits ? __ldcg(&p.norm[u64(from + l + k * WARP) * p.heads + it.head * group + r]) : make_float2(-INFINITY, 0);
            const float largest = warp_max(fmaxf(n[0].x, n[1].x));
            const float mine[2] = {exp2_approx(n[0].x - largest), exp2_approx(n[1].x - largest)};
            const float inverse = 1.0f / warp_sum(n[0].y * mine[0] + n[1].y * mine[1]);
            s.share[r][l] = mine[0] * inverse, s.share[r][l + WARP] = mine[1] * inverse;
        }
        bar_sync(1, WARPS * WARP); // shares are there
        mbar_wait(&s.brought, phase);
#pragma unroll 1
        for (int i = 4 * threadIdx.x; i < each; i += 4 * WARPS * WARP) { // four columns of head i/HD
            float4 y = first > 0 ? *(const float4 *)(sum + i) : make_float4(0, 0, 0, 0);
            const float *share = &s.share[i / HD][first];
#pragma unroll 4
            for (int k = 0; k < count; k++) {
                const float4 v = *(const float4 *)(parts + k * each + i);
                y = make_float4(__fmaf_rn(share[k], v.x, y.x), __fmaf_rn(share[k], v.y, y.y), __fmaf_rn(share[k], v.z, y.z), __fmaf_rn(share[k], v.w, y.w));
            }
            *(float4 *)(sum + i) = y;
            if (first + count == it.splits) *(uint2 *)(p.z + image_at(p.R, it.row, it.head * each + i)) = pack4(y);
        }
    }
}

template <typename E> __device__ __forceinline__ void decode_consume(const FusedDecodeParams &f, DecodeShared<E> &s, int rows, int from, int to) {
    constexpr int STAGES = decode_stages<E>;
    const DecodeParams &p = f.attend;
    const int w = warp_id(), l = lane_id(), g = l / 4, t = l % 4, group = p.heads / p.pages.kv_heads;
    const bool rotates = f.rope.qkv.values;
    int page = -1; // where the row's own key goes
    u32 q[HD / 16][4];
    Own<E> own = {};
    int n = 0, done = 0; // stages seen; splits of this row and head
    u32 phase = 0;       // of what decode_add waits for
#pragma unroll 1
    for (int i = from; i < to; i++) {
        const DecodeItem it = decode_item(p, s, rows, i);
        if (rotates && done == 0) page = f.rope.slot[it.row];
        if (i == from) griddep_wait();
        if (done == 0) { // another row or head
            if (rotates) {
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
#pragma unroll 1
        for (int first = it.begin; first < it.end; first += DECODE_KEYS, n++) {
            const int slot = n % STAGES, keys = min(it.end - first, DECODE_KEYS), seen = min(keys - w * WARP_KEYS, WARP_KEYS);
            mbar_wait(&s.full[slot], n / STAGES & 1);
            if (rotates && first + keys == it.length) {
                if (const int which = (w + WARPS - group % WARPS) % WARPS; which < 2) decode_append(f.rope, s, it, which, slot, keys - 1, page, own);
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
            decode_add(p, s, it, group, phase);
            bar_sync(1, WARPS * WARP);
        }
        done = 0;
    }
}

template <typename E> __device__ __forceinline__ void attend_decode(const FusedDecodeParams &p, u8 *memory) {
    DecodeShared<E> &s = *reinterpret_cast<DecodeShared<E> *>(memory);
    const int rows = *p.attend.rows;
    for (int i = threadIdx.x; i <= rows; i += blockDim.x) s.first_split[i] = p.attend.first_split[i], s.first_round[i] = p.attend.first_round[i];
    if (threadIdx.x == 0) {
        for (int i = 0; i < decode_stages<E>; i++) mbar_init(&s.full[i], WARP), mbar_init(&s.empty[i], WARPS);
        mbar_init(&s.brought, WARPS);
        mbar_init_fence();
    }
    __syncthreads();
    griddep_launch();
    int from = 0, to = 0;
#pragma unroll 1
    for (int i = 0; i < 2; i++) from = to, to = decode_first(s, rows, p.attend.pages.kv_heads, blockIdx.x + i);
    if (from == to) return; // makes room for the blocks of the kernels that follow
    if (warp_id() == WARPS) decode_produce(p, s, rows, from, to);
    else decode_consume(p, s, rows, from, to);
}

} // namespace

// attend_decode_90: a grid of resident blocks.
#define ATTEND(E, NAME)                                      \
    KERNEL((WARPS + 1) * WARP, 2, NAME, FusedDecodeParams) { \
        DYNAMIC_SHARED(memory);                              \
        attend_decode<E>(p, memory);                         \
    }

ATTEND(bf16, attend_decode_90)
ATTEND(e4m3, attend_decode_e4m3_90)

#endif
