// Runs one kernel of right.cu or wrong.cu through the emulated driver: emutest NAME. It compares the results of right.cu with
// plain loops; for wrong.cu it prints the first word of the output. CHULENGO_EMU_SEED turns on test mode.
#include "emu.h"

#include <functional>
#include <map>
#include <random>
#include <vector>

extern "C" {
int cuMemAlloc_v2(uint64_t *, size_t);
int cuMemFree_v2(uint64_t);
int cuMemcpyHtoD_v2(uint64_t, const void *, size_t);
int cuMemcpyDtoH_v2(void *, uint64_t, size_t);
int cuMemHostAlloc(void **, size_t, unsigned);
int cuMemcpyHtoDAsync_v2(uint64_t, const void *, size_t, void *);
int cuMemcpyDtoHAsync_v2(void *, uint64_t, size_t, void *);
int cuMemsetD8Async(uint64_t, unsigned char, size_t, void *);
int cuModuleGetFunction(void **, void *, const char *);
int cuFuncSetAttribute(void *, int, int);
int cuStreamCreate(void **, unsigned);
int cuStreamSynchronize(void *);
int cuStreamBeginCapture_v2(void *, int);
int cuStreamEndCapture(void *, void **);
int cuGraphInstantiateWithFlags(void **, void *, uint64_t);
int cuGraphLaunch(void *, void *);
int cuEventCreate(void **, unsigned);
int cuEventRecord(void *, void *);
int cuStreamWaitEvent(void *, void *, unsigned);
int cuLaunchKernelEx(const void *, void *, void **, void **);
int cuGetErrorName(int, const char **);
}

struct Params { uint64_t a, b, out; int n; };
struct Attribute { int id; int pad; int value[16]; };
struct Config { unsigned gx, gy, gz, bx, by, bz, shared; void *stream; Attribute *attributes; unsigned count; };

static void check(int code) {
    if (!code) return;
    const char *name = "?";
    cuGetErrorName(code, &name);
    printf("%s\n", name);
    exit(1);
}

static std::mt19937 randomness(1);
using Halves = std::vector<unsigned short>;

static uint64_t device(const void *data, size_t bytes) {
    uint64_t p;
    check(cuMemAlloc_v2(&p, bytes));
    if (data) check(cuMemcpyHtoD_v2(p, data, bytes));
    return p;
}

// A launch, in a stream; the second of two if dependent.
static void launch(const char *name, unsigned threads, const Params &p, void *stream = nullptr, unsigned blocks = 1, unsigned rows = 1, bool dependent = false) {
    void *f;
    check(cuModuleGetFunction(&f, nullptr, name));
    check(cuFuncSetAttribute(f, 8, 227 << 10));
    Attribute attribute{6, 0, {1}};
    size_t size = sizeof p;
    void *extra[] = {(void *)1, (void *)&p, (void *)2, &size, nullptr};
    const Config c{blocks, rows, 1, threads, 1, 1, 160 << 10, stream, &attribute, dependent ? 1u : 0u};
    check(cuLaunchKernelEx(&c, f, nullptr, extra));
}

template <typename T> static std::vector<T> result(uint64_t p, size_t n) {
    std::vector<T> out(n);
    check(cuMemcpyDtoH_v2(out.data(), p, n * sizeof(T)));
    return out;
}

template <typename T> static void compare(const std::vector<T> &got, const std::vector<T> &want) {
    for (size_t i = 0; i < want.size(); i++)
        if (!(got[i] == want[i])) {
            printf("value %zu: got %g, want %g\n", i, double(got[i]), double(want[i]));
            exit(1);
        }
}

// Small whole numbers: their products and sums are exact in any order.
static Halves matrix(int rows, int columns) {
    Halves m(size_t(rows) * columns);
    for (auto &v : m) v = __float2bfloat16_rn(float(int(randomness() % 17) - 8)).x;
    return m;
}
static float value(unsigned short v) { return __bfloat162float({v}); }

// product is a [M, K] · b [N, K]ᵀ.
static std::vector<float> product(const Halves &a, const Halves &b, int M, int N, int K) {
    std::vector<float> d(M * N);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++)
            for (int k = 0; k < K; k++) d[i * N + j] += value(a[i * K + k]) * value(b[j * K + k]);
    return d;
}

// tiles is a matrix [rows, K] as tiles [K/64][rows] of lines of 128 bytes, 16-byte pieces swizzled by the line.
static Halves tiles(const Halves &m, int rows, int K) {
    Halves out(m.size());
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < K; k++) {
            const int piece = k % 64 / 8 ^ r % 8;
            out[(k / 64 * rows + r) * 64 + piece * 8 + k % 8] = m[r * K + k];
        }
    return out;
}

static void wgmma(int N) {
    const int n = 5, K = n * 64;
    const Halves a = matrix(64, K), b = matrix(N, K), x = tiles(a, 64, K), y = tiles(b, N, K);
    const uint64_t out = device(nullptr, 64 * N * 4);
    launch(("wgmma_" + std::to_string(N)).c_str(), 160, {device(x.data(), x.size() * 2), device(y.data(), y.size() * 2), out, n});
    compare(result<float>(out, 64 * N), product(a, b, 64, N, K));
}

static void transposed() {
    const Halves a = matrix(64, 64), b = matrix(64, 128), x = tiles(b, 64, 128);
    Halves turned(128 * 64); // [N, K], as product wants it
    for (int k = 0; k < 64; k++)
        for (int n = 0; n < 128; n++) turned[n * 64 + k] = b[k * 128 + n];
    const uint64_t out = device(nullptr, 64 * 128 * 4);
    launch("transposed", 128, {device(a.data(), a.size() * 2), device(x.data(), x.size() * 2), out, 1});
    compare(result<float>(out, 64 * 128), product(a, turned, 64, 128, 64));
}

// number is what an e4m3 code is worth: 1, or without an exponent 0, and eighths, times a power of 2.
static float number(int code) {
    const int exponent = code / 8 % 16;
    const float v = std::ldexp(((exponent ? 8 : 0) + code % 8) / 8.0f, std::max(exponent, 1) - 7);
    return code & 128 ? -v : v;
}

static void codes() {
    std::vector<unsigned char> a(64 * 128), b(32 * 128), x(b.size());
    for (auto *m : {&a, &b})
        for (auto &c : *m) c = randomness() & 0xbf; // numbers below 2, whose sums, below 64, are exact
    std::vector<float> want(64 * 32);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 32; j++)
            for (int k = 0; k < 128; k++) want[i * 32 + j] += number(a[i * 128 + k]) * number(b[j * 128 + k]);
    for (int r = 0; r < 32; r++)
        for (int k = 0; k < 128; k++) x[r * 128 + (k / 16 ^ r % 8) * 16 + k % 16] = b[r * 128 + k];
    const uint64_t out = device(nullptr, 64 * 32 * 4);
    launch("codes", 128, {device(a.data(), a.size()), device(x.data(), x.size()), out, 1});
    compare(result<float>(out, 64 * 32), want);
}

// nearest: every code, the middle between it and the next (even wins), and the numbers beside that.
static void nearest() {
    std::vector<float> v;
    std::vector<int> want;
    const auto add = [&](float x, int code) { v.push_back(x), want.push_back(code | (code ^ 128) << 8); };
    for (int c = 0; c < 126; c++) {
        const float middle = (number(c) + number(c + 1)) / 2;
        add(number(c), c), add(middle, c + c % 2), add(std::nextafterf(middle, 0), c), add(std::nextafterf(middle, 500), c + 1);
    }
    for (float x : {448.0f, 449.0f, 464.0f, 1e30f, INFINITY}) add(x, 126);
    const uint64_t out = device(nullptr, v.size() * 4);
    launch("nearest", 128, {device(v.data(), v.size() * 4), 0, out, int(v.size())});
    compare(result<int>(out, v.size()), want);
}

static void sums(const char *name, int threads, int skip) {
    const int n = 23;
    std::vector<int> rows(n * 128), want(128);
    for (auto &v : rows) v = int(randomness() % 1000);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 128; j++) want[j] += i % 3 == skip ? 0 : rows[i * 128 + j];
    const uint64_t out = device(nullptr, 512);
    launch(name, threads, {device(rows.data(), rows.size() * 4), 0, out, n});
    compare(result<int>(out, 128), want);
}

static void lanes() {
    std::vector<int> v(64), want(64);
    for (auto &x : v) x = int(randomness() % 10);
    for (int i = 0; i < 64; i++) {
        const int *w = &v[i / 32 * 32], l = i % 32;
        int odd = 0, seven = 0, same = 0, half = 0, most = 0, all_odd = 0, three = 0;
        for (int k = 0; k < 32; k++) odd += w[k] & 1, seven |= w[k] == 7, same += w[k] % 4 == w[l] % 4, half += k / 16 == l / 16 ? w[k] : 0, most = std::max(most, w[k]);
        for (int x : v) all_odd += x & 1, three |= x == 3;
        want[i] = w[l ^ 5] * 3 + w[l < 2 ? l : l - 2] * 5 + w[l > 28 ? l : l + 3] * 7 + w[9] * 11 + odd * 13 + seven * 17 + 19 + same * 23 + half * 29 + most * 31 + all_odd * 37 + three * 41 + 43;
    }
    const uint64_t out = device(nullptr, 256);
    launch("lanes", 64, {device(v.data(), 256), 0, out, 0});
    compare(result<int>(out, 64), want);
}

// streams: copies and a replayed graph on two streams, ordered by an event, through one pinned buffer.
static void streams() {
    void *s[2], *graph, *exec, *event, *memory;
    const int n = 9;
    for (auto &x : s) check(cuStreamCreate(&x, 1));
    check(cuEventCreate(&event, 0));
    check(cuMemHostAlloc(&memory, n * 512, 0));
    int *host = (int *)memory;
    const uint64_t in = device(nullptr, n * 512), out = device(nullptr, 512);
    check(cuStreamBeginCapture_v2(s[1], 0));
    launch("pipeline", 160, {in, 0, out, n}, s[1]);
    check(cuStreamEndCapture(s[1], &graph));
    check(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int round = 0; round < 3; round++) {
        std::vector<int> want(128);
        for (int i = 0; i < n * 128; i++) host[i] = int(randomness() % 1000), want[i % 128] += host[i];
        check(cuMemcpyHtoDAsync_v2(in, host, n * 512, s[0]));
        check(cuEventRecord(event, s[0]));
        check(cuStreamWaitEvent(s[1], event, 0));
        check(cuGraphLaunch(exec, s[1]));
        check(cuMemcpyDtoHAsync_v2(host, out, 512, s[1]));
        check(cuStreamSynchronize(s[1]));
        compare(std::vector<int>(host, host + 128), want);
    }
}

// unordered: the same without the event; host memory is read by a copy that may not have run. Prints whether it went well.
static void unordered() {
    void *s, *memory;
    check(cuStreamCreate(&s, 1));
    check(cuMemHostAlloc(&memory, 4, 0));
    *(int *)memory = 1;
    const uint64_t p = device(nullptr, 4);
    check(cuMemcpyHtoDAsync_v2(p, memory, 4, s));
    *(int *)memory = 2; // too early: the copy may not have read it
    check(cuStreamSynchronize(s));
    printf("%d\n", result<int>(p, 1)[0]);
}

static void blocks() {
    const int zero = 0;
    const uint64_t out = device(&zero, 4);
    launch("blocks", 32, {0, 0, out, 0}, nullptr, 7, 3);
    compare(result<int>(out, 1), {20 * 21 / 2});
}

static void turns() {
    const int n = 32;
    std::vector<int> want(n);
    for (int i = 0; i < n; i++) want[i] = i % 4;
    const uint64_t out = device(nullptr, n * 4);
    launch("turns", 128, {0, 0, out, n});
    compare(result<int>(out, n), want);
}

static void mma() {
    const Halves a = matrix(16, 16), b = matrix(8, 16);
    const uint64_t out = device(nullptr, 512);
    launch("mma", 32, {device(a.data(), 512), device(b.data(), 256), out, 0});
    compare(result<float>(out, 128), product(a, b, 16, 8, 16));
}

static void mma_s8() {
    std::vector<int8_t> a(16 * 32), b(8 * 32);
    for (auto *m : {&a, &b})
        for (size_t i = 0; i < m->size(); i++) (*m)[i] = int8_t(i * i * 37 + i * 11 + (m == &a) * 5);
    std::vector<int> want;
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            want.push_back(row * 8 + column); // what was there before
            for (int k = 0; k < 32; k++) want.back() += a[row * 32 + k] * b[column * 32 + k];
        }
    const uint64_t out = device(nullptr, 512);
    launch("mma_s8_tile", 32, {device(a.data(), a.size()), device(b.data(), b.size()), out, 0});
    compare(result<int>(out, 128), want);
}

static void transpose() {
    const Halves a = matrix(16, 16);
    std::vector<int> want;
    for (int i = 0; i < 256; i++) want.push_back(a[i % 16 * 16 + i / 16]);
    const uint64_t out = device(nullptr, 512);
    launch("transpose", 32, {device(a.data(), 512), 0, out, 0});
    const auto got = result<unsigned short>(out, 256);
    compare(std::vector<int>(got.begin(), got.end()), want);
}

int main(int count, char **words) {
    const std::string name = count > 1 ? words[1] : "";
    static const std::map<std::string, std::function<void()>> right = {
        {"mma", mma}, {"mma_s8", mma_s8}, {"transpose", transpose}, {"lanes", lanes}, {"turns", turns}, {"blocks", blocks}, {"streams", streams}, {"unordered", unordered},
        {"transposed", transposed}, {"codes", codes}, {"nearest", nearest}, {"pipeline", [] { sums("pipeline", 160, -1); }}, {"copies", [] { sums("copies", 64, 2); }}};
    auto it = right.find(name);
    if (it != right.end()) it->second();
    else if (name.rfind("wgmma_", 0) == 0) wgmma(atoi(name.c_str() + 6));
    else {
        const std::vector<char> zeros(64);
        const uint64_t a = device(zeros.data(), 64), b = device(zeros.data(), 64), out = device(zeros.data(), 16);
        if (name == "freed") check(cuMemFree_v2(b));
        const emu::Kernel *k = emu::find(name.c_str());
        void *stream;
        check(cuStreamCreate(&stream, 1));
        if (name == "no_dependency_wait") launch("race_not", 64, {a, b, out, 16}, stream);
        launch(name.c_str(), k ? k->threads : 32, {a, b, out, 16}, stream, 1, 1, name == "no_dependency_wait");
        check(cuStreamSynchronize(stream));
        printf("%g\n", result<float>(out, 1)[0]);
    }
}
