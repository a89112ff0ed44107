// What the kernels of the emulator's tests share.
#pragma once
#include "kernel.cuh"

struct Params {
    const u8 *a, *b;
    u8 *out;
    int n;
};
