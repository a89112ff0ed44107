// Prefill attention: 64 positions of one query head a block, 16 a warp; tiles of 64 keys and values shared by the block,
// two on their way. A row's keys come in tiles from its span's first slot on, whatever piece of the prompt it is in.
#include "attend.cuh"

namespace {

constexpr int WARPS = 4;
constexpr int KEYS = 64;
constexpr int STAGES = 2;

template <int HD, typename E> __device__ __forceinline__ void load_keys(const Pages &p, const int *table, int head, int first, int end, u8 *keys, u8 *values) {
    constexpr int SOME = PIECE / sizeof(E), PIECES = HD / SOME; // values of a piece
#pragma unroll 2
    for (int i = threadIdx.x; i < KEYS * PIECES; i += WARPS * WARP) {
        const int line = i / PIECES, piece = i % PIECES, slot = first + line;
        const bool valid = slot < end && piece * SOME < p.head_dim;
        const int page = valid ? table[slot / p.page_tokens] : 0;
        const int at = valid ? slot % p.page_tokens * p.head_dim + piece * SOME : 0;
        cp_async16(keys + kv_at<HD, E>(line, piece), kv_head<E>(p, page, 0, head) + at, valid);
        cp_async16(values + kv_at<HD, E>(line, piece), kv_head<E>(p, page, 1, head) + at, valid);
    }
}

template <int HD, typename E> __device__ __forceinline__ void attend(const PrefillParams &p, u8 *memory) {
    constexpr int BYTES = KEYS * HD * sizeof(E);
    griddep_wait();
    griddep_launch();
    const QueryTile tile = p.tiles[gridDim.x - 1 - blockIdx.x]; // late rows see the most: they begin first
    const int head = blockIdx.y, kv = head / (p.heads / p.pages.kv_heads), w = warp_id(), g = lane_id() / 4, t = lane_id() % 4;
    const int *table = p.pages.table + tile.list;
    const int end = tile.slot + tile.rows; // keys that the last row sees

    u32 q[HD / 16][4];
    attention_query<HD, E>(q, p.pages.head_dim, [&](int r) -> const bf16 * {
        return w * 16 + r < tile.rows ? p.q + (u64(tile.row + w * 16 + r) * p.heads + head) * p.pages.head_dim : nullptr;
    });
    Attention<HD> a;
    attention_begin(a);
    const int rounds = ceil_div(end, KEYS);
    u8 *stage[STAGES] = {memory, memory + 2 * BYTES};
    load_keys<HD, E>(p.pages, table, kv, 0, end, stage[0], stage[0] + BYTES);
    cp_async_commit();
    for (int i = 0; i < rounds; i++) {
        if (i + 1 < rounds) load_keys<HD, E>(p.pages, table, kv, (i + 1) * KEYS, end, memory + (i + 1) % STAGES * 2 * BYTES, memory + ((i + 1) % STAGES * 2 + 1) * BYTES);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        const int seen = tile.slot + w * 16 + g + 1 - i * KEYS; // of this tile by row g
        const int limit[2] = {seen, seen + 8};
        const u8 *keys = memory + i % STAGES * 2 * BYTES;
        attention_keys<HD, KEYS, E>(a, q, keys, keys + BYTES, p.scale, limit);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / attention_total(a.sum[r]);
        const int row = w * 16 + g + 8 * r;
        if (row >= tile.rows) continue;
#pragma unroll
        for (int j = 0; j < HD / 8; j++) {
            float2 v;
            const int d = attention_pair<HD, E>(a, j, r, v);
            if (d < p.pages.head_dim)
                *(u32 *)(p.z + image_at(p.R, tile.row + row, head * p.pages.head_dim + d)) = pack(v.x * inverse, v.y * inverse);
        }
    }
    if (head != 0) return;
    for (int i = threadIdx.x; i < tile.rows * TILE; i += blockDim.x) { // columns beyond H·Hd are zero
        const int k = p.heads * p.pages.head_dim + i % TILE;
        if (k < p.z_tiles * TILE) *(bf16 *)(p.z + image_at(p.R, tile.row + i / TILE, k)) = __float2bfloat16_rn(0.0f);
    }
}

} // namespace

#define ATTEND(HD, E, NAME)                       \
    KERNEL(WARPS *WARP, 2, NAME, PrefillParams) { \
        DYNAMIC_SHARED(memory);                   \
        attend<HD, E>(p, memory);                 \
    }

ATTEND(32, bf16, attend_prefill_32)
ATTEND(64, bf16, attend_prefill_64)
ATTEND(128, bf16, attend_prefill_128)
ATTEND(32, e4m3, attend_prefill_e4m3_32)
ATTEND(64, e4m3, attend_prefill_e4m3_64)
ATTEND(128, e4m3, attend_prefill_e4m3_128)
