// From logits to answers: log-probabilities, the most probable ids, and the draw that package kernels' Sampler specifies.
#include "sample.cuh"

// WantRow is one row of logits to answer, kernels.Want with its Sampler.
struct WantRow {
    int score;       // id to score; negative: none
    int top;         // most probable ids to list
    int draws;       // 0: no draw
    int mask_at;     // first word in SampleParams.masks; negative: none
    int adjust_at, adjusts;
    int top_at;      // first place in SampleParams.top
    int top_k;
    float temperature, top_p, min_p;
    float pad;
    u64 seed, index;
};

struct AdjustRow { // kernels.Adjust
    int id;
    float penalty, add;
};

struct TopRow {
    int id;
    float log_prob;
};

enum SampleStatus { SAMPLE_OK, SAMPLE_NOT_FINITE, SAMPLE_NOTHING_ALLOWED, SAMPLE_NOT_FINITE_ADJUSTED };

struct AnswerRow { // kernels.Out
    int token;
    float log_prob, score;
    int status;      // SampleStatus
};

// SliceRow is what is known of one of SLICES parts of a row of logits.
struct SliceRow {
    double sum;  // of e^(logit - best)
    float best;
    int at;      // the lowest id that has it
    int bad;     // a logit is not a number
    int kept;    // ids of some weight, from the slice's place in ids on; -1: they were not listed
};

constexpr int SLICES = 64;

struct SampleParams {
    const float *logits;       // [wants, ld]
    const WantRow *wants;      // [wants]
    const AdjustRow *adjusts;
    const u32 *masks;
    float *adjusted;           // [wants, ld] scratch
    int *ids;                  // [wants, 2·ld] scratch: the drawing's list, and the slices'
    SliceRow *slices;          // [wants, SLICES]
    AnswerRow *answers;        // [wants]
    TopRow *top;
    const int *count;          // wants that there are
    const u32 *status;         // of the step
    u32 *status_out;           // where the host reads it
    int ld, vocab;
};

namespace {

// weight is how often an id is drawn relative to the best, in units of 2⁻³².
__device__ __forceinline__ u64 weight(float v, float best, float temperature) {
    const double at = (double(v) - double(best)) / double(temperature);
    return at < -24.0 ? 0 : u64(exp(at) * 4294967296.0 + 0.5); // e⁻²⁴ < 2⁻³³
}

// keep shortens a list of ids, in its order, to those that pass; it returns how many there are.
template <typename Pass> __device__ __forceinline__ int keep(int *ids, int n, Pass pass, SampleShared &s) {
    int kept = 0;
    for (int from = 0; from < n; from += SAMPLE_THREADS) {
        const int i = from + threadIdx.x;
        const int id = i < n ? ids[i] : 0;
        const bool passes = i < n && pass(id);
        u64 total;
        const u64 before = scan(passes, total, s); // also: everybody has read its id
        if (passes) ids[kept + before] = id;
        kept += int(total);
        __syncthreads();
    }
    return kept;
}

// keep_selected is keep for what select found.
__device__ __forceinline__ int keep_selected(int *ids, int n, const float *x, Selected sel, SampleShared &s) {
    int kept = 0;
    u64 ties = 0;
    for (int from = 0; from < n; from += SAMPLE_THREADS) {
        const int i = from + threadIdx.x;
        const int id = i < n ? ids[i] : 0;
        const u32 key = i < n ? order_key(x[id]) : 0;
        u64 total, equal;
        const u64 rank = ties + scan(i < n && key == sel.key, equal, s);
        ties += equal;
        const bool passes = i < n && (key > sel.key || (key == sel.key && rank < sel.ties));
        const u64 before = scan(passes, total, s);
        if (passes) ids[kept + before] = id;
        kept += int(total);
        __syncthreads();
    }
    return kept;
}

__device__ __forceinline__ int slice_length(int vocab) { return ceil_div(ceil_div(vocab, SLICES), 4) * 4; }

// list_kept puts the lists of the slices one after the other.
__device__ __forceinline__ int list_kept(const SliceRow *slices, const int *lists, int vocab, int *ids) {
    int n = 0;
    for (int i = 0; i < SLICES; i++) {
        const int kept = slices[i].kept;
        for (int j = threadIdx.x; j < kept; j += SAMPLE_THREADS) ids[n + j] = lists[i * slice_length(vocab) + j];
        n += kept;
    }
    return n;
}

// list_weighty lists the ids of some weight, in order: each warp has a part of them, which it counts first.
__device__ __forceinline__ int list_weighty(const WantRow &w, const float *x, float top, int vocab, int *ids, SampleShared &s) {
    const int each = ceil_div(ceil_div(vocab, SAMPLE_THREADS / WARP), WARP) * WARP, from = warp_id() * each;
    int mine = 0;
    for (int i = from + lane_id(); i < from + each; i += WARP) mine += i < vocab && weight(x[i], top, w.temperature) > 0;
    u64 total;
    int at = int(scan(mine, total, s));
    at = __shfl_sync(0xffffffffu, at, 0); // of the warp's first lane
    for (int i = from + lane_id(); i < from + each; i += WARP) {
        const bool passes = i < vocab && weight(x[i], top, w.temperature) > 0;
        const u32 all = __ballot_sync(0xffffffffu, passes);
        if (passes) ids[at + __popc(all & ((1u << lane_id()) - 1))] = i;
        at += __popc(all);
    }
    return int(total);
}

// draw picks an id from x [vocab], whose largest value is x[best]. ids holds the first n of the list, those of some weight.
__device__ __forceinline__ int draw(const WantRow &w, const float *x, int best, int *ids, int n, SampleShared &s) {
    const float top = x[best];
    __syncthreads();
    const auto value = [&](int i) { return x[ids[i]]; };
    const auto mass = [&](int i) { return weight(x[ids[i]], top, w.temperature); };
    if (w.top_k > 0 && w.top_k < n) {
        const u64 k = w.top_k;
        n = keep_selected(ids, n, x, select(n, value, [](int) { return u64(1); }, [=](u64 c) { return c >= k; }, s), s);
    }
    if (w.top_p > 0 && w.top_p < 1) {
        u64 sum = 0, total;
        for (int i = threadIdx.x; i < n; i += SAMPLE_THREADS) sum += mass(i);
        scan(sum, total, s);
        const double enough = double(w.top_p) * double(total);
        n = keep_selected(ids, n, x, select(n, value, mass, [=](u64 m) { return double(m) >= enough; }, s), s);
    }
    if (w.min_p > 0) {
        const double least = double(w.min_p) * 4294967296.0;
        n = keep(ids, n, [&](int id) { return double(weight(x[id], top, w.temperature)) >= least; }, s);
    }
    if (n == 0) return best; // the filters left none: the best is always allowed
    // Each thread has a run of the list; the draw falls into one of them.
    const int each = ceil_div(n, SAMPLE_THREADS), from = min(int(threadIdx.x) * each, n), to = min(from + each, n);
    u64 sum = 0, total;
    for (int i = from; i < to; i++) sum += mass(i);
    const u64 before = scan(sum, total, s);
    const u64 at = __umul64hi(philox(w.seed, w.index), total);
    if (at >= before && at < before + sum) {
        u64 left = at - before;
        int i = from;
        for (u64 m = mass(i); left >= m; m = mass(i)) left -= m, i++;
        s.best_at[0] = ids[i];
    }
    __syncthreads();
    return s.best_at[0];
}

} // namespace

// sample_slices: the largest logit of each slice and the sum of its exponentials. Grid (SLICES, wants).
KERNEL(256, 1, sample_slices, SampleParams) {
    __shared__ float most[8];
    __shared__ int where[8];
    __shared__ double sums[8];
    const int row = blockIdx.y, length = slice_length(p.vocab), from = blockIdx.x * length, to = min(from + length, p.vocab);
    const bool there = row < *p.count; // known before the step
    griddep_launch();
    griddep_wait();
    if (!there) return;
    const float *x = p.logits + u64(row) * p.ld;
    float best = -INFINITY;
    int at = 0x7fffffff;
    bool bad = false;
#pragma unroll 4
    for (int i = from + threadIdx.x; i < to; i += 256) {
        const float v = x[i];
        bad |= v != v;
        if (v > best) best = v, at = i;
    }
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        const float v = __shfl_xor_sync(0xffffffffu, best, d);
        const int i = __shfl_xor_sync(0xffffffffu, at, d);
        if (v > best || (v == best && i < at)) best = v, at = i;
    }
    if (lane_id() == 0) most[warp_id()] = best, where[warp_id()] = at;
    bad = __syncthreads_or(bad);
#pragma unroll
    for (int w = 0; w < 8; w++)
        if (most[w] > best || (most[w] == best && where[w] < at)) best = most[w], at = where[w];
    double sum = 0;
#pragma unroll 4
    for (int i = from + threadIdx.x; i < to; i += 256) sum += expf(x[i] - best);
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane_id() == 0) sums[warp_id()] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (int w = 0; w < 8; w++) sum += sums[w];
    p.slices[row * SLICES + blockIdx.x] = SliceRow{sum, best, at, bad, -1};
}

// sample_gather lists the ids of some weight in each slice, where a plain row of logits is drawn from. Grid (SLICES, wants).
KERNEL(256, 1, sample_gather, SampleParams) {
    __shared__ int counts[8];
    const int row = blockIdx.y, length = slice_length(p.vocab), from = blockIdx.x * length, to = min(from + length, p.vocab);
    const WantRow w = row < *p.count ? p.wants[row] : WantRow{};
    const bool draws = w.draws && w.temperature > 0 && w.mask_at < 0 && w.adjusts == 0;
    griddep_launch();
    griddep_wait();
    if (!draws) return;
    SliceRow *slices = p.slices + row * SLICES;
    float top = -INFINITY;
    for (int i = lane_id(); i < SLICES; i += WARP) top = fmaxf(top, slices[i].best);
    top = warp_max(top);
    const float *x = p.logits + u64(row) * p.ld;
    int *list = p.ids + u64(row) * 2 * p.ld + p.ld + from;
    const int each = ceil_div(ceil_div(length, 8), WARP) * WARP, first = from + warp_id() * each, last = min(first + each, to);
    int mine = 0;
    for (int i = first + lane_id(); i < last; i += WARP) mine += weight(x[i], top, w.temperature) > 0;
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, d);
    if (lane_id() == 0) counts[warp_id()] = mine;
    __syncthreads();
    int at = 0, all = 0;
    for (int i = 0; i < 8; i++) {
        if (i < warp_id()) at += counts[i];
        all += counts[i];
    }
    for (int i = first; i < last; i += WARP) {
        const bool passes = i + lane_id() < last && weight(x[i + lane_id()], top, w.temperature) > 0;
        const u32 ballot = __ballot_sync(0xffffffffu, passes);
        if (passes) list[at + __popc(ballot & ((1u << lane_id()) - 1))] = i + lane_id();
        at += __popc(ballot);
    }
    if (threadIdx.x == 0) slices[blockIdx.x].kept = all;
}

// sample_rows: one block a wanted row.
KERNEL(SAMPLE_THREADS, 1, sample_rows, SampleParams) {
    __shared__ SampleShared s;
    __shared__ SliceRow slices[SLICES];
    const int row = blockIdx.x;
    const bool there = row < *p.count; // known before the step
    griddep_launch();
    griddep_wait();
    if (row == 0 && threadIdx.x == 0) *p.status_out = *p.status;
    if (!there) return;
    const WantRow w = p.wants[row];
    const float *logits = p.logits + u64(row) * p.ld;
    int *ids = p.ids + u64(row) * 2 * p.ld;
    AnswerRow answer = {-1, 0, 0, SAMPLE_OK};
    if (!w.draws && w.score < 0 && w.top <= 0) {
        if (threadIdx.x == 0) p.answers[row] = answer;
        return;
    }

    if (threadIdx.x < SLICES) slices[threadIdx.x] = p.slices[row * SLICES + threadIdx.x];
    __syncthreads();
    float largest = -INFINITY;
    int best = 0x7fffffff;
    bool nan = false;
    for (int i = 0; i < SLICES; i++) {
        nan |= slices[i].bad;
        if (slices[i].best > largest) largest = slices[i].best, best = slices[i].at;
    }
    if (nan || isinf(largest)) {
        answer.status = SAMPLE_NOT_FINITE;
        if (threadIdx.x == 0) p.answers[row] = answer;
        return;
    }
    // Each warp adds up the slices, in the same order.
    double sum = slices[lane_id()].sum * exp(double(slices[lane_id()].best) - double(largest)) +
                 slices[lane_id() + WARP].sum * exp(double(slices[lane_id() + WARP].best) - double(largest));
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    const double total = double(largest) + log(sum);

    if (w.draws) {
        const float *x = logits;
        int at = best;
        if (w.mask_at >= 0 || w.adjusts > 0) {
            float *y = p.adjusted + u64(row) * p.ld;
            for (int i = threadIdx.x; i < p.vocab; i += SAMPLE_THREADS) y[i] = logits[i];
            __syncthreads();
            for (int i = threadIdx.x; i < w.adjusts; i += SAMPLE_THREADS) { // no id comes twice
                const AdjustRow a = p.adjusts[w.adjust_at + i];
                float v = y[a.id];
                if (a.penalty != 0) v = v > 0 ? v / a.penalty : v * a.penalty;
                y[a.id] = v + a.add;
            }
            __syncthreads();
            if (w.mask_at >= 0)
                for (int i = threadIdx.x; i < p.vocab; i += SAMPLE_THREADS)
                    if (!(p.masks[w.mask_at + i / 32] >> (i % 32) & 1)) y[i] = -INFINITY;
            __syncthreads();
            x = y;
            const float top = argmax(x, p.vocab, at, nan, s);
            if (nan || isinf(top)) answer.status = !nan && top < 0 ? SAMPLE_NOTHING_ALLOWED : SAMPLE_NOT_FINITE_ADJUSTED;
        }
        if (answer.status == SAMPLE_OK) {
            answer.token = at;
            if (w.temperature != 0) {
                const int n = slices[0].kept >= 0 ? list_kept(slices, ids + p.ld, p.vocab, ids) : list_weighty(w, x, x[at], p.vocab, ids, s);
                answer.token = draw(w, x, at, ids, n, s);
            }
            answer.log_prob = float(double(logits[answer.token]) - total);
        }
    }
    if (w.score >= 0) answer.score = float(double(logits[w.score]) - total);
    if (threadIdx.x == 0) p.answers[row] = answer;

    const int n = min(w.top, p.vocab);
    if (n <= 0) return;
    const auto value = [&](int i) { return logits[i]; };
    const u64 k = n;
    const Selected sel = select(p.vocab, value, [](int) { return u64(1); }, [=](u64 c) { return c >= k; }, s);
    for (int i = threadIdx.x; i < p.vocab; i += SAMPLE_THREADS) ids[i] = i;
    __syncthreads();
    const int kept = keep_selected(ids, p.vocab, logits, sel, s);
    for (int i = threadIdx.x; i < kept; i += SAMPLE_THREADS) { // an id's place is the number of those before it
        const float v = logits[ids[i]];
        int place = 0;
        for (int j = 0; j < kept; j++) {
            const float other = logits[ids[j]];
            place += other > v || (other == v && ids[j] < ids[i]);
        }
        p.top[w.top_at + place] = TopRow{ids[i], float(double(v) - total)};
    }
}
