// Sums of many rows over several GPUs, and the rows of logits of which each has some columns.
#include "peers.cuh"

struct ShareParams {
    const Peers *peers;
    const float *part[MAX_RANKS]; // of each rank, in its memory [rows, ld]
    float *out;                   // [rows, out_ld]
    const int *count;             // how many rows there are; null: rows
    int rows, ld, out_ld, width;  // width: a multiple of 4
    int exchange;
    int add;                      // out += the sum; else out = the sum
};

// share_rows: the sum over all ranks. Every block waits for the others' flags, which their first blocks set.
KERNEL(512, 2, share_rows, ShareParams) {
    griddep_launch();
    griddep_wait();
    const Peers &peers = *p.peers;
    const u32 epoch = *peers.epoch + p.exchange;
    if (blockIdx.x == 0) flags_post(peers, epoch);
    flags_wait(peers, epoch);
    __syncthreads();
    const int rows = p.count ? *p.count : p.rows, vectors = p.width / 4;
    for (int row = blockIdx.x; row < rows; row += gridDim.x)
        for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
            float4 v[MAX_RANKS];
#pragma unroll
            for (int r = 0; r < MAX_RANKS; r++)
                if (r < peers.ranks) v[r] = ((const float4 *)(p.part[r] + u64(row) * p.ld))[i];
            float4 sum = v[0];
#pragma unroll
            for (int r = 1; r < MAX_RANKS; r++)
                if (r < peers.ranks) sum.x += v[r].x, sum.y += v[r].y, sum.z += v[r].z, sum.w += v[r].w;
            float4 *out = (float4 *)(p.out + u64(row) * p.out_ld) + i;
            if (p.add) {
                const float4 old = *out;
                sum = make_float4(old.x + sum.x, old.y + sum.y, old.z + sum.z, old.w + sum.w);
            }
            *out = sum;
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
