// Decode attention: every row has its own context, cut into splits whose length depends on the context alone. A block takes
// a split of one key/value head; its four warps take keys in turns of 16, each with its own ring of copies.
#include "attend.cuh"

namespace {

constexpr int WARPS = 4;
constexpr int KEYS = 16; // of a warp at a time
constexpr int STAGES = 3;
constexpr int MAX_ROWS = 64;

template <int HD, typename E> struct Shared {
    union {
        u8 kv[WARPS][STAGES][2][KEYS * HD * sizeof(E)];
        float out[WARPS][16][HD + 4]; // when the warps' results meet
    };
    float largest[WARPS][16], sum[WARPS][16];
};

// load_keys copies keys [first, first+KEYS) of a head and their values; zeros from `end` on.
template <int HD, typename E> __device__ __forceinline__ void load_keys(const Pages &p, const int *table, int head, int first, int end, u8 *keys, u8 *values) {
    constexpr int SOME = PIECE / sizeof(E), PIECES = HD / SOME; // values of a piece
    for (int i = lane_id(); i < KEYS * PIECES; i += WARP) {
        const int line = i / PIECES, piece = i % PIECES, slot = first + line;
        const bool valid = slot < end && piece * SOME < p.head_dim;
        const int page = valid ? table[slot / p.page_tokens] : 0;
        const int at = valid ? slot % p.page_tokens * p.head_dim + piece * SOME : 0;
        cp_async16(keys + kv_at<HD, E>(line, piece), kv_head<E>(p, page, 0, head) + at, valid);
        cp_async16(values + kv_at<HD, E>(line, piece), kv_head<E>(p, page, 1, head) + at, valid);
    }
}

template <int HD, typename E> __device__ __forceinline__ void attend(const DecodeParams &p, u8 *memory) {
    Shared<HD, E> &s = *reinterpret_cast<Shared<HD, E> *>(memory);
    __shared__ int first_split[MAX_ROWS + 1];
    // What says where the keys lie is there since before the step, and so are all keys but the rows' own: the first copies
    // need not wait for the kernels before this one.
    bool waited = false;
    const int rows = *p.rows, w = warp_id(), l = lane_id(), g = l / 4, t = l % 4, group = p.heads / p.pages.kv_heads;
    for (int i = threadIdx.x; i <= rows; i += blockDim.x) first_split[i] = p.first_split[i];
    __syncthreads();
    const int items = first_split[rows] * p.pages.kv_heads;
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
        const int split = item / p.pages.kv_heads, head = item % p.pages.kv_heads;
        int row = 0;
        while (first_split[row + 1] <= split) row++;
        const int length = p.length[row], each = decode_split_keys(length, p.pages.kv_heads);
        const int begin = (split - first_split[row]) * each, end = min(begin + each, length);
        const int *table = p.pages.table + p.list[row];
        const int rounds = ceil_div(end - begin, WARPS * KEYS);
        const auto load = [&](int i) {
            if (i < rounds) load_keys<HD, E>(p.pages, table, head, begin + (i * WARPS + w) * KEYS, end, s.kv[w][i % STAGES][0], s.kv[w][i % STAGES][1]);
            cp_async_commit();
        };
        int ahead = 0;
        if (!waited) {
            for (; ahead < STAGES - 1 && min(begin + (ahead * WARPS + w + 1) * KEYS, end) < length; ahead++) load(ahead);
            griddep_wait();
            griddep_launch();
            waited = true;
        }
        for (; ahead < STAGES - 1; ahead++) load(ahead);

        u32 q[HD / 16][4];
        attention_query<HD, E>(q, p.pages.head_dim, [&](int r) -> const bf16 * {
            return r < group ? p.q + (u64(row) * p.heads + head * group + r) * p.pages.head_dim : nullptr;
        });
        Attention<HD> a;
        attention_begin(a);
        for (int i = 0; i < rounds; i++) {
            cp_async_wait<STAGES - 2>();
            __syncwarp();
            const int first = begin + (i * WARPS + w) * KEYS, seen = min(max(end - first, 0), KEYS);
            const int limit[2] = {seen, seen};
            attention_keys<HD, KEYS, E>(a, q, s.kv[w][i % STAGES][0], s.kv[w][i % STAGES][1], p.scale, limit);
            __syncwarp();
            load(i + STAGES - 1);
        }
        cp_async_wait<0>();
        __syncthreads(); // the ring becomes the meeting place
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float sum = attention_total(a.sum[r]);
            if (t == 0) s.largest[w][g + 8 * r] = a.largest[r], s.sum[w][g + 8 * r] = sum;
#pragma unroll
            for (int j = 0; j < HD / 8; j++) {
                float2 v;
                const int d = attention_pair<HD, E>(a, j, r, v);
                *(float2 *)&s.out[w][g + 8 * r][d] = v;
            }
        }
        __syncthreads();
        decode_meet<WARPS>(p, split, head, group, s.largest, s.sum, s.out);
        __syncthreads(); // before the ring is filled again
    }
    if (!waited) {
        griddep_wait();
        griddep_launch();
    }
}

} // namespace

#define ATTEND(HD, E, NAME)                      \
    KERNEL(WARPS *WARP, 1, NAME, DecodeParams) { \
        DYNAMIC_SHARED(memory);                  \
        attend<HD, E>(p, memory);                \
    }

ATTEND(32, bf16, attend_decode_32)
ATTEND(64, bf16, attend_decode_64)
ATTEND(128, bf16, attend_decode_128)
ATTEND(32, e4m3, attend_decode_e4m3_32)
ATTEND(64, e4m3, attend_decode_e4m3_64)
ATTEND(128, e4m3, attend_decode_e4m3_128)

// attend_combine: adds the splits of a row and writes z. Grid (rows of the image, heads); four groups of threads take a
// quarter of the splits each, whose sums are added in order. Rows that are not there become zero.
KERNEL(4 * 128, 1, attend_combine, DecodeParams) {
    constexpr int MOST = 64; // splits (decode_split_keys)
    __shared__ float share[MOST], out[4][128];
    griddep_launch();
    const int row = blockIdx.x, head = blockIdx.y, rows = *p.rows, hd = p.pages.head_dim, part = threadIdx.x / 128, d = threadIdx.x % 128;
    const int from = row < rows ? p.first_split[row] : 0, splits = row < rows ? p.first_split[row + 1] - from : 0;
    griddep_wait();
    if (splits > 0) {
        // Every warp finds the largest score and the whole sum; the first one writes the shares.
        const int l = lane_id();
        float2 n[2];
#pragma unroll
        for (int i = 0; i < 2; i++) n[i] = l + i * WARP < splits ? p.norm[u64(from + l + i * WARP) * p.heads + head] : make_float2(-INFINITY, 0);
        const float largest = warp_max(fmaxf(n[0].x, n[1].x));
        const float mine[2] = {exp2_approx(n[0].x - largest), exp2_approx(n[1].x - largest)};
        const float inverse = 1.0f / warp_sum(n[0].y * mine[0] + n[1].y * mine[1]);
        if (warp_id() == 0) share[l] = mine[0] * inverse, share[l + WARP] = mine[1] * inverse;
        __syncthreads();
        const int each = ceil_div(splits, 4), first = part * each, last = min(first + each, splits);
        float sum = 0;
#pragma unroll 8
        for (int i = first; i < last && d < hd; i++) sum += p.out[(u64(from + i) * p.heads + head) * hd + d] * share[i];
        out[part][d] = sum;
        __syncthreads();
    }
    if (part == 0 && d < hd) {
        const float sum = splits > 0 ? (out[0][d] + out[1][d]) + (out[2][d] + out[3][d]) : 0.0f;
        *(bf16 *)(p.z + image_at(p.R, row, head * hd + d)) = __float2bfloat16_rn(sum);
    }
    // The image's columns beyond H·Hd are zero.
    if (head == 0)
        for (int k = p.heads * hd + threadIdx.x; k < p.z_tiles * TILE; k += blockDim.x) *(bf16 *)(p.z + image_at(p.R, row, k)) = __float2bfloat16_rn(0.0f);
}
