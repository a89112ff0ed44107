// Sums of many rows over several GPUs, and the rows of logits of which each has some columns.
#include "peers.cuh"

// share_rows: the sum over all ranks.
KERNEL(512, 2, share_rows, ShareParams) {
    griddep_launch();
    griddep_wait();
    share_meet(p);
    const int rows = p.count ? *p.count : p.rows, vectors = p.width / 4;
    for (int row = blockIdx.x; row < rows; row += gridDim.x)
        for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
            float4 sum[1];
            share_vectors<1, 1>(sum, p, row, i, vectors);
            float4 *out = (float4 *)(p.out + u64(row) * p.out_ld) + i;
            if (p.add) {
                const float4 old = *out;
                sum[0] = make_float4(old.x + sum[0].x, old.y + sum[0].y, old.z + sum[0].z, old.w + sum[0].w);
            }
            *out = sum[0];
        }
}

struct CollectParams {
    const Peers *peers;
    const float *columns; // [rows, ld] this rank's
    float *out;           // [rows, out_ld] in the first rank's memory, in turns of two
    const int *count;     // how many rows there are
    int ld, out_ld;
    int first, width;     // where this rank's columns go, and how many there are
    int exchange;
    int pad;
};

// collect_columns: every rank writes its columns into the first one's rows, grid (pieces, rows). Then collect_wait.
KERNEL(256, 1, collect_columns, CollectParams) {
    griddep_launch();
    griddep_wait();
    const int row = blockIdx.y;
    if (row >= *p.count) return;
    for (int n = blockIdx.x * blockDim.x + threadIdx.x; n < p.width; n += gridDim.x * blockDim.x)
        p.out[u64(row) * p.out_ld + p.first + n] = p.columns[u64(row) * p.ld + n];
}

// collect_wait tells the others that this rank's columns are there, and waits for theirs: the others, too, so that no rank is two
// turns ahead of the first. One block.
KERNEL(32, 1, collect_wait, CollectParams) {
    griddep_launch();
    griddep_wait();
    const u32 epoch = *p.peers->epoch + p.exchange;
    flags_post(*p.peers, epoch);
    flags_wait(*p.peers, epoch);
}
