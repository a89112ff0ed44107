// The decode engine's stages for quantised weights. See codes.cuh for the layout and stream.cuh for everything else.
//
// Codes of 8 bits and of tables become bfloat16 in registers, and what a group of columns adds up to is scaled in float32.
//
// INT4 arrives so fast (37 codes a clock and multiprocessor) that the logic and shifts of widening would take longer than the
// bytes. So it is multiplied in integers of 8 bits, which takes a shift and two instructions for 8 codes, and activations, of which
// there are few, follow, as two digits (digits.cuh). Sums of columns with one scale are exact: Σ w·h and Σ w·l, and 256 times the first and the second
// have fewer than 31 bits.
//
// Whoever knows 128 columns of a row when it makes them writes digits (the router's kernels). Of what is between the experts' products a kernel
// makes them, where there are several rows (digit_rows). Others are made of the image's bfloat16, in place, stage by stage: of up to 8 rows by a
// warp more, or, of more, by the consumers together. Every block makes them again then, and products wait for it. Bits are the same.
#pragma once
#include "codes.cuh"
#include "digits.cuh"
#include "stream.cuh"

struct CodedStreamParams : StreamParams { // weights in codes; blocks of 128 rows
    Coding dense_coding, routed_coding;   // of the same geometry
};

// Who makes digits.
enum Making { READY, HERE }; // whoever made the activations; this kernel

// Coded: tiles of 128 rows, since next to codes activations are many bytes. What is scaled when is decided by the coding, not by
// NT, so that the order of a sum does not depend on it:
//   8 bits, one scale a row: the sum of a unit, at its end; until then sums of every tile are added
//   INT4, groups of whole pairs of tiles, without zeros: the sum of every pair
//   everything else (fine): the sum of every half of a tile
template <Code CODE, int NT, Making MAKING = HERE> struct Coded {
    using Params = CodedStreamParams;
    static constexpr int ROWS = CODE_ROWS;
    static constexpr bool DIGITS = CODE == INT4, PREPARES = DIGITS && MAKING == HERE;
    static constexpr int TILES = CODE != E4M3 && NT <= (CODE == INT4 ? 4 : 2) ? 4 : 2; // fewer stages, fewer waits; as registers allow
    static constexpr int GRAIN = CODE == E4M3 ? 2 : 4;
    static constexpr int HALVES = 1;
    static constexpr bool GATHERS = NT > 1 || DIGITS; // of many rows few choose an expert; digits of others are not made
    static constexpr int TILE_BYTES = code_tile(CODE);
    static constexpr int STAGES = CODE == E4M3 ? (NT == 1 ? 5 : NT == 2 ? 4 : NT == 4 ? 3 : 5) : (NT == 1 ? 4 : TILES == 4 ? 3 : NT == 4 ? 4 : 6);
    static constexpr int UNITS = !DIGITS ? 0 : TILES / 2 * NT * 8 * 4; // bytes: 2ˢ of every pair of tiles and row
    static constexpr int SCALES = TILES * 2 * CODE_ROWS * 4, ZEROS = CODE == INT4 ? TILES * 2 * CODE_ROWS : 0; // bytes at most
    static constexpr int EXTRA = UNITS + SCALES + ZEROS;
    static constexpr int BESIDE = TILES * (TILE_BYTES + NT * 8 * LINE); // where what is extra begins in a stage
    struct Shared {
        u32 pairs[CODE == TABLE4 ? 256 : 1]; // TABLE4: the two numbers of every byte
    };
    struct Scale {
        float by[2]; // of the lane's two rows, for the sum of a unit
        enum { PACKED, FEW, ALL } how; // packed: INT4, at most 4 rows, both digits in the 8 columns of one product. The lane's sums are row t's, in acc[0][0] and [2]
        int row, sum[2]; // few that are not in lines 0 and on: whose activations the lane reads, and whose sums it has
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
    struct Beside {
        const u8 *scales, *zeros;
        int bytes; // a row's scale
    };
    static __device__ __forceinline__ Beside beside(const Params &p, int expert, int block) {
        const Coding &c = expert < 0 ? p.dense_coding : p.routed_coding;
        const u64 at = max(expert, 0) * c.expert_scales + u64(block) * c.groups * CODE_ROWS;
        return {opaque(c.scales + at * c.scale_bytes), c.zeros ? opaque(c.zeros + at) : nullptr, c.scale_bytes};
    }
    static __device__ __forceinline__ void extra(const Params &p, const Beside &b, int first, int tiles, u8 *to, u64 *full) {
        if (CODE == E4M3 && !p.dense_coding.fine) return;
        int from;
        const int n = groups(p, first, tiles, from) * CODE_ROWS, at = from * CODE_ROWS;
        stream_copy(to + UNITS, b.scales + at * b.bytes, n * b.bytes, full, false);
        if (CODE == INT4 && b.zeros) stream_copy(to + UNITS + SCALES, b.zeros + at, n, full, false);
    }
    static __device__ __forceinline__ void prepare(const Params &p, Shared &s) {
        if (CODE == TABLE4)
            for (int i = threadIdx.x; i < 256; i += STREAM_THREADS) s.pairs[i] = pack(p.dense_coding.table[i & 15], p.dense_coding.table[i >> 4]);
    }

    static constexpr __device__ __forceinline__ int activation_bytes(int tiles) {
        return MAKING == HERE ? tiles * NT * 8 * LINE : TILES * NT * 8 * LINE + UNITS; // of digits, always a whole stage
    }
    static __device__ __forceinline__ void activations(const u8 *image, int first, int tiles, u8 *to, u64 *full) {
        if (MAKING == HERE) {
            stream_copy(to, image + u64(first) * NT * 8 * LINE, activation_bytes(tiles), full, false);
        } else if (TILES == DIGIT_TILES) { // units have their place behind the lines
            stream_copy(to, image + u64(first / DIGIT_TILES) * digit_group(NT * 8), activation_bytes(tiles), full, false);
        } else {
            const u8 *group = image + u64(first / DIGIT_TILES) * digit_group(NT * 8);
            stream_copy(to, group + first % DIGIT_TILES * NT * 8 * LINE, TILES * NT * 8 * LINE, full, false);
            stream_copy(to + TILES * NT * 8 * LINE, group + digit_lines(NT * 8) + first % DIGIT_TILES / 2 * NT * 8 * 4, UNITS, full, false);
        }
    }

    // begin and end are what happens to the sum of a unit's strip. It multiplies `rows` rows, in this order if they are few.
    static __device__ __forceinline__ Scale begin(const Params &p, int expert, int block, int strip, const short *order, int rows) {
        Scale s = {{1, 1}, CODE == INT4 && rows <= 4 ? Scale::PACKED : NT == 1 || rows <= 8 ? Scale::FEW : Scale::ALL};
        const bool packed = s.how == Scale::PACKED;
        const auto line = [&](int i) { return order && !PREPARES ? order[min(i, rows - 1)] : i; };
        const int l = lane_id();
        s.row = line(packed ? l % 8 / 2 : l % 8), s.sum[0] = line(packed ? l % 4 : l % 4 * 2), s.sum[1] = line(l % 4 * 2 + 1);
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
        if (CODE == INT4 && s.how == Scale::PACKED) { // lane t takes rows 2t and 2t+1
            const int from = lane_id() / 4 * 4 + lane_id() % 2 * 2;
            const float g = acc[0][0], g8 = acc[0][2];
#pragma unroll
            for (int c = 0; c < 2; c++) {
                acc[0][c] = __shfl_sync(0xffffffffu, g, from + c);
                acc[0][2 + c] = __shfl_sync(0xffffffffu, g8, from + c);
            }
        }
    }

    // multiply adds the products of a strip of the stage's tiles; `rows`: how many there are at all. Along K the tiles begin with tile `first`.
    static __device__ __forceinline__ void multiply(const Params &p, const Shared &s, const Scale &scale, float (&acc)[NT][4], u8 *stage, int tiles, int first, int strip, int, int rows) {
        tiles = min(tiles, TILES);
        if (PREPARES && NT > 1 && scale.how == Scale::ALL) { // in place; all consumers take part
            u8 *lines = stage + TILES * TILE_BYTES;
#pragma unroll 1
            for (int i = warp_id(); i < rows; i += STREAM_WARPS) {
                Piece piece;
                piece.load(lines + i * LINE, NT * 8 * LINE, i, tiles);
                __syncwarp(); // all have read
                store_digits(piece, lines + i * LINE, NT * 8 * LINE, i, tiles, (float *)(stage + BESIDE) + i, NT * 8);
            }
            fence_proxy_async(); // before copies come here again
            bar_sync(1, STREAM_WARPS * WARP);
        }
        int l = lane_id();
        if (CODE == TABLE4 && NT > 2) asm volatile("" : "+r"(l)); // what follows from it takes no registers from stage to stage
        if (CODE == INT4 && scale.how == Scale::PACKED)
            tiles_of<1, true>(p, s, acc, stage, tiles, first, strip, PREPARES ? l % 8 / 2 : scale.row, PREPARES ? l % 4 : scale.sum[0], 0);
        else if (NT == 1 || scale.how == Scale::FEW)
            tiles_of<1, false>(p, s, acc, stage, tiles, first, strip, PREPARES ? l % 8 : scale.row, PREPARES ? l % 4 * 2 : scale.sum[0], PREPARES ? l % 4 * 2 + 1 : scale.sum[1]);
        else tiles_of<NT, false>(p, s, acc, stage, tiles, first, strip, l % 8, l % 4 * 2, l % 4 * 2 + 1);
    }

    // prepare_rows moves few rows, whose order ascends, to the first lines of a stage, as products want them. One warp, which fences afterwards.
    static __device__ __forceinline__ void prepare_rows(u8 *stage, const short *order, int rows, int tiles) {
        constexpr int TOGETHER = 4;
        u8 *lines = stage + TILES * TILE_BYTES;
#pragma unroll 1
        for (int from = 0; from < rows; from += TOGETHER) {
            Piece piece[TOGETHER];
#pragma unroll
            for (int i = 0; i < TOGETHER; i++)
                if (from + i < rows) {
                    const int row = order ? order[from + i] : from + i;
                    piece[i].load(lines + row * LINE, NT * 8 * LINE, row, min(tiles, TILES));
                }
            __syncwarp(); // all have read; later rows lie in later lines
#pragma unroll
            for (int i = 0; i < TOGETHER; i++)
                if (from + i < rows) store_digits(piece[i], lines + (from + i) * LINE, NT * 8 * LINE, from + i, min(tiles, TILES), (float *)(stage + BESIDE) + from + i, NT * 8);
        }
    }

private:
    // row: whose activations the lane reads; sum0 and sum1: whose sums it has, in every group of 8 rows.
    template <int GROUPS, bool PACKED>
    static __device__ __forceinline__ void tiles_of(const Params &p, const Shared &s, float (&acc)[NT][4], const u8 *stage, int tiles, int first, int strip, int row, int sum0, int sum1) {
        if (CODE != TABLE4 && !p.dense_coding.fine) {
            constexpr int TOGETHER = GROUPS == 1 && NT == 1 ? TILES : 2; // as registers allow
            int at = 0;
#pragma unroll
            for (; at < TILES && at + TOGETHER <= tiles; at += TOGETHER) several<GROUPS, PACKED, TOGETHER, false>(p, s, acc, stage, at, first, strip, row, sum0, sum1);
            // What is left of K.
            if (TOGETHER > 2 && at + 2 <= tiles) several<GROUPS, PACKED, 2, false>(p, s, acc, stage, at, first, strip, row, sum0, sum1), at += 2;
            if (at < TILES && at < tiles) several<GROUPS, PACKED, 1, false>(p, s, acc, stage, at, first, strip, row, sum0, sum1);
            return;
        }
#pragma unroll 1
        for (int at = 0; at < tiles; at++) several<GROUPS, PACKED, 1, true>(p, s, acc, stage, at, first, strip, row, sum0, sum1);
    }

    // several is that for COUNT tiles of the stage: straight-line code, the codes' way from shared memory before everything else.
    template <int GROUPS, bool PACKED, int COUNT, bool FINE>
    static __device__ __forceinline__ void several(const Params &p, const Shared &s, float (&acc)[NT][4], const u8 *stage, int at, int first, int strip, int row, int sum0, int sum1) {
        constexpr int WORDS = 4 * code_pieces(CODE);
        constexpr int TOGETHER = CODE == INT4 && COUNT > 1 ? 2 : 1; // tiles in one sum
        constexpr bool WHOLE = CODE == E4M3 && !FINE; // the sum of a unit is scaled
        const Coding &c = p.dense_coding;
        const u8 *acts = stage + TILES * TILE_BYTES + (at * NT * 8 + row) * LINE, *extra = stage + BESIDE;
        const u8 *codes = stage + at * TILE_BYTES + (strip * code_pieces(CODE) * WARP + lane_id()) * 16;
        constexpr bool ROLLED = GROUPS > 2; // registers are scarce
        u32 words[ROLLED ? TOGETHER : COUNT][WORDS];
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
#pragma unroll(ROLLED ? 1 : COUNT)
        for (int i = 0; i < COUNT; i += TOGETHER) {
            float by[2][2] = {{1, 1}, {1, 1}}; // scales of the halves of a tile, or of all; of rows g and g+8
            u32 zeros[2][2];
#pragma unroll
            for (int half = 0; half < (FINE ? 2 : 1); half++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    if (WHOLE) continue;
                    const int scale = (coding_group(c, first + at + i, half) - from) * CODE_ROWS + strip * 16 + lane_id() / 4 + 8 * r;
                    by[half][r] = scale_near(extra + UNITS, c.scale_bytes, scale) * (CODE == INT4 && !FINE ? 1.0f / 16 : 1);
                    if (FINE && CODE == INT4) zeros[half][r] = (c.zeros ? (extra + UNITS + SCALES)[scale] : 8) * 0x01010101;
                }
            u32 a[TOGETHER][4][4]; // tiles, steps; INT4: two steps of 16 columns at once
#pragma unroll
            for (int k = 0; k < TOGETHER; k++) {
                u32 (&word)[WORDS] = words[ROLLED ? k : i + k];
                if (ROLLED) read(word, i + k);
#pragma unroll
                for (int step = 0; step < (CODE == INT4 ? 2 : 4); step++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        a[k][step][j] = CODE == E4M3 ? e4m3_fragment(word, step, j)
                            : CODE == TABLE4         ? s.pairs[table4_index(word[step], j)]
                            : FINE                   ? int4_bytes_from(word[2 * step + j / 2], j % 2, zeros[step][j % 2])
                                                     : int4_bytes(word[2 * step + j / 2], j % 2);
            }
#pragma unroll
            for (int j = 0; j < GROUPS; j++) {
                float unit[2] = {1, 1}; // of activations
                if (DIGITS) {
                    const float *units = (const float *)extra + (at + i) / 2 * NT * 8 + j * 8;
                    unit[0] = units[sum0];
                    if (!PACKED) unit[1] = units[sum1];
                }
                const auto add = [&](int r, float v, float by) { acc[j][r] = __fmaf_rn(v, by * unit[r % 2], acc[j][r]); };
                // read: four pieces of the lines of a tile, which are 32 columns or, of digits, 64.
                const auto read = [&](u32 (&b)[4], int k, int from) { ldmatrix_x4(b, acts + ((i + k) * NT + j) * 8 * LINE + (((from + lane_id() / 8) ^ (row & 7)) * PIECE)); };
                u32 b[4];
                if constexpr (CODE == INT4) {
#pragma unroll
                    for (int half = 0; half < (FINE ? 2 : 1); half++) {
                        int sum[4] = {};
#pragma unroll
                        for (int digit = 0; digit < (PACKED ? 1 : 2); digit++) {
#pragma unroll
                            for (int r = 0; r < 4 && digit == 1; r++) sum[r] *= 256;
#pragma unroll
                            for (int k = 0; k < TOGETHER; k++) {
                                read(b, k, 4 * (PACKED ? lane_id() % 2 : digit));
                                if (!FINE || half == 0) mma_s8(sum, a[k][0], b[0], b[1]);
                                if (!FINE || half == 1) mma_s8(sum, a[k][1], b[2], b[3]);
                            }
                        }
#pragma unroll
                        for (int r = 0; r < 4; r += PACKED ? 2 : 1) add(r, float(PACKED ? 256 * sum[r] + sum[r + 1] : sum[r]), by[half][r / 2]);
                    }
                } else {
                    float sum[4] = {};
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        read(b, 0, 4 * half);
#pragma unroll
                        for (int step = 0; step < 2; step++) mma_bf16(sum, a[0][2 * half + step], b[2 * step], b[2 * step + 1]);
                        if (!FINE && half == 0) continue;
#pragma unroll
                        for (int r = 0; r < 4; r++) add(r, sum[r], by[half && FINE][r / 2]), sum[r] = 0;
                    }
                }
            }
        }
    }
};
