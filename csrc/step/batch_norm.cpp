// A column's mean and variance are summed in float64, row after row: the same bits for any number
// of threads, which share the columns.
#include "step/batch_norm.h"

#include <algorithm>
#include <cmath>

#include "gemm/blocking.h"
#include "shared/parallel.h"

namespace aefast::AEFAST_ISA {
namespace {

constexpr int64_t kColumnsPerTask = 64, kRowsPerLook = 1 << 14;

bool interrupted_at_row(int64_t row) { return row > 0 && row % kRowsPerLook == 0 && interrupted(); }

// run(first column, number of columns) for all columns, some a task.
template <class Run>
void by_columns(int64_t columns, int threads, const Run& run) {
    parallel_for(threads, ceil_divide(columns, kColumnsPerTask), [&](int64_t task) {
        const int64_t first = task * kColumnsPerTask;
        run(first, smaller(kColumnsPerTask, columns - first));
    });
}

void normalize(const BatchNormArguments& a, int64_t first, int64_t count) {
    double means[kColumnsPerTask] = {}, squares[kColumnsPerTask] = {};
    for (int64_t row = 0; row < a.rows; ++row) {
        if (interrupted_at_row(row)) return;
        const float* values = a.values + row * a.columns + first;
        for (int64_t i = 0; i < count; ++i) means[i] += values[i];
    }
    for (int64_t i = 0; i < count; ++i) means[i] /= static_cast<double>(a.rows);
    for (int64_t row = 0; row < a.rows; ++row) {
        if (interrupted_at_row(row)) return;
        const float* values = a.values + row * a.columns + first;
        for (int64_t i = 0; i < count; ++i) {
            const double error = values[i] - means[i];
            squares[i] += error * error;
        }
    }
    float mean[kColumnsPerTask], inverse[kColumnsPerTask];
    float scale[kColumnsPerTask], shift[kColumnsPerTask];
    for (int64_t i = 0; i < count; ++i) {
        mean[i] = static_cast<float>(means[i]);
        const double variance = squares[i] / static_cast<double>(a.rows);
        inverse[i] = static_cast<float>(1 / std::sqrt(variance + a.epsilon));
        scale[i] = a.scale ? a.scale[first + i] : 1.f;
        shift[i] = a.shift ? a.shift[first + i] : 0.f;
    }
    std::copy_n(inverse, count, a.inverse_deviations + first);
    if (a.mean) {
        std::copy_n(mean, count, a.mean + first);
        for (int64_t i = 0; i < count; ++i)
            a.variance[first + i] =
                static_cast<float>(squares[i] / static_cast<double>(a.rows - 1));
    }
    for (int64_t row = 0; row < a.rows; ++row) {
        if (interrupted_at_row(row)) return;
        const int64_t offset = row * a.columns + first;
        for (int64_t i = 0; i < count; ++i) {
            const float normalized = (a.values[offset + i] - mean[i]) * inverse[i];
            a.normalized[offset + i] = normalized;
            a.output[offset + i] = normalized * scale[i] + shift[i];
        }
    }
}

void normalize_backward(const BatchNormBackwardArguments& a, int64_t first, int64_t count) {
    double sums[kColumnsPerTask] = {}, dots[kColumnsPerTask] = {};
    for (int64_t row = 0; row < a.rows; ++row) {
        if (interrupted_at_row(row)) return;
        const int64_t offset = row * a.columns + first;
        for (int64_t i = 0; i < count; ++i) {
            const double gradient = a.gradient[offset + i];
            sums[i] += gradient;
            dots[i] += gradient * a.normalized[offset + i];
        }
    }
    float mean[kColumnsPerTask], slope[kColumnsPerTask], factor[kColumnsPerTask];
    for (int64_t i = 0; i < count; ++i) {
        mean[i] = static_cast<float>(sums[i] / static_cast<double>(a.rows));
        slope[i] = static_cast<float>(dots[i] / static_cast<double>(a.rows));
        factor[i] = (a.scale ? a.scale[first + i] : 1.f) * a.inverse_deviations[first + i];
        if (a.scale_gradient) a.scale_gradient[first + i] = static_cast<float>(dots[i]);
        if (a.shift_gradient) a.shift_gradient[first + i] = static_cast<float>(sums[i]);
    }
    for (int64_t row = 0; row < a.rows; ++row) {
        if (interrupted_at_row(row)) return;
        float* gradient = a.gradient + row * a.columns + first;
        const float* normalized = a.normalized + row * a.columns + first;
        for (int64_t i = 0; i < count; ++i)
            gradient[i] = factor[i] * (gradient[i] - mean[i] - normalized[i] * slope[i]);
    }
}

}  // namespace

void batch_norm(const BatchNormArguments& a) {
    by_columns(a.columns, a.threads,
               [&](int64_t first, int64_t count) { normalize(a, first, count); });
}

void batch_norm_backward(const BatchNormBackwardArguments& a) {
    by_columns(a.columns, a.threads,
               [&](int64_t first, int64_t count) { normalize_backward(a, first, count); });
}

}  // namespace aefast::AEFAST_ISA
