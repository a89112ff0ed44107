// The machine: fibers, warps, barriers, asynchronous copies, tensor cores.
#include "emu.h"
#include "ptx.h"

#include <csetjmp>
#include <cstdarg>
#include <deque>
#include <random>
#include <sys/mman.h>
#include <vector>

#ifndef __x86_64__
#error "the fibers are written for x86-64"
#endif

namespace emu {

thread_local dim3 thread, block, block_size, grid_size;

namespace {

constexpr size_t STACK = 256 << 10;
constexpr int LANES = 32, WARPGROUP = 128;

struct Copy { void *dst; const void *src; bool valid; bool last; }; // last of its group

struct Fiber {
    void *sp;
    unsigned char *stack;
    dim3 id;
    int number; // within the block
    bool done;
    std::deque<Copy> copies; // cp.async, not there yet
};

// Meeting is one collective operation of some threads in progress.
struct Meeting {
    const char *kind = nullptr;
    std::vector<void *> arguments;
    uint32_t arrived = 0, mask = 0; // of a warp
    int count = 0;
    uint64_t round = 0;
};

struct Bulk { void *dst; const void *src; uint32_t bytes; uint64_t *bar; int delay; };
struct Product { std::vector<float *> d; int columns; uint64_t a, b; bool last; };

struct Barrier { int arrived = 0; uint64_t round = 0; };

struct Machine {
    std::vector<Fiber> fibers;
    std::vector<Meeting> warps, groups;
    std::vector<std::deque<Product>> products; // by warpgroup
    Barrier barriers[16];
    std::deque<Bulk> bulks;
    int threads = 0, running = 0;
    Fiber *current = nullptr;
    void *scheduler = nullptr;
    uint64_t moves = 0; // counts everything that happened: none in a round of all fibers is a deadlock
    unsigned char *shared = nullptr;
    size_t shared_size = 0;
    int votes = 0;
    const void *params = nullptr;
    void (*run)(const void *) = nullptr;
    const char *name = "";
    std::mt19937_64 random;
    bool shuffled = false;
    std::string error;
    jmp_buf out;
};
thread_local Machine *m;

extern "C" void emu_switch(void **save, void *to);
asm(R"(
    .text
    .type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_switch,.-emu_switch
)");

void fiber_main() {
    m->run(m->params);
    Fiber &f = *m->current;
    f.done = true;
    m->running--;
    m->moves++;
    for (;;) emu_switch(&f.sp, m->scheduler);
}

void prepare(Fiber &f) {
    void **top = (void **)(f.stack + STACK);
    *--top = nullptr; // alignment: the stack of fiber_main looks as after a call
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f.sp = top;
    f.done = false;
    f.copies.clear();
}

void resume(Fiber &f) {
    m->current = &f;
    thread = f.id;
    emu_switch(&m->scheduler, f.sp);
}

void arrive(uint64_t *bar, int arrivals, int64_t bytes);

// settle lets bulk copies arrive: all, or in test mode some, in any order.
void settle() {
    if (m->shuffled) std::shuffle(m->bulks.begin(), m->bulks.end(), m->random);
    for (size_t n = m->bulks.size(); n > 0; n--) {
        Bulk b = m->bulks.front();
        m->bulks.pop_front();
        if (m->shuffled && b.delay-- > 0) {
            m->bulks.push_back(b);
            m->moves++;
            continue;
        }
        memcpy(b.dst, b.src, b.bytes);
        arrive(b.bar, 0, -int64_t(b.bytes));
        m->moves++;
    }
}

void run_block() {
    for (auto &f : m->fibers) prepare(f);
    m->running = m->threads;
    for (auto &w : m->warps) w = Meeting{};
    for (auto &g : m->groups) g = Meeting{};
    for (auto &p : m->products) p.clear();
    for (auto &b : m->barriers) b = Barrier{};
    m->bulks.clear();
    if (m->shared_size) memset(m->shared, 0xff, m->shared_size);
    const int warps = (m->threads + LANES - 1) / LANES;
    std::vector<int> order(warps);
    for (int i = 0; i < warps; i++) order[i] = i;
    while (m->running > 0) {
        const uint64_t before = m->moves;
        if (m->shuffled) std::shuffle(order.begin(), order.end(), m->random);
        for (int w : order) {
            if (m->shuffled && m->random() % 4 == 0) {
                m->moves++; // it lags behind
                continue;
            }
            for (int pass = 0; pass < (m->shuffled ? 1 + int(m->random() % 64) : 64); pass++) { // while the warp itself moves
                const uint64_t then = m->moves;
                for (int l = 0; l < LANES && w * LANES + l < m->threads; l++) {
                    Fiber &f = m->fibers[w * LANES + l];
                    if (!f.done) resume(f);
                }
                if (m->moves == then) break;
            }
        }
        settle();
        if (m->moves == before && m->running > 0) {
            std::string where;
            for (int w = 0; w < warps; w++) {
                int waiting = 0;
                for (int l = 0; l < LANES && w * LANES + l < m->threads; l++) waiting += !m->fibers[w * LANES + l].done;
                if (waiting) where += " warp " + std::to_string(w) + ": " + std::to_string(waiting) + " wait" + (m->warps[w].kind ? std::string(" at ") + m->warps[w].kind : "") + ";";
            }
            fail("deadlock:%s", where.c_str());
        }
    }
    if (!m->bulks.empty()) fail("the block ended before %zu of its bulk copies arrived", m->bulks.size());
}

} // namespace

void fail(const char *format, ...) {
    char text[512], all[768];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(all, sizeof all, "%s, block %u %u: %s", m->name, block.x, block.y, text);
    m->error = all;
    longjmp(m->out, 1);
}

void yield() { emu_switch(&m->current->sp, m->scheduler); }
int lane() { return m->current->number % LANES; }
int group() { return m->current->number / WARPGROUP; }
unsigned char *dynamic_shared() { return m->shared; }

static void meet(Meeting &at, const char *kind, int place, int places, uint32_t mask, void *arguments, const std::function<void(void **)> &work) {
    while (at.kind && at.kind != kind && strcmp(at.kind, kind)) { // others are at another operation: only an error if they never leave it
        yield();
    }
    if (!at.kind) {
        at.kind = kind;
        at.arguments.assign(places, nullptr);
        at.count = 0;
        at.mask = mask;
    }
    if (at.mask != mask) fail("%s: lanes with masks %08x and %08x meet", kind, at.mask, mask);
    at.arguments[place] = arguments;
    at.count++;
    m->moves++;
    if (at.count == places) {
        work(at.arguments.data());
        at.kind = nullptr;
        at.round++;
        return;
    }
    const uint64_t round = at.round;
    while (at.round == round) yield();
}

void collective(const char *kind, uint32_t mask, void *arguments, const std::function<void(void **)> &work) {
    if (mask != 0xffffffffu) fail("%s: want all lanes, got mask %08x", kind, mask);
    meet(m->warps[m->current->number / LANES], kind, lane(), LANES, mask, arguments, work);
}

void collective_group(const char *kind, void *arguments, const std::function<void(void **)> &work) {
    meet(m->groups[group()], kind, m->current->number % WARPGROUP, WARPGROUP, 0, arguments, work);
}

void barrier(int id, int threads) {
    Barrier &b = m->barriers[id];
    const uint64_t round = b.round;
    b.arrived++;
    m->moves++;
    for (;;) {
        if (b.round != round) return;
        if (b.arrived >= (threads ? threads : m->running)) { // threads that have ended do not count
            b.arrived = 0;
            b.round++;
            m->moves++;
            return;
        }
        yield();
    }
}

} // namespace emu

using namespace emu;

int __syncthreads_or(int v) {
    __syncthreads();
    if (v) m->votes = 1;
    __syncthreads();
    const int result = m->votes;
    __syncthreads();
    m->votes = 0;
    return result;
}

void __syncwarp(unsigned mask) {
    collective("syncwarp", mask, nullptr, [](void **) {});
}

unsigned __ballot_sync(unsigned mask, bool v) {
    struct A { bool v; unsigned out; } a{v, 0};
    collective("ballot", mask, &a, [](void **by) {
        unsigned out = 0;
        for (int l = 0; l < 32; l++) out |= unsigned(((A *)by[l])->v) << l;
        for (int l = 0; l < 32; l++) ((A *)by[l])->out = out;
    });
    return a.out;
}

bool __any_sync(unsigned mask, bool v) { return __ballot_sync(mask, v) != 0; }

unsigned __match_any_sync(unsigned mask, int v) {
    struct A { int v; unsigned out; } a{v, 0};
    collective("match_any", mask, &a, [](void **by) {
        for (int l = 0; l < 32; l++)
            for (int k = 0; k < 32; k++) ((A *)by[l])->out |= unsigned(((A *)by[l])->v == ((A *)by[k])->v) << k;
    });
    return a.out;
}

unsigned shuffle(const char *kind, unsigned mask, unsigned v, int source) {
    struct A { unsigned v, out; int source; } a{v, 0, source};
    collective(kind, mask, &a, [](void **by) {
        for (int l = 0; l < 32; l++) {
            A *x = (A *)by[l];
            x->out = x->source < 0 || x->source > 31 ? x->v : ((A *)by[x->source])->v;
        }
    });
    return a.out;
}

namespace emu {

// ---- asynchronous copies of a thread ----

static void do_copy(const Copy &c) {
    if (c.valid) memcpy(c.dst, c.src, 16);
    else memset(c.dst, 0, 16);
}

void async_copy(void *dst, const void *src, bool valid) {
    if (((uintptr_t)dst | (valid ? (uintptr_t)src : 0)) & 15) fail("cp.async: want addresses aligned to 16 bytes, got %p and %p", dst, src);
    m->current->copies.push_back({dst, src, valid, false});
}

void async_commit() {
    auto &q = m->current->copies;
    if (q.empty() || q.back().last) q.push_back({nullptr, nullptr, false, true}); // an empty group
    else q.back().last = true;
}

void async_wait(int keep) {
    auto &q = m->current->copies;
    int groups = 0;
    for (auto &c : q) groups += c.last;
    while (groups > keep) {
        const Copy c = q.front();
        q.pop_front();
        if (c.dst) do_copy(c);
        groups -= c.last;
    }
}

void async_arrive(uint64_t *bar) {
    for (auto &c : m->current->copies)
        if (c.dst) do_copy(c);
    m->current->copies.clear();
    arrive(bar, 1, 0);
}

// ---- barriers in shared memory: phase bit, expected arrivals, arrivals to come, bytes to come ----

namespace {
struct State { uint64_t phase : 1, expected : 12, pending : 12; int64_t bytes : 39; };
static_assert(sizeof(State) == 8);

void arrive(uint64_t *bar, int arrivals, int64_t bytes) {
    State s;
    memcpy(&s, bar, 8);
    s.bytes = s.bytes + bytes;
    if (arrivals > s.pending) fail("mbarrier: more arrivals than the %d it expects", int(s.expected));
    s.pending = s.pending - arrivals;
    if (s.pending == 0 && s.bytes == 0) {
        s.phase = !s.phase;
        s.pending = s.expected;
    }
    memcpy(bar, &s, 8);
    m->moves++;
}
} // namespace

void mbar_init(uint64_t *bar, uint32_t count) {
    State s{};
    s.expected = s.pending = count;
    memcpy(bar, &s, 8);
}

void mbar_arrive(uint64_t *bar, int64_t bytes) { arrive(bar, 1, bytes); }

void mbar_wait(uint64_t *bar, uint32_t parity) {
    for (;;) {
        State s;
        memcpy(&s, bar, 8);
        if (s.phase != parity) {
            m->moves++;
            return;
        }
        yield();
    }
}

void bulk(void *dst, const void *src, uint32_t bytes, uint64_t *bar) {
    if (((uintptr_t)dst | (uintptr_t)src | bytes) & 15) fail("bulk copy: want multiples of 16, got %p, %p, %u bytes", dst, src, bytes);
    if ((unsigned char *)dst < m->shared || (unsigned char *)dst + bytes > m->shared + m->shared_size) fail("bulk copy: %u bytes at %p lie outside the block's shared memory", bytes, dst);
    m->bulks.push_back({dst, src, bytes, bar, m->shuffled ? int(m->random() % 4) : 0});
}

// ---- tensor cores ----

static float bf(unsigned short v) { return __uint_as_float(unsigned(v) << 16); }

void ldmatrix(uint32_t *r, int matrices, const void *row, bool transpose) {
    struct A { const unsigned short *row; uint32_t *r; int matrices; bool transpose; } a{(const unsigned short *)row, r, matrices, transpose};
    if ((uintptr_t)row & 15) fail("ldmatrix: want an address aligned to 16 bytes, got %p", row);
    collective(transpose ? "ldmatrix.trans" : "ldmatrix", 0xffffffffu, &a, [](void **by) {
        const A &one = *(A *)by[0];
        for (int i = 0; i < one.matrices; i++)
            for (int l = 0; l < 32; l++) {
                unsigned v[2];
                for (int c = 0; c < 2; c++)
                    v[c] = one.transpose ? ((A *)by[8 * i + l % 4 * 2 + c])->row[l / 4] : ((A *)by[8 * i + l / 4])->row[l % 4 * 2 + c];
                ((A *)by[l])->r[i] = v[0] | v[1] << 16;
            }
    });
}

void mma(float *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
    struct A { float *d; const uint32_t *a; uint32_t b[2]; } args{d, a, {b0, b1}};
    collective("mma", 0xffffffffu, &args, [](void **by) {
        float x[16][16], y[8][16]; // y: column, k
        for (int l = 0; l < 32; l++) {
            const A &t = *(A *)by[l];
            const int g = l / 4, c = l % 4 * 2;
            for (int i = 0; i < 4; i++)
                for (int h = 0; h < 2; h++) x[g + i % 2 * 8][c + i / 2 * 8 + h] = bf((unsigned short)(t.a[i] >> 16 * h));
            for (int i = 0; i < 2; i++)
                for (int h = 0; h < 2; h++) y[g][c + i * 8 + h] = bf((unsigned short)(t.b[i] >> 16 * h));
        }
        for (int l = 0; l < 32; l++) {
            float *d = ((A *)by[l])->d;
            for (int i = 0; i < 4; i++) {
                const int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
                float sum = 0;
                for (int k = 0; k < 16; k++) sum += x[row][k] * y[column][k];
                d[i] += sum;
            }
        }
    });
}

uint64_t descriptor(const void *start) {
    if (((uintptr_t)start - (uintptr_t)m->shared) % 128 % 32 != 0) fail("wgmma: want an operand that starts at a multiple of 32 bytes");
    if (((uintptr_t)start - (uintptr_t)m->shared) % 1024 >= 128) fail("wgmma: want an operand within the first line of 1,024 aligned bytes");
    return uint64_t((uintptr_t)start);
}

// swizzled is value (row, k) of a 128-byte swizzled operand: the address's bits 4-6 are permuted by bits 7-9.
static float swizzled(uint64_t start, int row, int k) {
    const uintptr_t at = start + row / 8 * 1024 + row % 8 * 128 + k * 2;
    return bf(*(const unsigned short *)(at ^ (at >> 7 & 7) << 4));
}

static void compute(const Product &p) {
    static thread_local float a[64][16], b[256][16];
    for (int r = 0; r < 64; r++)
        for (int k = 0; k < 16; k++) a[r][k] = swizzled(p.a, r, k);
    for (int n = 0; n < p.columns; n++)
        for (int k = 0; k < 16; k++) b[n][k] = swizzled(p.b, n, k);
    for (int t = 0; t < WARPGROUP; t++)
        for (int j = 0; j < p.columns / 8; j++)
            for (int i = 0; i < 4; i++) {
                const int row = t / 32 * 16 + t % 32 / 4 + i / 2 * 8, column = j * 8 + t % 4 * 2 + i % 2;
                float sum = 0;
                for (int k = 0; k < 16; k++) sum += a[row][k] * b[column][k];
                p.d[t][4 * j + i] += sum;
            }
}

void wgmma(float *d, int columns, uint64_t a, uint64_t b) {
    struct A { float *d; int columns; uint64_t a, b; } args{d, columns, a, b};
    auto *queue = &m->products[group()];
    collective_group("wgmma", &args, [queue](void **by) {
        const A &one = *(A *)by[0];
        Product p{{}, one.columns, one.a, one.b, false};
        for (int t = 0; t < WARPGROUP; t++) p.d.push_back(((A *)by[t])->d);
        queue->push_back(p);
    });
}

void wgmma_commit() {
    auto *queue = &m->products[group()];
    collective_group("wgmma.commit", nullptr, [queue](void **) {
        if (!queue->empty()) queue->back().last = true;
    });
}

void wgmma_wait(int keep) {
    auto *queue = &m->products[group()];
    collective_group("wgmma.wait", nullptr, [queue, keep](void **) {
        int groups = 0;
        for (auto &p : *queue) groups += p.last;
        while (groups > keep) {
            compute(queue->front());
            groups -= queue->front().last;
            queue->pop_front();
        }
    });
}

// ---- launches ----

static Kernel *kernels;

Kernel::Kernel(const char *n, void (*r)(const void *), size_t s, int t) : name(n), run(r), size(s), threads(t), next(kernels) { kernels = this; }

Kernel *find(const char *name) {
    for (Kernel *k = kernels; k; k = k->next)
        if (!strcmp(k->name, name)) return k;
    return nullptr;
}

std::string launch(const Kernel *k, dim3 grid, int threads, size_t shared, const void *params) {
    if (!m) {
        m = new Machine;
        if (const char *seed = getenv("CHULENGO_EMU_SEED")) m->shuffled = true, m->random.seed(strtoull(seed, nullptr, 10));
        m->shared = (unsigned char *)mmap(nullptr, 256 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (shared > 227 << 10) return "too much shared memory";
    while (int(m->fibers.size()) < threads) {
        Fiber f{};
        f.stack = (unsigned char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        m->fibers.push_back(f);
    }
    if (int(m->fibers.size()) > threads) {
        for (size_t i = threads; i < m->fibers.size(); i++) munmap(m->fibers[i].stack, STACK);
        m->fibers.resize(threads);
    }
    for (int i = 0; i < threads; i++) m->fibers[i].id = {unsigned(i), 0, 0}, m->fibers[i].number = i;
    m->threads = threads;
    m->warps.resize((threads + 31) / 32);
    m->groups.resize((threads + WARPGROUP - 1) / WARPGROUP);
    m->products.resize(m->groups.size());
    m->shared_size = (shared + 1023) / 1024 * 1024;
    m->params = params;
    m->run = k->run;
    m->name = k->name;
    block_size = {unsigned(threads), 1, 1};
    grid_size = grid;
    std::vector<unsigned> blocks(grid.x * grid.y);
    for (size_t i = 0; i < blocks.size(); i++) blocks[i] = unsigned(i);
    if (m->shuffled) std::shuffle(blocks.begin(), blocks.end(), m->random);
    if (setjmp(m->out)) return m->error;
    for (unsigned b : blocks) {
        block = {b % grid.x, b / grid.x, 0};
        run_block();
    }
    return "";
}

} // namespace emu
