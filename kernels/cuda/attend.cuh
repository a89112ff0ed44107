// Attention over paged keys and values with mma.sync: softmax(q·Kᵀ/√Hd)·V, one pass, running maximum and sum. What decode
// (attend_decode.cu) and prefill (attend_prefill.cu) share. Rows are the 16-row operand: the query heads of one key/value
// head in decode, 16 positions of one head in prefill.
#pragma once
#include "codes.cuh"

// Pages of a group as a kernel sees them: [page][layer][k, v][KvH][page_tokens][Hd]; or, tiled, with heads of
// [Hd/64][page_tokens][64] whose 16-byte pieces are permuted by the token, like every image (image.cuh). Elements are bfloat16,
// or codes of E4M3 (codes.cuh), of which a tile has 128 in a line.
struct Pages {
    const void *data;
    u64 page_stride;   // elements of a page
    u64 layer_at;      // of this layer's keys in a page
    const int *table;  // page numbers, one list after the other
    int page_tokens, kv_heads, head_dim, tiled;
};

constexpr __host__ __device__ int kv_bytes(bool codes) { return codes ? 1 : 2; }

// kv_head is where a head's keys (which 0) or values (1) begin in a page.
template <bool CODES> __device__ __forceinline__ const u8 *kv_head(const Pages &p, int page, int which, int head) {
    return (const u8 *)p.data + (u64(page) * p.page_stride + p.layer_at + (u64(which) * p.kv_heads + head) * p.page_tokens * p.head_dim) * kv_bytes(CODES);
}

// kv_piece is piece `piece` of 16 bytes of a slot's line, for kernels that do not take tiles. Of tiled pages they read codes only.
template <bool CODES> __device__ __forceinline__ int kv_piece(const Pages &p, int slot, int piece) {
    if (CODES && p.tiled) piece ^= slot & 7;
    return slot % p.page_tokens * p.head_dim * kv_bytes(CODES) + piece * PIECE;
}

// Tiles of keys or values in shared memory: lines of HD values, whose 16-byte pieces are permuted by the line.
template <int HD> __device__ __forceinline__ int kv_at(int line, int piece) { return line * HD * 2 + ((piece ^ (line & (HD >= 64 ? 7 : 3))) * PIECE); }
template <int HD> struct PlainTile {
    __device__ __forceinline__ int operator()(int line, int piece) const { return kv_at<HD>(line, piece); }
};
// Of codes: lines of HD bytes.
template <int HD> struct CodeTile {
    __device__ __forceinline__ int operator()(int line, int piece) const { return line * HD + ((piece ^ (line & (HD / PIECE - 1))) * PIECE); }
};

// State of 16 query rows: lane (g, t) has rows g and g+8, of the output columns 8j+2t and 8j+2t+1; with codes, of columns
// 16j+4t and 16j+4t+2 in out[2j], of those behind them in out[2j+1].
template <int HD> struct Attention {
    float out[HD / 8][4];
    float largest[2], sum[2]; // of rows g and g+8; sum: this lane's share
};

template <int HD> __device__ __forceinline__ void attention_begin(Attention<HD> &s) {
#pragma unroll
    for (int j = 0; j < HD / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) s.out[j][c] = 0;
    s.largest[0] = s.largest[1] = -INFINITY;
    s.sum[0] = s.sum[1] = 0;
}

// code_words loads a lane's quarter of a key's line.
template <int HD, typename At> __device__ __forceinline__ void code_words(u32 (&words)[HD / 16], const u8 *keys, int line, At at) {
    const int t = lane_id() % 4;
    if constexpr (HD == 32) {
        const uint2 v = *(const uint2 *)(keys + at(line, t / 2) + t % 2 * 8);
        words[0] = v.x, words[1] = v.y;
    } else
#pragma unroll
        for (int i = 0; i < HD / 64; i++) {
            const uint4 v = *(const uint4 *)(keys + at(line, t * (HD / 64) + i));
            words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
        }
}

// attention_keys takes KEYS keys and values from lines 0.. on. q holds the rows' fragments, scale is log2(e)/√Hd;
// limit[r] is how many of these keys row g+8r sees.
// `at` says where a piece of a line lies.
//
// CODES: keys and values are E4M3. A lane takes a quarter of a key's line, four adjacent codes for each step of 16 columns (the
// query's columns are in that order, attention_query); of values it gets two adjacent columns of two keys in a word, which are
// pairs for two products. Both come out of e4m3_pair without another exchange.
template <int HD, int KEYS, bool CODES = false, typename At = PlainTile<HD>>
__device__ __forceinline__ void attention_keys(Attention<HD> &s, const u32 (&q)[HD / 16][4], const u8 *keys, const u8 *values, float scale, const int (&limit)[2], At at = At()) {
    const int l = lane_id(), t = l % 4;
    float score[KEYS / 8][4];
#pragma unroll
    for (int j = 0; j < KEYS / 8; j += 2) {
#pragma unroll
        for (int c = 0; c < 4; c++) score[j][c] = score[j + 1][c] = 0;
        if constexpr (CODES) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                u32 words[HD / 16];
                code_words<HD>(words, keys, (j + i) * 8 + l / 4, at);
#pragma unroll
                for (int k = 0; k < HD / 16; k++) mma_bf16(score[j + i], q[k], e4m3_pair(words[k], 0), e4m3_pair(words[k], 1));
            }
        } else
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            u32 b[4]; // 16 keys x 16 columns
            ldmatrix_x4(b, keys + at(j * 8 + l / 16 * 8 + l % 8, 2 * k + l / 8 % 2));
            mma_bf16(score[j], q[k], b[0], b[1]);
            mma_bf16(score[j + 1], q[k], b[2], b[3]);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = s.largest[r];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float &v = score[j][2 * r + c];
                v = j * 8 + 2 * t + c < limit[r] ? v * scale : -INFINITY;
                largest = fmaxf(largest, v);
            }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        const float origin = largest == -INFINITY ? 0.0f : largest; // nothing seen so far: every weight is 0
        const float shrink = exp2_approx(s.largest[r] - origin);
        float sum = s.sum[r] * shrink;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float &v = score[j][2 * r + c];
                v = exp2_approx(v - origin);
                sum += v;
            }
        s.sum[r] = sum;
        s.largest[r] = largest;
#pragma unroll
        for (int j = 0; j < HD / 8; j++) s.out[j][2 * r] *= shrink, s.out[j][2 * r + 1] *= shrink;
    }
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        const u32 weights[4] = {pack(score[2 * k][0], score[2 * k][1]), pack(score[2 * k][2], score[2 * k][3]),
                                pack(score[2 * k + 1][0], score[2 * k + 1][1]), pack(score[2 * k + 1][2], score[2 * k + 1][3])};
        if constexpr (CODES) {
#pragma unroll
            for (int j = 0; j < HD / PIECE; j += 2) {
                u32 b[4]; // 16 values x 32 columns
                ldmatrix_x4_trans(b, values + at(k * 16 + l % 16, j + l / 16));
#pragma unroll
                for (int i = 0; i < 4; i++) mma_bf16(s.out[2 * j + i], weights, e4m3_pair(b[i / 2 * 2], i % 2), e4m3_pair(b[i / 2 * 2 + 1], i % 2));
            }
        } else
#pragma unroll
        for (int j = 0; j < HD / 8; j += 2) {
            u32 b[4]; // 16 values x 16 columns
            ldmatrix_x4_trans(b, values + at(k * 16 + l % 16, j + l / 16));
            mma_bf16(s.out[j], weights, b[0], b[1]);
            mma_bf16(s.out[j + 1], weights, b[2], b[3]);
        }
    }
}

// attention_query loads fragments of 16 query rows: row(r) is the address of row r, or null.
template <int HD, bool CODES = false, typename Row> __device__ __forceinline__ void attention_query(u32 (&q)[HD / 16][4], int head_dim, Row row) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const bf16 *rows[2] = {row(g), row(g + 8)};
    if constexpr (CODES) {
#pragma unroll
        for (int k = 0; k < HD / 16; k++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int column = t * (HD / 4) + 4 * k;
                const uint2 v = rows[i] && column < head_dim ? *(const uint2 *)(rows[i] + column) : make_uint2(0, 0);
                q[k][i] = __byte_perm(v.x, v.y, 0x5410);     // columns 0 and 2,
                q[k][i + 2] = __byte_perm(v.x, v.y, 0x7632); // 1 and 3
            }
    } else
#pragma unroll
    for (int k = 0; k < HD / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = k * 16 + i / 2 * 8 + 2 * t;
            q[k][i] = rows[i % 2] && column < head_dim ? *(const u32 *)(rows[i % 2] + column) : 0u;
        }
}

// attention_row writes what this lane has of row g+8r of the output.
template <int HD, bool CODES> __device__ __forceinline__ void attention_row(float *to, const Attention<HD> &s, int r) {
    const int t = lane_id() % 4;
    if constexpr (CODES) {
#pragma unroll
        for (int j = 0; j < HD / 8; j += 2) *(float4 *)(to + j * 8 + 4 * t) = make_float4(s.out[j][2 * r], s.out[j + 1][2 * r], s.out[j][2 * r + 1], s.out[j + 1][2 * r + 1]);
    } else
#pragma unroll
        for (int j = 0; j < HD / 8; j++) *(float2 *)(to + j * 8 + 2 * t) = make_float2(s.out[j][2 * r], s.out[j][2 * r + 1]);
}

// attention_total adds the lanes' shares of a row's sum.
__device__ __forceinline__ float attention_total(float sum) {
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

// QueryTile is up to 64 (attend_prefill) or 128 (attend90) adjacent rows of one span.
struct QueryTile {
    int row, rows; // of the prefill rows
    int slot;      // of the first row: it sees slots 0..slot
    int list;      // where the span's page numbers begin in Pages.table
};

struct PrefillParams {
    Pages pages;
    const bf16 *q;          // [rows, H·Hd]
    const QueryTile *tiles; // [tile_count]
    u8 *z;                  // image [H·Hd/64][R]
    float scale;            // log2(e)/√Hd
    int heads, R, z_tiles, tile_count;
};

struct DecodeParams {
    Pages pages;
    const bf16 *q;          // [rows, H·Hd]
    const int *list;        // [rows] where a row's page numbers begin in pages.table
    const int *length;      // [rows] keys that the row sees
    const int *first_split; // [rows+1] number of the row's first split; the last: all splits
    const int *rows;
    float *out;             // [splits][H][Hd] weighted values, relative to the split's maximum
    float2 *norm;           // [splits][H] maximum (of log2 weights) and sum
    u8 *z;                  // image [H·Hd/64][R], written by attend_combine
    float scale;            // log2(e)/√Hd
    int heads, R, z_tiles;
};

// decode_split_keys is the length of the splits of a context, in rounds of four warps with 16 keys: about 16 splits of at least
// two rounds, so that one sequence fills the GPU, until they are 512 keys long; then up to 64 of them; then longer ones.
__device__ __forceinline__ int decode_split_keys(int length) {
    constexpr int ROUND = 64, SHORT = 2, FEW = 16, LONG = 8, MOST = 64;
    const int rounds = ceil_div(length, ROUND);
    return ROUND * max(min(max(ceil_div(rounds, FEW), SHORT), LONG), ceil_div(rounds, MOST));
}

// decode_meet adds what the N warps of a block found in a split of a head, relative to the largest score of all.
template <int N, int WIDTH>
__device__ __forceinline__ void decode_meet(const DecodeParams &p, int split, int head, int group, const float (&largest_of)[N][16], const float (&sum_of)[N][16], const float (&out_of)[N][16][WIDTH]) {
    for (int i = threadIdx.x; i < group * p.pages.head_dim; i += N * WARP) {
        const int r = i / p.pages.head_dim, d = i % p.pages.head_dim;
        float largest = largest_of[0][r];
        for (int v = 1; v < N; v++) largest = fmaxf(largest, largest_of[v][r]);
        float sum = 0, out = 0;
        for (int v = 0; v < N; v++) {
            const float share = exp2_approx(largest_of[v][r] - largest); // a split has keys: the first warp saw one
            sum += sum_of[v][r] * share;
            out += out_of[v][r][d] * share;
        }
        const u64 at = u64(split) * p.heads + head * group + r;
        p.out[at * p.pages.head_dim + d] = out;
        if (d == 0) p.norm[at] = make_float2(largest, sum);
    }
}
