// Quantised weights on their way in and out, random ones, and the one whose rows are read by themselves: the embedding.
#include "codes.cuh"
#include "fill.cuh"

// Raw is a part of a matrix as checkpoints have it, rows of N outputs without gaps: codes in [N, K] (two to a byte, the even
// column in the low half, or one), then a scale and, if there are, a zero for every row and group.
struct CodesParams {
    u8 *raw;
    float *raw_scales; // [N, groups]
    u8 *raw_zeros;     // [N, groups] or null
    u8 *codes;         // of the expert's matrix
    u8 *scales, *zeros;
    int N, K, tiles;
    int first, group;  // see PackParams
    int code, groups, scale_bytes;
    int pad;
};

namespace {

__device__ __forceinline__ int coded_row(const CodesParams &p, int n) { return p.group ? n / 8 * 16 + p.first + n % 8 : p.first + n; }

__device__ __forceinline__ u32 raw_code(const CodesParams &p, int n, int k) {
    if (k >= p.K) return p.code == E4M3 ? 0 : 8;
    if (p.code == E4M3) return p.raw[u64(n) * p.K + k];
    return p.raw[u64(n) * ceil_div(p.K, 2) + k / 2] >> k % 2 * 4 & 15;
}

} // namespace

// pack_codes: one block for 64 columns and 64 outputs, grid (K/64, N/64). A word holds codes of two rows that may come in
// different launches: each takes only its own bits.
KERNEL(256, 1, pack_codes, CodesParams) {
    griddep_wait();
    griddep_launch();
    for (int i = threadIdx.x; i < TILE * 16; i += blockDim.x) {
        const int n = blockIdx.y * TILE + i / 16, k = blockIdx.x * TILE + i / 4 % 4 * 16 + i % 4 * 2, row = coded_row(p, n); // and k+1, k+8, k+9
        if (n >= p.N) continue;
        u32 code[4];
        for (int j = 0; j < 4; j++) code[j] = raw_code(p, n, k + j % 2 + j / 2 * 8);
        for (int j = 0; j < 4; j += 2) {
            const Place at = code_place(p.code == E4M3 ? 8 : 4, p.tiles, row, k + j / 2 * 8);
            const u32 mask = (p.code == E4M3 ? 0x00ff00ffu : 0x000f000fu) << at.bit;
            atomicAnd((u32 *)p.codes + at.word, ~mask);
            atomicOr((u32 *)p.codes + at.word, (code[j] | code[j + 1] << 16) << at.bit);
        }
    }
    if (blockIdx.x > 0) return;
    for (int i = threadIdx.x; i < TILE * p.groups; i += blockDim.x) {
        const int n = blockIdx.y * TILE + i / p.groups, group = i % p.groups, row = coded_row(p, n);
        if (n >= p.N) continue;
        const u64 at = (u64(row / CODE_ROWS) * p.groups + group) * CODE_ROWS + row % CODE_ROWS, from = u64(n) * p.groups + group;
        if (p.scale_bytes == 2) ((bf16 *)p.scales)[at] = __float2bfloat16_rn(p.raw_scales[from]);
        else ((float *)p.scales)[at] = p.raw_scales[from];
        if (p.zeros) p.zeros[at] = p.raw_zeros[from];
    }
}

// unpack_codes is the inverse; grid as pack_codes'.
KERNEL(256, 1, unpack_codes, CodesParams) {
    griddep_wait();
    griddep_launch();
    for (int i = threadIdx.x; i < TILE * TILE / 2; i += blockDim.x) {
        const int n = blockIdx.y * TILE + i / (TILE / 2), k = blockIdx.x * TILE + i % (TILE / 2) * 2;
        if (n >= p.N || k >= p.K) continue;
        const Place at = code_place(p.code == E4M3 ? 8 : 4, p.tiles, coded_row(p, n), k);
        const u32 two = ((const u32 *)p.codes)[at.word] >> at.bit;
        if (p.code != E4M3) {
            p.raw[u64(n) * ceil_div(p.K, 2) + k / 2] = u8((two & 15) | (k + 1 < p.K ? two >> 12 & 0xf0 : 0));
            continue;
        }
        p.raw[u64(n) * p.K + k] = u8(two);
        if (k + 1 < p.K) p.raw[u64(n) * p.K + k + 1] = u8(two >> 16);
    }
    if (blockIdx.x > 0) return;
    for (int i = threadIdx.x; i < TILE * p.groups; i += blockDim.x) {
        const int n = blockIdx.y * TILE + i / p.groups, group = i % p.groups, row = coded_row(p, n);
        if (n >= p.N) continue;
        const u64 at = (u64(row / CODE_ROWS) * p.groups + group) * CODE_ROWS + row % CODE_ROWS, to = u64(n) * p.groups + group;
        p.raw_scales[to] = scale_value(p.scales, p.scale_bytes, at);
        if (p.zeros) p.raw_zeros[to] = p.zeros[at];
    }
}

struct FillCodesParams {
    CodesParams to;     // raw parts are written
    Fill fill;
    int cols;           // of a group
    int before, behind; // inputs of other ranks that share the row's one scale
    int pad;
};

// fill_codes quantises random values by the rule of kernels.Quantise, operation by operation. One warp for a row's group.
KERNEL(256, 1, fill_codes, FillCodesParams) {
    griddep_wait();
    griddep_launch();
    const u64 unit = u64(blockIdx.x) * (blockDim.x / WARP) + warp_id();
    const int n = int(unit / p.to.groups), group = int(unit % p.to.groups), first = group * p.cols, end = min(first + p.cols, p.to.K);
    if (n >= p.to.N) return;
    float largest = 0;
    for (int k = first - p.before + lane_id(); k < end + p.behind; k += WARP) largest = fmaxf(largest, fabsf(fill_value(p.fill, n, k)));
    largest = warp_max(largest);
    const float scale = code_scale(largest, p.to.code == E4M3 ? E4M3_LARGEST : 8, p.to.scale_bytes);
    if (lane_id() == 0) p.to.raw_scales[u64(n) * p.to.groups + group] = scale;
    constexpr float HALF = 12582912; // 3·2²²: added to a number, its fraction falls off
    for (int k = first + 2 * lane_id(); k < end; k += 2 * WARP) {
        u32 code[2];
        for (int j = 0; j < 2; j++) {
            const float v = k + j < end ? fill_value(p.fill, n, k + j) / scale : 0;
            if (p.to.code != E4M3) {
                code[j] = __float_as_uint(__fadd_rn(fmaxf(-8, fminf(7, v)), HALF)) - __float_as_uint(HALF) + 8;
                continue;
            }
            code[j] = e4m3_code(v);
        }
        if (p.to.code != E4M3) {
            p.to.raw[u64(n) * ceil_div(p.to.K, 2) + k / 2] = u8(code[0] | code[1] << 4);
            continue;
        }
        p.to.raw[u64(n) * p.to.K + k] = u8(code[0]);
        if (k + 1 < end) p.to.raw[u64(n) * p.to.K + k + 1] = u8(code[1]);
    }
}

struct EmbedCodedParams {
    const u8 *table;   // codes [V, D]
    const int *token;  // [rows]; negative: padding
    float *x;          // [rows, D]
    int D, tiles;
    Coding coding;
};

// embed_coded is embed_rows for a quantised table.
KERNEL(256, 1, embed_coded, EmbedCodedParams) {
    griddep_wait();
    griddep_launch();
    const int id = p.token[blockIdx.x];
    for (int k = threadIdx.x; k < p.D; k += blockDim.x) p.x[u64(blockIdx.x) * p.D + k] = id >= 0 ? code_value(p.table, p.coding, p.tiles, id, k) : 0;
}
