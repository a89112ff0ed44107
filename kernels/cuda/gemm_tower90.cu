// Products of the vision tower with wgmma and bulk copies (9.0): 128 outputs x up to 248 rows a block, stages of one 64-column tile.
// One thread keeps as many stages on their way as fit, also those of the block's next piece of work while results are stored; two
// warpgroups of 64 outputs each multiply. Widths are those into which whole tiles of 577 rows divide well: 577, 5x577 and so on in 1, 2, 3, 4,
// 6 or 12 pieces.
//
// A long sum along K is one of parts, each of which begins with zero. Where rows are few, so that narrow pieces of work would read the weights
// once for every 56 of them, the parts are pieces of their own, and the norm that reads the residual adds them (STORE); where rows are
// many, a block adds one part after the other (BIAS). Both give the same bits.
//
// Results go through shared memory, 64 rows at a time, so that a lane has four adjacent outputs of a row whatever becomes of them, and
// the code for it is a short loop: unrolled over the accumulators it would be run once, from a cold instruction cache.
#include "gemm.cuh"

#if defined(CHULENGO_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

struct TowerParams {
    const u8 *weight;  // packed [blocks·64, K]
    const u8 *act;     // image [K/64][R]
    void *out;         // see GemmEpilogue; STORE: [parts][rows][ld]
    const float *base; // not HEADS: [features], which the first part adds; null: none
    int R;             // lines of the activation image
    int rows, width;   // of the image; of a piece of work: a multiple of 8
    int blocks;        // of 64 outputs
    int tiles;         // along K
    int parts, each;   // of K; of which so many are a piece of work's
    int ld;            // of float outputs
    int features;      // outputs that have a bias, a multiple of 4
    int out_R;         // GELU: lines of the output image
    HeadsParams heads; // HEADS
};

namespace {

constexpr int WIDTH = 248;
constexpr int ROOM = 4 * (2 * WEIGHT_TILE + WIDTH * LINE); // for stages
constexpr int STAGES = 8;                                  // at most
constexpr int WARPGROUP = 128;
constexpr int THREADS = 3 * WARPGROUP;
constexpr int CHUNK = 64; // rows that are stored at a time
constexpr int PITCH = 68; // floats from one of them to the next: what a warp writes at once lies in different banks

struct Shared {
    u8 stages[ROOM];
    float chunk[2][CHUNK * PITCH];
    u64 full[STAGES], empty[STAGES];
};

// Ring is a place in the stages: as many as the width lets fit, since what hides the memory's latency is what is on its way.
struct Ring {
    int bytes, count;
    int slot = 0;
    u32 phase = 0;

    __device__ __forceinline__ Ring(const TowerParams &p) : bytes(2 * WEIGHT_TILE + p.width * LINE), count(min(STAGES, ROOM / bytes)) {}
    __device__ __forceinline__ void next() {
        if (++slot == count) slot = 0, phase ^= 1;
    }
};

// Piece is a piece of work: rows of the image, a pair of blocks of outputs, and parts of K.
struct Piece {
    int row, rows, pair, part, parts_end;
};

// piece_of puts those with the same weights one after the other: a wave of blocks reads few weights and all rows.
__device__ __forceinline__ Piece piece_of(const TowerParams &p, int count, int i) {
    const int row = i % count * p.width, pairs = ceil_div(p.blocks, 2), part = i / count / pairs * p.each;
    return Piece{row, min(p.width, p.rows - row), i / count % pairs, part, min(p.parts, part + p.each)};
}

// part_at is the tile of K with which a part begins.
__device__ __forceinline__ int part_at(const TowerParams &p, int part) { return p.tiles * part / p.parts; }

// produce is one thread.
__device__ __forceinline__ void produce(const TowerParams &p, Shared &s, int count, int pieces) {
    Ring ring(p);
#pragma unroll 1
    for (int i = blockIdx.x; i < pieces; i += gridDim.x) {
        const Piece piece = piece_of(p, count, i);
        const int blocks = min(2, p.blocks - 2 * piece.pair), bytes = ceil_div(piece.rows, 8) * 8 * LINE;
        const int from = part_at(p, piece.part), tiles = part_at(p, piece.parts_end) - from;
        const u8 *w = p.weight + (u64(2 * piece.pair) * p.tiles + from) * WEIGHT_TILE, *a = p.act + (u64(from) * p.R + piece.row) * LINE;
        const auto weights = [&](int k, int slot) {
            mbar_expect_tx(&s.full[slot], blocks * WEIGHT_TILE + bytes);
#pragma unroll 1
            for (int b = 0; b < blocks; b++)
                bulk_load(s.stages + slot * ring.bytes + b * WEIGHT_TILE, w + (u64(b) * p.tiles + k) * WEIGHT_TILE, WEIGHT_TILE, &s.full[slot]);
        };
        const int early = i == int(blockIdx.x) ? min(ring.count, tiles) : 0;
#pragma unroll 1
        for (int k = 0; k < early; k++) weights(k, k); // no kernel writes weights: these come while those before this one end
        if (early) griddep_wait();
#pragma unroll 1
        for (int k = 0; k < tiles; k++, ring.next()) {
            if (k >= early) {
                mbar_wait(&s.empty[ring.slot], ring.phase ^ 1);
                weights(k, ring.slot);
            }
            bulk_load(s.stages + ring.slot * ring.bytes + 2 * WEIGHT_TILE, a + u64(k) * p.R * LINE, bytes, &s.full[ring.slot]);
        }
    }
}

// Store is what becomes of four adjacent outputs, n.., of rows; those of a lane are ROW_STEP apart, ROWS_EACH of them come together.
constexpr int ROW_STEP = WARPGROUP / 16, ROWS_EACH = CHUNK / ROW_STEP;

template <GemmEpilogue EPILOGUE> struct Store {
    static constexpr int UNROLL = EPILOGUE == GELU ? 2 : 4;
    const TowerParams &p;
    float4 bias = {0, 0, 0, 0};
    int n;
    float *out;

    __device__ __forceinline__ Store(const TowerParams &p, int n, int part) : p(p), n(n), out((float *)p.out) {
        if (p.base && n < p.features && part == 0) bias = *(const float4 *)(p.base + n);
        if (EPILOGUE == STORE) out += u64(part) * p.rows * p.ld;
    }
    __device__ __forceinline__ void look_up(int) {}
    __device__ __forceinline__ void row(int row, int, float4 y) const {
        y.x += bias.x, y.y += bias.y, y.z += bias.z, y.w += bias.w;
        if (EPILOGUE == GELU) *(uint2 *)((u8 *)p.out + image_at(p.out_R, row, n)) = make_uint2(pack(gelu(y.x), gelu(y.y)), pack(gelu(y.z), gelu(y.w)));
        if (EPILOGUE == BIAS) add_there((float4 *)(out + u64(row) * p.ld + n), y);
        if (EPILOGUE == STORE) *(float4 *)(out + u64(row) * p.ld + n) = y;
    }
};

template <> struct Store<HEADS> {
    static constexpr int UNROLL = ROWS_EACH;
    const HeadsParams &h;
    float4 bias = {0, 0, 0, 0};
    const float2 *turns = nullptr; // null: these do not turn
    u8 *out = nullptr;
    u64 tile_bytes = 0, row_bytes = 0, step_bytes = 0; // step: from a row to the next, in the same tile
    bool real;
    int d, at; // the row's place in its tile
    u8 *to;    // where the row lies
    float4 turn[ROWS_EACH];

    __device__ __forceinline__ Store(const TowerParams &p, int n, int) : h(p.heads) {
        const int part = n / h.part, in = n % h.part, head = in / h.head_dim, heads = h.width / h.head_dim;
        d = in % h.head_dim;
        real = in < h.width;
        if (!real) return;
        bias = *(const float4 *)(h.bias[part] + in);
        if (part < 2) turns = h.turns + d / 2;
        out = (u8 *)p.out;
        if (h.lines) {
            out += ((u64(part * heads + head) * 2 + d / TILE) * h.lines) * LINE;
            tile_bytes = u64(3) * heads * 2 * h.lines * LINE;
        } else {
            out += ((part * heads + head) * h.head_ld + d) * 2;
            tile_bytes = u64(h.per_tile) * p.ld * 2;
        }
        row_bytes = h.lines ? LINE : p.ld * 2;
        step_bytes = (ROW_STEP / h.per_tile) * tile_bytes + h.step * row_bytes;
    }
    // next steps on; true: into another tile.
    __device__ __forceinline__ bool next(int &at) const {
        at += h.step;
        if (at < h.per_tile) return false;
        at -= h.per_tile;
        return true;
    }
    // look_up reads what turns the rows from `row` on: one after the other, the reads' latency would be the epilogue's time.
    __device__ __forceinline__ void look_up(int row) {
        at = row % h.per_tile;
        to = out + row / h.per_tile * tile_bytes + at * row_bytes;
        int a = at;
#pragma unroll
        for (int i = 0; i < ROWS_EACH; i++, next(a)) turn[i] = turns ? *(const float4 *)(turns + a * (h.head_dim / 2)) : make_float4(1, 0, 1, 0);
    }
    __device__ __forceinline__ void row(int, int i, float4 y) {
        y.x += bias.x, y.y += bias.y, y.z += bias.z, y.w += bias.w;
        const float4 t = turn[i];
        y = make_float4(y.x * t.x - y.y * t.y, y.x * t.y + y.y * t.x, y.z * t.z - y.w * t.w, y.z * t.w + y.w * t.z);
        if (real) *(uint2 *)(to + (h.lines ? line_at(at, d % TILE) : 0)) = make_uint2(pack(y.x, y.y), pack(y.z, y.w));
        to += step_bytes;
        if (next(at)) to += tile_bytes - h.per_tile * row_bytes;
    }
};

// multiply is a part of a piece of work of a warpgroup: N columns, outputs 64·half.. of the pair.
template <int N, GemmEpilogue EPILOGUE>
__device__ __forceinline__ void multiply(const TowerParams &p, Shared &s, const Piece &piece, int part, int half, Ring &ring) {
    const int tiles = part_at(p, part + 1) - part_at(p, part), thread = threadIdx.x % WARPGROUP, block = 2 * piece.pair + half;
    const u64 weights = wgmma_descriptor(s.stages + half * WEIGHT_TILE), rows = wgmma_descriptor(s.stages + 2 * WEIGHT_TILE); // of slot 0
    Store<EPILOGUE> store(p, min(block, p.blocks - 1) * TILE + thread % 16 * 4, part); // it reads biases, which takes long
    float acc[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) acc[i] = 0;
    int before = 0; // the slot of the stage before
    for (int k = 0; k < tiles; k++, ring.next()) {
        const u64 at = u32(ring.slot * ring.bytes) / 16; // what a descriptor counts
        mbar_wait(&s.full[ring.slot], ring.phase);
        wgmma_fence();
#pragma unroll
        for (int c = 0; c < TILE; c += 16) wgmma_bf16<N>(acc, weights + (at + c / 8), rows + (at + c / 8));
        wgmma_commit();
        wgmma_wait<1>(); // the stage before this one was read
        if (k > 0 && thread == 0) mbar_arrive(&s.empty[before]);
        before = ring.slot;
    }
    wgmma_wait<0>();
    if (thread == 0) mbar_arrive(&s.empty[before]);
    if (block >= p.blocks) return;
    float *chunk = s.chunk[half];
    const int first = thread % WARP % 4 * 2 * PITCH + thread / WARP * 16 + thread % WARP / 4; // of this lane's accumulators
#pragma unroll 1
    for (int from = 0; from < piece.rows; from += CHUNK) {
        const int row = thread / 16, rows = min(CHUNK, piece.rows - from);
        store.look_up(piece.row + from + row);
        bar_sync(1 + half, WARPGROUP); // the rows before these were stored
#pragma unroll
        for (int at = 0; at < N; at += CHUNK)
            if (at == from) {
#pragma unroll
                for (int j = at / 8; j < min(at + CHUNK, N) / 8; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) chunk[first + (8 * j - at + i % 2) * PITCH + i / 2 * 8] = acc[4 * j + i];
            }
        bar_sync(1 + half, WARPGROUP);
#pragma unroll(Store<EPILOGUE>::UNROLL)
        for (int i = 0; i < ROWS_EACH; i++)
            if (row + i * ROW_STEP < rows) store.row(piece.row + from + row + i * ROW_STEP, i, *(const float4 *)(chunk + (row + i * ROW_STEP) * PITCH + thread % 16 * 4));
    }
}

template <GemmEpilogue EPILOGUE> __device__ __forceinline__ void gemm(const TowerParams &p, u8 *memory) {
    Shared &s = *reinterpret_cast<Shared *>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&s.full[i], 1);
            mbar_init(&s.empty[i], 2); // warpgroups
        }
        mbar_init_fence();
    }
    __syncthreads();
    griddep_launch();
    const int count = ceil_div(p.rows, p.width), pieces = count * ceil_div(p.blocks, 2) * ceil_div(p.parts, p.each);
    using Split = Registers<THREADS, 56, 224>;
    if (threadIdx.x < WARPGROUP) {
        Split::give();
        if (threadIdx.x == 0) produce(p, s, count, pieces);
    } else {
        Split::take();
        griddep_wait();
        Ring ring(p);
        const int half = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0) - 1; // the compiler then knows that a warp has one
        for (int i = blockIdx.x; i < pieces; i += gridDim.x) {
            const Piece piece = piece_of(p, count, i);
#pragma unroll 1
            for (int part = piece.part; part < piece.parts_end; part++) {
                if (piece.rows <= 56) multiply<56, EPILOGUE>(p, s, piece, part, half, ring);
                else if (piece.rows <= 104) multiply<104, EPILOGUE>(p, s, piece, part, half, ring);
                else if (piece.rows <= 152) multiply<152, EPILOGUE>(p, s, piece, part, half, ring);
                else if (piece.rows <= 200) multiply<200, EPILOGUE>(p, s, piece, part, half, ring);
                else multiply<248, EPILOGUE>(p, s, piece, part, half, ring);
            }
        }
    }
}

} // namespace

#define TOWER(NAME, EPILOGUE)                          \
    KERNEL(THREADS, 1, tower_##NAME##_90, TowerParams) { \
        DYNAMIC_SHARED(memory);                        \
        gemm<EPILOGUE>(p, memory);                     \
    }

TOWER(store, STORE)
TOWER(bias, BIAS)
TOWER(gelu, GELU)
TOWER(heads, HEADS)

#endif
