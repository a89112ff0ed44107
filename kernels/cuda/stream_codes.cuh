// The decode engine's stages for quantised weights: codes become bfloat16 in registers, and what a group of columns adds up
// to is scaled in float32. See codes.cuh for the layout and stream.cuh for everything else.
#pragma once
#include "codes.cuh"
#include "stream.cuh"

struct CodedStreamParams : StreamParams { // weights in codes; blocks of 128 rows
    Coding dense_coding, routed_coding;   // of the same geometry
};

// Coded: tiles of 128 rows, since next to codes activations are many bytes. What is scaled when is decided by the coding, not by
// NT, so that the order of a sum does not depend on it:
//   8 bits, one scale a row: the sum of a unit, at its end
//   INT4, groups of whole pairs of tiles, without zeros: the sum of every pair
//   everything else (fine): the sum of every half of a tile
template <Code CODE, int NT> struct Coded {
    using Params = CodedStreamParams;
    static constexpr int ROWS = CODE_ROWS;
    static constexpr int TILES = CODE != E4M3 && NT <= (CODE == INT4 ? 4 : 2) ? 4 : 2; // fewer stages, fewer waits; as registers allow
    static constexpr int GRAIN = CODE == E4M3 ? 2 : 4;
    static constexpr int HALVES = 1;
    static constexpr bool GATHERS = NT > 1; // of many rows few choose an expert, and multiplying takes as long as the codes' way here
    static constexpr int TILE_BYTES = code_tile(CODE);
    static constexpr int STAGES = CODE == E4M3 ? (NT == 1 ? 5 : NT == 2 ? 4 : NT == 4 ? 3 : 5) : (NT == 1 ? 4 : TILES == 4 ? 3 : NT == 4 ? 4 : 6);
    static constexpr int SCALES = TILES * 2 * CODE_ROWS * 4, ZEROS = CODE == INT4 ? TILES * 2 * CODE_ROWS : 0; // bytes at most
    static constexpr int EXTRA = SCALES + ZEROS;
    struct Shared {
        u32 pairs[CODE == TABLE4 ? 256 : 1]; // TABLE4: the two numbers of every byte
    };
    struct Scale {
        float by[2]; // of the lane's two rows, for the sum of a unit
    };

    // groups of a stage's tiles: the first, and how many.
    static __device__ __forceinline__ int groups(const Params &p, int first, int tiles, int &from) {
        from = coding_group(p.dense_coding, first, 0);
        return coding_group(p.dense_coding, first + tiles - 1, 1) - from + 1;
    }
    static __device__ __forceinline__ int extra_bytes(const Params &p, int first, int tiles) {
        if (CODE == E4M3 && !p.dense_coding.fine) return 0;
        int from;
        return groups(p, first, tiles, from) * CODE_ROWS * (p.dense_coding.scale_bytes + (CODE == INT4 && p.dense_coding.zeros ? 1 : 0));
    }
    static __device__ __forceinline__ void extra(const Params &p, int expert, int block, int first, int tiles, u8 *to, u64 *full) {
        const Coding &c = expert < 0 ? p.dense_coding : p.routed_coding;
        if (CODE == E4M3 && !c.fine) return;
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

    // begin and end are what happens to the sum of a unit's strip.
    static __device__ __forceinline__ Scale begin(const Params &p, int expert, int block, int strip) {
        Scale s = {{1, 1}};
        const Coding &c = expert < 0 ? p.dense_coding : p.routed_coding;
        if (CODE == E4M3 && !c.fine) {
            const u64 row = max(expert, 0) * c.expert_scales + block * CODE_ROWS + strip * 16 + lane_id() / 4;
            s.by[0] = scale_value(c.scales, c.scale_bytes, row);
            s.by[1] = scale_value(c.scales, c.scale_bytes, row + 8);
        }
        return s;
    }
    static __device__ __forceinline__ void end(const Params &p, const Scale &s, float (&acc)[NT][4]) {
        if (CODE == E4M3 && !p.dense_coding.fine) {
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) acc[j][i] *= s.by[i / 2];
        }
    }

    // multiply adds the products of a strip of the stage's tiles with all groups of 8 rows, or with 8 rows that are few of them: `row` is the
    // lane's. Along K the tiles begin with tile `first`.
    static __device__ __forceinline__ void multiply(const Params &p, const Shared &s, float (&acc)[NT][4], const u8 *stage, int tiles, int first, int strip, int, int row, bool few) {
        if (NT > 1 && few) tiles_of<1>(p, s, acc, stage, tiles, first, strip, row);
        else tiles_of<NT>(p, s, acc, stage, tiles, first, strip, lane_id() % 8);
    }

private:
    template <int GROUPS>
    static __device__ __forceinline__ void tiles_of(const Params &p, const Shared &s, float (&acc)[NT][4], const u8 *stage, int tiles, int first, int strip, int row) {
        constexpr int TOGETHER = GROUPS == 1 && NT <= 2 ? TILES : 2; // as registers allow
        int at = 0;
        if (CODE != TABLE4 && !p.dense_coding.fine) {
#pragma unroll
            for (; at < TILES && at + TOGETHER <= tiles; at += TOGETHER) several<GROUPS, TOGETHER, false>(p, s, acc, stage, at, first, strip, row);
            for (; at < TILES && at < tiles; at++) several<GROUPS, 1, false>(p, s, acc, stage, at, first, strip, row);
        }
        for (; at < TILES && at < tiles; at++) several<GROUPS, 1, true>(p, s, acc, stage, at, first, strip, row);
    }

    // several is that for COUNT tiles of the stage: straight-line code, the codes' way from shared memory before everything else.
    template <int GROUPS, int COUNT, bool FINE>
    static __device__ __forceinline__ void several(const Params &p, const Shared &s, float (&acc)[NT][4], const u8 *stage, int at, int first, int strip, int row) {
        constexpr int WORDS = 4 * code_pieces(CODE);
        constexpr bool WHOLE = CODE == E4M3 && !FINE; // the sum of a unit is scaled
        const Coding &c = p.dense_coding;
        const u8 *acts = stage + TILES * TILE_BYTES + at * NT * 8 * LINE;
        const u8 *codes = stage + at * TILE_BYTES + (strip * code_pieces(CODE) * WARP + lane_id()) * 16;
        constexpr bool ROLLED = GROUPS > 2; // registers are scarce
        u32 words[ROLLED ? 1 : COUNT][WORDS];
        const auto read = [&](u32 (&words)[WORDS], int i) {
#pragma unroll
            for (int j = 0; j < code_pieces(CODE); j++) {
                const uint4 v = *(const uint4 *)(codes + i * TILE_BYTES + j * WARP * 16);
                words[4 * j] = v.x, words[4 * j + 1] = v.y, words[4 * j + 2] = v.z, words[4 * j + 3] = v.w;
            }
        };
#pragma unroll
        for (int i = 0; i < COUNT && !ROLLED; i++) read(words[i], i);
        const int from = WHOLE ? 0 : coding_group(c, first, 0);
        float part[GROUPS][4] = {};
#pragma unroll ROLLED ? 1 : COUNT
        for (int i = 0; i < COUNT; i++) {
            u32 (&word)[WORDS] = words[ROLLED ? 0 : i];
            if (ROLLED) read(word, i);
            const bool last = FINE || i % 2 == 1 || i == COUNT - 1; // of those that are scaled together
            float by[2][2] = {}; // of the halves, of the rows
            u32 zero[2][2];
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    zero[half][r] = int4_zero(8, r);
                    if (half == 1 && !FINE) {
                        by[half][r] = by[0][r];
                        continue;
                    }
                    if (WHOLE || !last) continue;
                    const int scale = (coding_group(c, first + at + i, half) - from) * CODE_ROWS + strip * 16 + lane_id() / 4 + 8 * r;
                    by[half][r] = scale_near(stage + TILES * (TILE_BYTES + NT * 8 * LINE), c.scale_bytes, scale) * (CODE == INT4 ? INT4_PARTS : 1);
                    if (FINE && CODE == INT4 && c.zeros) zero[half][r] = int4_zero((stage + TILES * (TILE_BYTES + NT * 8 * LINE) + SCALES)[scale], r);
                }
            u32 a[4][4];
#pragma unroll
            for (int step = 0; step < 4; step++)
#pragma unroll
                for (int k = 0; k < 4; k++)
                    a[step][k] = CODE == E4M3 ? e4m3_pair(word[2 * step + k / 2], k % 2)
                        : CODE == INT4 ? int4_pair(word[step], k, zero[step / 2][k % 2])
                                       : s.pairs[table4_index(word[step], k)];
#pragma unroll
            for (int j = 0; j < GROUPS; j++) {
                u32 b[2][4];
#pragma unroll
                for (int half = 0; half < 2; half++) stream_act(b[half], acts + (i * NT + j) * 8 * LINE, row, half);
                float (&sum)[4] = WHOLE ? acc[j] : part[j];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    mma_bf16(sum, a[2 * half], b[half][0], b[half][1]);
                    mma_bf16(sum, a[2 * half + 1], b[half][2], b[half][3]);
                    if (!WHOLE && last && (FINE || half == 1)) {
#pragma unroll
                        for (int k = 0; k < 4; k++) {
                            acc[j][k] = __fmaf_rn(sum[k], by[half][k / 2], acc[j][k]);
                            sum[k] = 0;
                        }
                    }
                }
            }
        }
    }
};
