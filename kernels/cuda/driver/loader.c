//go:build cuda

// The driver is found by dlopen before main, so that one binary starts on machines with and without it: gorgonia.org/cu
// calls cuInit from an init function and ends the process when that fails. Without a driver cuInit succeeds here and every
// other entry point says that there is no device.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

enum { ok = 0, no_device = 100, not_found = 500 };

static const char *const names[] = {
#define X(name) #name,
#include "names.inc"
#undef X
};
enum { count = sizeof names / sizeof names[0] };

__attribute__((visibility("hidden"))) void *cudl_table[count];
static char why[256];
static int status; // of cuInit; negative: there is no library

static int absent(void) { return no_device; }
static int unknown(void) { return not_found; }
static int fine(void) { return ok; }

__attribute__((constructor)) static void load(void) {
	void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	status = -1;
	if (!library) {
		const char *e = dlerror();
		strncpy(why, e ? e : "?", sizeof why - 1);
	} else {
		int (*init)(unsigned) = (int (*)(unsigned))dlsym(library, "cuInit");
		status = init ? init(0) : not_found;
	}
	for (int i = 0; i < count; i++) {
		void *p = status == ok ? dlsym(library, names[i]) : NULL;
		cudl_table[i] = p ? p : status == ok ? (void *)unknown : (void *)absent;
		if (status != ok && strcmp(names[i], "cuInit") == 0)
			cudl_table[i] = (void *)fine;
	}
}

__attribute__((visibility("hidden"))) int cudl_status(void) { return status; }
__attribute__((visibility("hidden"))) const char *cudl_why(void) { return why; }
