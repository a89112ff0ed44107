// Attention over paged keys and values with mma.sync: softmax(q·Kᵀ/√Hd)·V, one pass, running maximum and sum. What decode
// (attend_decode.cu) and prefill (attend_prefill.cu) share. Rows are the 16-row operand: the query heads of one key/value
// head in decode, 16 positions of one head in prefill.
#pragma once
#include "image.cuh"

// Pages of a group as a kernel sees them: [page][layer][k, v][KvH][page_tokens][Hd].
struct Pages {
    const bf16 *data;
    u64 page_stride;   // elements of a page
    u64 layer_at;      // of this layer's keys in a page
    const int *table;  // page numbers, one list after the other
    int page_tokens, kv_heads, head_dim;
};

// kv_head is the first element of a head's keys (which 0) or values (1) in a page.
__device__ __forceinline__ const bf16 *kv_head(const Pages &p, int page, int which, int head) {
    return p.data + u64(page) * p.page_stride + p.layer_at + (u64(which) * p.kv_heads + head) * p.page_tokens * p.head_dim;
}

// Tiles of keys or values in shared memory: lines of HD values, whose 16-byte pieces are permuted by the line.
template <int HD> __device__ __forceinline__ int kv_at(int line, int piece) { return line * HD * 2 + ((piece ^ (line & (HD >= 64 ? 7 : 3))) * PIECE); }

// State of 16 query rows: lane (g, t) has rows g and g+8, of the output columns 8j+2t and 8j+2t+1.
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
template <int HD, int KEYS>
__device__ __forceinline__ void attention_keys(Attention<HD> &s, const u32 (&q)[HD / 16][4], const u8 *keys, const u8 *values, float scale, const int (&limit)[2]) {
    const int l = lane_id(), t = l % 4;
    float score[KEYS / 8][4];
#pragma unroll
    for (int j = 0; j < KEYS / 8; j += 2) {
#pragma unroll
        for (int c = 0; c < 4; c++) score[j][c] = score[j + 1][c] = 0;
#pragma unroll
        for (int k = 0; k < HD / 16; k++) {
            u32 b[4]; // 16 keys x 16 columns
            ldmatrix_x4(b, keys + kv_at<HD>(j * 8 + l / 16 * 8 + l % 8, 2 * k + l / 8 % 2));
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
        for (int j = 0; j < HD / 8; j += 2) {
            u32 b[4]; // 16 values x 16 columns
            ldmatrix_x4_trans(b, values + kv_at<HD>(k * 16 + l % 16, j + l / 16));
            mma_bf16(s.out[j], weights, b[0], b[1]);
            mma_bf16(s.out[j + 1], weights, b[2], b[3]);
        }
    }
}

// attention_query loads fragments of 16 query rows: row(r) is the address of row r, or null.
template <int HD, typename Row> __device__ __forceinline__ void attention_query(u32 (&q)[HD / 16][4], int head_dim, Row row) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const bf16 *rows[2] = {row(g), row(g + 8)};
#pragma unroll
    for (int k = 0; k < HD / 16; k++)
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
