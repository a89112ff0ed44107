// The inside of the machine: what machine.cpp (fibers, blocks, launches), warp.cpp (operations of several threads), async.cpp
// (copies and their barriers) and tensor.cpp (matrix units) share. One launch runs at a time, so its state is global.
#pragma once
#include "emu.h"
#include "ptx.h"

#include <random>
#include <vector>

namespace emu {

constexpr int LANES = 32, WARPGROUP = 128, MAX_THREADS = 1024, BARRIERS = 16;
constexpr size_t MAX_SHARED = 227 << 10;

// Copy is a cp.async that has not arrived; to is null where a group ends.
struct Copy {
    void *to;
    const void *from; // null: zeros
};

struct Fiber {
    void *sp;
    unsigned char *stack;
    int number; // within the block
    bool done;
    const char *waiting;      // what for; null: it runs or can run
    std::vector<Copy> copies; // cp.async, not there yet
};

// Meeting is an operation of several threads: the last one to arrive does the work for all.
struct Meeting {
    const char *kind; // null: none in progress
    uint32_t mask;    // of a warp: the lanes that take part
    int count;
    void *arguments[WARPGROUP];
};

struct Warp {
    uint32_t alive, ready; // lanes
    Meeting meetings[4];   // one for each mask
};

struct Product; // of a warpgroup, not computed yet
struct Accumulators;

struct Group {
    Meeting meeting;
    bool fenced; // wgmma.fence since the last wait for everything
    std::vector<Product> products;
    std::vector<Accumulators> accumulators;
};

struct Accumulators {
    float *at[WARPGROUP]; // in each thread; poisoned while products are under way
    std::vector<float> sum; // [WARPGROUP][columns / 2]
    int pending;
};

struct Product {
    float *d; // of thread 0: names the accumulators
    int columns;
    uint64_t a, b;
    const uint32_t *rows[WARPGROUP]; // a in registers of each thread; null: K-major in shared memory, as b is
    uint32_t held[WARPGROUP][4];     // what was in them
    bool across;                     // b is N-major
    bool codes;                      // a and b are e4m3: 32 of each line, not 16 of bfloat16
    bool last;                       // of its group of products
};

struct Barrier {
    int arrived, wanted;
    bool any, any_result, all, all_result;
    int sum, sum_result;
    uint32_t waiting[MAX_THREADS / LANES]; // lanes of each warp
};

struct Bulk {
    void *to;
    const void *from;
    uint32_t bytes;
    uint64_t *bar;
};

struct Waiter {
    const uint64_t *bar;
    int number;
};

struct Machine {
    Fiber fibers[MAX_THREADS];
    Warp warps[MAX_THREADS / LANES];
    Group groups[MAX_THREADS / WARPGROUP];
    Barrier barriers[BARRIERS];
    std::vector<Bulk> bulks;
    std::vector<Waiter> waiters; // of barriers in shared memory
    int threads, running, turn;
    Fiber *current;
    uint32_t met; // mask of the meeting whose work is being done
    void *scheduler, *home; // stack pointers: the loop over warps, and whoever launched
    unsigned char *shared, *shadow; // shadow: shared memory as the asynchronous units may see it
    size_t shared_size;
    bool unfenced_init, waited; // mbarrier.init without its fence; griddepcontrol.wait happened
    bool dependent;
    uint64_t idle; // yields since something happened
    const Kernel *kernel;
    const void *params;
    bool shuffled;
    std::mt19937_64 random;
    int code;
    std::string error;
    Rest *rest;
    bool waits_for_peer; // some thread of the block does
};
extern Machine m;

inline Warp &warp() { return m.warps[m.current->number / LANES]; }
inline Group &own_group() { return m.groups[m.current->number / WARPGROUP]; }

// chance is true once in n times, in test mode.
inline bool chance(unsigned n) { return m.shuffled && m.random() % n == 0; }

void block_on(const char *what); // until some other thread wakes this one
void wake(int number);
void wake_lanes(int warp, uint32_t lanes);
void land(size_t bulk); // lets a bulk copy arrive
inline bool in_shared(const void *p, size_t bytes) { return p >= m.shared && (const unsigned char *)p + bytes <= m.shared + m.shared_size; }

// meet brings the threads of a warp (mask) together; collective_group those of a warpgroup. kind is a literal.
void meet(const char *kind, uint32_t mask, void *arguments, void (*work)(void **by_lane));
void meet_group(const char *kind, void *arguments, void (*work)(void **by_thread));

} // namespace emu
