// A code of the pre-activations that are above their latent's threshold: one pass over them, and
// one in backward, which estimates the thresholds' gradient from those about the thresholds.
#include "ops/jumprelu/jumprelu.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "shared/activation.h"
#include "shared/element.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// float32 copies of a chunk this long, and its sums in float64, stay in the first-level cache.
constexpr int64_t kChunk = 512;

// Some elements of a row as float32: where they lie, or converted in the buffer.
template <class Element>
const float* chunk_of(const RowsView& x, int64_t row, int64_t column, int64_t count,
                      float* buffer) {
    const auto* first = static_cast<const Element*>(x.data) + row * x.row_stride;
    if (x.column_stride == 0) {
        std::fill_n(buffer, count, to_float(*first));
        return buffer;
    }
    if constexpr (std::is_same_v<Element, float>) {
        return first + column;
    } else {
        load(first + column, buffer, count);
        return buffer;
    }
}

// NaN is on. The number of those that are.
template <class Element>
int64_t values_of(const float* preactivation, const float* threshold, int64_t count,
                  Element* __restrict values) {
    int32_t on = 0;
    for (int64_t i = 0; i < count; ++i) {
        const bool is_off = preactivation[i] <= threshold[i];
        from_float(is_off ? 0.f : preactivation[i], values[i]);
        on += is_off ? 0 : 1;
    }
    return on;
}

template <class Element>
void active_of(const float* preactivation, const float* threshold, int64_t count,
               Element* __restrict active) {
    for (int64_t i = 0; i < count; ++i)
        from_float(preactivation[i] <= threshold[i] ? 0.f : 1.f, active[i]);
}

template <class Element>
void jumprelu_as(const JumpReLUArguments& a) {
    const int64_t size = elements_per_task(a.rows * a.columns, a.threads);
    const int64_t rows_per_task = std::max<int64_t>(1, size / a.columns);
    const RowsView thresholds{a.threshold, 0, 1};
    parallel_for(a.threads, (a.rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
        alignas(64) float buffers[2][kChunk];
        const int64_t last = std::min((task + 1) * rows_per_task, a.rows);
        for (int64_t row = task * rows_per_task; row < last; ++row) {
            int64_t on = 0;
            for (int64_t column = 0; column < a.columns; column += kChunk) {
                if (interrupted_at(column)) return;
                const int64_t count = std::min(kChunk, a.columns - column);
                const float* z = chunk_of<Element>(a.preactivation, row, column, count, buffers[0]);
                const float* t = chunk_of<Element>(thresholds, 0, column, count, buffers[1]);
                const int64_t offset = row * a.columns + column;
                on += values_of(z, t, count, static_cast<Element*>(a.values) + offset);
                if (a.active) active_of(z, t, count, static_cast<Element*>(a.active) + offset);
            }
            if (a.counts) a.counts[row] = static_cast<float>(on);
        }
    });
}

// The sums over rows, a column each, of density * grad_values and of density * grad_active. That of
// values is by the threshold times more, which the end of all sums multiplies by.
struct ThresholdSums {
    double* __restrict values;
    double* __restrict active;
};

inline void add_rectangle(const float* z, const float* t, const float* grad_values,
                          const float* grad_active, float half_bandwidth, int64_t count,
                          const ThresholdSums& sums) {
    for (int64_t i = 0; i < count; ++i) {
        const bool is_near = std::fabs(z[i] - t[i]) < half_bandwidth;
        sums.values[i] += is_near ? grad_values[i] : 0.f;
        sums.active[i] += is_near ? grad_active[i] : 0.f;
    }
}

inline void add_tanh(const float* z, const float* t, const float* grad_values,
                     const float* grad_active, float bandwidth, int64_t count,
                     const ThresholdSums& sums) {
    for (int64_t i = 0; i < count; ++i) {
        const float distance = z[i] - t[i];
        const float step = tanh(2.f * distance / bandwidth);
        const float density = distance == distance ? 1.f - step * step : 0.f;
        sums.values[i] += density * grad_values[i];
        sums.active[i] += density * grad_active[i];
    }
}

template <class Element>
void grad_preactivation_of(const float* z, const float* t, const float* grad_values, int64_t count,
                           Element* __restrict output) {
    for (int64_t i = 0; i < count; ++i) from_float(z[i] <= t[i] ? 0.f : grad_values[i], output[i]);
}

template <class Element>
void backward_chunk(const JumpReLUBackwardArguments& a, int64_t row, int64_t column, int64_t count,
                    const float* t, const ThresholdSums* sums) {
    alignas(64) float buffers[3][kChunk];
    const float* z = chunk_of<Element>(a.preactivation, row, column, count, buffers[0]);
    const float* gv = chunk_of<Element>(a.grad_values, row, column, count, buffers[1]);
    auto* output = static_cast<Element*>(a.grad_preactivation) + row * a.columns + column;
    grad_preactivation_of(z, t, gv, count, output);
    if (!sums) return;
    const float* ga = chunk_of<Element>(a.grad_active, row, column, count, buffers[2]);
    const auto width = static_cast<float>(a.bandwidth);
    if (a.estimator == Estimator::rectangle)
        add_rectangle(z, t, gv, ga, static_cast<float>(a.bandwidth / 2), count, *sums);
    else
        add_tanh(z, t, gv, ga, width, count, *sums);
}

template <class Element>
void jumprelu_backward_as(const JumpReLUBackwardArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    const int threads = threads_for(a.rows * a.columns, a.threads);
    const RowsView thresholds{a.threshold, 0, 1};
    parallel_for(threads, blocks, [&](int64_t block) {
        alignas(64) float buffer[kChunk];
        const int64_t first = block * kRowsPerPartialSum;
        const int64_t last = std::min(first + kRowsPerPartialSum, a.rows);
        for (int64_t column = 0; column < a.columns; column += kChunk) {
            if (interrupted_at(column)) return;
            const int64_t count = std::min(kChunk, a.columns - column);
            const float* t = chunk_of<Element>(thresholds, 0, column, count, buffer);
            double* by_values = a.partial_sums + 2 * block * a.columns + column;
            const ThresholdSums sums{by_values, by_values + a.columns};
            if (a.grad_threshold) {
                std::fill_n(sums.values, count, 0.0);
                std::fill_n(sums.active, count, 0.0);
            }
            for (int64_t row = first; row < last; ++row)
                backward_chunk<Element>(a, row, column, count, t,
                                        a.grad_threshold ? &sums : nullptr);
        }
    });
    if (!a.grad_threshold) return;
    parallel_for(1, (a.columns + kChunk - 1) / kChunk, [&](int64_t chunk) {
        alignas(64) float buffer[kChunk], result[kChunk];
        const int64_t column = chunk * kChunk, count = std::min(kChunk, a.columns - column);
        const float* t = chunk_of<Element>(thresholds, 0, column, count, buffer);
        double by_values[kChunk] = {}, by_active[kChunk] = {};
        for (int64_t block = 0; block < blocks; ++block) {
            const double* sums = a.partial_sums + 2 * block * a.columns + column;
            for (int64_t i = 0; i < count; ++i) by_values[i] += sums[i];
            for (int64_t i = 0; i < count; ++i) by_active[i] += sums[a.columns + i];
        }
        for (int64_t i = 0; i < count; ++i)
            result[i] = static_cast<float>(-(by_values[i] * t[i] + by_active[i]) / a.bandwidth);
        store(result, static_cast<Element*>(a.grad_threshold) + column, count);
    });
}

template <class Element>
void active_latents_as(const ActiveLatentsArguments& a) {
    const int threads = threads_for(a.rows * a.columns, a.threads);
    parallel_for(threads, (a.columns + kChunk - 1) / kChunk, [&](int64_t chunk) {
        alignas(64) float buffer[kChunk], largest[kChunk] = {};
        const int64_t column = chunk * kChunk, count = std::min(kChunk, a.columns - column);
        for (int64_t row = 0; row < a.rows; ++row) {
            if (interrupted_at(row * kChunk)) return;
            const float* row_values = chunk_of<Element>(a.values, row, column, count, buffer);
            for (int64_t i = 0; i < count; ++i)
                largest[i] = row_values[i] > largest[i] ? row_values[i] : largest[i];
        }
        for (int64_t i = 0; i < count; ++i) a.active[column + i] = largest[i] > 0.f;
    });
}

}  // namespace

void jumprelu(const JumpReLUArguments& a) {
    with_element(a.element_type, [&](auto element) { jumprelu_as<decltype(element)>(a); });
}

void jumprelu_backward(const JumpReLUBackwardArguments& a) {
    with_element(a.element_type, [&](auto element) { jumprelu_backward_as<decltype(element)>(a); });
}

void active_latents(const ActiveLatentsArguments& a) {
    with_element(a.element_type, [&](auto element) { active_latents_as<decltype(element)>(a); });
}

}  // namespace aefast::AEFAST_ISA
