// Attention of the vision tower: every row of a tile sees all of them. 64 rows of one head a block, 16 a warp, 64 keys and values
// at a time, two of these on their way. At Scout's shape (577 rows, heads of 88 in 96 columns) 160 blocks a tile.
#include "attend.cuh"

struct TileAttentionParams {
    const bf16 *qkv;       // [tiles·per_tile][3][H][head_ld], zero from Hd on; head_ld is a multiple of 8
    u8 *z;                 // image [H·Hd/64][R]
    float scale;           // log2(e)/√Hd
    int per_tile, heads;   // rows of a tile
    int head_dim, head_ld; // Hd, a multiple of 4
    int R, z_tiles;
};

namespace {

constexpr int WARPS = 4;
constexpr int ROWS = 16 * WARPS;
constexpr int KEYS = 64;
constexpr int TAIL = 16; // keys of a last round that is nearly empty: 577 is 9·64+1

// TileOf is PlainTile, but for lines of 96 values, whose twelve pieces are permuted in fours: any eight lines lie in different banks.
template <int HD> struct TileOf : PlainTile<HD> {};
template <> struct TileOf<96> {
    __device__ __forceinline__ int operator()(int line, int piece) const { return line * 192 + (piece ^ (line / 2 & 3)) * PIECE; }
};

// load brings keys and values from a row of the tile on: zeros beyond its end.
template <int HD> __device__ __forceinline__ void load(const TileAttentionParams &p, const bf16 *keys, int first, u8 *stage) {
    constexpr int PIECES = HD / 8;
    const TileOf<HD> at;
    const u64 row = u64(3) * p.heads * p.head_ld;
#pragma unroll 2
    for (int i = threadIdx.x; i < KEYS * PIECES; i += WARPS * WARP) {
        const int line = i / PIECES, piece = i % PIECES;
        const bool valid = first + line < p.per_tile && piece * 8 < p.head_ld;
        const bf16 *from = keys + (valid ? (first + line) * row + piece * 8 : 0);
        cp_async16(stage + at(line, piece), from, valid);
        cp_async16(stage + KEYS * HD * 2 + at(line, piece), from + p.heads * p.head_ld, valid);
    }
}

template <int HD> __device__ __forceinline__ void attend(const TileAttentionParams &p, u8 *memory) {
    constexpr int BYTES = KEYS * HD * 2, STAGE = 2 * BYTES;
    griddep_wait();
    griddep_launch();
    const int blocks = ceil_div(p.per_tile, ROWS), tile = blockIdx.x / blocks, first = blockIdx.x % blocks * ROWS, head = blockIdx.y;
    const int w = warp_id(), g = lane_id() / 4, t = lane_id() % 4, rows = p.per_tile - first; // that are left of the tile
    const u64 row = u64(3) * p.heads * p.head_ld;
    const bf16 *q0 = p.qkv + u64(tile) * p.per_tile * row + head * p.head_ld, *keys = q0 + p.heads * p.head_ld;
    load<HD>(p, keys, 0, memory);
    cp_async_commit();

    u32 q[HD / 16][4];
    attention_query<HD>(q, p.head_dim, [&](int r) -> const bf16 * { return w * 16 + r < rows ? q0 + (first + w * 16 + r) * row : nullptr; });
    Attention<HD> a;
    attention_begin(a);
    const int rounds = ceil_div(p.per_tile, KEYS);
    for (int i = 0; i < rounds; i++) {
        if (i + 1 < rounds) load<HD>(p, keys, (i + 1) * KEYS, memory + (i + 1) % 2 * STAGE);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        const int seen = p.per_tile - i * KEYS, limit[2] = {seen, seen};
        const u8 *stage = memory + i % 2 * STAGE;
        if (w * 16 < rows) { // the same for the whole warp
            if (seen > TAIL) attention_keys<HD, KEYS>(a, q, stage, stage + BYTES, p.scale, limit, TileOf<HD>());
            else attention_keys<HD, TAIL>(a, q, stage, stage + BYTES, p.scale, limit, TileOf<HD>());
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / attention_total(a.sum[r]);
        const int at = w * 16 + g + 8 * r;
        if (at >= rows) continue;
#pragma unroll
        for (int j = 0; j < HD / 8; j++) {
            const int d = j * 8 + 2 * t;
            if (d < p.head_dim)
                *(u32 *)(p.z + image_at(p.R, tile * p.per_tile + first + at, head * p.head_dim + d)) = pack(a.out[j][2 * r] * inverse, a.out[j][2 * r + 1] * inverse);
        }
    }
    if (head != 0) return;
    for (int i = threadIdx.x; i < min(rows, ROWS) * TILE; i += WARPS * WARP) { // columns beyond H·Hd are zero
        const int k = p.heads * p.head_dim + i % TILE;
        if (k < p.z_tiles * TILE) *(bf16 *)(p.z + image_at(p.R, tile * p.per_tile + first + i / TILE, k)) = __float2bfloat16_rn(0.0f);
    }
}

} // namespace

#define ATTEND(HD)                                                 \
    KERNEL(WARPS *WARP, HD <= 96 ? 3 : 2, attend_tile_##HD, TileAttentionParams) { \
        DYNAMIC_SHARED(memory);                                    \
        attend<HD>(p, memory);                                     \
    }

ATTEND(32)
ATTEND(64)
ATTEND(96)
ATTEND(128)
