// Matrix units. Sums are in float32, in ascending order of the inner index. Those of e4m3 are, too: they are what the numbers say, while
// the tensor cores of 9.0 keep about 14 bits of a sum, counted from its largest term.
#include "machine.h"

// The loops that take the time, for the vector units at hand.
#define VECTORS __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))

namespace {

inline float bf(unsigned v) {
    v <<= 16;
    float f;
    memcpy(&f, &v, 4);
    return f;
}

VECTORS void mma_16x8x16(float (*__restrict d)[8], const float (*__restrict a)[16], const float (*__restrict b)[8]) {
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
}

VECTORS void mma_row(float *__restrict d, const float *__restrict a, const float (*__restrict b)[256], int columns, int inner) {
    for (int k = 0; k < inner; k++)
        for (int column = 0; column < columns; column++) d[column] += a[k] * b[k][column];
}

// worth is every e4m3 code's number.
const struct Worth {
    float of[256];
    Worth() {
        for (int c = 0; c < 256; c++) {
            const int exponent = c >> 3 & 15, mantissa = c & 7;
            of[c] = (c & 0x7f) == 0x7f ? NAN : ldexpf(exponent ? 8 + mantissa : mantissa, (exponent ? exponent : 1) - 10);
            if (c & 0x80) of[c] = -of[c];
        }
    }
} worth;

} // namespace

namespace emu {

// e4m3_code as cvt.rn.satfinite has it.
uint32_t e4m3_code(float v) {
    if (v != v) return 0x7f;
    const double a = fabs(double(v));
    const uint32_t sign = std::signbit(v) ? 0x80 : 0;
    if (a >= 448) return sign | 0x7e;
    const int exponent = a < 0x1p-6 ? -6 : ilogb(a);
    return sign | uint32_t((exponent + 6) * 8 + int(nearbyint(ldexp(a, 3 - exponent)))); // ties to even; 16 eighths are the next exponent's first code
}

void ldmatrix(uint32_t *r, int matrices, const void *row, bool transpose) {
    struct A {
        const unsigned short *row;
        uint32_t *r;
        int matrices;
    } a{(const unsigned short *)row, r, matrices};
    if (lane() < 8 * matrices && ((uintptr_t)row & 15 || !in_shared(row, 16))) fail("ldmatrix: want 16 aligned bytes of shared memory, got %p", row);
    if (!transpose)
        meet("ldmatrix", ~0u, &a, [](void **by) {
            for (int i = 0; i < ((A *)by[0])->matrices; i++)
                for (int l = 0; l < 32; l++) memcpy(&((A *)by[l])->r[i], ((A *)by[8 * i + l / 4])->row + l % 4 * 2, 4);
        });
    else
        meet("ldmatrix.trans", ~0u, &a, [](void **by) {
            for (int i = 0; i < ((A *)by[0])->matrices; i++)
                for (int l = 0; l < 32; l++) {
                    const unsigned low = ((A *)by[8 * i + l % 4 * 2])->row[l / 4], high = ((A *)by[8 * i + l % 4 * 2 + 1])->row[l / 4];
                    ((A *)by[l])->r[i] = low | high << 16;
                }
        });
}

void mma(float *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
    struct A {
        float *d;
        const uint32_t *a;
        uint32_t b[2];
    } args{d, a, {b0, b1}};
    meet("mma", ~0u, &args, [](void **by) {
        float x[16][16], y[16][8], sum[16][8] = {};
        for (int l = 0; l < 32; l++) {
            const A &t = *(A *)by[l];
            const int g = l / 4, c = l % 4 * 2;
            for (int i = 0; i < 4; i++)
                for (int h = 0; h < 2; h++) x[g + i % 2 * 8][c + i / 2 * 8 + h] = bf(t.a[i] >> 16 * h & 0xffff);
            for (int i = 0; i < 2; i++)
                for (int h = 0; h < 2; h++) y[c + i * 8 + h][g] = bf(t.b[i] >> 16 * h & 0xffff);
        }
        mma_16x8x16(sum, x, y);
        for (int l = 0; l < 32; l++) {
            float *d = ((A *)by[l])->d;
            for (int i = 0; i < 4; i++) d[i] += sum[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
        }
    });
}

void mma_s8(int *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
    struct A {
        int *d;
        const uint32_t *a;
        uint32_t b[2];
    } args{d, a, {b0, b1}};
    meet("mma_s8", ~0u, &args, [](void **by) {
        int8_t x[16][32], y[32][8];
        for (int l = 0; l < 32; l++) {
            const A &t = *(A *)by[l];
            const int g = l / 4, k = l % 4 * 4;
            for (int i = 0; i < 4; i++)
                for (int h = 0; h < 4; h++) x[g + i % 2 * 8][k + i / 2 * 16 + h] = int8_t(t.a[i] >> 8 * h);
            for (int i = 0; i < 2; i++)
                for (int h = 0; h < 4; h++) y[k + i * 16 + h][g] = int8_t(t.b[i] >> 8 * h);
        }
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < 4; i++)
                for (int k = 0; k < 32; k++) ((A *)by[l])->d[i] += x[l / 4 + i / 2 * 8][k] * y[k][l % 4 * 2 + i % 2];
    });
}

// ---- warpgroup products ----

namespace {

// The fields of a matrix descriptor that matter here (PTX manual, "Matrix descriptor"), over addresses within the block's
// dynamic shared memory: start / 16 in bits 0-13, the leading offset / 16 in bits 16-29 (N-major: between tiles of 64
// values), the stride of groups of 8 lines / 16 in bits 32-45, the swizzle in 62-63.
constexpr uint64_t SWIZZLE_128 = 1;

// piece finds 16 bytes, or reads their 8 values, at an address within the block's shared memory, whose bits 4-6 are permuted by bits 7-9.
const void *piece(size_t at) {
    at ^= (at >> 7 & 7) << 4;
    if (at + 16 > m.shared_size) fail("wgmma: an operand lies outside the block's shared memory (byte %zu of %zu)", at, m.shared_size);
    if (memcmp(m.shared + at, m.shadow + at, 16)) fail("wgmma: byte %zu of shared memory was written by ordinary stores without fence.proxy.async", at);
    return m.shared + at;
}

void piece(float *to, size_t at) {
    for (int i = 0; i < 8; i++) to[i] = bf(((const unsigned short *)piece(at))[i]);
}

// fetch reads 16 values, or 32 codes, of one line of a K-major operand.
void fetch(float *to, uint64_t descriptor, int line, bool codes) {
    const size_t start = (descriptor & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
    for (int half = 0; half < 2; half++) {
        const size_t at = start + line / 8 * stride + line % 8 * 128 + half * 16;
        if (!codes) piece(to + half * 8, at);
        else
            for (int i = 0; i < 16; i++) to[half * 16 + i] = worth.of[((const unsigned char *)piece(at))[i]];
    }
}

// fetch_t reads values n..n+7 of line k of an N-major operand: tiles of 64 values are a leading offset apart.
void fetch_t(float *to, uint64_t descriptor, int k, int n) {
    const size_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
    piece(to, start + n / 64 * leading + k / 8 * stride + k % 8 * 128 + n % 64 * 2);
}

void compute(Group &g, const Product &p) {
    static float a[64][32], b[32][256], out[64][256];
    const int inner = p.codes ? 32 : 16;
    for (int r = 0; r < 64 && !p.rows[0]; r++) fetch(a[r], p.a, r, p.codes);
    for (int t = 0; t < WARPGROUP && p.rows[0]; t++) {
        if (memcmp(p.rows[t], p.held[t], 16)) fail("wgmma: thread %d changed registers of an operand before the wait", t);
        for (int i = 0; i < 4 && p.codes; i++)
            for (int h = 0; h < 4; h++) a[t / 32 * 16 + t % 32 / 4 + i % 2 * 8][t % 4 * 4 + i / 2 * 16 + h] = worth.of[p.held[t][i] >> 8 * h & 0xff];
        for (int i = 0; i < 4 && !p.codes; i++)
            for (int h = 0; h < 2; h++) a[t / 32 * 16 + t % 32 / 4 + i % 2 * 8][t % 4 * 2 + i / 2 * 8 + h] = bf(p.held[t][i] >> 16 * h & 0xffff);
    }
    for (int k = 0; k < 16 && p.across; k++)
        for (int n = 0; n < p.columns; n += 8) fetch_t(b[k] + n, p.b, k, n);
    for (int n = 0; n < p.columns && !p.across; n++) {
        float line[32];
        fetch(line, p.b, n, p.codes);
        for (int k = 0; k < inner; k++) b[k][n] = line[k];
    }
    for (int r = 0; r < 64; r++) {
        memset(out[r], 0, p.columns * sizeof(float));
        mma_row(out[r], a[r], b, p.columns, inner);
    }
    auto of = std::find_if(g.accumulators.begin(), g.accumulators.end(), [&](auto &x) { return x.at[0] == p.d; });
    const int each = p.columns / 2;
    for (int t = 0; t < WARPGROUP; t++)
        for (int i = 0; i < each; i++) of->sum[t * each + i] += out[t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8][i / 4 * 8 + t % 4 * 2 + i % 2];
    if (--of->pending == 0) {
        for (int t = 0; t < WARPGROUP; t++) memcpy(of->at[t], &of->sum[t * each], each * sizeof(float));
        g.accumulators.erase(of);
    }
}

} // namespace

uint64_t descriptor(const void *start) {
    const size_t at = (const unsigned char *)start - m.shared;
    if (at >= m.shared_size || at % 1024 % 32 || at % 1024 >= 128) fail("wgmma: want an operand at a multiple of 1,024 bytes of shared memory, plus 0, 32, 64 or 96; got byte %zu", at);
    return at >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | SWIZZLE_128 << 62;
}

uint64_t descriptor_t(const void *start, uint32_t leading) {
    const size_t at = (const unsigned char *)start - m.shared;
    if (at >= m.shared_size || at % 1024 || leading % 16) fail("wgmma: want an N-major operand at a multiple of 1,024 bytes of shared memory, got byte %zu", at);
    return at >> 4 | uint64_t(leading >> 4) << 16 | uint64_t(1024 >> 4) << 32 | SWIZZLE_128 << 62;
}

void wgmma_fence() {
    meet_group("wgmma.fence", nullptr, [](void **) { own_group().fenced = true; });
}

namespace {

struct Issue {
    float *d;
    int columns;
    uint64_t a, b;
    const uint32_t *rows; // a in registers; null: K-major in shared memory, as b is
    bool across;          // b is N-major
    bool keep;
    bool codes; // a and b are e4m3
};

void issue(const Issue &args) {
    meet_group("wgmma", (void *)&args, [](void **by) {
        Group &g = own_group();
        const Issue &one = *(Issue *)by[0];
        const int each = one.columns / 2;
        if (!g.fenced) fail("wgmma: wgmma.fence is missing");
        if (one.columns % 8 || one.columns < 8 || one.columns > 256) fail("wgmma: want 8 to 256 columns, got %d", one.columns);
        for (uint64_t x : {one.rows ? one.b : one.a, one.b})
            if (x >> 62 != SWIZZLE_128) fail("wgmma: only operands with the 128-byte swizzle are known here, got descriptor %llx", (unsigned long long)x);
        auto of = std::find_if(g.accumulators.begin(), g.accumulators.end(), [&](auto &x) { return x.at[0] == one.d; });
        if (of == g.accumulators.end()) { // the registers are the tensor core's from here until the wait
            g.accumulators.push_back({});
            of = g.accumulators.end() - 1;
            of->sum.resize(WARPGROUP * each);
            for (int t = 0; t < WARPGROUP; t++) {
                of->at[t] = ((Issue *)by[t])->d;
                if (one.keep) memcpy(&of->sum[t * each], of->at[t], each * sizeof(float));
                memset(of->at[t], 0xff, each * sizeof(float));
            }
        } else {
            if (!one.keep) fail("wgmma: a product overwrites one that is under way");
            for (int t = 0; t < WARPGROUP; t++)
                for (int i = 0; i < each; i++)
                    if (unsigned v; memcpy(&v, of->at[t] + i, 4), v != ~0u) fail("wgmma: thread %d wrote to accumulators before the wait", t);
        }
        Product p{one.d, one.columns, one.a, one.b, {}, {}, one.across, one.codes, false};
        for (int t = 0; t < WARPGROUP; t++) {
            const Issue &x = *(Issue *)by[t];
            if (x.columns != one.columns || x.a != one.a || x.b != one.b || !x.rows != !one.rows || x.across != one.across || x.codes != one.codes) fail("wgmma: threads come with different shapes or descriptors");
            p.rows[t] = x.rows;
            if (x.rows) memcpy(p.held[t], x.rows, 16);
        }
        of->pending++;
        g.products.push_back(p);
    });
}

} // namespace

void wgmma(float *d, int columns, uint64_t a, uint64_t b, bool keep) { issue({d, columns, a, b, nullptr, false, keep, false}); }
void wgmma_rows(float *d, int columns, const uint32_t *a, uint64_t b, bool across) { issue({d, columns, 0, b, a, across, true, false}); }
void wgmma_e4m3_rows(float *d, int columns, const uint32_t *a, uint64_t b, bool keep) { issue({d, columns, 0, b, a, false, keep, true}); }

void wgmma_commit() {
    meet_group("wgmma.commit_group", nullptr, [](void **) {
        Group &g = own_group();
        if (!g.products.empty()) g.products.back().last = true;
    });
}

void wgmma_wait(int keep) {
    struct A {
        int keep;
    } args{keep};
    meet_group("wgmma.wait_group", &args, [](void **by) {
        Group &g = own_group();
        const int keep = ((A *)by[0])->keep;
        int groups = 0;
        for (const Product &p : g.products) groups += p.last;
        size_t n = 0;
        for (; n < g.products.size() && groups > keep; n++) {
            compute(g, g.products[n]);
            groups -= g.products[n].last;
        }
        g.products.erase(g.products.begin(), g.products.begin() + n);
        if (keep == 0) g.fenced = false;
    });
}

} // namespace emu
