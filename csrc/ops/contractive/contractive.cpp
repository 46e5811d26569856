// The element-wise halves of the contractive penalty ||J||^2; the products are gemm.cpp's or the
// vendor's. With d = act'(a) and a weight's squared row lengths n, one layer has
// ||J||^2 = sum_j d_j^2 n_j. Deeper encoders go through rows [samples, rows, columns] of partial
// Jacobians, which lie in cache.
#include "ops/contractive/contractive.h"

#include <algorithm>
#include <cmath>

#include "shared/activation.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// Elements a task.
constexpr int64_t kElementsPerTask = 32768;

// Copies of a chunk this long stay in the first-level cache.
constexpr int64_t kChunk = 1024;

// Rows of at least this length look for signals between rows, too, and not only between tasks.
constexpr int64_t kLongRow = 1 << 18;

constexpr int kLanes = 16;

// Whether act'' is not 0 everywhere.
bool has_curvature(Activation activation) { return activation > Activation::leaky_relu; }

// Sums in lanes, so that the compiler vectorizes them, added up in float64.
template <class Term>
double sum(int64_t count, const Term& term) {
    float lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
    double total = 0;
    for (float lane : lanes) total += lane;
    for (; i < count; ++i) total += term(i);
    return total;
}

void multiply(const float* factors, float* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] *= factors[i];
}

// One chunk of a row; sums are the bias's, and the lengths' where grad_slope is the penalty's.
void backward_chunk(const SlopeBackwardArguments& a, int64_t row, int64_t column, int64_t count,
                    double* sums) {
    alignas(64) float slope[kChunk], curvature[kChunk], scaled_slope[kChunk];
    const float* penalty_slope = slope;
    const int64_t offset = row * a.columns + column;
    float* output = a.grad_preactivation + offset;
    slopes(a.activation, a.saved + offset, slope, count);
    curvatures(a.activation, a.saved + offset, curvature, count);
    if (a.scales) {
        std::copy_n(slope, count, scaled_slope);
        multiply(a.scales + column, scaled_slope, count);
        multiply(a.scales + column, curvature, count);
        penalty_slope = scaled_slope;
    }
    if (!has_curvature(a.activation)) {  // a length of infinity, times 0, would leave NaN
        std::fill_n(output, count, 0.f);
    } else if (a.grad_slope) {
        const float* grad_slope = a.grad_slope + offset;
        for (int64_t i = 0; i < count; ++i) output[i] = grad_slope[i] * curvature[i];
    } else {
        const float grad = a.grad_penalty[row];
        const float* squares = a.squares + column;
        for (int64_t i = 0; i < count; ++i)
            output[i] = 2.f * grad * squares[i] * penalty_slope[i] * curvature[i];
    }
    if (!a.grad_slope) {
        const float grad = a.grad_penalty[row];
        double* length_sums = sums + a.columns + column;
        for (int64_t i = 0; i < count; ++i) length_sums[i] += grad * penalty_slope[i] * slope[i];
    }
    if (a.grad_code) {
        const float* grad_code = a.grad_code + row * a.grad_code_row_stride + column;
        if (a.activation == Activation::relu)  // 0 where the slope is, even of a NaN
            for (int64_t i = 0; i < count; ++i) output[i] = slope[i] > 0.f ? grad_code[i] : 0.f;
        else
            for (int64_t i = 0; i < count; ++i) output[i] += grad_code[i] * slope[i];
    }
    for (int64_t i = 0; i < count; ++i) sums[column + i] += output[i];
}

// kRowsPerPartialSum rows of one sample.
void expand_backward_block(const ExpandBackwardArguments& a, int64_t sample, int64_t block) {
    const int64_t begin = block * kRowsPerPartialSum;
    const int64_t end = std::min(begin + kRowsPerPartialSum, a.rows);
    const float* slope = a.slope + sample * a.columns;
    float* grad_slope = a.grad_slope_parts + (sample * row_blocks(a.rows) + block) * a.columns;
    std::fill_n(grad_slope, a.columns, 0.f);
    for (int64_t row = begin; row < end; ++row) {
        const int64_t element = sample * a.rows + row;
        const int64_t offset = sample * a.start_sample_stride + row * a.columns;
        const float* start = a.start + offset;
        float* grad_start = a.grad_start + offset;
        const float* grad = a.grad + element * a.columns;
        const float factor = a.row_slope ? a.row_slope[element] : 1.f;
        if (a.row_slope)
            a.grad_row_slope[element] = static_cast<float>(
                sum(a.columns, [&](int64_t i) { return grad[i] * start[i] * slope[i]; }));
#pragma GCC ivdep
        for (int64_t i = 0; i < a.columns; ++i) {
            const float part = factor * grad[i];
            grad_slope[i] += part * start[i];
            grad_start[i] = (a.accumulate ? grad_start[i] : 0.f) + part * slope[i];
        }
    }
}

}  // namespace

void slopes(const SlopesArguments& a) {
    const int64_t tasks = (a.count + kElementsPerTask - 1) / kElementsPerTask;
    parallel_for(a.threads, tasks, [&](int64_t task) {
        const int64_t begin = task * kElementsPerTask;
        slopes(a.activation, a.saved + begin, a.output + begin,
               std::min(kElementsPerTask, a.count - begin));
    });
}

bool row_lengths(const RowLengthsArguments& a) {
    std::fill_n(a.squares, a.rows, 0.f);
    dot_rows({a.weight, a.weight_row_stride, a.weight, a.weight_row_stride, a.squares, a.rows,
              a.columns, a.threads});
    return std::all_of(a.squares, a.squares + a.rows,
                       [](float square) { return std::isfinite(square); });
}

void layer_penalty(const LayerPenaltyArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    const int threads = threads_for(a.rows * a.columns, a.threads);
    parallel_for(threads, blocks, [&](int64_t block) {
        alignas(64) float slope[kChunk];
        const int64_t last = std::min((block + 1) * kRowsPerPartialSum, a.rows);
        for (int64_t row = block * kRowsPerPartialSum; row < last; ++row) {
            double total = 0;
            for (int64_t column = 0; column < a.columns; column += kChunk) {
                const int64_t count = std::min(kChunk, a.columns - column);
                const float* squares = a.squares + column;
                slopes(a.activation, a.saved + row * a.columns + column, slope, count);
                if (a.scales) multiply(a.scales + column, slope, count);
                total += sum(count, [&](int64_t i) { return slope[i] * slope[i] * squares[i]; });
            }
            a.penalty[row] = static_cast<float>(total);
        }
    });
}

void slope_backward(const SlopeBackwardArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    const int threads = threads_for(a.rows * a.columns, a.threads);
    parallel_for(threads, blocks, [&](int64_t block) {
        double* sums = a.partial_sums + block * 2 * a.columns;
        std::fill_n(sums, 2 * a.columns, 0.0);
        const int64_t last = std::min((block + 1) * kRowsPerPartialSum, a.rows);
        for (int64_t row = block * kRowsPerPartialSum; row < last; ++row) {
            if (a.columns >= kLongRow && interrupted()) return;
            for (int64_t column = 0; column < a.columns; column += kChunk)
                backward_chunk(a, row, column, std::min(kChunk, a.columns - column), sums);
        }
    });
    add_partial_sums(a.partial_sums, blocks, 2 * a.columns, a.grad_sums);
}

void expand(const ExpandArguments& a) {
    const int64_t tasks_per_sample = (a.rows + kRowsPerPartialSum - 1) / kRowsPerPartialSum;
    parallel_for(a.threads, a.samples * tasks_per_sample, [&](int64_t task) {
        const int64_t sample = task / tasks_per_sample;
        const int64_t begin = task % tasks_per_sample * kRowsPerPartialSum;
        const float* slope = a.slope + sample * a.columns;
        for (int64_t row = begin; row < std::min(begin + kRowsPerPartialSum, a.rows); ++row) {
            const float* start = a.start + sample * a.start_sample_stride + row * a.columns;
            const float factor = a.row_slope ? a.row_slope[sample * a.rows + row] : 1.f;
            float* output = a.output + (sample * a.rows + row) * a.columns;
            for (int64_t i = 0; i < a.columns; ++i) output[i] = factor * start[i] * slope[i];
        }
    });
}

void expand_backward(const ExpandBackwardArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    if (a.start_sample_stride != 0) {
        parallel_for(a.threads, a.samples, [&](int64_t sample) {
            for (int64_t block = 0; block < blocks; ++block)
                expand_backward_block(a, sample, block);
        });
    } else {  // a row of the common start's gradient is one thread's
        parallel_for(a.threads, blocks, [&](int64_t block) {
            for (int64_t sample = 0; sample < a.samples; ++sample)
                expand_backward_block(a, sample, block);
        });
    }
}

void dot_rows(const DotRowsArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    const int threads = threads_for(a.rows * a.columns, a.threads);
    parallel_for(threads, blocks, [&](int64_t block) {
        const int64_t last = std::min((block + 1) * kRowsPerPartialSum, a.rows);
        for (int64_t row = block * kRowsPerPartialSum; row < last; ++row) {
            const float* left = a.left + row * a.left_row_stride;
            const float* right = a.right + row * a.right_row_stride;
            a.totals[row] += sum(a.columns, [&](int64_t i) { return left[i] * right[i]; });
        }
    });
}

}  // namespace aefast::AEFAST_ISA
