// libnccl.so.2 beside the software GPU: what the project uses of NCCL, for ranks of one process or of several on one machine. They
// meet in a file of the temporary folder, whose name is the communicator's id: for each rank the number of its latest exchange,
// and room for what it sent in two. A rank that is in exchange e has seen all others in e-1, so nobody reads what e+1 overwrites.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <sys/mman.h>
#include <unistd.h>

extern "C" int emu_enqueue(void *stream, int (*work)(void *args, uint64_t state[2], uint64_t *patience), void *args, void (*free)(void *)); // driver.cpp

namespace {

constexpr int OK = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, PARKED = -1, MAX_RANKS = 8;
constexpr size_t HEAD = 4096, ROOM = 64 << 20; // bytes of one rank's part of one exchange

struct Head { std::atomic<int> joined; std::atomic<uint64_t> latest[MAX_RANKS]; };

struct Comm {
    int ranks, rank;
    unsigned char *file;
    uint64_t exchanges = 0; // that have begun
    std::atomic<bool> aborted{false};

    Head &head() { return *(Head *)file; }
    unsigned char *part(int of, uint64_t exchange) { return file + HEAD + (size_t(of) * 2 + exchange % 2) * ROOM; }
    ~Comm() { munmap(file, HEAD + MAX_RANKS * 2 * ROOM); }
};
using Handle = std::shared_ptr<Comm>;

struct Exchange {
    Handle comm;
    const void *from;
    void *to;
    size_t bytes;
};

uint64_t now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

// exchange is one run of it; state: its number, and when it began.
int exchange(void *args, uint64_t state[2], uint64_t *patience) {
    Exchange &x = *(Exchange *)args;
    Comm &c = *x.comm;
    if (!state[0]) {
        state[0] = ++c.exchanges, state[1] = now();
        memcpy(c.part(c.rank, state[0]), x.from, x.bytes);
        c.head().latest[c.rank].store(state[0], std::memory_order_release);
    }
    for (int r = 0; r < c.ranks && !c.aborted; r++)
        if (c.head().latest[r].load(std::memory_order_acquire) < state[0]) { // look again in a while: it may be another process
            *patience = now() - state[1] + 200000;
            return PARKED;
        }
    for (int r = 0; r < c.ranks && !c.aborted; r++) memcpy((unsigned char *)x.to + r * x.bytes, c.part(r, state[0]), x.bytes);
    return OK;
}

} // namespace

#pragma GCC visibility push(default)
extern "C" {

struct Id { char internal[128]; };

int ncclGetVersion(int *v) { return *v = getenv("CHULENGO_EMU_NCCL") ? atoi(getenv("CHULENGO_EMU_NCCL")) : 23000, OK; }
const char *ncclGetErrorString(int rc) { return rc == OK ? "no error" : rc == SYSTEM_ERROR ? "unhandled system error" : "invalid argument"; }

int ncclGetUniqueId(Id *id) {
    const char *folder = getenv("TMPDIR");
    snprintf(id->internal, sizeof id->internal, "%s/chulengo-nccl-XXXXXX", folder ? folder : "/tmp");
    const int fd = mkstemp(id->internal);
    if (fd < 0 || ftruncate(fd, HEAD + MAX_RANKS * 2 * ROOM)) return SYSTEM_ERROR;
    return close(fd), OK;
}

int ncclCommInitRank(Handle **out, int ranks, Id id, int rank) {
    if (ranks < 1 || ranks > MAX_RANKS || rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
    const int fd = open(id.internal, O_RDWR);
    if (fd < 0) return SYSTEM_ERROR;
    void *file = mmap(nullptr, HEAD + MAX_RANKS * 2 * ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    close(fd);
    if (file == MAP_FAILED) return SYSTEM_ERROR;
    auto c = std::make_shared<Comm>();
    c->ranks = ranks, c->rank = rank, c->file = (unsigned char *)file;
    c->head().joined++;
    for (int ms = 0; c->head().joined < ranks; ms++, usleep(1000))
        if (ms > 30000) return SYSTEM_ERROR;
    unlink(id.internal);
    *out = new Handle(c);
    return OK;
}

int ncclAllGather(const void *from, void *to, size_t count, int type, Handle *h, void *stream) {
    if (type != 7 || count * 4 > ROOM) return INVALID_ARGUMENT;
    return emu_enqueue(stream, exchange, new Exchange{*h, from, to, count * 4}, [](void *x) { delete (Exchange *)x; }) ? SYSTEM_ERROR : OK;
}

int ncclCommGetAsyncError(Handle *, int *rc) { return *rc = OK, OK; }
int ncclCommAbort(Handle *h) { return (*h)->aborted = true, delete h, OK; }
int ncclCommDestroy(Handle *h) { return delete h, OK; }
}
#pragma GCC visibility pop
