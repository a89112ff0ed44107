// Weights on their way in and out: from the layout of a checkpoint to tiles and back, random values, and a look at every
// value.
#include "fill.cuh"
#include "image.cuh"

// Where output n of a part lies in a packed weight. A part alone, or one of several that lie one after the other, each
// from a multiple of 64 rows on (group 0); or gate and up in turns of 8 rows (group 8).
struct PackParams {
    const u8 *raw;      // [N, K] or, in_out, [K, N], elements of `format`
    u8 *packed;         // [rows/64][K/64] tiles
    u64 stride;         // elements between stored rows of raw
    int N, K, tiles;    // of the part; tiles along K of the packed weight
    int first;          // group 0: first row; group 8: 0 for gate, 8 for up
    int group;
    int in_out;
    int format;         // 0 bfloat16, 1 float16, 2 float32
    int k_from, k_rows; // the columns k (in_out: stored rows) that raw holds, when a matrix comes in pieces
};

namespace {

__device__ __forceinline__ int packed_row(const PackParams &p, int n) { return p.group ? n / 8 * 16 + p.first + n % 8 : p.first + n; }

__device__ __forceinline__ float half_to_float(unsigned short h) {
    const u32 sign = u32(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float v = float(fraction) * 5.9604644775390625e-8f; // 2⁻²⁴
    return sign ? -v : v;
}

__device__ __forceinline__ unsigned short raw_value(const u8 *raw, u64 i, int format) {
    if (format == 0) return ((const unsigned short *)raw)[i];
    const float v = format == 1 ? half_to_float(((const unsigned short *)raw)[i]) : ((const float *)raw)[i];
    const bf16 b = __float2bfloat16_rn(v);
    return *(const unsigned short *)&b;
}

} // namespace

// pack_weight: one block for 64 columns k and 64 outputs n: grid (K/64, N/64). Through shared memory, so that both sides are
// read and written in runs.
KERNEL(256, 1, pack_weight, PackParams) {
    griddep_wait();
    griddep_launch();
    __shared__ unsigned short tile[TILE][TILE + 2]; // [n][k]
    const int k0 = p.k_from + blockIdx.x * TILE, n0 = blockIdx.y * TILE, k_end = min(p.k_from + p.k_rows, p.K);
    for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
        const int fast = i % TILE, slow = i / TILE;
        const int n = n0 + (p.in_out ? fast : slow), k = k0 + (p.in_out ? slow : fast);
        unsigned short v = 0;
        if (n < p.N && k < k_end) v = raw_value(p.raw, p.in_out ? u64(k - p.k_from) * p.stride + n : u64(n) * p.stride + (k - p.k_from), p.format);
        tile[n - n0][k - k0] = v;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * 8; i += blockDim.x) {
        const int n = i / 8, piece = i % 8;
        if (n0 + n >= p.N || k0 + piece * 8 >= p.tiles * TILE) continue;
        const int row = packed_row(p, n0 + n);
        u32 v[4];
        for (int j = 0; j < 4; j++) v[j] = tile[n][piece * 8 + 2 * j] | u32(tile[n][piece * 8 + 2 * j + 1]) << 16;
        *(uint4 *)(p.packed + weight_at(p.tiles, row, k0 + piece * 8)) = make_uint4(v[0], v[1], v[2], v[3]);
    }
}

// unpack_weight is the inverse, to bfloat16 in the same layout. Grid as pack_weight's.
KERNEL(256, 1, unpack_weight, PackParams) {
    griddep_wait();
    griddep_launch();
    for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
        const int n = blockIdx.y * TILE + (p.in_out ? i % TILE : i / TILE), k = blockIdx.x * TILE + (p.in_out ? i / TILE : i % TILE);
        if (n >= p.N || k >= p.K) continue;
        ((unsigned short *)p.raw)[p.in_out ? u64(k) * p.stride + n : u64(n) * p.stride + k] = *(const unsigned short *)(p.packed + weight_at(p.tiles, packed_row(p, n), k));
    }
}

struct FillParams {
    PackParams to;      // raw is not used
    Fill fill;
};

// fill_weight: random values. Grid as pack_weight's.
KERNEL(256, 1, fill_weight, FillParams) {
    griddep_wait();
    griddep_launch();
    for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
        const int n = blockIdx.y * TILE + i / TILE, k = blockIdx.x * TILE + i % TILE;
        if (n >= p.to.N || k >= p.to.K) continue;
        *(bf16 *)(p.to.packed + weight_at(p.to.tiles, packed_row(p.to, n), k)) = __float2bfloat16_rn(fill_value(p.fill, n, k));
    }
}

struct CheckParams {
    const u8 *data;
    u64 pieces;      // of 16 bytes
    u64 *first_bad;  // the lowest index of a bfloat16 that is not finite; starts as all ones
};

// check_weight looks for infinities and NaN.
KERNEL(256, 1, check_weight, CheckParams) {
    griddep_wait();
    griddep_launch();
    for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.pieces; i += u64(gridDim.x) * blockDim.x) {
        const uint4 v = ((const uint4 *)p.data)[i];
        const u32 words[4] = {v.x, v.y, v.z, v.w};
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++)
                if ((words[j] >> 16 * h & 0x7f80) == 0x7f80) atomicMin((unsigned long long *)p.first_bad, (unsigned long long)(i * 8 + 2 * j + h));
    }
}
