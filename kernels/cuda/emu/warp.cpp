// Operations of several threads: of a warp, of a warpgroup, of a block.
#include "machine.h"

namespace emu {

namespace {

// arrive adds the current thread to a meeting. It returns true to the last one, which does the work for all.
bool arrive(Meeting &at, const char *kind, uint32_t mask, int place, int places, void *arguments) {
    if (!at.kind) {
        at.kind = kind;
        at.mask = mask;
        at.count = 0;
    } else if (at.kind != kind && strcmp(at.kind, kind)) {
        fail("threads of warp %d are at %s and at %s at the same time", m.current->number / LANES, at.kind, kind);
    }
    at.arguments[place] = arguments;
    if (++at.count < places) return false;
    at.kind = nullptr;
    return true;
}

} // namespace

void meet(const char *kind, uint32_t mask, void *arguments, void (*work)(void **)) {
    Warp &w = warp();
    const int lane = m.current->number % LANES;
    if (!(mask >> lane & 1)) fail("%s: lane %d is not in its own mask %08x", kind, lane, mask);
    if (mask & ~w.alive) fail("%s: the mask %08x names lanes that have ended (%08x run)", kind, mask, w.alive);
    Meeting *free = nullptr, *same = nullptr;
    for (Meeting &at : w.meetings) {
        if (!at.kind) free = &at;
        else if (at.mask == mask) same = &at;
    }
    if (!same && !free) fail("%s: lanes of a warp wait with five different masks", kind);
    Meeting &at = same ? *same : *free;
    if (!arrive(at, kind, mask, lane, __builtin_popcount(mask), arguments)) {
        block_on(kind);
        return;
    }
    m.met = mask;
    if (work) work(at.arguments);
    wake_lanes(m.current->number / LANES, mask & ~(1u << lane));
    if (chance(8)) yield();
}

void meet_group(const char *kind, void *arguments, void (*work)(void **)) {
    const int number = m.current->number, first = number / WARPGROUP * WARPGROUP;
    if (first + WARPGROUP > m.threads) fail("%s: warp %d belongs to no whole warpgroup", kind, number / LANES);
    Meeting &at = own_group().meeting;
    if (!arrive(at, kind, 0, number % WARPGROUP, WARPGROUP, arguments)) {
        block_on(kind);
        return;
    }
    if (work) work(at.arguments);
    for (int i = first; i < first + WARPGROUP; i++)
        if (i != number) wake(i);
    if (chance(8)) yield();
}

void barrier(int id, int threads, bool arrive_only) {
    static const char *const names[BARRIERS] = {"__syncthreads", "barrier 1", "barrier 2", "barrier 3", "barrier 4", "barrier 5", "barrier 6", "barrier 7", "barrier 8", "barrier 9", "barrier 10", "barrier 11", "barrier 12", "barrier 13", "barrier 14", "barrier 15"};
    if (id < 0 || id >= BARRIERS) fail("barrier %d: want 0 to 15", id);
    Barrier &b = m.barriers[id];
    const int wanted = threads ? threads : m.threads;
    if (threads % LANES) fail("%s: want a multiple of 32 threads, got %d", names[id], threads);
    if (b.arrived && threads && b.wanted != wanted) fail("%s: threads come for %d and for %d threads", names[id], b.wanted, wanted);
    b.wanted = wanted;
    const int number = m.current->number;
    if (b.waiting[number / LANES] >> number % LANES & 1) fail("%s: a thread comes twice", names[id]);
    if (++b.arrived < wanted) {
        if (arrive_only) return;
        b.waiting[number / LANES] |= 1u << number % LANES;
        block_on(names[id]);
        return;
    }
    if (b.arrived > wanted) fail("%s: %d threads for %d", names[id], b.arrived, wanted);
    b.any_result = b.any, b.all_result = !b.all, b.sum_result = b.sum;
    b.any = b.all = false, b.sum = 0;
    b.arrived = 0;
    for (int w = 0; w * LANES < m.threads; w++)
        if (b.waiting[w]) {
            wake_lanes(w, b.waiting[w]);
            b.waiting[w] = 0;
        }
    if (chance(4)) yield();
}

} // namespace emu

using namespace emu;

static Barrier &vote(bool v) {
    Barrier &b = m.barriers[0];
    b.any |= v;
    b.all |= !v; // somebody says no
    b.sum += v;
    barrier(0, 0);
    return b;
}
int __syncthreads_or(int v) { return vote(v != 0).any_result; }
int __syncthreads_and(int v) { return vote(v != 0).all_result; }
int __syncthreads_count(int v) { return vote(v != 0).sum_result; }

void __syncwarp(unsigned mask) { meet("__syncwarp", mask, nullptr, nullptr); }

unsigned __activemask() { return warp().alive; }

namespace {
struct Vote {
    unsigned v, out;
};
// each runs work on all lanes that take part.
template <typename T, typename F> void each(void **by, F work) {
    for (unsigned mask = m.met; mask; mask &= mask - 1) work(*(T *)by[__builtin_ctz(mask)], __builtin_ctz(mask));
}
} // namespace

unsigned __ballot_sync(unsigned mask, bool v) {
    Vote a{v, 0};
    meet("ballot", mask, &a, [](void **by) {
        unsigned out = 0;
        each<Vote>(by, [&](Vote &x, int l) { out |= x.v << l; });
        each<Vote>(by, [&](Vote &x, int) { x.out = out; });
    });
    return a.out;
}

bool __any_sync(unsigned mask, bool v) { return __ballot_sync(mask, v) != 0; }
bool __all_sync(unsigned mask, bool v) { return __ballot_sync(mask, v) == mask; }

unsigned __match_any_sync(unsigned mask, int v) {
    Vote a{unsigned(v), 0};
    meet("match_any", mask, &a, [](void **by) {
        each<Vote>(by, [&](Vote &x, int) { each<Vote>(by, [&](Vote &y, int l) { x.out |= unsigned(x.v == y.v) << l; }); });
    });
    return a.out;
}

template <typename F> static unsigned reduce(const char *kind, unsigned mask, unsigned v, F) {
    Vote a{v, 0};
    meet(kind, mask, &a, [](void **by) {
        bool first = true;
        unsigned out = 0;
        each<Vote>(by, [&](Vote &x, int) { out = first ? x.v : F{}(out, x.v), first = false; });
        each<Vote>(by, [&](Vote &x, int) { x.out = out; });
    });
    return a.out;
}
unsigned __reduce_add_sync(unsigned mask, unsigned v) { return reduce("reduce_add", mask, v, [](unsigned a, unsigned b) { return a + b; }); }
unsigned __reduce_max_sync(unsigned mask, unsigned v) { return reduce("reduce_max", mask, v, [](unsigned a, unsigned b) { return a > b ? a : b; }); }
unsigned __reduce_min_sync(unsigned mask, unsigned v) { return reduce("reduce_min", mask, v, [](unsigned a, unsigned b) { return a < b ? a : b; }); }
unsigned __reduce_or_sync(unsigned mask, unsigned v) { return reduce("reduce_or", mask, v, [](unsigned a, unsigned b) { return a | b; }); }

unsigned emu::shuffle(const char *kind, unsigned mask, unsigned v, int source) {
    struct A {
        unsigned v, out;
        int source;
    } a{v, 0, source < 0 || source > 31 ? lane() : source};
    meet(kind, mask, &a, [](void **by) {
        const unsigned mask = m.met;
        each<A>(by, [&](A &x, int l) {
            if (!(mask >> x.source & 1)) fail("shuffle: lane %d reads lane %d, which the mask %08x does not name", l, x.source, mask);
            x.out = ((A *)by[x.source])->v;
        });
    });
    return a.out;
}
