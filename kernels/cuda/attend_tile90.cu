// Attention of the vision tower on 9.0, for heads of 65 to 96 values: what attend_tile.cu does, with wgmma. Queries, keys and values lie
// as images of single heads, so that they come by bulk copies as wgmma reads them. A block has 128 rows of one head at a time.
//
// One thread keeps stages of 128 keys and values on their way, also from one piece of work to the next; two warpgroups of 64 rows each
// take turns at the tensor cores, so that one weighs while the other multiplies.
#include "attend_weigh.cuh"

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

struct HeadAttentionParams {
    const u8 *qkv;       // [tiles][3][H][2] images of 64 columns: lines of a tile, zero from Hd on and from per_tile on
    u8 *z;               // image [H·Hd/64][R]
    float scale;         // log2(e)/√Hd
    int per_tile, head_lines; // rows of a tile; lines of its images, a multiple of 16
    int items, heads;    // pieces of work: 128 rows of a head of a tile
    int head_dim;        // Hd, a multiple of 4
    int R, z_tiles;
};

namespace {

constexpr int HD = 96;
constexpr int HALVES = 2; // tiles of 64 columns in a head
constexpr int WARPGROUP = 128;
constexpr int GROUPS = 2; // warpgroups that multiply, 64 rows each
constexpr int ROWS = GROUPS * 64;
constexpr int KEYS = 128; // a stage
constexpr int STAGES = 3; // two are 1 % slower

struct Shared {
    u8 queries[HALVES][ROWS * LINE];
    u8 keys[STAGES][HALVES][KEYS * LINE], values[STAGES][HALVES][KEYS * LINE];
    u64 queries_full, queries_empty;
    u64 keys_full[STAGES], keys_empty[STAGES], values_full[STAGES], values_empty[STAGES];
};

struct Item {
    int tile, head, first; // row of the tile
};

__device__ __forceinline__ Item item_of(const HeadAttentionParams &p, int item) {
    const int blocks = ceil_div(p.per_tile, ROWS), at = item / blocks;
    return Item{at / p.heads, at % p.heads, item % blocks * ROWS};
}

// produce is one warp. Keys and values have rings of their own, since keys are done with earlier.
__device__ __forceinline__ void produce(const HeadAttentionParams &p, Shared &s) {
    const int rounds = ceil_div(p.per_tile, KEYS);
    const u64 image = u64(p.head_lines) * LINE;
    int n = 0, items = 0;
    const auto load = [&](const u8 *from, int lines, u8 *stage, u64 *full) { // the same for keys and values
        if (lane_id() == 0) mbar_expect_tx(full, HALVES * lines * LINE);
        __syncwarp();
        if (lane_id() < HALVES) bulk_load(stage + lane_id() * KEYS * LINE, from + lane_id() * image, lines * LINE, full);
    };
#pragma unroll 1
    for (int item = blockIdx.x; item < p.items; item += gridDim.x, items++) {
        const Item it = item_of(p, item);
        const u8 *q = p.qkv + (u64(it.tile) * 3 * p.heads + it.head) * HALVES * image, *k = q + p.heads * HALVES * image, *v = k + p.heads * HALVES * image;
        if (items > 0) mbar_wait(&s.queries_empty, (items - 1) & 1);
        const int rows = min(ROWS, p.head_lines - it.first);
        static_assert(ROWS == KEYS, "queries are copied as keys are");
        load(q + u64(it.first) * LINE, rows, s.queries[0], &s.queries_full);
#pragma unroll 1
        for (int i = 0; i <= rounds; i++) { // keys of a stage are needed when values of the one before are
            if (i < rounds) {
                const int at = n + i, slot = at % STAGES;
                if (at >= STAGES) mbar_wait(&s.keys_empty[slot], (at / STAGES - 1) & 1);
                load(k + u64(i) * KEYS * LINE, min(KEYS, p.head_lines - i * KEYS), s.keys[slot][0], &s.keys_full[slot]);
            }
            if (i == 0) continue;
            const int at = n + i - 1, slot = at % STAGES, lines = min(KEYS, p.head_lines - (i - 1) * KEYS);
            if (at >= STAGES) mbar_wait(&s.values_empty[slot], (at / STAGES - 1) & 1);
            if (lines < KEYS) { // what a weight of 0 meets must be a number
#pragma unroll 1
                for (int j = lane_id(); j < (KEYS - lines) * 8 * HALVES; j += WARP)
                    *(uint4 *)(s.values[slot][j % HALVES] + lines * LINE + j / HALVES * PIECE) = make_uint4(0, 0, 0, 0);
                fence_proxy_async();
                __syncwarp();
            }
            load(v + u64(i - 1) * KEYS * LINE, lines, s.values[slot][0], &s.values_full[slot]);
        }
        n += rounds;
    }
}

// scores issues s = q·Kᵀ of a stage.
__device__ __forceinline__ void scores(float (&s)[KEYS / 2], const u8 *queries, const u8 *keys) {
    wgmma_bf16<KEYS, false>(s, wgmma_descriptor(queries), wgmma_descriptor(keys));
#pragma unroll
    for (int k = 1; k < HD / 16; k++)
        wgmma_bf16<KEYS>(s, wgmma_descriptor(queries + k / 4 * ROWS * LINE + k % 4 * 32), wgmma_descriptor(keys + k / 4 * KEYS * LINE + k % 4 * 32));
    wgmma_commit();
}

// weigh makes weights of scores (attention_weigh); of a tile's LAST stage only `seen` keys exist.
template <bool LAST> __device__ __forceinline__ void weigh(float (&s)[KEYS / 2], float scale, int seen, float (&largest)[2], float (&sum)[2], float (&shrink)[2]) {
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++)
        if (LAST && i / 4 * 8 + lane_id() % 4 * 2 + i % 2 >= seen) s[i] = -INFINITY;
    attention_weigh<KEYS, false>(s, scale, largest, sum, shrink); // every stage has a key
}

// attend_item is one piece of work of a warpgroup, the block's n-th; `done` stages came before it.
__device__ __forceinline__ void attend_item(const HeadAttentionParams &p, Shared &s, const Item &it, int n, int done) {
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0) - 1, g = lane_id() / 4, t = lane_id() % 4; // group: see gemm_tower90.cu
    const bool elected = threadIdx.x % WARPGROUP == 0;
    const auto slot = [&](int i) { return (done + i) % STAGES; };
    const auto phase = [&](int i) { return u32((done + i) / STAGES & 1); };
    const u8 *q = s.queries[0] + group * 64 * LINE;
    float score[KEYS / 2], out[HD / 2];
#pragma unroll
    for (int i = 0; i < HD / 2; i++) out[i] = 0;
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, shrink[2];
    u32 weights[KEYS / 16][4];
    const int last = ceil_div(p.per_tile, KEYS) - 1;
    const auto scored = [&](int i) { // of stage i
        if (!elected) return;
        mbar_arrive(&s.keys_empty[slot(i)]);
        if (i == last) mbar_arrive(&s.queries_empty);
    };
    mbar_wait(&s.queries_full, n & 1);
    mbar_wait(&s.keys_full[slot(0)], phase(0));
    wgmma_fence();
    scores(score, q, s.keys[slot(0)][0]);
    wgmma_wait<0>();
    scored(0);
    // Scores become weights while the tensor cores add the values of the stage before.
    const auto settle = [&](int i, bool is_last) {
        if (is_last) weigh<true>(score, p.scale, p.per_tile - i * KEYS, largest, sum, shrink);
        else weigh<false>(score, p.scale, KEYS, largest, sum, shrink);
        done_before(score);
        if (i < last) mbar_wait(&s.keys_full[slot(i + 1)], phase(i + 1));
        mbar_wait(&s.values_full[slot(i)], phase(i));
        wgmma_wait<0>();
        if (i > 0 && elected) mbar_arrive(&s.values_empty[slot(i - 1)]);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
            for (int j = 0; j < 4; j++) weights[k][j] = pack(score[8 * k + 2 * j], score[8 * k + 2 * j + 1]);
    };
    const auto add_values = [&](int i) {
#pragma unroll
        for (int j = 0; j < HD / 2; j++) out[j] *= shrink[j / 2 % 2];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) wgmma_bf16_rows_t<HD>(out, weights[k], wgmma_descriptor_t(s.values[slot(i)][0] + k * 16 * LINE, KEYS * LINE));
        wgmma_commit();
    };
    constexpr int TURN = 1;
    if (group == 1 && last > 0) bar_arrive(TURN, GROUPS * WARPGROUP);
    for (int i = 0; i < last; i++) {
        settle(i, false);
        bar_sync(TURN + group, GROUPS * WARPGROUP);
        wgmma_fence();
        scores(score, q, s.keys[slot(i + 1)][0]);
        add_values(i);
        if (group == 0 || i + 1 < last) bar_arrive(TURN + 1 - group, GROUPS * WARPGROUP);
        wgmma_wait<1>();
        scored(i + 1);
    }
    settle(last, true);
    add_values(last);
    wgmma_wait<0>();
    if (elected) mbar_arrive(&s.values_empty[slot(last)]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / attention_total(sum[r]);
        const int at = it.first + group * 64 + warp_id() % 4 * 16 + g + 8 * r; // row of the tile
        if (at >= p.per_tile) continue;
        // Addresses as image_at has them: from j to j + 1 they are a piece apart, after eight pieces a tile.
        const u32 row = it.tile * p.per_tile + at, first = it.head * p.head_dim + 2 * t;
        u8 *to = p.z + (u64(first / TILE) * p.R + row) * LINE + first % 8 * 2;
        u32 piece = first / 8;
#pragma unroll
        for (int j = 0; j < HD / 8; j++) {
            if (j * 8 + 2 * t < p.head_dim) *(u32 *)(to + line_at(row, piece % 8 * 8)) = pack(out[4 * j + 2 * r] * inverse, out[4 * j + 2 * r + 1] * inverse);
            if (++piece % 8 == 0) to += u64(p.R) * LINE;
        }
    }
    if (it.head != 0) return;
    for (int i = threadIdx.x % WARPGROUP; i < 64 * TILE; i += WARPGROUP) { // columns beyond H·Hd are zero
        const int at = it.first + group * 64 + i / TILE, k = p.heads * p.head_dim + i % TILE;
        if (at < p.per_tile && k < p.z_tiles * TILE) *(bf16 *)(p.z + image_at(p.R, it.tile * p.per_tile + at, k)) = __float2bfloat16_rn(0.0f);
    }
}

} // namespace

KERNEL((GROUPS + 1) * WARPGROUP, 1, attend_tile_90, HeadAttentionParams) {
    DYNAMIC_SHARED(memory);
    Shared &s = *reinterpret_cast<Shared *>(memory);
    if (threadIdx.x == 0) {
        mbar_init(&s.queries_full, 1), mbar_init(&s.queries_empty, GROUPS);
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&s.keys_full[i], 1), mbar_init(&s.keys_empty[i], GROUPS);
            mbar_init(&s.values_full[i], 1), mbar_init(&s.values_empty[i], GROUPS);
        }
        mbar_init_fence();
    }
    __syncthreads();
    griddep_wait();
    griddep_launch();
    using Split = Registers<(GROUPS + 1) * WARPGROUP, 56, 224>;
    if (threadIdx.x < WARPGROUP) {
        Split::give();
        if (warp_id() == 0) produce(p, s);
    } else {
        Split::take();
        const int rounds = ceil_div(p.per_tile, KEYS);
        int n = 0;
        for (int item = blockIdx.x; item < p.items; item += gridDim.x, n++) attend_item(p, s, item_of(p, item), n, n * rounds);
    }
}

#endif
