// Activations for weights of INT4, which are multiplied in integers of 8 bits (stream_codes.cuh). An activation is 2ˢ·(256·h + l), two digits of
// 8 bits, where 2ˢ belongs to 128 columns of a row (two tiles) and the largest absolute value of these lies in [2¹³, 2¹⁴) units of it. So it is off
// by at most 2⁻¹⁴ of that largest one, and not at all where it is less than 2⁶ times smaller, since bfloat16 has 8 bits. Groups whose
// largest value is below 2⁻¹⁰⁷ lose more of it, and one with a value that is no number becomes NaN.
//
// A line of 64 columns stays 128 bytes: high digits in its first half, low ones in its second, permuted like an image's pieces. In a step of 16
// columns the order is that of int4_bytes.
#pragma once
#include "image.cuh"

// Piece is what a lane has of 256 columns of a row: of a step of 16 columns, columns 4h to 4h+3 and 4h+8 to 4h+11.
struct Piece {
    uint2 near, far;

    static __device__ __forceinline__ int tile() { return lane_id() / 8; }
    static __device__ __forceinline__ int step() { return lane_id() / 2 % 4; }
    static __device__ __forceinline__ int half() { return lane_id() % 2; }
    // at is where 8 bytes lie in the line of a row: half a piece.
    static __device__ __forceinline__ u8 *at(u8 *line, int row, int piece) { return line + (piece ^ (row & 7)) * PIECE + half() * 8; }
    // load takes the piece from four tiles' lines, `apart` bytes from each other, of which so many are there.
    __device__ __forceinline__ void load(const u8 *line, int apart, int row, int tiles) {
        near = far = make_uint2(0, 0);
        if (tile() >= tiles) return;
        near = *(const uint2 *)at((u8 *)line + tile() * apart, row, 2 * step());
        far = *(const uint2 *)at((u8 *)line + tile() * apart, row, 2 * step() + 1);
    }
    // exponent is the largest of the lane's values, with 8 bits of bias.
    __device__ __forceinline__ u32 exponent() const {
        const auto most = [](u32 v) { return max(v << 1, v << 17); };
        return max(max(most(near.x), most(near.y)), max(most(far.x), most(far.y))) >> 24;
    }
};

// Digits are a piece's, and 2ˢ of its two tiles. A whole warp makes them.
struct Digits {
    uint2 high, low;
    float unit;

    __device__ __forceinline__ Digits(const Piece &piece) {
        const u32 own = piece.exponent();
        const bool second = lane_id() >= 16;
        const u32 most0 = __reduce_max_sync(0xffffffffu, second ? 0 : own), most1 = __reduce_max_sync(0xffffffffu, second ? own : 0);
        const u32 most = second ? most1 : most0, e = max(most, 20u);
        const float scale = __uint_as_float((267 - e) << 23);
        constexpr float ROUNDS = 12582912 + 128; // 3·2²², which rounds to integers, and what makes the low digit one with a sign
        const auto fixed = [&](float v) { return __float_as_uint(__fmaf_rn(v, scale, ROUNDS)); };
        u32 h[2], l[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const u32 near = i ? piece.near.y : piece.near.x, far = i ? piece.far.y : piece.far.x;
            const u32 first = __byte_perm(fixed(lo(near)), fixed(lo(far)), 0x5140), second = __byte_perm(fixed(hi(near)), fixed(hi(far)), 0x5140);
            h[i] = __byte_perm(first, second, 0x7632), l[i] = __byte_perm(first, second, 0x5410) ^ 0x80808080;
        }
        high = make_uint2(h[0], h[1]), low = make_uint2(l[0], l[1]);
        unit = most == 255 ? __uint_as_float(0x7fc00000) : __uint_as_float((e - 13) << 23);
    }
    // store puts them in the line of the lane's tile; one lane of the tile pair's writes the unit.
    __device__ __forceinline__ void store(u8 *line, int row, float *units) const {
        *(uint2 *)Piece::at(line, row, Piece::step()) = high;
        *(uint2 *)Piece::at(line, row, 4 + Piece::step()) = low;
        if (lane_id() % 16 == 0) *units = unit;
    }
};

// store_digits makes digits of a row's piece and puts them into the lines of its tiles, `apart` bytes from each other, of which so many are there,
// and 2ˢ of both pairs of tiles, `pairs` numbers from each other. One warp.
__device__ __forceinline__ void store_digits(const Piece &piece, u8 *line, int apart, int row, int tiles, float *units, int pairs) {
    const Digits digits(piece);
    if (Piece::tile() < tiles) digits.store(line + Piece::tile() * apart, row, units + lane_id() / 16 * pairs);
}

// An image of digits: groups of four tiles, each [4][R] lines and, behind them, [2][R] units (float32). All of a group is one copy.
constexpr int DIGIT_TILES = 4;
constexpr __host__ __device__ int digit_lines(int R) { return DIGIT_TILES * R * LINE; }
constexpr __host__ __device__ int digit_group(int R) { return digit_lines(R) + DIGIT_TILES / 2 * R * 4; }

// write_digits makes the image's columns of a row, from tile 2·pair on, of `tiles` tiles' bfloat16 in shared memory times g, rounded as scaled_piece
// does. All threads of the block; tiles that are not there count as zeros.
template <bool SCALED> __device__ __forceinline__ void write_digits(u8 *image, int R, int row, int pair, const uint2 *h, int tiles, float g) {
#pragma unroll 1
    for (int from = 4 * warp_id(); from < tiles; from += 4 * (blockDim.x / WARP)) {
        const int in = from + Piece::tile(), tile = 2 * pair + in; // of h, of the image
        Piece piece = {make_uint2(0, 0), make_uint2(0, 0)};
        if (in < tiles) {
            const uint2 *own = h + in * 16 + Piece::step() * 4 + Piece::half();
            const auto scaled = [&](u32 v) { return SCALED ? pack(g * lo(v), g * hi(v)) : v; };
            piece = Piece{make_uint2(scaled(own[0].x), scaled(own[0].y)), make_uint2(scaled(own[2].x), scaled(own[2].y))};
        }
        const Digits digits(piece);
        u8 *group = image + u64(tile / DIGIT_TILES) * digit_group(R);
        if (in < tiles) digits.store(group + (tile % DIGIT_TILES * R + row) * LINE, row, (float *)(group + digit_lines(R)) + tile % DIGIT_TILES / 2 * R + row);
    }
}
