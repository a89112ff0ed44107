// What a step brings from the host: read by a kernel from pinned memory, since small copies through the copy engine cost the
// GPU several microseconds each.
#include "kernel.cuh"

constexpr int UPLOAD_PIECES = 12;

struct UploadPiece {
    u32 *to;
    const u32 *from; // pinned host memory; null: zeros
    u64 words;
};

struct UploadParams {
    UploadPiece pieces[UPLOAD_PIECES]; // [grid.y]
};

// upload_words: grid (any, pieces).
KERNEL(256, 1, upload_words, UploadParams) {
    griddep_wait();
    griddep_launch();
    const UploadPiece piece = p.pieces[blockIdx.y];
    for (u64 i = blockIdx.x * 256 + threadIdx.x; i < piece.words; i += gridDim.x * 256) piece.to[i] = piece.from ? piece.from[i] : 0u;
}
