// The one layout of matrices in device memory. A matrix [rows, K] of bfloat16 is cut into tiles of 64 columns; a tile
// holds one 128-byte line for each row, whose eight 16-byte pieces are permuted by the row (piece c lies at c ^ row%8).
// Shared memory filled with such lines byte by byte is read by ldmatrix without bank conflicts, and is what wgmma calls
// 128-byte swizzled, K-major. So weights and activations go from global to shared memory in long plain copies, in decode
// and in prefill.
//
// Weights:     [rows/64][K/64] tiles of 64 lines (8 KiB): one block of rows streams along K without a gap.
// Activations: [K/64][R] lines, R a multiple of 8: a range of rows of one tile is one copy.
//
// K and rows are padded with zeros to multiples of 64 (weights) or 8 (activations).
#pragma once
#include "kernel.cuh"

constexpr int TILE = 64;                      // columns of a tile; rows of a block of weight rows
constexpr int LINE = 2 * TILE;                // bytes of a row in a tile
constexpr int WEIGHT_TILE = TILE * LINE;      // bytes
constexpr int PIECE = 16;                     // bytes that swizzling moves as one: 8 values

// line_at is the offset in bytes of column k (within a tile) in the line of a row.
__device__ __forceinline__ int line_at(u32 row, u32 k) { return (((k / 8) ^ (row & 7)) * PIECE) + (k % 8) * 2; }

// image_at is the offset in bytes of (row, k) in an image of activations with R rows.
__device__ __forceinline__ size_t image_at(u32 R, u32 row, u32 k) {
    return (size_t(k / TILE) * R + row) * LINE + line_at(row, k % TILE);
}

// weight_at is the offset in bytes of (row, k) in a packed weight with KT tiles along K.
__device__ __forceinline__ size_t weight_at(u32 KT, u32 row, u32 k) {
    return (size_t(row / TILE) * KT + k / TILE) * WEIGHT_TILE + row % TILE * LINE + line_at(row, k % TILE);
}
