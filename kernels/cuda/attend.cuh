// Attention over paged keys and values with mma.sync: softmax(q·Kᵀ/√Hd)·V, one pass, running maximum and sum. What decode
// (attend_decode.cu) and prefill (attend_prefill.cu) share. Rows are the 16-row operand: the query heads of one key/value
// head in decode, 16 positions of one head in prefill.
#pragma once
#include "codes.cuh"

// Pages of a group as a kernel sees them: [page][layer][k, v][KvH][page_tokens][Hd]; or, tiled, with heads in lines of 128 bytes,
// [Hd/64][page_tokens][64], whose 16-byte pieces are permuted by the token, like every image (image.cuh). Values are bf16, or e4m3:
// then a line has 128, and kernels have e4m3 in their names.
struct Pages {
    const u8 *data;
    u64 page_stride;   // elements of a page
    u64 layer_at;      // of this layer's keys in a page
    const int *table;  // page numbers, one list after the other
    int page_tokens, kv_heads, head_dim, tiled;
};

// kv_head is the first element of a head's keys (which 0) or values (1) in a page.
template <typename E> __device__ __forceinline__ const E *kv_head(const Pages &p, int page, int which, int head) {
    return (const E *)p.data + u64(page) * p.page_stride + p.layer_at + (u64(which) * p.kv_heads + head) * p.page_tokens * p.head_dim;
}

// tile_of, where pages are tiled, is line `slot` of a page table, tile `half` of a head's keys (which 0) or values (1).
template <typename E> __device__ __forceinline__ const u8 *tile_of(const Pages &p, const int *table, int which, int head, int slot, int half) {
    const E *at = kv_head<E>(p, table[slot / p.page_tokens], which, head);
    return (const u8 *)at + (half * p.page_tokens + slot % p.page_tokens) * LINE;
}

// Tiles of keys or values in shared memory: lines of HD values, whose 16-byte pieces are permuted by the line.
template <int HD, typename E = bf16> __device__ __forceinline__ int kv_at(int line, int piece) {
    if (sizeof(E) == 1) return line * HD + ((piece ^ (line * HD / 128 & (HD / 16 - 1))) * PIECE);
    return line * HD * 2 + ((piece ^ (line & (HD >= 64 ? 7 : 3))) * PIECE);
}
template <int HD, typename E = bf16> struct PlainTile {
    __device__ __forceinline__ int operator()(int line, int piece) const { return kv_at<HD, E>(line, piece); }
};

// State of 16 query rows: lane (g, t) has rows g and g+8, of the output columns that attention_pair says.
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

// attention_keys takes KEYS keys and values from lines 0.. on. q holds the rows' fragments, scale is log2(e)/√Hd;
// limit[r] is how many of these keys row g+8r sees.
// `at` says where a piece of a line lies. Pieces of e4m3 have 16 columns. ldmatrix takes two codes for a value: a lane gets keys of
// columns 4t to 4t+3, which become those of two fragments, of every other column; and values of columns 2g and 2g+1.
template <int HD, int KEYS, typename E = bf16, typename At = PlainTile<HD, E>>
__device__ __forceinline__ void attention_keys(Attention<HD> &s, const u32 (&q)[HD / 16][4], const u8 *keys, const u8 *values, float scale, const int (&limit)[2], At at = At()) {
    const int l = lane_id(), t = l % 4;
    float score[KEYS / 8][4];
#pragma unroll
    for (int j = 0; j < KEYS / 8; j += 2) {
#pragma unroll
        for (int c = 0; c < 4; c++) score[j][c] = score[j + 1][c] = 0;
#pragma unroll
        for (int k = 0; k < HD / 32 && sizeof(E) == 1; k++) {
            u32 b[4]; // 16 keys x 32 columns
            ldmatrix_x4(b, keys + at(j * 8 + l / 16 * 8 + l % 8, 2 * k + l / 8 % 2));
#pragma unroll
            for (int i = 0; i < 4; i++) mma_bf16(score[j + i / 2], q[2 * k + i % 2], e4m3_pair(b[i], 0), e4m3_pair(b[i], 1));
        }
#pragma unroll
        for (int k = 0; k < HD / 16 && sizeof(E) == 2; k++) {
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
#pragma unroll
        for (int j = 0; j < HD / 16 && sizeof(E) == 1; j += 2) {
            u32 b[4]; // 16 values x 32 columns
            ldmatrix_x4_trans(b, values + at(k * 16 + l % 16, j + l / 16));
#pragma unroll
            for (int i = 0; i < 4; i++) mma_bf16(s.out[2 * j + i], weights, e4m3_pair(b[i / 2 * 2], i % 2), e4m3_pair(b[i / 2 * 2 + 1], i % 2));
        }
#pragma unroll
        for (int j = 0; j < HD / 8 && sizeof(E) == 2; j += 2) {
            u32 b[4]; // 16 values x 16 columns
            ldmatrix_x4_trans(b, values + at(k * 16 + l % 16, j + l / 16));
            mma_bf16(s.out[j], weights, b[0], b[1]);
            mma_bf16(s.out[j + 1], weights, b[2], b[3]);
        }
    }
}

// attention_pair is pair j of a lane's output columns in row g+8r: the first column, and both values.
template <int HD, typename E = bf16> __device__ __forceinline__ int attention_pair(const Attention<HD> &s, int j, int r, float2 &v) {
    const int t = lane_id() % 4;
    if (sizeof(E) == 2) {
        v = make_float2(s.out[j][2 * r], s.out[j][2 * r + 1]);
        return j * 8 + 2 * t;
    }
    v = make_float2(s.out[j / 2 * 2][2 * r + j % 2], s.out[j / 2 * 2 + 1][2 * r + j % 2]);
    return j / 2 * 16 + 4 * t + j % 2 * 2;
}

// attention_query loads fragments of 16 query rows: row(r) is the address of row r, or null. For keys in e4m3, columns 4t and 4t+2
// stand where 2t and 2t+1 do for others, 4t+1 and 4t+3 where 2t+8 and 2t+9 do.
template <int HD, typename E = bf16, typename Row> __device__ __forceinline__ void attention_query(u32 (&q)[HD / 16][4], int head_dim, Row row) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const bf16 *rows[2] = {row(g), row(g + 8)};
#pragma unroll
    for (int k = 0; k < HD / 16 && sizeof(E) == 1; k++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int column = k * 16 + 4 * t;
            const uint2 v = rows[r] && column < head_dim ? *(const uint2 *)(rows[r] + column) : make_uint2(0, 0);
            q[k][r] = __byte_perm(v.x, v.y, 0x5410), q[k][r + 2] = __byte_perm(v.x, v.y, 0x7632);
        }
#pragma unroll
    for (int k = 0; k < HD / 16 && sizeof(E) == 2; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = k * 16 + i / 2 * 8 + 2 * t;
            q[k][i] = rows[i % 2] && column < head_dim ? *(const u32 *)(rows[i % 2] + column) : 0u;
        }
}

// attention_total adds the lanes' shares of a row's sum.
__device__ __forceinline__ float attention_total(float sum) {
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

// QueryTile is up to 64 (attend_prefill) or 128 (attend_prefill90) adjacent rows of one span.
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
    const int *first_round; // [rows+1] rounds of 64 keys of one key/value head in the rows before; the last: in all
    const int *rows;
    float *out;             // [splits][H][Hd] weighted values, relative to the split's maximum
    float2 *norm;           // [splits][H] maximum (of log2 weights) and sum
    u8 *z;                  // image [H·Hd/64][R], written by attend_combine
    float scale;            // log2(e)/√Hd
    int heads, R, z_tiles;
};

// decode_split_keys is the length of the splits of a context, in rounds of four warps with 16 keys: about 16 splits of at least
// two rounds, so that one sequence fills the GPU, until they are 512 keys long; then more of them, until all heads have 256, which is
// about one for each resident block of 132 multiprocessors; then longer ones. More would have to be added up.
__device__ __forceinline__ int decode_split_keys(int length, int kv_heads) {
    constexpr int ROUND = 64, SHORT = 2, FEW = 16, LONG = 8, MOST = 64, ALL = 256;
    const int rounds = ceil_div(length, ROUND), most = min(max(ALL / kv_heads, FEW), MOST);
    return ROUND * max(min(max(ceil_div(rounds, FEW), SHORT), LONG), ceil_div(rounds, most));
}

// decode_meet adds what the N warps of a block found in a split of a head, relative to the largest score of all. A thread has four columns.
template <int N, int WIDTH>
__device__ __forceinline__ void decode_meet(const DecodeParams &p, int split, int head, int group, const float (&largest_of)[N][16], const float (&sum_of)[N][16], const float (&out_of)[N][16][WIDTH]) {
    static_assert(WIDTH % 4 == 0);
    const int wide = p.pages.head_dim / 4;
#pragma unroll 1
    for (int i = threadIdx.x; i < group * wide; i += N * WARP) {
        const int r = i / wide, d = 4 * (i % wide);
        float largest = largest_of[0][r];
#pragma unroll
        for (int v = 1; v < N; v++) largest = fmaxf(largest, largest_of[v][r]);
        float sum = 0;
        float4 out = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int v = 0; v < N; v++) {
            const float share = exp2_approx(largest_of[v][r] - largest); // a split has keys: the first warp saw one
            const float4 o = *(const float4 *)&out_of[v][r][d];
            sum += sum_of[v][r] * share;
            out.x += o.x * share, out.y += o.y * share, out.z += o.z * share, out.w += o.w * share;
        }
        const u64 at = u64(split) * p.heads + head * group + r;
        *(float4 *)(p.out + at * p.pages.head_dim + d) = out;
        if (d == 0) p.norm[at] = make_float2(largest, sum);
    }
}
