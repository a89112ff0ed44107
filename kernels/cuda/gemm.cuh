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

struct GemmParams {
    const u8 *weight;       // packed [E][blocks·64, K]
    u64 expert_stride;      // bytes
    const u8 *act;          // image [K/64][R]
    const Tile *list;       // the tiles, or null: all of rows 0..tokens-1
    const int *list_count;  // their number
    void *out;              // see GemmEpilogue
    const float *base;      // ROUTED: [T, ld], added first; null: none
    const int *token_of;    // ROUTED: [R] the row of out that an image row belongs to; negative: none
    int R;                  // lines of the activation image
    int tokens;             // rows, where list is null
    int blocks;             // blocks of 64 outputs in a matrix
    int tiles;              // tiles along K
    int ld;                 // of float outputs
    int features;           // SWIGLU: F
    int out_R;              // SWIGLU: lines of the output image
};

struct CodedGemmParams : GemmParams { // weights in codes: blocks of 64 rows, an even number
    Coding coding;
};

enum GemmEpilogue {
    STORE,   // float out[row, n] = y
    ADD,     // float out[row, n] += y
    SWIGLU,  // image out[row, f] = silu(gate)·up: rows g of a block of 16 are gates, g+8 their ups
    ROUTED,  // float out[token_of[row], n] += base[token_of[row], n] + y, or = y without base
};

// gemm_tile finds piece i of the work: tiles in groups of 8, every block of outputs for a group before the next group, so
// that weights and activations of neighbouring blocks meet in the L2 cache. pairs is the number of 128-output pieces.
__device__ __forceinline__ Tile gemm_tile(const GemmParams &p, int width, int count, int pairs, int i, int &pair) {
    constexpr int GROUP = 8;
    const int first = i / (GROUP * pairs) * GROUP, within = i % (GROUP * pairs);
    const int n = min(GROUP, count - first);
    pair = within / n;
    const int at = first + within % n;
    if (p.list) return p.list[at];
    return Tile{0, at * width, min(width, p.tokens - at * width)};
}

__device__ __forceinline__ int gemm_count(const GemmParams &p, int width) { return p.list ? *p.list_count : ceil_div(p.tokens, width); }

// gemm_store takes COUNT fragments of 16 outputs (16·rows16.. of a block), each with two adjacent rows from column + 8j on:
// v[4j], v[4j+1] are output g, v[4j+2], v[4j+3] output g+8 of lane (g, t). What must be read is read for BATCH fragments
// before the first is written: one after the other, the reads' latency would be the epilogue's time.
template <GemmEpilogue EPILOGUE, int COUNT, int BATCH>
__device__ __forceinline__ void gemm_store(const GemmParams &p, const Tile &tile, int block, int rows16, int column, const float *v) {
    const int g = lane_id() / 4, n = block * TILE + rows16 * 16 + g, f = block * (TILE / 2) + rows16 * 8 + g;
    float *out = (float *)p.out;
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
                const bool read = row[j][i % 2] >= 0 && (EPILOGUE == ADD || (EPILOGUE == ROUTED && p.base));
                old[j][i] = read ? out[at] : 0.0f;
                base[j][i] = EPILOGUE == ROUTED && read ? p.base[at] : 0.0f;
            }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const float *y = v + (from + j) * 4;
#pragma unroll
            for (int c = 0; c < 2; c++)
                if (EPILOGUE == SWIGLU && row[j][c] >= 0 && f < p.features)
                    *(bf16 *)((u8 *)p.out + image_at(p.out_R, row[j][c], f)) = __float2bfloat16_rn(y[c] / (1.0f + __expf(-y[c])) * y[c + 2]);
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (EPILOGUE != SWIGLU && row[j][i % 2] >= 0) out[u64(row[j][i % 2]) * p.ld + n + i / 2 * 8] = old[j][i] + (base[j][i] + y[i]);
        }
    }
}
