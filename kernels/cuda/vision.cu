// The vision tower's small kernels: patches as rows, and layer norms of rows of tiles. A tile has P+1 rows: its patches line by
// line, then the class token.
#include "image.cuh"

struct PatchParams {
    const u8 *pixels;  // [tiles, C, side, side]
    u8 *image;         // [K/64][R]
    int R, columns;    // C·size·size
    int tiles, format; // along K; 0: bfloat16, 1: float32
    int channels, side, size;
};

// patch_rows: a patch is a row of pixels, channel by channel, line by line; the class token's row is zero. One block a row.
KERNEL(128, 1, patch_rows, PatchParams) {
    griddep_wait();
    griddep_launch();
    const int grid = p.side / p.size, patches = grid * grid, row = blockIdx.x, tile = row / (patches + 1), at = row % (patches + 1);
    for (int piece = threadIdx.x; piece < p.tiles * 8; piece += 128) {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int k = piece * 8 + i, c = k / (p.size * p.size), y = k / p.size % p.size, x = k % p.size;
            const u64 from = (u64(tile * p.channels + c) * p.side + at / grid * p.size + y) * p.side + at % grid * p.size + x;
            v[i] = at == patches || k >= p.columns ? 0.0f : p.format ? ((const float *)p.pixels)[from] : __bfloat162float(((const bf16 *)p.pixels)[from]);
        }
        *(uint4 *)(p.image + image_at(p.R, row, piece * 8)) = make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
    }
}

struct LayerNormParams {
    float *x;                 // [rows, ld]
    const float *parts;       // parts: [count][rows, ld] what x lacks
    const float *weight;      // [D]
    const float *bias;        // [D]
    const float *class_token; // EMBED: [D]
    const u8 *positions;      // EMBED: packed [P+1, D]
    u8 *image;                // ROWS: [K/64][R] the normalised rows. SHUFFLE: [K/64][R] with K = D·shuffle²
    int position_tiles;
    int R, tiles;             // of the image
    int rows, per_tile, D, ld; // P+1; D is a multiple of 4
    int grid, shuffle;        // SHUFFLE: patches on a side of a tile, and of a square
    int count;                // of parts, at most 3
    float eps;
};

enum NormTarget {
    EMBED,   // x itself, to which class token and positions are added first
    ROWS,    // a row of the image
    SHUFFLE, // its place in a square of patches, which is a row of the image; class tokens stay behind
};

namespace {

constexpr int THREADS = 128;

// layer_norm is (x - mean)/√(variance + eps)·weight + bias, a block a row; a thread has VECTORS times four columns. First of all,
// x gets the parts that it lacks. Weight and bias of a layer come from memory, which takes longer than all the rest: they are read before the
// kernel waits for its rows.
template <NormTarget TARGET, int VECTORS, int PARTS> __device__ __forceinline__ void layer_norm(const LayerNormParams &p) {
    __shared__ float scratch[2][WARP];
    griddep_launch();
    const int row = blockIdx.x, t = threadIdx.x, vectors = p.D / 4;
    float4 weight[VECTORS], bias[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++)
        if (t + j * THREADS < vectors) weight[j] = ((const float4 *)p.weight)[t + j * THREADS], bias[j] = ((const float4 *)p.bias)[t + j * THREADS];
    const float share = 1.0f / p.D;
    griddep_wait();
    const int tile = row / p.per_tile, at = row % p.per_tile;
    const bool class_token = at == p.per_tile - 1;
    if (TARGET == SHUFFLE && class_token) return;
    float4 *x = (float4 *)(p.x + u64(row) * p.ld);
    float4 v[VECTORS], part[VECTORS][PARTS + 1];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        const int i = t + j * THREADS;
        v[j] = make_float4(0, 0, 0, 0);
        if (i >= vectors) continue;
        v[j] = TARGET == EMBED && class_token ? ((const float4 *)p.class_token)[i] : x[i];
#pragma unroll
        for (int k = 0; k < PARTS; k++)
            if (k < p.count) part[j][k] = ((const float4 *)(p.parts + (u64(k) * p.rows + row) * p.ld))[i];
    }
    float sum = 0;
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        const int i = t + j * THREADS;
        if (i >= vectors) continue;
        if (TARGET == EMBED) {
            const uint2 position = *(const uint2 *)(p.positions + weight_at(p.position_tiles, at, 4 * i));
            v[j].x += lo(position.x), v[j].y += hi(position.x), v[j].z += lo(position.y), v[j].w += hi(position.y);
        }
#pragma unroll
        for (int k = 0; k < PARTS; k++)
            if (k < p.count) v[j].x += part[j][k].x, v[j].y += part[j][k].y, v[j].z += part[j][k].z, v[j].w += part[j][k].w;
        if (PARTS > 0) x[i] = v[j];
        sum += (v[j].x + v[j].y) + (v[j].z + v[j].w);
    }
    const float mean = block_sum(sum, scratch[0]) * share;
    float squares = 0;
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        if (t + j * THREADS >= vectors) continue;
        v[j].x -= mean, v[j].y -= mean, v[j].z -= mean, v[j].w -= mean;
        squares += (v[j].x * v[j].x + v[j].y * v[j].y) + (v[j].z * v[j].z + v[j].w * v[j].w);
    }
    const float r = rsqrtf(block_sum(squares, scratch[1]) * share + p.eps);
    int to = row, first = 0, end = p.tiles * TILE; // row of the image, the row's columns in it, where padding ends
    if (TARGET == SHUFFLE) {
        const int side = p.grid / p.shuffle, y = at / p.grid, c = at % p.grid, place = y % p.shuffle * p.shuffle + c % p.shuffle;
        to = tile * side * side + y / p.shuffle * side + c / p.shuffle;
        first = place * p.D;
        if (place + 1 < p.shuffle * p.shuffle) end = first + p.D;
    }
    // From j to j + 1 columns are eight tiles apart, in the same place of a line.
    u8 *out = TARGET == EMBED ? nullptr : p.image + image_at(p.R, to, first + 4 * t);
    const u64 apart = u64(4 * THREADS / TILE) * p.R * LINE;
#pragma unroll
    for (int j = 0; j < VECTORS; j++, out += apart) {
        const int i = t + j * THREADS, k = first + 4 * i;
        if (i < vectors) {
            const float4 w = weight[j], b = bias[j];
            v[j] = make_float4(v[j].x * r * w.x + b.x, v[j].y * r * w.y + b.y, v[j].z * r * w.z + b.z, v[j].w * r * w.w + b.w);
            if (TARGET == EMBED) x[i] = v[j];
        }
        if (TARGET != EMBED && k < end) *(uint2 *)out = make_uint2(pack(v[j].x, v[j].y), pack(v[j].z, v[j].w));
    }
}

} // namespace

#define NORM(NAME, BLOCKS, ...) \
    KERNEL(THREADS, BLOCKS, layer_norm_##NAME, LayerNormParams) { layer_norm<__VA_ARGS__>(p); }

// D is at most 2048, with parts 1536.
NORM(embed, 8, EMBED, 4, 0)
NORM(rows, 8, ROWS, 4, 0)
NORM(shuffle, 8, SHUFFLE, 4, 0)
NORM(rows_parts, 5, ROWS, 3, 3)
NORM(shuffle_parts, 5, SHUFFLE, 3, 3)
