// Prefill products: one matrix, or one per expert, with many rows of activations. What both kernels of this family share
// (gemm.cu runs everywhere, gemm90.cu is faster on 9.0): the work list, and what becomes of a result.
//
// As in decode, weights are the row operand and tokens the column one: a fragment holds outputs g and g+8 of two adjacent
// tokens, whichever instruction made it.
#pragma once
#include "codes.cuh"

// Tile is a range of activation rows that one block multiplies with one matrix.
struct Tile {
    int expert;     // 0 where there is one matrix
    int row, rows;  // of the image; row is a multiple of 16
};

// HeadsParams say what becomes of q, k and v of the vision tower: biased, turned by line and column, and laid out as heads.
struct HeadsParams {
    const float *bias[3];   // [H·Hd] of q, k and v
    const float2 *turns;    // [per_tile][Hd/2] cos and sin
    int per_tile;           // rows of a picture's tile
    int width, part;        // H·Hd, and the outputs from q to k and from k to v
    int head_dim, head_ld;  // Hd, and the values from one head to the next
    int step;               // 8 rows on, in a tile that follows itself: 8 modulo per_tile
    int lines;              // lines of a tile's image of a head (attend_tile90.cu); 0: rows as in attend_tile.cu
};

struct GemmParams {
    const u8 *weight;       // packed [E][blocks·64, K]
    u64 expert_stride;      // bytes
    const u8 *act;          // image [K/64][R]
    const Tile *list;       // the tiles, or null: all of rows 0..tokens-1
    const int *list_count;  // their number
    void *out;              // see GemmEpilogue
    const float *base;      // ROUTED: [T, ld], added first. BIAS, GELU: [features]. null: none
    const int *token_of;    // ROUTED: [R] the row of out that an image row belongs to; negative: none
    u32 *taken;             // gemm90: counts the units that blocks took beyond their first; null: they take turns
    int R;                  // lines of the activation image
    int tokens;             // rows, where list is null
    int blocks;             // blocks of 64 outputs in a matrix
    int tiles;              // tiles along K
    int ld;                 // of float outputs
    int features;           // SWIGLU: F; BIAS, GELU: outputs that have a bias
    int out_R;              // SWIGLU, GELU: lines of the output image
    int width;              // gemm90: most rows of a tile, one of the instructions' widths from 128 on; 0: 256
    HeadsParams heads;      // HEADS
};

struct CodedGemmParams : GemmParams { // weights in codes: blocks of 64 rows, an even number
    Coding coding;
};

enum GemmEpilogue {
    STORE,   // float out[row, n] = y
    ADD,     // float out[row, n] += y
    SWIGLU,  // image out[row, f] = silu(gate)·up: rows g of a block of 16 are gates, g+8 their ups
    ROUTED,  // float out[token_of[row], n] += base[token_of[row], n] + y, or = y without base; where base is out, out += y
    BIAS,    // float out[row, n] += base[n] + y
    GELU,    // image out[row, n] = gelu(y + base[n])
    HEADS,   // bfloat16 out[row, part, head, d], see HeadsParams
};

// gemm_tile finds piece i of the work: tiles in groups of 8 or another number, every block of outputs for a group before the next group,
// so that weights and activations of neighbouring blocks meet in the L2 cache. pairs is the number of 128-output pieces.
__device__ __forceinline__ Tile gemm_tile(const GemmParams &p, int width, int count, int pairs, int i, int &pair, int group = 8) {
    const int first = i / (group * pairs) * group, within = i % (group * pairs);
    const int n = min(group, count - first);
    pair = within / n;
    const int at = first + within % n;
    if (p.list) return p.list[at];
    return Tile{0, at * width, min(width, p.tokens - at * width)};
}

__device__ __forceinline__ int gemm_count(const GemmParams &p, int width) { return p.list ? *p.list_count : ceil_div(p.tokens, width); }

// gelu is x·Φ(x), the normal distribution to within 2e-7 (Abramowitz and Stegun 7.1.26): with the tail |x|·Φ(-|x|), max(x, 0) - tail.
__device__ __forceinline__ float gelu(float x) {
    const float z = fabsf(x), t = reciprocal_approx(1.0f + 0.23164190f * z); // 0.3275911/√2
    const float series = t * (0.127414796f + t * (-0.142248368f + t * (0.7107068705f + t * (-0.7265760135f + t * 0.5307027145f))));
    return fmaxf(x, 0.0f) - z * series * exp2_approx(-0.72134752f * z * z); // log2(e)/2
}

// gemm_pair gives a lane both outputs of a pair (2i, 2i+1) for one of its two rows: the first if its output is the even one. The
// lanes of a pair are four apart.
__device__ __forceinline__ float2 gemm_pair(const float (&y)[2]) {
    const bool odd = lane_id() / 4 % 2;
    const float other = __shfl_xor_sync(0xffffffffu, odd ? y[0] : y[1], 4);
    return odd ? make_float2(other, y[1]) : make_float2(y[0], other);
}

// gemm_swiglu, gemm_gelu and gemm_heads are gemm_store for what they are named after.
template <int COUNT> __device__ __forceinline__ void gemm_swiglu(const GemmParams &p, const Tile &tile, int block, int rows16, int column, const float *v) {
    const int f = block * (TILE / 2) + rows16 * 8 + lane_id() / 4;
    if (f >= p.features) return;
    u8 *const out = (u8 *)p.out + image_at(p.out_R, tile.row + column, f); // rows 8 apart are 8 lines apart
    const int next = image_at(p.out_R, tile.row + column + 1, f) - image_at(p.out_R, tile.row + column, f);
#pragma unroll
    for (int j = 0; j < COUNT; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const float gate = v[4 * j + c], up = v[4 * j + 2 + c];
            if (column + c + 8 * j < tile.rows) *(bf16 *)(out + c * next + j * 8 * LINE) = __float2bfloat16_rn(gate / (1.0f + __expf(-gate)) * up);
        }
}

template <int COUNT> __device__ __forceinline__ void gemm_gelu(const GemmParams &p, const Tile &tile, int block, int rows16, int column, const float *v) {
    const int g = lane_id() / 4, n = block * TILE + rows16 * 16 + g;
    column += g % 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int at = n + 8 * half;
        const float bias = p.base && at < p.features ? p.base[at] : 0.0f;
        u8 *out = (u8 *)p.out + image_at(p.out_R, tile.row + column, at & ~1); // rows 8 apart are 8 lines apart
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            const float y[2] = {gelu(v[4 * j + 2 * half] + bias), gelu(v[4 * j + 2 * half + 1] + bias)};
            const float2 pair = gemm_pair(y);
            if (column + 8 * j < tile.rows) *(u32 *)(out + j * 8 * LINE) = pack(pair.x, pair.y);
        }
    }
}

template <int COUNT> __device__ __forceinline__ void gemm_heads(const GemmParams &p, const Tile &tile, int block, int rows16, int column, const float *v) {
    const HeadsParams &h = p.heads;
    const int g = lane_id() / 4, n = block * TILE + rows16 * 16 + g;
    column += g % 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int part = (n + 8 * half) / h.part, at = n + 8 * half - part * h.part, head = at / h.head_dim, d = at % h.head_dim;
        const bool real = at < h.width;
        const float bias = real ? h.bias[part][at] : 0.0f;
        bf16 *out = (bf16 *)p.out + u64(tile.row + column) * p.ld + (part * (h.width / h.head_dim) + head) * h.head_ld + (d & ~1);
        int row = (tile.row + column) % h.per_tile; // of its picture's tile
        const float2 *turns = h.turns + d / 2;
        const bool turned = real && part < 2;
        constexpr int AHEAD = 8; // as in gemm_store: read before the first is written
#pragma unroll
        for (int from = 0; from < COUNT; from += AHEAD) {
            float2 turn[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                turn[j] = turned ? turns[row * (h.head_dim / 2)] : make_float2(1, 0);
                row += h.step;
                row -= row >= h.per_tile ? h.per_tile : 0;
            }
#pragma unroll
            for (int j = 0; j < AHEAD && from + j < COUNT; j++) {
                const int i = 4 * (from + j) + 2 * half, to = 8 * (from + j);
                const float y[2] = {v[i] + bias, v[i + 1] + bias};
                const float2 pair = gemm_pair(y);
                if (real && column + to < tile.rows)
                    *(u32 *)(out + u64(to) * p.ld) = pack(pair.x * turn[j].x - pair.y * turn[j].y, pair.x * turn[j].y + pair.y * turn[j].x);
            }
        }
    }
}

// gemm_store takes COUNT fragments of 16 outputs (16·rows16.. of a block), each with two adjacent rows from column + 8j on:
// v[4j], v[4j+1] are output g, v[4j+2], v[4j+3] output g+8 of lane (g, t). What must be read is read for BATCH fragments
// before the first is written: one after the other, the reads' latency would be the epilogue's time. With THERE, ADD and BIAS
// leave it to the L2 cache.
template <GemmEpilogue EPILOGUE, int COUNT, int BATCH, bool THERE = false>
__device__ __forceinline__ void gemm_store(const GemmParams &p, const Tile &tile, int block, int rows16, int column, const float *v) {
    const int g = lane_id() / 4, n = block * TILE + rows16 * 16 + g;
    if constexpr (EPILOGUE == SWIGLU) return gemm_swiglu<COUNT>(p, tile, block, rows16, column, v);
    if constexpr (EPILOGUE == GELU) return gemm_gelu<COUNT>(p, tile, block, rows16, column, v);
    if constexpr (EPILOGUE == HEADS) return gemm_heads<COUNT>(p, tile, block, rows16, column, v);
    constexpr bool ADDS = EPILOGUE == ADD || EPILOGUE == BIAS;
    float *out = (float *)p.out;
    float bias[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (EPILOGUE == BIAS && n + 8 * i < p.features) bias[i] = p.base[n + 8 * i];
#pragma unroll
    for (int from = 0; from < COUNT; from += BATCH) {
        int row[BATCH][2]; // of out; negative: none
        float old[BATCH][4], base[BATCH][4];
#pragma unroll
        for (int j = 0; j < BATCH; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int at = column + (from + j) * 8 + c;
                row[j][c] = at < tile.rows ? tile.row + at : -1;
                if (EPILOGUE == ROUTED && row[j][c] >= 0) row[j][c] = p.token_of[row[j][c]];
            }
#pragma unroll
        for (int j = 0; j < BATCH; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u64 at = u64(row[j][i % 2]) * p.ld + n + i / 2 * 8;
                const bool read = row[j][i % 2] >= 0 && ((ADDS && !THERE) || (EPILOGUE == ROUTED && p.base));
                old[j][i] = read && !(EPILOGUE == ROUTED && p.base == out) ? out[at] : 0.0f;
                base[j][i] = EPILOGUE == ROUTED && read ? p.base[at] : EPILOGUE == BIAS ? bias[i / 2] : 0.0f;
            }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const float *y = v + (from + j) * 4;
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (row[j][i % 2] >= 0) {
                    float *to = out + u64(row[j][i % 2]) * p.ld + n + i / 2 * 8;
                    if (ADDS && THERE) add_there(to, base[j][i] + y[i]);
                    else *to = old[j][i] + (base[j][i] + y[i]);
                }
        }
    }
}
