// Entry points of the decode engine: stream_<what>_<tokens>, for up to so many tokens. See stream.cuh.
#include "stream.cuh"

#define STREAM(NT, NAME, EPILOGUE)                               \
    KERNEL(STREAM_THREADS, 2, NAME, StreamParams) {              \
        DYNAMIC_SHARED(memory);                                  \
        stream<Plain<NT>, NT, EPILOGUE>(p, memory);                         \
    }

STREAM(1, stream_partial_8, PARTIAL)
STREAM(2, stream_partial_16, PARTIAL)
STREAM(4, stream_partial_32, PARTIAL)
STREAM(8, stream_partial_64, PARTIAL)
STREAM(1, stream_swiglu_8, SWIGLU)
STREAM(2, stream_swiglu_16, SWIGLU)
STREAM(4, stream_swiglu_32, SWIGLU)
STREAM(8, stream_swiglu_64, SWIGLU)
