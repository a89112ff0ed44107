// Driver calls that gorgonia.org/cu lacks. All return a CUresult.
#include <stddef.h>
#include <stdint.h>

typedef void *handle;

int native_launch(handle f, unsigned gx, unsigned gy, unsigned threads, unsigned shared, handle stream, const void *params, size_t size, int dependent);
int native_begin_capture(handle stream);
int native_end_capture(handle stream, handle *graph);
int native_instantiate(handle graph, handle *exec);
int native_replay(handle exec, handle stream);
int native_free_exec(handle exec);
int native_free_graph(handle graph);
int native_shared(handle f, int bytes);
int native_attribute(handle f, int attribute, int *value);
int native_host_alloc(void **p, size_t bytes);
int native_host_free(void *p);
int native_load(const void *image, handle *module);
int native_uuid(int device, unsigned char uuid[16]);
const char *native_error_name(int rc);
const char *native_error_text(int rc);
int cudl_status(void);
const char *cudl_why(void);
