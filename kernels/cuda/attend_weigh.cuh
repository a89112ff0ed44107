// What the warpgroups of attend_prefill90.cu and attend_tile90.cu do to the scores of a stage of KEYS keys between their two products.
#pragma once
#include "attend.cuh"

// attention_weigh makes weights of scores, in place: 2^(score·scale - largest); what is not seen is -inf. The running maxima (of unscaled
// scores) and sums of rows g and g+8 are brought up to date; shrink is by how much older sums lose. NONE: a row may have seen nothing so far.
template <int KEYS, bool NONE> __device__ __forceinline__ void attention_weigh(float (&s)[KEYS / 2], float scale, float (&largest)[2], float (&sum)[2], float (&shrink)[2]) {
    constexpr int CHAINS = 4; // for each row: one would be slower than the tensor cores
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most[CHAINS];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            const float two = fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]);
            most[j % CHAINS] = j < CHAINS ? two : fmaxf(most[j % CHAINS], two);
        }
        float all = fmaxf(largest[r], fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])));
        all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, 1));
        all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, 2));
        const float origin = NONE && all == -INFINITY ? 0.0f : all * scale; // of nothing, every weight is 0
        shrink[r] = exp2_approx(largest[r] * scale - origin);
        largest[r] = all;
        float total[CHAINS] = {sum[r] * shrink[r], 0, 0, 0};
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            float &x = s[4 * j + 2 * r], &y = s[4 * j + 2 * r + 1];
            x = exp2_approx(fmaf(x, scale, -origin));
            y = exp2_approx(fmaf(y, scale, -origin));
            total[j % CHAINS] += x + y;
        }
        sum[r] = (total[0] + total[1]) + (total[2] + total[3]);
    }
}
