// What is used of NCCL, found with dlopen: no header of it is needed. All return a ncclResult_t.
#include <stddef.h>

typedef void *handle;

const char *nccl_open(const char *path); // null: done; else why not
int nccl_version(int *version);
int nccl_unique_id(char id[128]);
int nccl_init_rank(handle *comm, int ranks, const char id[128], int rank);
int nccl_all_gather(const void *from, void *to, size_t floats, handle comm, handle stream);
int nccl_async_error(handle comm, int *error);
int nccl_abort(handle comm);
int nccl_destroy(handle comm);
const char *nccl_error_text(int rc);
