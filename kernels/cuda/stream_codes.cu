// Entry points of the decode engine for quantised weights: stream_<what>_<code>_<tokens>. See stream_codes.cuh. With 64 tokens
// the sums take the registers of a second block.
#include "stream_codes.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define BLOCKS_32 1 // two would spill here
#else
#define BLOCKS_32 2
#endif

#define STREAM(NT, BLOCKS, NAME, CODE, EPILOGUE, MAKING)         \
    KERNEL(CODE == INT4 && MAKING == HERE ? STREAM_PREPARING : STREAM_THREADS, BLOCKS, NAME, CodedStreamParams) { \
        DYNAMIC_SHARED(memory);                                  \
        stream<Coded<CODE, NT, MAKING>, NT, EPILOGUE>(p, memory); \
    }
#define STREAMS(NAME, CODE, EPILOGUE, MAKING)         \
    STREAM(1, 2, NAME##_8, CODE, EPILOGUE, MAKING)    \
    STREAM(2, 2, NAME##_16, CODE, EPILOGUE, MAKING)   \
    STREAM(4, BLOCKS_32, NAME##_32, CODE, EPILOGUE, MAKING) \
    STREAM(8, 1, NAME##_64, CODE, EPILOGUE, MAKING)

STREAMS(stream_partial_e4m3, E4M3, PARTIAL, HERE)
STREAMS(stream_partial_int4, INT4, PARTIAL, HERE)
STREAMS(stream_partial_digits, INT4, PARTIAL, READY)
STREAMS(stream_partial_table4, TABLE4, PARTIAL, HERE)
STREAMS(stream_swiglu_e4m3, E4M3, SWIGLU, HERE)
STREAMS(stream_swiglu_int4, INT4, SWIGLU, HERE)
STREAMS(stream_swiglu_digits, INT4, SWIGLU, READY)
STREAMS(stream_swiglu_table4, TABLE4, SWIGLU, HERE)
