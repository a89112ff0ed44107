// libcuda.so.1 on a CPU: the entry points that the project calls, over the machine of machine.cpp. Work runs when it is
// enqueued; device memory is host memory, each allocation with an unmapped page behind it, filled with NaN.
//
// The environment changes what it plays: CHULENGO_EMU_DEVICES (number of GPUs, 1), CHULENGO_EMU_VERSION (13000),
// CHULENGO_EMU_MEMORY (MiB, 4096), CHULENGO_EMU_SMS (multiprocessors, 2), CHULENGO_EMU_FAIL_LAUNCH (the n-th launch fails),
// CHULENGO_EMU_SEED (shuffles whatever has no order, see machine.cpp).
#include "emu.h"

#include <map>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace {

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, CAPTURE_INVALID = 901 };

struct Function { const emu::Kernel *kernel; int allowed; };
struct Launch { Function *f; dim3 grid; unsigned threads, shared; std::vector<unsigned char> params; };
struct Graph { std::vector<Launch> launches; bool broken; };
struct Stream { Graph *capturing; };

std::mutex lock; // one launch, one allocation at a time
std::map<uint64_t, size_t> allocations;
size_t used;
int launches, sticky; // a launch that failed: the context is lost, as on a GPU

int setting(const char *name, int otherwise) {
    const char *v = getenv(name);
    return v ? atoi(v) : otherwise;
}

size_t total() { return size_t(setting("CHULENGO_EMU_MEMORY", 4096)) << 20; }
const size_t page = sysconf(_SC_PAGESIZE);
size_t whole(size_t n) { return (n + page - 1) / page * page; }

int run(const Launch &l) {
    if (sticky) return sticky;
    if (++launches == setting("CHULENGO_EMU_FAIL_LAUNCH", -1)) return sticky = LAUNCH_FAILED;
    const std::string error = emu::launch(l.f->kernel, l.grid, l.threads, l.shared, l.params.data());
    if (error.empty()) return OK;
    fprintf(stderr, "emulated GPU: %s\n", error.c_str());
    return sticky = LAUNCH_FAILED;
}

} // namespace

extern "C" {

int cuInit(unsigned) { return setting("CHULENGO_EMU_DEVICES", 1) ? OK : 100; }
int cuDriverGetVersion(int *v) { return *v = setting("CHULENGO_EMU_VERSION", 13000), OK; }
int cuDeviceGetCount(int *n) { return *n = setting("CHULENGO_EMU_DEVICES", 1), OK; }
int cuDeviceGet(int *d, int i) { return *d = i, i < setting("CHULENGO_EMU_DEVICES", 1) ? OK : INVALID_DEVICE; }
int cuDeviceGetName(char *s, int n, int) { return snprintf(s, n, "emulated GPU"), OK; }
int cuDeviceGetUuid(unsigned char *u, int d) { return memset(u, d, 16), OK; }
int cuDeviceGetUuid_v2(unsigned char *u, int d) { return cuDeviceGetUuid(u, d); }
int cuDeviceTotalMem_v2(size_t *n, int) { return *n = total(), OK; }
int cuDeviceGetAttribute(int *v, int a, int) {
    switch (a) {
    case 16: *v = setting("CHULENGO_EMU_SMS", 2); break;
    case 75: *v = 9; break;
    case 76: *v = 0; break;
    default: *v = 0;
    }
    return OK;
}
int cuDevicePrimaryCtxRetain(void **c, int) { static int context; return *c = &context, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxSetCurrent(void *) { return OK; }
int cuCtxGetCurrent(void **c) { return cuDevicePrimaryCtxRetain(c, 0); }
int cuCtxSynchronize() { return sticky; }
int cuMemGetInfo_v2(size_t *free, size_t *all) { return *all = total(), *free = used < total() ? total() - used : 0, OK; }

int cuMemAlloc_v2(uint64_t *p, size_t n) {
    std::lock_guard<std::mutex> hold(lock);
    if (!n) return INVALID;
    if (used + n > total()) return NO_MEMORY;
    unsigned char *at = (unsigned char *)mmap(nullptr, whole(n) + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return NO_MEMORY;
    mprotect(at + whole(n), page, PROT_NONE);
    memset(at, 0xff, whole(n));
    *p = uint64_t(at + whole(n) - (n + 15) / 16 * 16);
    allocations[*p] = n;
    used += n;
    return OK;
}
int cuMemFree_v2(uint64_t p) {
    std::lock_guard<std::mutex> hold(lock);
    auto it = allocations.find(p);
    if (it == allocations.end()) return INVALID;
    const size_t n = it->second;
    used -= n;
    allocations.erase(it);
    munmap((void *)(p / page * page), whole(n) + page);
    return OK;
}
int cuMemHostAlloc(void **p, size_t n, unsigned) { return *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096), *p ? OK : NO_MEMORY; }
int cuMemFreeHost(void *p) { return free(p), OK; }

int cuStreamCreate(void **s, unsigned) { return *s = new Stream{}, OK; }
int cuStreamDestroy_v2(Stream *s) { return delete s, OK; }
int cuStreamSynchronize(Stream *) { return sticky; }
int cuStreamQuery(Stream *) { return sticky; }

// A copy or fill cannot be part of a graph here: the project's graphs are launches alone.
#define COPY(...)                                     \
    if (s && s->capturing) {                          \
        s->capturing->broken = true;                  \
        return CAPTURE_INVALID;                       \
    }                                                 \
    if (sticky) return sticky;                        \
    std::lock_guard<std::mutex> hold(lock);           \
    __VA_ARGS__;                                      \
    return OK
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, Stream *s) { COPY(memcpy((void *)to, from, n)); }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, Stream *s) { COPY(memcpy(to, (void *)from, n)); }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, Stream *s) { COPY(memmove((void *)to, (void *)from, n)); }
int cuMemsetD8Async(uint64_t p, unsigned char v, size_t n, Stream *s) { COPY(memset((void *)p, v, n)); }

int cuModuleLoadData(void **m, const void *) { static int module; return *m = &module, OK; }
int cuModuleUnload(void *) { return OK; }
int cuModuleGetFunction(void **f, void *, const char *name) {
    const emu::Kernel *k = emu::find(name);
    if (!k) return NOT_FOUND;
    return *f = new Function{k, 48 << 10}, OK;
}
int cuFuncSetAttribute(Function *f, int attribute, int v) {
    if (attribute == 8) {
        if (v > 227 << 10) return INVALID;
        f->allowed = v;
    }
    return OK;
}
int cuFuncGetAttribute(int *v, int attribute, Function *f) { return *v = attribute == 0 ? f->kernel->threads : 0, OK; }

int cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream *s, void **, void **extra) {
    if (!f || !gx || !gy || gz != 1 || by != 1 || bz != 1 || !bx || gy > 65535 || int(bx) > f->kernel->threads || int(shared) > f->allowed || !extra) {
        fprintf(stderr, "emulated GPU: %s: a launch of %u x %u blocks of %u threads with %u bytes of shared memory is not valid\n", f ? f->kernel->name : "?", gx, gy, bx, shared);
        return INVALID;
    }
    const size_t size = *(size_t *)extra[3];
    if (size != f->kernel->size) {
        fprintf(stderr, "emulated GPU: %s: want %zu bytes of parameters, got %zu\n", f->kernel->name, f->kernel->size, size);
        return INVALID;
    }
    Launch l{f, {gx, gy, 1}, bx, shared, {(unsigned char *)extra[1], (unsigned char *)extra[1] + size}};
    if (s && s->capturing) return s->capturing->launches.push_back(l), OK;
    std::lock_guard<std::mutex> hold(lock);
    return run(l);
}
struct Config { unsigned gx, gy, gz, bx, by, bz, shared; Stream *stream; };
int cuLaunchKernelEx(const Config *c, Function *f, void **params, void **extra) {
    return cuLaunchKernel(f, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, c->stream, params, extra);
}

int cuStreamBeginCapture_v2(Stream *s, int) { return s->capturing = new Graph{}, OK; }
int cuStreamEndCapture(Stream *s, Graph **g) {
    *g = s->capturing;
    s->capturing = nullptr;
    return (*g)->broken ? CAPTURE_INVALID : OK;
}
int cuGraphInstantiateWithFlags(Graph **e, Graph *g, uint64_t) { return *e = new Graph(*g), OK; }
int cuGraphLaunch(Graph *e, Stream *) {
    std::lock_guard<std::mutex> hold(lock);
    for (auto &l : e->launches)
        if (int rc = run(l)) return rc;
    return OK;
}
int cuGraphExecDestroy(Graph *e) { return delete e, OK; }
int cuGraphDestroy(Graph *g) { return delete g, OK; }

int cuGetErrorName(int e, const char **s) {
    static const std::map<int, const char *> names = {{INVALID, "CUDA_ERROR_INVALID_VALUE"}, {NO_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"}, {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"}, {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"}, {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"}, {CAPTURE_INVALID, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};
    auto it = names.find(e);
    return *s = it == names.end() ? "CUDA_ERROR_UNKNOWN" : it->second, OK;
}
int cuGetErrorString(int e, const char **s) {
    static const std::map<int, const char *> texts = {{INVALID, "invalid argument"}, {NO_MEMORY, "out of memory"}, {100, "no CUDA-capable device is detected"}, {NOT_FOUND, "named symbol not found"}, {LAUNCH_FAILED, "unspecified launch failure"}};
    auto it = texts.find(e);
    return *s = it == texts.end() ? "unknown error" : it->second, OK;
}
}
