// Sparsity penalties: the one pass over a code that each needs.
#include "ops/sparsity/sparsity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "shared/element.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// Calls body(begin, end) for a row's chunks, until signals end the task.
template <class Body>
void for_each_chunk(int64_t columns, const Body& body) {
    for (int64_t begin = 0; begin < columns; begin += kElementsBetweenSignalChecks) {
        if (interrupted_at(begin)) return;
        body(begin, std::min(begin + kElementsBetweenSignalChecks, columns));
    }
}

// Calls body(begin, end) for a row's chunks outside of a task, in order on this thread.
template <class Body>
void in_chunks(int64_t columns, const Body& body) {
    parallel_for(1, (columns + kElementsBetweenSignalChecks - 1) / kElementsBetweenSignalChecks,
                 [&](int64_t chunk) {
                     const int64_t begin = chunk * kElementsBetweenSignalChecks;
                     body(begin, std::min(begin + kElementsBetweenSignalChecks, columns));
                 });
}

// Column sums, in blocks of rows that are added in their order; the first block holds the result.
template <class Element>
void column_sums(const SparsityArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    const int threads = threads_for(a.rows * a.columns, a.threads);
    parallel_for(threads, blocks, [&](int64_t block) {
        double* __restrict sums = a.partial_sums + block * a.columns;
        for_each_chunk(a.columns, [&](int64_t begin, int64_t end) {
            std::fill(sums + begin, sums + end, 0.0);
        });
        const int64_t last = std::min((block + 1) * kRowsPerPartialSum, a.rows);
        for (int64_t row = block * kRowsPerPartialSum; row < last; ++row) {
            const auto* values = static_cast<const Element*>(a.values) + row * a.row_stride;
            for_each_chunk(a.columns, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) sums[i] += to_float(values[i]);
            });
        }
    });
    in_chunks(a.columns, [&](int64_t begin, int64_t end) {
        for (int64_t block = 1; block < blocks; ++block) {
            const double* sums = a.partial_sums + block * a.columns;
            for (int64_t i = begin; i < end; ++i) a.partial_sums[i] += sums[i];
        }
    });
}

// The sum of all magnitudes in each block of rows.
template <class Element>
void magnitudes(const SparsityArguments& a) {
    const int threads = threads_for(a.rows * a.columns, a.threads);
    parallel_for(threads, row_blocks(a.rows), [&](int64_t block) {
        Sum sum;
        const int64_t last = std::min((block + 1) * kRowsPerPartialSum, a.rows);
        for (int64_t row = block * kRowsPerPartialSum; row < last; ++row) {
            const auto* values = static_cast<const Element*>(a.values) + row * a.row_stride;
            for_each_chunk(a.columns, [&](int64_t begin, int64_t end) {
                const Element* chunk = values + begin;
                sum.add(end - begin, [&](int64_t i) { return std::fabs(to_float(chunk[i])); });
            });
        }
        a.partial_sums[block] = sum.total();
    });
}

// Clamped: a unit that is saturated over a whole batch would have an infinite penalty. NaN stays.
inline double bounded(double mean) {
    constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
    return std::clamp(mean, kEpsilon, 1 - kEpsilon);
}

// The factor is passed by value. Read through the arguments, it kept gcc from vectorizing the loop,
// which took seven times as long.
template <class Element>
void scaled_sign_row(const Element* values, int64_t count, float factor,
                     Element* __restrict output) {
    for (int64_t i = 0; i < count; ++i) {
        const float value = to_float(values[i]);
        const float positive = value > 0.f ? factor : 0.f;
        from_float(value < 0.f ? -factor : positive, output[i]);
    }
}

template <class Element>
void scaled_sign_as(const ScaledSignArguments& a) {
    const int64_t size = elements_per_task(a.rows * a.columns, a.threads);
    const int64_t rows_per_task = std::max<int64_t>(1, size / a.columns);
    parallel_for(a.threads, (a.rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
        const int64_t last = std::min((task + 1) * rows_per_task, a.rows);
        for (int64_t row = task * rows_per_task; row < last; ++row) {
            const auto* values = static_cast<const Element*>(a.values) + row * a.row_stride;
            auto* output = static_cast<Element*>(a.output) + row * a.columns;
            for_each_chunk(a.columns, [&](int64_t begin, int64_t end) {
                scaled_sign_row(values + begin, end - begin, a.factor, output + begin);
            });
        }
    });
}

}  // namespace

double kl_sparsity(const SparsityArguments& a, double target, float* slope) {
    with_element(a.element_type, [&](auto element) { column_sums<decltype(element)>(a); });
    const double rows = static_cast<double>(a.rows), other = 1 - target;
    double penalty = 0;
    bool is_activity = true;
    in_chunks(a.columns, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const double activity = a.partial_sums[i] / rows, mean = bounded(activity);
            if (mean != activity) is_activity &= !(activity < 0 || activity > 1);
            penalty += target * std::log(target / mean) + other * std::log(other / (1 - mean));
            slope[i] = static_cast<float>((other / (1 - mean) - target / mean) / rows);
        }
    });
    return is_activity ? penalty : -std::numeric_limits<double>::infinity();
}

double l1_sparsity(const SparsityArguments& a) {
    with_element(a.element_type, [&](auto element) { magnitudes<decltype(element)>(a); });
    double total = 0;
    for (int64_t block = 0; block < row_blocks(a.rows); ++block) total += a.partial_sums[block];
    return total / static_cast<double>(a.rows);
}

void scaled_sign(const ScaledSignArguments& a) {
    with_element(a.element_type, [&](auto element) { scaled_sign_as<decltype(element)>(a); });
}

}  // namespace aefast::AEFAST_ISA
