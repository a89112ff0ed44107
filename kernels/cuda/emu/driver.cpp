// libcuda.so.1 on a CPU: the entry points that the project calls, over the machine of machine.cpp. Device memory is host
// memory, each allocation between unmapped pages, filled with NaN.
//
// Work runs when it is enqueued; in test mode (CHULENGO_EMU_SEED) it runs when something waits for it, the work of several
// streams interleaved at random, so that memory that is reused or read too early shows.
//
// The environment changes what is played: CHULENGO_EMU_DEVICES (number of GPUs, 1), CHULENGO_EMU_VERSION (13000),
// CHULENGO_EMU_MEMORY (MiB, 4096), CHULENGO_EMU_SMS (multiprocessors, 2), CHULENGO_EMU_FAIL_LAUNCH (the n-th launch fails),
// CHULENGO_EMU_FAIL_ALLOC (the n-th allocation of device memory finds none), CHULENGO_EMU_PEERS (0: GPUs do not reach each other's memory),
// CHULENGO_EMU_PATIENCE (times as long as kernels say that they wait for another GPU, 1).
// If one GPU is lost, all are.
#include "emu.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

using namespace emu;

namespace {

constexpr int DEFAULT_SHARED = 48 << 10, MAX_SHARED = 227 << 10;

struct Function { const emu::Kernel *kernel; int allowed; };
struct Launch { Function *f; dim3 grid; unsigned threads, shared; bool dependent; std::vector<unsigned char> params; };
struct Graph { std::vector<std::function<int(emu::Rest &)>> work; bool broken; };
struct Event { uint64_t recorded = 0, reached = 0; std::chrono::steady_clock::time_point at; }; // times it was enqueued, times it happened, when last
// Work is a thing to do; it can wait for an event, or, having begun, for another GPU.
struct Work { std::function<int(emu::Rest &)> run; Event *after = nullptr; uint64_t count = 0; emu::Rest rest; };
struct Stream {
    std::deque<Work> queue;
    std::chrono::steady_clock::time_point parked_at;
    bool parked = false; // its front waits for another GPU; nothing has happened since it looked last
    Graph *capturing = nullptr;
    bool after_kernel = false; // the latest work is a kernel: one launched as dependent may begin before it has ended
};

std::recursive_mutex lock; // one call at a time
using Hold = std::unique_lock<std::recursive_mutex>;
std::condition_variable_any changed; // work was enqueued or done
std::map<uint64_t, size_t> device_memory, pinned_memory;
constexpr int MAX_DEVICES = 64;
thread_local int current; // the GPU of this thread
std::map<uint64_t, int> owner; // of device memory
size_t used[MAX_DEVICES];
int launches, allocations;
int sticky; // a launch that failed: the context is lost, as on a GPU
std::vector<Stream *> streams;
std::mt19937_64 order;

int setting(const char *name, int otherwise) {
    const char *v = getenv(name);
    return v ? atoi(v) : otherwise;
}

bool lazy() {
    static const bool on = [] {
        const char *seed = getenv("CHULENGO_EMU_SEED");
        if (!seed || !*seed) return false;
        order.seed(strtoull(seed, nullptr, 10));
        return true;
    }();
    return on;
}

size_t total() { return size_t(setting("CHULENGO_EMU_MEMORY", 4096)) << 20; }
const size_t page = sysconf(_SC_PAGESIZE);
size_t whole(size_t n) { return (n + page - 1) / page * page; }

void describe(const void *address, char *text, size_t size) {
    const uint64_t at = uint64_t(address);
    auto after = device_memory.upper_bound(at);
    int n = snprintf(text, size, "address %p", address);
    if (after != device_memory.begin()) {
        auto before = std::prev(after);
        if (at - before->first < before->second + (1 << 30)) n += snprintf(text + n, size - n, ", byte %llu of an allocation of %zu", (unsigned long long)(at - before->first), before->second);
    }
    if (after != device_memory.end() && after->first - at < 1 << 20) snprintf(text + n, size - n, ", %llu bytes before one of %zu", (unsigned long long)(after->first - at), after->second);
}

int run(const Launch &l, emu::Rest &rest) {
    if (sticky) return sticky;
    if (!rest.begun && ++launches == setting("CHULENGO_EMU_FAIL_LAUNCH", -1)) return sticky = LAUNCH_FAILED;
    emu::on_memory_fault(describe);
    const emu::Result r = emu::launch(l.f->kernel, l.grid, l.threads, l.shared, l.params.data(), l.dependent, &rest);
    if (r.code == PARKED) return PARKED;
    if (r.code) fprintf(stderr, "emulated GPU: %s\n", r.text.c_str());
    return sticky = r.code;
}

// within is whether all bytes at p lie in one piece of memory.
bool within(const std::map<uint64_t, size_t> &memory, uint64_t p, size_t bytes) {
    auto it = memory.upper_bound(p);
    return it != memory.begin() && (--it, p + bytes <= it->first + it->second);
}

bool runnable(const Stream *s) { return !s->queue.empty() && !s->parked && (!s->queue.front().after || s->queue.front().after->reached >= s->queue.front().count); }

// advance runs the oldest work of a stream that has some to run: the given one, or in test mode any. False: none can.
bool advance(Stream *s) {
    std::vector<Stream *> able;
    for (Stream *x : streams)
        if (runnable(x)) able.push_back(x);
    if (able.empty()) return false;
    Stream *pick = lazy() ? able[order() % able.size()] : runnable(s) ? s : able[0];
    Work w = std::move(pick->queue.front());
    pick->queue.pop_front();
    const bool again = w.rest.begun;
    const size_t blocks = w.rest.blocks.size();
    const int rc = w.run && !sticky ? w.run(w.rest) : sticky;
    if (rc != PARKED || !again || w.rest.blocks.size() != blocks) { // others may have waited for this
        for (Stream *x : streams) x->parked = false;
        changed.notify_all();
    }
    if (rc == PARKED) {
        if (!again) pick->parked_at = std::chrono::steady_clock::now();
        pick->parked = true;
        pick->queue.push_front(std::move(w));
        return true;
    }
    sticky = rc;
    return true;
}

// drain does what can be done for a stream now.
int drain(Stream *s) {
    while (!s->queue.empty() && advance(s)) {}
    return sticky;
}

// finish does all of it. What waits for another GPU waits for the thread that gives that one its work; after the kernel's own
// patience it is told that nothing came.
int finish(Stream *s, Hold &hold) {
    while (drain(s), !s->queue.empty() && !sticky) {
        emu::Rest &rest = s->queue.front().rest;
        if (!s->parked) break; // it waits for an event that nobody will record
        const auto limit = s->parked_at + std::chrono::nanoseconds(rest.patience);
        if (changed.wait_until(hold, limit) == std::cv_status::timeout && s->parked) rest.expired = true, s->parked = false;
    }
    return sticky;
}

int drain_all() {
    for (Stream *s : std::vector<Stream *>(streams)) drain(s);
    return sticky;
}

// enqueue adds work to a stream, or to what it records. The default stream comes after everything and is waited for.
int enqueue(Stream *s, std::function<int(emu::Rest &)> work, Event *after = nullptr, uint64_t count = 0, bool kernel = false) {
    if (s) s->after_kernel = kernel;
    if (s && s->capturing) return s->capturing->work.push_back(std::move(work)), OK;
    if (sticky) return sticky;
    if (!s) {
        if (int rc = drain_all()) return rc;
        emu::Rest whole;
        return sticky = work(whole);
    }
    s->queue.push_back({std::move(work), after, count, {}});
    changed.notify_all();
    return lazy() ? OK : drain(s);
}

// A copy or fill cannot be part of a graph here: the project's graphs are launches alone.
bool refuse(Stream *s) {
    if (s && s->capturing) s->capturing->broken = true;
    return s && s->capturing;
}

int bad(const char *what, uint64_t p, size_t n) {
    fprintf(stderr, "emulated GPU: %s: %zu bytes at %llx are not device memory\n", what, n, (unsigned long long)p);
    return INVALID;
}

} // namespace

#pragma GCC visibility push(default)
extern "C" {

int cuInit(unsigned) { return setting("CHULENGO_EMU_DEVICES", 1) ? OK : NO_DEVICE; }
int cuDriverGetVersion(int *v) { return *v = setting("CHULENGO_EMU_VERSION", 13000), OK; }
int cuDeviceGetCount(int *n) { return *n = setting("CHULENGO_EMU_DEVICES", 1), OK; }
int cuDeviceGet(int *d, int i) { return *d = i, i >= 0 && i < setting("CHULENGO_EMU_DEVICES", 1) ? OK : INVALID_DEVICE; }
int cuDeviceGetName(char *s, int n, int) { return snprintf(s, n, "emulated GPU"), OK; }
int cuDeviceGetUuid(unsigned char *u, int d) { return memset(u, d, 16), OK; }
int cuDeviceGetUuid_v2(unsigned char *u, int d) { return cuDeviceGetUuid(u, d); }
int cuDeviceTotalMem_v2(size_t *n, int) { return *n = total(), OK; }
int cuDeviceGetAttribute(int *v, int attribute, int) {
    static const std::map<int, int> values = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, DEFAULT_SHARED}, {10, 32}, {12, 65536}, {13, 1980000},
        {31, 0}, {36, 2619000}, {37, 6144}, {38, 60 << 20}, {39, 2048}, {41, 1}, {75, CHULENGO_EMU_ARCH / 100}, {76, CHULENGO_EMU_ARCH / 10 % 10},
        {81, 228 << 10}, {82, 65536}, {97, MAX_SHARED}};
    auto it = values.find(attribute);
    *v = attribute == 16 ? setting("CHULENGO_EMU_SMS", 2) : it == values.end() ? 0 : it->second;
    return OK;
}
int cuDeviceCanAccessPeer(int *v, int, int) { return *v = setting("CHULENGO_EMU_PEERS", 1), OK; }
int cuCtxEnablePeerAccess(void *, unsigned) { return OK; }
static char contexts[MAX_DEVICES];
int cuDevicePrimaryCtxRetain(void **c, int d) { return *c = &contexts[d % MAX_DEVICES], OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxSetCurrent(void *c) { return current = c ? (char *)c - contexts : 0, OK; }
int cuCtxGetCurrent(void **c) { return cuDevicePrimaryCtxRetain(c, current); }
int cuCtxGetDevice(int *d) { return *d = current, OK; }
int cuCtxSynchronize() { Hold hold(lock); return drain_all(); }

// ---- memory ----

int cuMemGetInfo_v2(size_t *free, size_t *all) { Hold hold(lock); return *all = total(), *free = used[current] < total() ? total() - used[current] : 0, OK; }
int cuMemAlloc_v2(uint64_t *p, size_t n) {
    Hold hold(lock);
    if (!n) return INVALID;
    if (sticky) return sticky;
    if (++allocations == setting("CHULENGO_EMU_FAIL_ALLOC", -1) || used[current] + n > total()) return NO_MEMORY;
    // Shared, so that the host's anonymous memory is the host's alone (load_test.go).
    unsigned char *at = (unsigned char *)mmap(nullptr, whole(n) + 2 * page, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at += page, whole(n), PROT_READ | PROT_WRITE)) return NO_MEMORY;
    memset(at, 0xff, whole(n));
    *p = uint64_t(at + whole(n) - (n + 15) / 16 * 16); // ends where the unmapped page begins
    device_memory[*p] = n;
    owner[*p] = current;
    used[current] += n;
    return OK;
}
int cuMemFree_v2(uint64_t p) {
    Hold hold(lock);
    if (!p) return OK;
    drain_all();
    auto it = device_memory.find(p);
    if (it == device_memory.end()) return INVALID;
    const size_t n = it->second;
    used[owner[p]] -= n;
    owner.erase(p);
    device_memory.erase(it);
    munmap((void *)(p / page * page - page), whole(n) + 2 * page);
    return OK;
}
int cuMemHostAlloc(void **p, size_t n, unsigned) {
    Hold hold(lock);
    *p = aligned_alloc(page, whole(n));
    if (!*p) return NO_MEMORY;
    pinned_memory[uint64_t(*p)] = n;
    return OK;
}
int cuMemFreeHost(void *p) {
    Hold hold(lock);
    drain_all();
    if (!pinned_memory.erase(uint64_t(p))) return INVALID;
    return free(p), OK;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, Stream *s) {
    Hold hold(lock);
    if (refuse(s)) return CAPTURE_UNSUPPORTED;
    if (!within(device_memory, to, n)) return bad("copy to the device", to, n);
    if (within(pinned_memory, uint64_t(from), n)) return enqueue(s, [=](emu::Rest &) { return memcpy((void *)to, from, n), OK; });
    std::vector<unsigned char> now((const unsigned char *)from, (const unsigned char *)from + n); // pageable: staged by the driver
    return enqueue(s, [to, now = std::move(now)](emu::Rest &) { return memcpy((void *)to, now.data(), now.size()), OK; });
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, Stream *s) {
    Hold hold(lock);
    if (refuse(s)) return CAPTURE_UNSUPPORTED;
    if (!within(device_memory, from, n)) return bad("copy from the device", from, n);
    const int rc = enqueue(s, [=](emu::Rest &) { return memcpy(to, (void *)from, n), OK; });
    return rc || !s || within(pinned_memory, uint64_t(to), n) ? rc : finish(s, hold);
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, Stream *s) {
    Hold hold(lock);
    if (refuse(s)) return CAPTURE_UNSUPPORTED;
    if (!within(device_memory, from, n)) return bad("copy within the device", from, n);
    if (!within(device_memory, to, n)) return bad("copy within the device", to, n);
    return enqueue(s, [=](emu::Rest &) { return memmove((void *)to, (void *)from, n), OK; });
}
int cuMemsetD8Async(uint64_t p, unsigned char v, size_t n, Stream *s) {
    Hold hold(lock);
    if (refuse(s)) return CAPTURE_UNSUPPORTED;
    if (!within(device_memory, p, n)) return bad("fill", p, n);
    return enqueue(s, [=](emu::Rest &) { return memset((void *)p, v, n), OK; });
}
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t n) { return cuMemcpyHtoDAsync_v2(to, from, n, nullptr); }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t n) { return cuMemcpyDtoHAsync_v2(to, from, n, nullptr); }
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t n) { return cuMemcpyDtoDAsync_v2(to, from, n, nullptr); }
int cuMemsetD8_v2(uint64_t p, unsigned char v, size_t n) { return cuMemsetD8Async(p, v, n, nullptr); }

// ---- streams and events ----

int cuStreamCreate(Stream **s, unsigned) { Hold hold(lock); return streams.push_back(*s = new Stream{}), OK; }
int cuStreamDestroy_v2(Stream *s) {
    Hold hold(lock);
    finish(s, hold);
    streams.erase(std::remove(streams.begin(), streams.end(), s), streams.end());
    return delete s, OK;
}
int cuStreamSynchronize(Stream *s) { Hold hold(lock); return s ? finish(s, hold) : drain_all(); }
int cuStreamQuery(Stream *s) {
    Hold hold(lock);
    if (sticky || !s || s->queue.empty()) return sticky;
    advance(s);
    return s->queue.empty() ? sticky : NOT_READY;
}
int cuEventCreate(Event **e, unsigned) { return *e = new Event{}, OK; }
int cuEventDestroy_v2(Event *e) { Hold hold(lock); drain_all(); return delete e, OK; }
int cuEventRecord(Event *e, Stream *s) {
    Hold hold(lock);
    if (refuse(s)) return CAPTURE_UNSUPPORTED;
    const uint64_t count = ++e->recorded;
    return enqueue(s, [=](emu::Rest &) { return e->reached = std::max(e->reached, count), e->at = std::chrono::steady_clock::now(), OK; });
}
int cuStreamWaitEvent(Stream *s, Event *e, unsigned) {
    Hold hold(lock);
    if (refuse(s)) return CAPTURE_UNSUPPORTED;
    return enqueue(s, [](emu::Rest &) { return OK; }, e, e->recorded);
}
int cuEventQuery(Event *e) { Hold hold(lock); return sticky ? sticky : e->reached < e->recorded && (streams.empty() || (advance(streams[0]), e->reached < e->recorded)) ? NOT_READY : OK; }
int cuEventSynchronize(Event *e) {
    Hold hold(lock);
    while (e->reached < e->recorded && !sticky && !streams.empty())
        if (!advance(streams[0])) {
            Stream *waits = nullptr;
            for (Stream *s : streams)
                if (s->parked) waits = s;
            if (!waits) break;
            finish(waits, hold);
        }
    return sticky;
}
int cuEventElapsedTime(float *ms, Event *a, Event *b) { return *ms = std::chrono::duration<float, std::milli>(b->at - a->at).count(), OK; }
int cuEventElapsedTime_v2(float *ms, Event *a, Event *b) { return cuEventElapsedTime(ms, a, b); }

// ---- kernels ----

int cuModuleLoadData(void **m, const void *image) { static int module; return *m = &module, image ? OK : INVALID; }
int cuModuleUnload(void *) { return OK; }
int cuModuleGetFunction(Function **f, void *, const char *name) {
    const emu::Kernel *k = emu::find(name);
    if (!k) return NOT_FOUND;
    return *f = new Function{k, DEFAULT_SHARED}, OK;
}
int cuFuncSetAttribute(Function *f, int attribute, int v) {
    if (attribute == 8) {
        if (v < 0 || v > MAX_SHARED) return INVALID;
        f->allowed = v;
    }
    return OK;
}
int cuFuncGetAttribute(int *v, int attribute, Function *f) { return *v = attribute == 0 ? f->kernel->threads : attribute == 8 ? f->allowed : 0, OK; }

struct Config { unsigned gx, gy, gz, bx, by, bz, shared; Stream *stream; struct Attribute { int id; char pad[4]; int value; char rest[60]; } *attributes; unsigned count; };
int cuLaunchKernelEx(const Config *c, Function *f, void **, void **extra) {
    Hold hold(lock);
    if (!f) return INVALID_HANDLE;
    if (!c->gx || !c->gy || c->gz != 1 || c->by != 1 || c->bz != 1 || !c->bx || c->gx > 0x7fffffff || c->gy > 65535 || int(c->bx) > f->kernel->threads || int(c->shared) > f->allowed || !extra) {
        fprintf(stderr, "emulated GPU: %s: a launch of %u x %u blocks of %u threads (at most %d) with %u bytes of shared memory (at most %d) is not valid\n", f->kernel->name, c->gx, c->gy, c->bx, f->kernel->threads, c->shared, f->allowed);
        return INVALID;
    }
    const size_t size = *(size_t *)extra[3];
    if (size != f->kernel->size) {
        fprintf(stderr, "emulated GPU: %s: want %zu bytes of parameters, got %zu\n", f->kernel->name, f->kernel->size, size);
        return INVALID;
    }
    Launch l{f, {c->gx, c->gy, 1}, c->bx, c->shared, false, {(unsigned char *)extra[1], (unsigned char *)extra[1] + size}};
    for (unsigned i = 0; i < c->count; i++)
        if (c->attributes[i].id == 6) l.dependent = c->attributes[i].value && c->stream && c->stream->after_kernel; // programmatic stream serialization
    return enqueue(c->stream, [l = std::move(l)](emu::Rest &rest) { return run(l, rest); }, nullptr, 0, true);
}
int cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream *s, void **params, void **extra) {
    const Config c{gx, gy, gz, bx, by, bz, shared, s, nullptr, 0};
    return cuLaunchKernelEx(&c, f, params, extra);
}

int cuStreamBeginCapture_v2(Stream *s, int) {
    Hold hold(lock);
    if (!s || s->capturing) return INVALID;
    s->after_kernel = false;
    return s->capturing = new Graph{}, OK;
}
int cuStreamEndCapture(Stream *s, Graph **g) {
    Hold hold(lock);
    *g = s->capturing;
    s->capturing = nullptr;
    s->after_kernel = false;
    if (!*g || !(*g)->broken) return *g ? OK : INVALID;
    delete *g;
    *g = nullptr;
    return CAPTURE_INVALID;
}
int cuGraphInstantiateWithFlags(Graph **e, Graph *g, uint64_t) { return *e = new Graph(*g), OK; }
int cuGraphLaunch(Graph *e, Stream *s) {
    Hold hold(lock);
    if (refuse(s)) return CAPTURE_UNSUPPORTED;
    for (auto &w : e->work)
        if (int rc = enqueue(s, w)) return rc;
    return OK;
}
int cuGraphExecDestroy(Graph *e) { return delete e, OK; }
int cuGraphDestroy(Graph *g) { return delete g, OK; }

// emu_enqueue has another library's work done in a stream, or makes it part of a graph; state is its memory, zero at first. It gives
// PARKED while it waits for another GPU: then it is asked again when one has done something, or when patience has passed,
// nanoseconds since it waits.
int emu_enqueue(Stream *s, int (*work)(void *args, uint64_t state[2], uint64_t *patience), void *args, void (*free)(void *args)) {
    Hold hold(lock);
    return enqueue(s, [work, args = std::shared_ptr<void>(args, free)](emu::Rest &rest) { return rest.begun = true, work(args.get(), rest.state, &rest.patience); });
}

// ---- errors ----

static const struct Text { int code; const char *name, *text; } texts[] = {
    {OK, "CUDA_SUCCESS", "no error"}, {INVALID, "CUDA_ERROR_INVALID_VALUE", "invalid argument"}, {NO_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}, {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}, {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"}, {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALID, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}};
static const Text *text_of(int code) {
    for (auto &t : texts)
        if (t.code == code) return &t;
    return nullptr;
}
int cuGetErrorName(int code, const char **s) {
    const Text *t = text_of(code);
    return *s = t ? t->name : nullptr, t ? OK : INVALID;
}
int cuGetErrorString(int code, const char **s) {
    const Text *t = text_of(code);
    return *s = t ? t->text : nullptr, t ? OK : INVALID;
}
}
#pragma GCC visibility pop
