// Sums over several GPUs (ranks), each of which has a part of every layer. All ranks add in the order of their numbers, so all
// have the same bits. Nobody resets anything: what arrives carries the number of its exchange (epoch), and since a rank that is
// in exchange e has seen the others in e-1, places are used in turns of two.
//
// Two ways. Few rows (decode): the kernel that needs the sum sends its part to the others' mailboxes, sixteen bytes at a time, two
// numbers and twice the epoch, and polls its own. Many rows (prefill): parts lie in the ranks' own memory, a flag says that
// they are there, and everybody reads everybody's, most often in the norm that needs the sum (norm_parts).
//
// Whoever waits too long for another rank sets bit 2 of the step's status, and from then on nobody waits.
#pragma once
#include "kernel.cuh"

constexpr int MAX_RANKS = 8;
constexpr int MAIL_ROWS = 64;

// Peers is the same for all exchanges of a rank; it lies in its memory.
struct Peers {
    int ranks, rank;
    const u32 *epoch;       // of the step's first exchange
    u32 *status;            // of the step
    u64 patience;           // nanoseconds
    u64 row;                // 16-byte units of a row in a mailbox
    uint4 *mail[MAX_RANKS]; // of each rank, in its memory: [2 turns][sender][MAIL_ROWS][row]
    u32 *flags[MAX_RANKS];  // of each rank, in its memory: [sender] the latest exchange whose part is there
};

constexpr u32 PEER_SILENT = 4; // in the status

__device__ __forceinline__ bool peer_lost(const Peers &p) { return *(volatile u32 *)p.status & PEER_SILENT; }

// peer_wait asks `there` until it is true, or patience ends.
template <class There> __device__ __forceinline__ void peer_wait(const Peers &p, There there) {
    Patience left;
    while (!there())
        if (peer_lost(p) || !left.more(p.patience)) {
            atomicOr(p.status, PEER_SILENT);
            return;
        }
}

__device__ __forceinline__ uint4 *mailbox(const Peers &p, int of, int from, u32 exchange, int row) {
    return p.mail[of] + ((u64(exchange % 2) * p.ranks + from) * MAIL_ROWS + row) * p.row;
}

// mail_send sends four columns of a row to all others; i is their place among the row's vectors of four.
__device__ __forceinline__ void mail_send(const Peers &p, u32 epoch, int exchange, int row, int i, float4 v) {
    const uint4 a = make_uint4(__float_as_uint(v.x), epoch, __float_as_uint(v.y), epoch), b = make_uint4(__float_as_uint(v.z), epoch, __float_as_uint(v.w), epoch);
    for (int to = 0; to < p.ranks; to++) {
        if (to == p.rank) continue;
        uint4 *at = mailbox(p, to, p.rank, exchange, row) + 2 * i;
        send(at, a), send(at + 1, b);
    }
}

// mail_sum is the sum of all ranks' vectors, of which v is this one's.
__device__ __forceinline__ float4 mail_sum(const Peers &p, u32 epoch, int exchange, int row, int i, float4 v) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int from = 0; from < p.ranks; from++) {
        float4 part = v;
        if (from != p.rank) {
            const uint4 *at = mailbox(p, p.rank, from, exchange, row) + 2 * i;
            uint4 a, b;
            peer_wait(p, [&] {
                a = receive(at), b = receive(at + 1);
                return a.y == epoch && a.w == epoch && b.y == epoch && b.w == epoch;
            });
            part = make_float4(__uint_as_float(a.x), __uint_as_float(a.z), __uint_as_float(b.x), __uint_as_float(b.z));
        }
        sum = from == 0 ? part : make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
    }
    return sum;
}

// A step's exchanges have fewer numbers than this; the next step's begin that much later.
constexpr u32 MEETINGS = 1 << 13;

// flags_post says to all others that this rank's part is there, flags_wait waits for all of theirs: one thread for each rank. A
// rank that is ahead may have posted its next part already.
__device__ __forceinline__ void flags_post(const Peers &p, u32 epoch) {
    const int to = threadIdx.x;
    if (to < p.ranks && to != p.rank) post(p.flags[to] + p.rank, epoch);
}
__device__ __forceinline__ void flags_wait(const Peers &p, u32 epoch) {
    const int from = threadIdx.x;
    if (from < p.ranks && from != p.rank) peer_wait(p, [&] { return look(p.flags[p.rank] + from) - epoch < MEETINGS; });
}

// ShareParams: out = the sum of the ranks' parts, or out += it.
struct ShareParams {
    const Peers *peers;
    const float *part[MAX_RANKS]; // of each rank, in its memory [rows, ld]
    float *out;                   // [rows, out_ld]
    const int *count;             // how many rows there are; null: rows
    int rows, ld, out_ld, width;  // width: a multiple of 4
    int exchange;
    int add;
};

// share_meet waits until all parts are there: every block for the others' flags, which their first blocks set.
__device__ __forceinline__ void share_meet(const ShareParams &p) {
    const Peers &peers = *p.peers;
    const u32 epoch = *peers.epoch + p.exchange;
    if (blockIdx.x == 0) flags_post(peers, epoch);
    flags_wait(peers, epoch);
    __syncthreads();
}

// share_vectors adds up vectors of a row, STEP apart from `first` on, of those below `vectors`; beyond them they are zero. All loads
// of two ranks leave before the first is used.
template <int N, int STEP> __device__ __forceinline__ void share_vectors(float4 (&sum)[N], const ShareParams &p, int row, int first, int vectors) {
    const int ranks = p.peers->ranks;
    for (int from = 0; from < ranks; from += 2) {
        float4 v[2][N];
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                const int i = first + j * STEP;
                v[r][j] = from + r < ranks && i < vectors ? ((const float4 *)(p.part[from + r] + u64(row) * p.ld))[i] : make_float4(0, 0, 0, 0);
            }
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int j = 0; j < N; j++)
                if (from + r == 0) sum[j] = v[r][j];
                else if (from + r < ranks) sum[j].x += v[r][j].x, sum[j].y += v[r][j].y, sum[j].z += v[r][j].z, sum[j].w += v[r][j].w;
    }
}
