// The layout of quantised matrices in device memory, and what their codes are worth. Rows are padded to multiples of 128,
// columns to multiples of 64: [rows/128][K/64] tiles of 128 rows x 64 columns, 4 or 8 bits a code. A tile lies as the tensor
// cores want it: eight strips of 16 rows, in each what every lane of a warp needs for the tile's four steps of 16 columns, in
// runs of 16 bytes a lane. So a fragment is one plain load, from shared memory or, in portable prefill, from global memory.
//
// Lane (g, t) holds rows g and g+8 of columns 2t, 2t+1, 2t+8 and 2t+9 of a step, as mma_bf16 does: register i of a fragment is
// row g + 8·(i%2), columns 2t + 8·(i/2) and the next.
//   4 bits: word s is step s; register i has its two codes in bits 4i.. and 16+4i..
//   8 bits: words 2s and 2s+1 are rows g and g+8 of step s: bytes 0 and 2 are registers 0 and 1, bytes 1 and 3 registers 2 and 3. Steps
//           0 and 1 of all lanes come first, then steps 2 and 3.
//
// The 16 bytes of a lane of 8-bit codes are at the same time, as they are, an operand of wgmma_e4m3_rows: 32 columns, in the order that an
// image of codes has them in (coded_column).
//
// Every group of columns has a scale for each row, whatever the checkpoint shares: [rows/128][groups][128], bfloat16 or float32;
// zeros (the code that is worth 0) likewise, a byte each.
#pragma once
#include "image.cuh"

constexpr int CODE_ROWS = 128;  // of a tile
constexpr int CODE_STRIPS = CODE_ROWS / 16;

enum Code { E4M3 = 1, INT4 = 2, TABLE4 = 3 };

constexpr __host__ __device__ int code_bits(Code c) { return c == E4M3 ? 8 : 4; }
constexpr __host__ __device__ int code_pieces(Code c) { return code_bits(c) / 4; } // of 16 bytes a lane in a strip
constexpr __host__ __device__ int code_tile(Code c) { return CODE_ROWS * TILE * code_bits(c) / 8; }

// Coding is how a matrix is quantised: the parameters of every kernel that reads one.
struct Coding {
    const u8 *scales;  // [E][rows/128][groups][128]
    const u8 *zeros;   // likewise, or null: 8 everywhere
    u64 expert_scales; // scales of one expert's matrix
    int code;
    int groups;        // along K
    u32 group_step;    // 2³¹ by the halves of a tile that a group has, rounded up; 0: there is one group
    int scale_bytes;   // 2 or 4
    int fine;          // decode scales halves of tiles (stream_codes.cuh)
    int pad;
    float table[16];   // TABLE4
};

__device__ __forceinline__ int coding_group(const Coding &c, int tile, int half) {
    return __umulhi(4 * tile + 2 * half, c.group_step); // exact below 2¹⁵ tiles
}

// coding_at is the index of a row's scale.
__device__ __forceinline__ u64 coding_at(const Coding &c, int row, int group) { return (u64(row / CODE_ROWS) * c.groups + group) * CODE_ROWS + row % CODE_ROWS; }

__device__ __forceinline__ float scale_value(const u8 *scales, int bytes, u64 at) {
    return bytes == 2 ? __uint_as_float(u32(((const unsigned short *)scales)[at]) << 16) : ((const float *)scales)[at];
}

// scale_near is scale_value without a branch, for shared memory.
__device__ __forceinline__ float scale_near(const u8 *scales, int bytes, int at) {
    const u32 word = *(const u32 *)(scales + (at * bytes & ~3));
    return __uint_as_float(bytes == 4 ? word : __byte_perm(word, 0, at & 1 ? 0x3244 : 0x1044));
}

// Place is where the code of (row, column) lies: a word, and the bit in it.
struct Place {
    u64 word;
    int bit;
};
__device__ __forceinline__ Place code_place(int bits, int tiles, int row, int k) {
    const int strip = row % CODE_ROWS / 16, lane = row % 8 * 4 + k % 8 / 2, i = row % 16 / 8 + k % 16 / 8 * 2, step = k % TILE / 16;
    const u64 at = (u64(row / CODE_ROWS) * tiles + k / TILE) * CODE_STRIPS + strip;
    if (bits == 4) return {(at * WARP + lane) * 4 + step, 4 * i + k % 2 * 16};
    return {((at * 2 + step / 2) * WARP + lane) * 4 + step % 2 * 2 + i % 2, i / 2 * 8 + k % 2 * 16};
}

// Images of activations in e4m3 codes, which products with e4m3 weights read: [K/128][R] lines of 128 codes, the pieces of 16 permuted by
// the row like those of every line (image.cuh). Within a piece, columns 0 to 7 and 8 to 15 take turns: what a lane's word of the weights'
// codes holds, columns 2t, 2t+8, 2t+1 and 2t+9, are places 4t to 4t+3, which is where wgmma looks for the word's operand. A sum does not
// ask in which order the columns come, as long as both operands have the same.
constexpr int CODED_TILE = LINE; // columns of a line

// coded_column is the column, of a piece's 16, at a place in it.
constexpr __host__ __device__ int coded_column(int place) { return place / 2 + place % 2 * 8; }

// ---- what codes are worth, before their scale: exact in bfloat16, but for tables ----

constexpr u32 BF16_QUARTERS = 0x3e803e80, BF16_FOURS = 0x40804080, BF16_128S = 0x43004300, BF16_2_127S = 0x7f007f00, BF16_2_120S = 0x7b807b80, BF16_NEGATIVE_ZEROS = 0x80008000;

// int4_pair: register i of a word, a quarter of what its codes are worth. The registers of row g find a code in the low bits of a mantissa:
// 128 + code. Those of row g+8 find it four bits higher, as a subnormal number or one of the first normal ones, which go on in the same steps:
// code · 2⁻¹²⁹. So two registers share a shift. zero: int4_zero of the row.
__device__ __forceinline__ u32 int4_pair(u32 word, int i, u32 zero) {
    const u32 two = word >> i / 2 * 8;
    return i % 2 ? fma_bf16x2(two & 0x00f000f0, BF16_2_127S, zero) : fma_bf16x2(and_or(two, 0x000f000f, BF16_128S), BF16_QUARTERS, zero);
}
constexpr float INT4_PARTS = 4; // scales are taken so many times, which rounds nothing

// int4_zero prepares what int4_pair takes from the codes of row g + 8·r: (128 + zero)/4 or zero/4, twice.
__device__ __forceinline__ u32 int4_zero(u32 zero, int r) {
    const u32 minus = r ? __float_as_uint(-0.25f * zero) >> 16 : 0xc200u | zero;
    return minus | minus << 16;
}

// e4m3_pair: bytes 0 and 2 (or 1 and 3) of a word. Exponent and mantissa in bfloat16's places are the value times 2⁻¹²⁰,
// subnormal numbers too.
__device__ __forceinline__ u32 e4m3_pair(u32 word, int i) {
    return fma_bf16x2(((i ? word >> 4 : word << 4) & 0x07f007f0) | ((i ? word : word << 8) & 0x80008000), BF16_2_120S, BF16_NEGATIVE_ZEROS);
}

// int4_bytes: the four codes of a lane's row g (r = 0) or g+8 of a word, each 16 times what it is worth, as integers of 8 bits: columns
// 2t, 2t+8, 2t+1, 2t+9.
__device__ __forceinline__ u32 int4_bytes(u32 word, int r) { return xor_and(r ? word : word << 4, 0x80808080, 0xf0f0f0f0); }

// int4_bytes_from is that, not 16 times, where other codes are worth 0: `zeros` is the row's in each byte.
__device__ __forceinline__ u32 int4_bytes_from(u32 word, int r, u32 zeros) {
    return (and_or(r ? word >> 4 : word, 0x0f0f0f0f, 0x80808080) - zeros) ^ 0x80808080; // 128 + code - zero, without borrowing
}

// e4m3_fragment is register i of a step of mma_bf16's, of the words of a lane.
__device__ __forceinline__ u32 e4m3_fragment(const u32 *words, int step, int i) { return e4m3_pair(words[2 * step + i % 2], i / 2); }

// e4m3_code is the code nearest to v, ties to even; the largest one beyond 448, and for what is no number (kernels.E4M3).
__device__ __forceinline__ u32 e4m3_code(float v) {
    constexpr int DROP = 20, BIAS = (127 - 7) << 3; // bits of mantissa that go; the difference of exponents
    const u32 bits = __float_as_uint(v), sign = bits >> 24 & 0x80, a = bits & 0x7fffffff;
    if (a >= 0x43e00000) return sign | 0x7e; // 448
    // Below 2⁻⁶: multiples of 2⁻⁹; adding 2²³ rounds.
    if (a < 0x3c800000) return sign | (__float_as_uint(__fmaf_rn(__uint_as_float(a), 512.0f, 8388608.0f)) & 15);
    return sign | (((a + (1u << (DROP - 1)) - 1 + (a >> DROP & 1)) >> DROP) - BIAS);
}

// code_scale is the scale, of 2 or 4 bytes, of numbers up to `largest`, which become codes up to `divisor` (kernels.Quantise).
__device__ __forceinline__ float code_scale(float largest, float divisor, int bytes) {
    const float scale = largest / divisor;
    return largest == 0 ? 1.0f : fmaxf(bytes == 2 ? __bfloat162float(__float2bfloat16_rn(scale)) : scale, 1.17549435e-38f);
}
constexpr float E4M3_LARGEST = 448;

// e4m3_codes are four, the first in the low byte.
__device__ __forceinline__ u32 e4m3_codes(float4 v) { return e4m3_code(v.x) | e4m3_code(v.y) << 8 | e4m3_code(v.z) << 16 | e4m3_code(v.w) << 24; }

// table4_index: the two codes of register i of a word in one byte.
__device__ __forceinline__ u32 table4_index(u32 word, int i) {
    const u32 v = word >> 4 * i;
    return (v & 15) | (v >> 12 & 0xf0);
}

// e4m3 is the type of keys and values that are kept as codes, without scales.
struct e4m3 {
    u8 code;
};

// code_number is the worth of one code, for kernels that are not in a hurry.
__device__ __forceinline__ float code_number(const Coding &c, u32 code, int zero) {
    if (c.code == TABLE4) return c.table[code];
    if (c.code == INT4) return float(int(code) - zero);
    return lo(e4m3_pair(code << 8, 1));
}

// code_value is one value of a matrix, in float32 as kernels.Matrix.Decode has it.
__device__ __forceinline__ float code_value(const u8 *codes, const Coding &c, int tiles, int row, int k) {
    const Place at = code_place(c.code == E4M3 ? 8 : 4, tiles, row, k);
    const u64 scale = coding_at(c, row, coding_group(c, k / TILE, k % TILE / 32));
    const u32 code = ((const u32 *)codes)[at.word] >> at.bit & (c.code == E4M3 ? 255 : 15);
    return code_number(c, code, c.zeros ? c.zeros[scale] : 8) * scale_value(c.scales, c.scale_bytes, scale);
}

// ---- a strip of a tile as bfloat16 lines, for prefill ----

// Strip is a lane's part of one: its codes, and the scales and zeros of its two rows in both halves of the columns.
template <Code CODE> struct Strip {
    uint4 codes[code_pieces(CODE)];
    u32 scale[2][2]; // the words they lie in: nothing here waits for them
    int zero[2][2];  // likewise, of zeros

    __device__ __forceinline__ void load(const u8 *tile, const Coding &c, u64 block, int k, int strip) { // block: of 128 rows, all experts'
        const int l = lane_id(), row = strip * 16 + l / 4;
#pragma unroll
        for (int i = 0; i < code_pieces(CODE); i++) codes[i] = *(const uint4 *)(tile + ((strip * code_pieces(CODE) + i) * WARP + l) * 16);
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                scale[half][r] = scale[0][r], zero[half][r] = zero[0][r];
                if (half == 1 && !(c.group_step >> 31)) continue; // the same group
                const u64 at = (block * c.groups + coding_group(c, k, half)) * CODE_ROWS + row + 8 * r;
                scale[half][r] = *(const u32 *)(c.scales + (at * c.scale_bytes & ~3));
                if (CODE == INT4) zero[half][r] = 8;
                if (CODE == INT4 && c.zeros) zero[half][r] = c.zeros[at];
            }
    }

    // store rounds value · scale to bfloat16: what a checkpoint that was made numbers of would hold. lines: of the strip.
    __device__ __forceinline__ void store(u8 *lines, const Coding &c) const {
        // The products of scales of 8 bits with numbers of at most 5 are exact before they are rounded, in float32 or not.
        const bool odd = lane_id() / 4 % 2; // rows
        if (CODE != TABLE4 && c.scale_bytes == 2) store_scaled(lines, c, [&](u32 two, u32 scale) {
            u32 by = __byte_perm(scale, 0, odd ? 0x3232 : 0x1010);
            if (CODE == INT4) by = fma_bf16x2(by, BF16_FOURS, BF16_NEGATIVE_ZEROS);
            return fma_bf16x2(two, by, BF16_NEGATIVE_ZEROS);
        });
        else store_scaled(lines, c, [&](u32 two, u32 scale) {
            const float by = __uint_as_float(c.scale_bytes == 4 ? scale : __byte_perm(scale, 0, odd ? 0x3244 : 0x1044)) * (CODE == INT4 ? INT4_PARTS : 1);
            if (CODE == TABLE4) return pack(c.table[two & 15] * by, c.table[two >> 4] * by);
            return pack(lo(two) * by, hi(two) * by);
        });
    }

private:
    template <class F> __device__ __forceinline__ void store_scaled(u8 *lines, const Coding &c, F scaled) const {
        const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
        for (int step = 0; step < 4; step++) {
            const uint4 &v = codes[CODE == E4M3 ? step / 2 : 0];
            const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u32 two = CODE == E4M3 ? e4m3_fragment(words, step % 2, i)
                    : CODE == INT4           ? int4_pair(words[step], i, int4_zero(zero[step / 2][i % 2], i % 2))
                                             : table4_index(words[step], i);
                *(u32 *)(lines + (g + i % 2 * 8) * LINE + line_at(g, step * 16 + 2 * t + i / 2 * 8)) = scaled(two, scale[step / 2][i % 2]);
            }
        }
    }
};
