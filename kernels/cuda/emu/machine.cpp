// Fibers, blocks and launches.
#include "machine.h"

#include <cstdarg>
#include <csignal>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the fibers are written for x86-64"
#endif

namespace emu {

dim3 thread, block, block_size, grid_size;
Machine m;

namespace {

constexpr size_t STACK = 128 << 10;
constexpr uint64_t PATIENCE = 20000000; // yields in which nothing happens

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

unsigned char *guarded(size_t bytes) { // with unmapped pages before and behind
    const size_t page = sysconf(_SC_PAGESIZE);
    unsigned char *p = (unsigned char *)mmap(nullptr, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p + page, bytes, PROT_READ | PROT_WRITE)) {
        perror("emulated GPU: memory");
        abort();
    }
    return p + page;
}

void *begin(unsigned char *stack, void (*entry)()) { // a stack pointer at which emu_switch enters a function
    void **top = (void **)(stack + STACK);
    *--top = nullptr; // alignment: as after a call
    *--top = (void *)entry;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    return top;
}

void run_on(void **save, Fiber &f) {
    m.current = &f;
    thread.x = f.number;
    emu_switch(save, f.sp);
}

// leave switches from the current fiber to another ready lane of its warp, or to the scheduler.
void leave(bool others) {
    Fiber &f = *m.current;
    uint32_t ready = others ? warp().ready & ~(1u << f.number % LANES) : 0;
    if (!ready || chance(8)) {
        emu_switch(&f.sp, m.scheduler);
    } else {
        int lane = __builtin_ctz(ready);
        if (m.shuffled)
            for (int skip = m.random() % __builtin_popcount(ready); skip >= 0; skip--, ready &= ready - 1) lane = __builtin_ctz(ready);
        run_on(&f.sp, m.fibers[f.number / LANES * LANES + lane]);
    }
}

void end_of_thread();

void fiber_main() {
    m.kernel->run(m.params);
    end_of_thread();
}

// where says what every thread that has not ended waits for.
std::string where() {
    std::string text;
    for (int w = 0; w * LANES < m.threads; w++) {
        std::vector<std::pair<std::string, int>> counts;
        for (int l = 0; l < LANES && w * LANES + l < m.threads; l++) {
            const Fiber &f = m.fibers[w * LANES + l];
            const std::string what = f.done ? "have ended" : f.waiting ? std::string("wait at ") + f.waiting : "run";
            auto it = std::find_if(counts.begin(), counts.end(), [&](auto &c) { return c.first == what; });
            if (it == counts.end()) counts.push_back({what, 1});
            else it->second++;
        }
        text += " warp " + std::to_string(w) + ":";
        for (size_t i = 0; i < counts.size(); i++) text += (i ? ", " : " ") + std::to_string(counts[i].second) + " " + counts[i].first;
        text += ";";
    }
    return text;
}

void end_of_thread() {
    Fiber &f = *m.current;
    async_wait(0); // what was copied arrives even if nobody waits
    f.done = true;
    m.running--;
    Warp &w = warp();
    w.alive &= ~(1u << f.number % LANES);
    w.ready &= ~(1u << f.number % LANES);
    for (;;) leave(true);
}

bool block_loop(); // false: it waits for another GPU

// The scheduler has a stack of its own; a fault leaves it for home at any time.
void scheduler_main() {
    m.waited = false;
    auto &blocks = m.rest->blocks; // those to do, the last one first
    if (!m.rest->begun) {
        m.rest->begun = true;
        blocks.resize(size_t(grid_size.x) * grid_size.y);
        for (size_t i = 0; i < blocks.size(); i++) blocks[i] = unsigned(blocks.size() - 1 - i);
        if (m.shuffled) std::shuffle(blocks.begin(), blocks.end(), m.random);
    }
    for (size_t stuck = 0; stuck < blocks.size();) {
        block = {blocks.back() % grid_size.x, blocks.back() / grid_size.x, 0};
        if (block_loop()) stuck = 0;
        else stuck++, blocks.insert(blocks.begin(), blocks.back()); // the others first
        blocks.pop_back();
    }
    if (!blocks.empty()) {
        m.code = PARKED;
        emu_switch(&m.scheduler, m.home);
    }
    // A block without work may end at once; the kernel as a whole must not end before its predecessor.
    if (m.dependent && !m.waited) fail("the kernel was launched to begin before its predecessor has ended, and ended without griddepcontrol.wait");
    emu_switch(&m.scheduler, m.home);
}

extern "C" unsigned char __start_emu_shared[] __attribute__((weak, visibility("hidden"))), __stop_emu_shared[] __attribute__((weak, visibility("hidden")));

bool block_loop() {
    m.running = m.threads;
    m.bulks.clear();
    m.waiters.clear();
    m.unfenced_init = m.waits_for_peer = false;
    m.idle = 0;
    memset(m.barriers, 0, sizeof m.barriers);
    memset(m.shared, 0xff, m.shared_size);
    memset(m.shadow, 0xff, m.shared_size);
    memset(__start_emu_shared, 0xff, __stop_emu_shared - __start_emu_shared);
    const int warps = (m.threads + LANES - 1) / LANES;
    for (int w = 0; w < warps; w++) {
        Warp &x = m.warps[w];
        x.alive = x.ready = m.threads - w * LANES >= LANES ? ~0u : (1u << (m.threads - w * LANES)) - 1;
        for (Meeting &at : x.meetings) at.kind = nullptr;
    }
    for (auto &g : m.groups) {
        g.meeting.kind = nullptr;
        g.fenced = false;
        g.products.clear();
        g.accumulators.clear();
    }
    for (int i = 0; i < m.threads; i++) {
        Fiber &f = m.fibers[i];
        f.sp = begin(f.stack, fiber_main);
        f.number = i;
        f.done = false;
        f.waiting = nullptr;
        f.copies.clear();
    }
    for (m.turn = 0; m.running > 0;) {
        if (!m.bulks.empty() && chance(4)) land(m.random() % m.bulks.size());
        int found = -1;
        const int from = m.shuffled ? int(m.random() % warps) : m.turn;
        for (int i = 0; i < warps && found < 0; i++)
            if (m.warps[(from + i) % warps].ready) found = (from + i) % warps;
        if (found >= 0) {
            m.turn = found + 1;
            uint32_t ready = m.warps[found].ready;
            int lane = __builtin_ctz(ready);
            if (m.shuffled)
                for (int skip = m.random() % __builtin_popcount(ready); skip >= 0; skip--, ready &= ready - 1) lane = __builtin_ctz(ready);
            run_on(&m.scheduler, m.fibers[found * LANES + lane]);
        } else if (!m.bulks.empty()) { // they come when nothing else can happen
            land(m.shuffled ? m.random() % m.bulks.size() : 0);
        } else if (m.waits_for_peer) {
            return false;
        } else {
            fail("deadlock:%s", where().c_str());
        }
    }
    if (!m.bulks.empty()) fail("the block ended before %zu of its bulk copies arrived", m.bulks.size());
    return true;
}

// A fault of memory, on the thread that runs the launch, ends the launch; others go to whoever handled them before.
pid_t launcher;
struct sigaction before[2];
void *fault_stack;
void (*describe_fault)(const void *address, char *text, size_t size);
const void *fault_address;

void abandon() {
    char text[256] = "an address that is not aligned, or not one at all";
    if (fault_address && describe_fault) describe_fault(fault_address, text, sizeof text);
    m.code = ILLEGAL_ADDRESS;
    fail("memory fault: %s", text);
}

void on_fault(int signal, siginfo_t *info, void *context) {
    if (gettid() != launcher) {
        const struct sigaction &old = before[signal == SIGBUS];
        if (old.sa_flags & SA_SIGINFO) return old.sa_sigaction(signal, info, context);
        sigaction(signal, &old, nullptr); // the default: comes again at once
        return;
    }
    fault_address = info->si_code == SI_KERNEL ? nullptr : info->si_addr;
    auto &registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    registers[REG_RSP] = greg_t((unsigned char *)fault_stack + STACK - 8);
    registers[REG_RIP] = greg_t(abandon);
}

void handle_faults(bool on) {
    const int signals[2] = {SIGSEGV, SIGBUS};
    if (on) launcher = gettid();
    for (int i = 0; i < 2; i++) {
        struct sigaction a {};
        a.sa_sigaction = on_fault;
        a.sa_flags = SA_SIGINFO | SA_ONSTACK;
        if (on) sigaction(signals[i], &a, &before[i]);
        else sigaction(signals[i], &before[i], nullptr);
    }
}

Kernel *kernels;

} // namespace

void fail(const char *format, ...) {
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char place[256];
    snprintf(place, sizeof place, "%s, block %u %u: ", m.kernel->name, block.x, block.y);
    m.error = std::string(place) + text;
    if (!m.code) m.code = LAUNCH_FAILED;
    void *nowhere;
    emu_switch(&nowhere, m.home);
    abort();
}

void block_on(const char *what) {
    Fiber &f = *m.current;
    f.waiting = what;
    warp().ready &= ~(1u << f.number % LANES);
    m.idle = 0;
    leave(true);
}

void wake(int number) {
    m.fibers[number].waiting = nullptr;
    m.warps[number / LANES].ready |= 1u << number % LANES;
}

void wake_lanes(int warp, uint32_t lanes) {
    m.warps[warp].ready |= lanes;
    for (; lanes; lanes &= lanes - 1) m.fibers[warp * LANES + __builtin_ctz(lanes)].waiting = nullptr;
}

void yield() {
    if (++m.idle > PATIENCE) fail("threads poll for something that does not come:%s", where().c_str());
    if (!m.bulks.empty() && !m.shuffled) land(0);
    leave(false);
}

bool wait_peer(uint64_t patience) {
    if (m.rest->expired) return false;
    static const char *const times = getenv("CHULENGO_EMU_PATIENCE");
    m.rest->patience = patience * (times ? atoi(times) : 1);
    m.waits_for_peer = true;
    block_on("another GPU");
    return true;
}

int lane() { return m.current->number % LANES; }
unsigned char *dynamic_shared() { return m.shared; }
void grid_waited() { m.waited = true; }

Kernel::Kernel(const char *n, void (*r)(const void *), size_t s, int t) : name(n), run(r), size(s), threads(t), next(kernels) { kernels = this; }

Kernel *find(const char *name) {
    for (Kernel *k = kernels; k; k = k->next)
        if (!strcmp(k->name, name)) return k;
    return nullptr;
}

void on_memory_fault(void (*describe)(const void *address, char *text, size_t size)) { describe_fault = describe; }

void seed(uint64_t value) {
    m.shuffled = true;
    m.random.seed(value);
}

Result launch(const Kernel *k, dim3 grid, int threads, size_t shared, const void *params, bool dependent, Rest *rest) {
    static unsigned char *end_of_shared, *stack;
    if (!stack) {
        if (const char *text = getenv("CHULENGO_EMU_SEED"); text && *text) seed(strtoull(text, nullptr, 10));
        end_of_shared = guarded(256 << 10) + (256 << 10);
        m.shadow = guarded(256 << 10);
        fault_stack = guarded(STACK);
        stack = guarded(STACK);
    }
    if (shared > MAX_SHARED || threads < 1 || threads > MAX_THREADS || threads > k->threads) return {INVALID, "launch: wrong number of threads or of bytes of shared memory"};
    for (int i = 0; i < threads; i++)
        if (!m.fibers[i].stack) m.fibers[i].stack = guarded(STACK);
    m.threads = threads;
    m.shared_size = (shared + 1023) / 1024 * 1024;
    m.shared = end_of_shared - m.shared_size;
    m.kernel = k;
    m.params = params;
    m.dependent = dependent;
    Rest whole;
    m.rest = rest ? rest : &whole;
    m.code = OK;
    m.error.clear();
    block_size = {unsigned(threads), 1, 1};
    grid_size = grid;
    m.scheduler = begin(stack, scheduler_main);
    handle_faults(true);
    emu_switch(&m.home, m.scheduler);
    handle_faults(false);
    if (m.code == PARKED && !rest) return {LAUNCH_FAILED, std::string(k->name) + " waits for another GPU"};
    return {m.code, m.error};
}

} // namespace emu
