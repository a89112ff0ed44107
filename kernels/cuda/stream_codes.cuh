// The decode engine's stages for quantised weights: codes become bfloat16 in registers, and what a group of columns adds up
// to is scaled in float32. See codes.cuh for the layout and stream.cuh for everything else.
#pragma once
#include "codes.cuh"
#include "stream.cuh"

struct CodedStreamParams : StreamParams { // weights in codes; blocks of 128 rows
    Coding dense_coding, routed_coding;   // of the same geometry
};

// Coded: tiles of 128 rows, since next to codes activations are many bytes. Every tile's sum is scaled by
// itself, whatever the length of a group, so that the order of a sum does not depend on NT.
template <Code CODE, int NT> struct Coded {
    using Params = CodedStreamParams;
    static constexpr int ROWS = CODE_ROWS;
    static constexpr int TILES = CODE != E4M3 && NT <= 2 ? 4 : 2;
    static constexpr int GRAIN = CODE == E4M3 ? 2 : 4;
    static constexpr int HALVES = 1;
    static constexpr bool PICKS = true; // of many rows few choose an expert, and the multiplications take as long as the codes' way here
    static constexpr int TILE_BYTES = code_tile(CODE);
    static constexpr int STAGES = CODE == E4M3 ? (NT == 1 ? 5 : NT == 2 ? 4 : NT == 4 ? 3 : 5) : (NT == 1 ? 4 : NT == 2 ? 3 : NT == 4 ? 4 : 6);
    static constexpr int SCALES = TILES * 2 * CODE_ROWS * 4, ZEROS = CODE == INT4 ? TILES * 2 * CODE_ROWS : 0; // bytes at most
    static constexpr int EXTRA = SCALES + ZEROS;
    struct Shared {
        u32 pairs[CODE == TABLE4 ? 256 : 1]; // TABLE4: the two numbers of every byte
    };

    // groups of a stage's tiles: the first, and how many.
    static __device__ __forceinline__ int groups(const Params &p, int first, int tiles, int &from) {
        from = coding_group(p.dense_coding, first, 0);
        return coding_group(p.dense_coding, first + tiles - 1, 1) - from + 1;
    }
    static __device__ __forceinline__ int extra_bytes(const Params &p, int first, int tiles) {
        int from;
        return groups(p, first, tiles, from) * CODE_ROWS * (p.dense_coding.scale_bytes + (CODE == INT4 && p.dense_coding.zeros ? 1 : 0));
    }
    static __device__ __forceinline__ void extra(const Params &p, int expert, int block, int first, int tiles, u8 *to, u64 *full) {
        const Coding &c = expert < 0 ? p.dense_coding : p.routed_coding;
        int from;
        const int n = groups(p, first, tiles, from);
        const u64 at = max(expert, 0) * c.expert_scales + (u64(block) * c.groups + from) * CODE_ROWS;
        stream_copy(to, c.scales + at * c.scale_bytes, n * CODE_ROWS * c.scale_bytes, full, false);
        if (CODE == INT4 && c.zeros) stream_copy(to + SCALES, c.zeros + at, n * CODE_ROWS, full, false);
    }
    static __device__ __forceinline__ void prepare(const Params &p, Shared &s) {
        if (CODE == TABLE4)
            for (int i = threadIdx.x; i < 256; i += STREAM_THREADS) s.pairs[i] = pack(p.dense_coding.table[i & 15], p.dense_coding.table[i >> 4]);
    }

    static __device__ __forceinline__ void multiply(const Params &p, const Shared &s, float (&acc)[NT][4], const u8 *stage, int at, int first, int strip, u32 groups) {
        const Coding &c = p.dense_coding;
        const u8 *act = stage + TILES * TILE_BYTES + at * NT * 8 * LINE, *scales = stage + TILES * (TILE_BYTES + NT * 8 * LINE);
        const u8 *codes = stage + at * TILE_BYTES + (strip * code_pieces(CODE) * WARP + lane_id()) * 16;
        const int row = strip * 16 + lane_id() / 4, from = coding_group(c, first, 0);
        float part[NT][4] = {};
#pragma unroll
        for (int pair = 0; pair < 2; pair++) { // 32 columns
            const int group = (coding_group(c, first + at, pair) - from) * CODE_ROWS + row;
            u32 zero[2] = {};
            if (CODE == INT4)
#pragma unroll
                for (int r = 0; r < 2; r++) zero[r] = int4_zero(c.zeros ? scales[SCALES + group + 8 * r] : 8);
            u32 words[4]; // 8 bits: of both steps; 4 bits: the first two
            if (CODE == E4M3) {
                const uint4 v = *(const uint4 *)(codes + pair * WARP * 16);
                words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
            } else {
                const uint2 v = *(const uint2 *)(codes + pair * 8);
                words[0] = v.x, words[1] = v.y;
            }
            u32 a[2][4];
#pragma unroll
            for (int k = 0; k < 2; k++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    a[k][i] = CODE == E4M3 ? e4m3_pair(words[2 * k + i / 2], i % 2) : CODE == INT4 ? int4_pair(words[k], i, zero[i % 2]) : s.pairs[table4_index(words[k], i)];
#pragma unroll
            for (int j = 0; j < NT; j++) {
                if (NT > 1 && !(groups >> j & 1)) continue;
                u32 b[4];
                stream_act(b, act, j, pair);
                mma_bf16(part[j], a[0], b[0], b[1]);
                mma_bf16(part[j], a[1], b[2], b[3]);
            }
            if (pair == 0 && c.group_tiles >= 0) continue; // the group is not over
            const float by[2] = {scale_value(scales, c.scale_bytes, group), scale_value(scales, c.scale_bytes, group + 8)};
#pragma unroll
            for (int j = 0; j < NT; j++) {
                if (NT > 1 && !(groups >> j & 1)) continue;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    acc[j][i] = __fmaf_rn(part[j][i], by[i / 2], acc[j][i]);
                    part[j][i] = 0;
                }
            }
        }
    }
};
