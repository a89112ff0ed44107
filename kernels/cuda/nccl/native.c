//go:build cuda

#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include "native.h"

#define HIDDEN __attribute__((visibility("hidden")))

// As nccl.h has them. The id is passed by value.
typedef struct { char internal[128]; } unique_id;
enum { float32 = 7 }; // ncclFloat32

static int (*get_version)(int *);
static int (*get_unique_id)(unique_id *);
static int (*comm_init_rank)(handle *, int, unique_id, int);
static int (*all_gather)(const void *, void *, size_t, int, handle, handle);
static int (*comm_get_async_error)(handle, int *);
static int (*comm_abort)(handle);
static int (*comm_destroy)(handle);
static const char *(*get_error_string)(int);

HIDDEN const char *nccl_open(const char *path) {
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library) return dlerror();
	const struct { const char *name; void **to; } list[] = {
		{"ncclGetVersion", (void **)&get_version}, {"ncclGetUniqueId", (void **)&get_unique_id}, {"ncclCommInitRank", (void **)&comm_init_rank},
		{"ncclAllGather", (void **)&all_gather}, {"ncclCommGetAsyncError", (void **)&comm_get_async_error}, {"ncclCommAbort", (void **)&comm_abort},
		{"ncclCommDestroy", (void **)&comm_destroy}, {"ncclGetErrorString", (void **)&get_error_string},
	};
	for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
		if (!(*list[i].to = dlsym(library, list[i].name))) return dlerror();
	return NULL;
}

HIDDEN int nccl_version(int *version) { return get_version(version); }
HIDDEN int nccl_unique_id(char id[128]) {
	unique_id u;
	int rc = get_unique_id(&u);
	memcpy(id, u.internal, sizeof u.internal);
	return rc;
}
HIDDEN int nccl_init_rank(handle *comm, int ranks, const char id[128], int rank) {
	unique_id u;
	memcpy(u.internal, id, sizeof u.internal);
	return comm_init_rank(comm, ranks, u, rank);
}
HIDDEN int nccl_all_gather(const void *from, void *to, size_t floats, handle comm, handle stream) {
	return all_gather(from, to, floats, float32, comm, stream);
}
HIDDEN int nccl_async_error(handle comm, int *error) { return comm_get_async_error(comm, error); }
HIDDEN int nccl_abort(handle comm) { return comm_abort(comm); }
HIDDEN int nccl_destroy(handle comm) { return comm_destroy(comm); }
HIDDEN const char *nccl_error_text(int rc) { return get_error_string(rc); }
