// Entry points of the decode engine for quantised weights: stream_<what>_<code>_<tokens>. See stream_codes.cuh. With 64 tokens
// the sums take the registers of a second block.
#include "stream_codes.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define BLOCKS_32 1 // two would spill here
#else
#define BLOCKS_32 2
#endif

#define STREAM(NT, BLOCKS, NAME, CODE, EPILOGUE)                 \
    KERNEL(CODE == INT4 ? STREAM_PREPARING : STREAM_THREADS, BLOCKS, NAME, CodedStreamParams) { \
        DYNAMIC_SHARED(memory);                                  \
        stream<Coded<CODE, NT, CODE == INT4>, NT, EPILOGUE>(p, memory); \
    }
#define STREAMS(NAME, CODE, EPILOGUE)         \
    STREAM(1, 2, NAME##_8, CODE, EPILOGUE)    \
    STREAM(2, 2, NAME##_16, CODE, EPILOGUE)   \
    STREAM(4, BLOCKS_32, NAME##_32, CODE, EPILOGUE) \
    STREAM(8, 1, NAME##_64, CODE, EPILOGUE)

STREAMS(stream_partial_e4m3, E4M3, PARTIAL)
STREAMS(stream_partial_int4, INT4, PARTIAL)
STREAMS(stream_partial_table4, TABLE4, PARTIAL)
STREAMS(stream_swiglu_e4m3, E4M3, SWIGLU)
STREAMS(stream_swiglu_int4, INT4, SWIGLU)
STREAMS(stream_swiglu_table4, TABLE4, SWIGLU)
