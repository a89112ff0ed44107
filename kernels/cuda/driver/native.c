//go:build cuda

#define CHULENGO_CUDA_NATIVE 1
#include <cuda.h>
#include "native.h"

#define HIDDEN __attribute__((visibility("hidden")))

// native_launch passes the parameters as one packed struct. dependent lets the kernel begin while the one before it in the
// stream still runs (programmatic dependent launch): it then waits by itself before it reads.
HIDDEN int native_launch(handle f, unsigned gx, unsigned gy, unsigned threads, unsigned shared, handle stream, const void *params, size_t size, int dependent) {
	void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, (void *)params, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
	if (!dependent) return cuLaunchKernel((CUfunction)f, gx, gy, 1, threads, 1, 1, shared, (CUstream)stream, NULL, extra);
	CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION};
	attribute.value.programmaticStreamSerializationAllowed = 1;
	CUlaunchConfig c = {.gridDimX = gx, .gridDimY = gy, .gridDimZ = 1, .blockDimX = threads, .blockDimY = 1, .blockDimZ = 1,
		.sharedMemBytes = shared, .hStream = (CUstream)stream, .attrs = &attribute, .numAttrs = 1};
	return cuLaunchKernelEx(&c, (CUfunction)f, NULL, extra);
}

HIDDEN int native_begin_capture(handle s) { return cuStreamBeginCapture((CUstream)s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL); }
HIDDEN int native_end_capture(handle s, handle *g) { return cuStreamEndCapture((CUstream)s, (CUgraph *)g); }
HIDDEN int native_instantiate(handle g, handle *e) { return cuGraphInstantiateWithFlags((CUgraphExec *)e, (CUgraph)g, 0); }
HIDDEN int native_replay(handle e, handle s) { return cuGraphLaunch((CUgraphExec)e, (CUstream)s); }
HIDDEN int native_free_exec(handle e) { return cuGraphExecDestroy((CUgraphExec)e); }
HIDDEN int native_free_graph(handle g) { return cuGraphDestroy((CUgraph)g); }
HIDDEN int native_shared(handle f, int bytes) { return cuFuncSetAttribute((CUfunction)f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes); }
HIDDEN int native_attribute(handle f, int attribute, int *value) { return cuFuncGetAttribute(value, (CUfunction_attribute)attribute, (CUfunction)f); }
HIDDEN int native_host_alloc(void **p, size_t n) { return cuMemHostAlloc(p, n, CU_MEMHOSTALLOC_PORTABLE); }
HIDDEN int native_host_free(void *p) { return cuMemFreeHost(p); }
HIDDEN int native_load(const void *image, handle *m) { return cuModuleLoadData((CUmodule *)m, image); }
HIDDEN int native_uuid(int d, unsigned char uuid[16]) { return cuDeviceGetUuid((CUuuid *)uuid, d); }
HIDDEN const char *native_error_name(int rc) { const char *s = 0; cuGetErrorName((CUresult)rc, &s); return s ? s : ""; }
HIDDEN const char *native_error_text(int rc) { const char *s = 0; cuGetErrorString((CUresult)rc, &s); return s ? s : ""; }
