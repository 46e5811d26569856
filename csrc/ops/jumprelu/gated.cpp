// A code whose latents are gated: one pass over their products, and one in backward.
#include "ops/jumprelu/gated.h"

#include <algorithm>

#include "shared/parallel.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// Chunks of a row this long, and their sums in float64, stay in the first-level cache.
constexpr int64_t kChunk = 512;

// A product and a sum in two loops, each rounded as PyTorch's operators do: in one they would be
// contracted.
struct Magnitudes {
    alignas(64) float scaled[kChunk];

    Magnitudes(const float* product, const float* scale, int64_t count) {
        for (int64_t i = 0; i < count; ++i) scaled[i] = product[i] * scale[i];
    }
};

// NaN is open, and its magnitude NaN. The sum of what the gates are open by.
double open_gates(const float* product, const float* gate_bias, const float* scale,
                  const float* magnitude_bias, int64_t count, float* __restrict values,
                  float* __restrict opened) {
    const Magnitudes magnitudes(product, scale, count);
    for (int64_t i = 0; i < count; ++i) {
        const float gate = product[i] + gate_bias[i];
        const float magnitude = magnitudes.scaled[i] + magnitude_bias[i];
        opened[i] = gate <= 0.f ? 0.f : gate;
        values[i] = (gate <= 0.f) | (magnitude <= 0.f) ? 0.f : magnitude;
    }
    Sum sum;
    sum.add(count, [&](int64_t i) { return opened[i]; });
    return sum.total();
}

struct ParameterSums {
    double* __restrict gate_bias, * __restrict scale, * __restrict magnitude_bias;
};

void backward_chunk(const float* product, const float* gate_bias, const float* scale,
                    const float* magnitude_bias, const float* grad_values, const float* grad_opened,
                    float grad_total, int64_t count, float* __restrict grad_product,
                    const ParameterSums& sums) {
    const Magnitudes magnitudes(product, scale, count);
    for (int64_t i = 0; i < count; ++i) {
        const bool is_off = product[i] + gate_bias[i] <= 0.f;
        const bool is_zero = is_off | (magnitudes.scaled[i] + magnitude_bias[i] <= 0.f);
        const float by_gate = is_off ? 0.f : grad_opened[i] + grad_total;
        const float by_magnitude = is_zero ? 0.f : grad_values[i];
        grad_product[i] = by_gate + by_magnitude * scale[i];
        sums.gate_bias[i] += by_gate;
        sums.scale[i] += static_cast<double>(by_magnitude) * product[i];
        sums.magnitude_bias[i] += by_magnitude;
    }
}

}  // namespace

void gated(const GatedCode& a, const GatedOutputs& output) {
    const int64_t size = elements_per_task(a.rows * a.columns, a.threads);
    const int64_t rows_per_task = std::max<int64_t>(1, size / a.columns);
    parallel_for(a.threads, (a.rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
        const int64_t last = std::min((task + 1) * rows_per_task, a.rows);
        for (int64_t row = task * rows_per_task; row < last; ++row) {
            double total = 0;
            for (int64_t column = 0; column < a.columns; column += kChunk) {
                if (interrupted_at(column)) return;
                const int64_t offset = row * a.columns + column;
                total += open_gates(a.product + offset, a.gate_bias + column, a.scale + column,
                                    a.magnitude_bias + column, std::min(kChunk, a.columns - column),
                                    output.values + offset, output.opened + offset);
            }
            output.totals[row] = static_cast<float>(total);
        }
    });
}

void gated_backward(const GatedCode& a, const GatedGradients& grad, float* grad_product,
                    float* grad_parameters, double* partial_sums) {
    const int64_t blocks = row_blocks(a.rows);
    parallel_for(threads_for(a.rows * a.columns, a.threads), blocks, [&](int64_t block) {
        const float zeros[kChunk] = {};
        const int64_t first = block * kRowsPerPartialSum;
        const int64_t last = std::min(first + kRowsPerPartialSum, a.rows);
        for (int64_t column = 0; column < a.columns; column += kChunk) {
            if (interrupted_at(column)) return;
            const int64_t count = std::min(kChunk, a.columns - column);
            double* sums = partial_sums + 3 * block * a.columns + column;
            const ParameterSums parameters{sums, sums + a.columns, sums + 2 * a.columns};
            for (double* sum : {parameters.gate_bias, parameters.scale, parameters.magnitude_bias})
                std::fill_n(sum, count, 0.0);
            for (int64_t row = first; row < last; ++row) {
                const int64_t offset = row * a.columns + column;
                backward_chunk(
                    a.product + offset, a.gate_bias + column, a.scale + column,
                    a.magnitude_bias + column, grad.values ? grad.values + offset : zeros,
                    grad.opened ? grad.opened + offset : zeros,
                    grad.totals ? grad.totals[row] : 0.f, count, grad_product + offset, parameters);
            }
        }
    });
    add_partial_sums(partial_sums, blocks, 3 * a.columns, grad_parameters);
}

}  // namespace aefast::AEFAST_ISA
