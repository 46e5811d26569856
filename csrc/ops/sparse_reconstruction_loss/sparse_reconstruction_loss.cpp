// The squared error of what sparse codes reconstruct: a row is decoded, compared, and multiplied
// with its latents while these are in cache. No reconstruction is written.
#include "ops/sparse_reconstruction_loss/sparse_reconstruction_loss.h"

#include "ops/topk/code_rows.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// residual -= target; the squared norm of what is left.
double subtract(const float* target, int64_t columns, float* __restrict residual) {
    for (int64_t i = 0; i < columns; ++i) residual[i] -= target[i];
    Sum squares;
    squares.add(columns, [=](int64_t i) {
        const double difference = residual[i];
        return difference * difference;
    });
    return squares.total();
}

void compare_row(const SparseReconstructionArguments& a, int64_t row) {
    const float* values = a.code.values + row * a.code.k;
    const int64_t* indices = a.code.indices + row * a.code.k;
    float* residual = a.residual + row * a.columns;
    const auto value_at = [=](int64_t i) { return values[i]; };
    const auto latent_at = [=, &a](int64_t i) {
        return a.weight + indices[i] * a.weight_row_stride;
    };
    sum_rows(a.code.k, value_at, latent_at, a.columns, a.bias, residual);
    a.squares[row] = subtract(a.target + row * a.target_row_stride, a.columns, residual);
    dot_selected_rows(residual, a.code.k, latent_at, a.columns, a.slopes + row * a.code.k);
}

}  // namespace

void sparse_reconstruction_loss(const SparseReconstructionArguments& a) {
    const int threads = useful_threads(a.threads, 2 * products_of(a.code, a.columns));
    const int64_t rows = rows_per_task(a.code.rows, threads);
    parallel_for(threads, ceil_divide(a.code.rows, rows), [&](int64_t task) {
        const int64_t last = smaller((task + 1) * rows, a.code.rows);
        for (int64_t row = task * rows; row < last; ++row) compare_row(a, row);
    });
}

}  // namespace aefast::AEFAST_ISA
