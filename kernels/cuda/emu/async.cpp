// Copies that arrive late, and the barriers in shared memory that they arrive at.
#include "machine.h"

namespace emu {

namespace {

// State is an mbarrier as it lies in shared memory. That of a GPU differs; no kernel looks inside.
struct State {
    uint64_t phase : 1, expected : 12, pending : 12, magic : 16;
    int64_t bytes : 23; // announced and not there yet; the other way round if they come first
};
static_assert(sizeof(State) == 8);
constexpr uint64_t MAGIC = 0xa5c3;
constexpr int64_t MAX_BYTES = (1 << 20) - 1; // the PTX manual's range

State load(const uint64_t *bar) {
    if (!in_shared(bar, 8) || (uintptr_t)bar % 8) fail("mbarrier: %p is not 8 aligned bytes of the block's dynamic shared memory", (const void *)bar);
    State s;
    memcpy(&s, bar, 8);
    if (s.magic != MAGIC) fail("mbarrier: the one at byte %td of shared memory was not initialised, or was overwritten", (const unsigned char *)bar - m.shared);
    return s;
}

void arrive(uint64_t *bar, int arrivals, int64_t bytes) {
    State s = load(bar);
    const int64_t sum = s.bytes + bytes;
    if (sum > MAX_BYTES || sum < -MAX_BYTES) fail("mbarrier: %lld bytes under way, at most %lld can be", (long long)sum, (long long)MAX_BYTES);
    if (arrivals > int(s.pending)) fail("mbarrier: more arrivals than the %d that it expects", int(s.expected));
    s.bytes = sum;
    s.pending -= arrivals;
    if (s.pending == 0 && s.bytes == 0) {
        s.phase = !s.phase;
        s.pending = s.expected;
        size_t kept = 0;
        for (const Waiter &w : m.waiters) {
            if (w.bar == bar) wake(w.number);
            else m.waiters[kept++] = w;
        }
        m.waiters.resize(kept);
    }
    memcpy(bar, &s, 8);
}

// Watch is a range of device memory: copies from it add to *read what they read of it.
struct Watch {
    const unsigned char *from;
    uint64_t bytes, *read;
};
std::vector<Watch> watches;

void count(const void *from, size_t bytes) {
    const unsigned char *at = (const unsigned char *)from;
    for (const Watch &w : watches) *w.read += std::max<ptrdiff_t>(std::min(at + bytes, w.from + w.bytes) - std::max(at, w.from), 0);
}

void copy(const Copy &c) {
    if (c.from) memcpy(c.to, c.from, 16);
    else memset(c.to, 0, 16);
}

} // namespace

// ---- cp.async ----

void async_copy(void *to, const void *from, bool valid) {
    if (((uintptr_t)to | (valid ? (uintptr_t)from : 0)) & 15) fail("cp.async: want addresses aligned to 16 bytes, got %p and %p", to, from);
    if (!in_shared(to, 16)) fail("cp.async: %p is outside the block's dynamic shared memory", to);
    memset(to, 0xff, 16); // from now on it may change at any time
    if (valid) count(from, 16);
    m.current->copies.push_back({to, valid ? from : nullptr});
}

void async_commit() { m.current->copies.push_back({nullptr, nullptr}); }

void async_wait(int keep) {
    auto &q = m.current->copies;
    int groups = 0;
    for (const Copy &c : q) groups += !c.to;
    size_t n = 0;
    for (; n < q.size() && groups > keep; n++) {
        if (q[n].to) copy(q[n]);
        else groups--;
    }
    q.erase(q.begin(), q.begin() + n);
}

void async_arrive(uint64_t *bar) {
    for (const Copy &c : m.current->copies)
        if (c.to) copy(c);
    m.current->copies.clear();
    arrive(bar, 1, 0);
}

// ---- mbarrier and bulk copies ----

void mbar_init(uint64_t *bar, uint32_t count) {
    if (!in_shared(bar, 8) || (uintptr_t)bar % 8) fail("mbarrier: %p is not 8 aligned bytes of the block's dynamic shared memory", (void *)bar);
    if (count < 1 || count > 4095) fail("mbarrier: want 1 to 4095 arrivals, got %u", count);
    State s{};
    s.expected = s.pending = count;
    s.magic = MAGIC;
    memcpy(bar, &s, 8);
    m.unfenced_init = true;
}

void mbar_init_fence() { m.unfenced_init = false; }
void mbar_arrive(uint64_t *bar, int64_t bytes) { arrive(bar, 1, bytes); }
bool mbar_test(const uint64_t *bar, uint32_t parity) { return load(bar).phase != parity; }

void mbar_wait(uint64_t *bar, uint32_t parity) {
    while (!mbar_test(bar, parity)) {
        m.waiters.push_back({bar, m.current->number});
        block_on("an mbarrier");
    }
}

void bulk(void *to, const void *from, uint32_t bytes, uint64_t *bar) {
    if (((uintptr_t)to | (uintptr_t)from | bytes) & 15 || !bytes) fail("bulk copy: want multiples of 16, got %p, %p, %u bytes", to, from, bytes);
    if (!in_shared(to, bytes)) fail("bulk copy: %u bytes at %p lie outside the block's shared memory", bytes, to);
    if (m.unfenced_init) fail("bulk copy: fence.mbarrier_init is missing");
    load(bar);
    memset(to, 0xff, bytes);
    count(from, bytes);
    m.bulks.push_back({to, from, bytes, bar});
}

void land(size_t n) {
    const Bulk b = m.bulks[n];
    m.bulks.erase(m.bulks.begin() + n);
    memcpy(b.to, b.from, b.bytes);
    memcpy(m.shadow + ((unsigned char *)b.to - m.shared), b.to, b.bytes);
    m.idle = 0;
    arrive(b.bar, 0, -int64_t(b.bytes));
}

void proxy_fence() { memcpy(m.shadow, m.shared, m.shared_size); }

// emu_watch, which no GPU has, begins to watch a range; without bytes it ends all watching.
KERNEL(1, 1, emu_watch, Watch) {
    if (p.bytes) watches.push_back(p);
    else watches.clear();
}

} // namespace emu
