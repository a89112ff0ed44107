// Observers: one value of the forward pass, captured or changed for some of its rows. The operations are kernels.Op.
#include "image.cuh"

enum TapOp { TAP_CAPTURE, TAP_ZERO, TAP_ADD, TAP_SET, TAP_SCALE };
enum TapKind { TAP_FLOAT, TAP_IMAGE, TAP_BF16, TAP_INT }; // float rows, image lines, bfloat16 rows, int rows

struct TapParams {
    void *data;
    const int *rows;  // [grid.x] rows of data; negative: not here
    float *buf;       // [grid.x, to - from]
    const int *place; // [columns] column c of the value is column place[c] of data; null: c
    u64 ld;           // elements of a row; lines of an image
    float by;
    int from, to;     // columns
    int op, kind;
};

// tap_rows: one block a row.
KERNEL(256, 1, tap_rows, TapParams) {
    griddep_wait();
    griddep_launch();
    const int row = p.rows[blockIdx.x];
    if (row < 0) return;
    for (int c = p.from + threadIdx.x; c < p.to; c += blockDim.x) {
        float *buf = p.buf + u64(blockIdx.x) * (p.to - p.from) + (c - p.from);
        const int at = p.place ? p.place[c] : c;
        float *f = (float *)p.data + u64(row) * p.ld + at;
        int *n = (int *)p.data + u64(row) * p.ld + at;
        bf16 *h = p.kind == TAP_IMAGE ? (bf16 *)((u8 *)p.data + image_at(int(p.ld), row, at)) : (bf16 *)p.data + u64(row) * p.ld + at;
        float v = p.kind == TAP_FLOAT ? *f : p.kind == TAP_INT ? float(*n) : __bfloat162float(*h);
        switch (p.op) {
        case TAP_CAPTURE: *buf = v; continue;
        case TAP_ZERO: v = 0; break;
        case TAP_ADD: v += *buf; break;
        case TAP_SET: v = *buf; break;
        case TAP_SCALE: v *= p.by; break;
        }
        if (p.kind == TAP_FLOAT) *f = v;
        else if (p.kind == TAP_INT) *n = int(v);
        else *h = __float2bfloat16_rn(v);
    }
}
