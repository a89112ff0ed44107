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

struct SampleParams {
    const float *logits;       // [wants, ld]
    const WantRow *wants;      // [wants]
    const AdjustRow *adjusts;
    const u32 *masks;
    float *adjusted;           // [wants, ld] scratch
    int *ids;                  // [wants, ld] scratch
    AnswerRow *answers;        // [wants]
    TopRow *top;
    const int *count;          // wants that there are
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

// draw picks an id from x [vocab], whose largest value is x[best].
__device__ __forceinline__ int draw(const WantRow &w, const float *x, int vocab, int best, int *ids, SampleShared &s) {
    const float top = x[best];
    int n = 0;
    for (int from = 0; from < vocab; from += SAMPLE_THREADS) { // ids of some weight, in order
        const int id = from + threadIdx.x;
        const bool passes = id < vocab && weight(x[id], top, w.temperature) > 0;
        u64 total;
        const u64 before = scan(passes, total, s);
        if (passes) ids[n + before] = id;
        n += int(total);
    }
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

// sample: one block a wanted row.
KERNEL(SAMPLE_THREADS, 1, sample_rows, SampleParams) {
    __shared__ SampleShared s;
    __shared__ double sums[SAMPLE_THREADS / WARP];
    griddep_wait();
    griddep_launch();
    const int row = blockIdx.x;
    if (row >= *p.count) return;
    const WantRow w = p.wants[row];
    const float *logits = p.logits + u64(row) * p.ld;
    int *ids = p.ids + u64(row) * p.ld;
    AnswerRow answer = {-1, 0, 0, SAMPLE_OK};
    if (!w.draws && w.score < 0 && w.top <= 0) {
        if (threadIdx.x == 0) p.answers[row] = answer;
        return;
    }

    int best;
    bool nan;
    const float largest = argmax(logits, p.vocab, best, nan, s);
    if (nan || isinf(largest)) {
        answer.status = SAMPLE_NOT_FINITE;
        if (threadIdx.x == 0) p.answers[row] = answer;
        return;
    }
    double sum = 0;
    for (int i = threadIdx.x; i < p.vocab; i += SAMPLE_THREADS) sum += expf(logits[i] - largest);
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    __syncthreads();
    if (lane_id() == 0) sums[warp_id()] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < SAMPLE_THREADS / WARP; i++) sum += sums[i];
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
            answer.token = w.temperature == 0 ? at : draw(w, x, p.vocab, at, ids, s);
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
