// Products with a code of a batch's rows: sparse ones, or of all latents where many are active.
// Included by dictionary_step.cpp, for its instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm/blocking.h"
#include "gemm/gemm.h"
#include "ops/sparse_reconstruction_loss/sparse_reconstruction_loss.h"
#include "ops/topk/topk.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"
#include "shared/scratch.h"
#include "step/step.h"

namespace aefast::AEFAST_ISA {
namespace {

// The memory of this thread's steps.
struct DictionaryMemory {
    Scratch step, ranking, parts, products, penalty, dead, counts, columns;

    void release() {
        for (Scratch* one :
             {&step, &ranking, &parts, &products, &penalty, &dead, &counts, &columns})
            one->release();
    }
};

thread_local DictionaryMemory memory;

// The latents of each row: their numbers [rows, width]; null where they are all, in their order.
struct ActiveLatents {
    int64_t width;
    int64_t* indices;
};

// body(i) for each of count things, so many of them a task.
template <int64_t kPerTask, class Body>
void for_each(int threads, int64_t count, const Body& body) {
    parallel_for(threads, ceil_divide(count, kPerTask), [&](int64_t task) {
        const int64_t last = smaller((task + 1) * kPerTask, count);
        for (int64_t i = task * kPerTask; i < last; ++i) body(i);
    });
}

template <class Body>
void for_rows(int threads, int64_t rows, const Body& body) {
    for_each<32>(threads, rows, body);
}

template <class Body>
void for_latents(int threads, int64_t latents, const Body& body) {
    for_each<64>(threads, latents, body);
}

// residual -= target, element by element; the squared norm of what is left.
inline double subtract_target(const float* target, int64_t columns, float* residual) {
    for (int64_t i = 0; i < columns; ++i) residual[i] -= target[i];
    Sum squares;
    squares.add(columns, [=](int64_t i) { return double(residual[i]) * residual[i]; });
    return squares.total();
}

inline double total_of(const double* squares, int64_t rows) {
    double total = 0;
    for (int64_t row = 0; row < rows; ++row) total += squares[row];
    return total;
}

// As sparse_reconstruction_loss(): the sum of the squares, the residuals, and the slopes. The code
// is dense where its indices are null: then there is a bias.
double compare_code(const SparseReconstructionArguments& a, const StepBatch& batch) {
    if (a.code.indices) {
        sparse_reconstruction_loss(a);
        return total_of(a.squares, a.code.rows);
    }
    const int64_t latents = a.code.k, rows = a.code.rows;
    const MatrixView directions{a.weight, latents, a.columns, a.weight_row_stride, 1};
    batch.multiply({{a.code.values, rows, latents, latents, 1},
                    {a.weight, a.columns, latents, 1, a.weight_row_stride},
                    {},
                    a.bias,
                    Activation::identity,
                    a.residual,
                    a.columns,
                    nullptr,
                    false,
                    batch.precision,
                    a.threads});
    for_rows(a.threads, rows, [&](int64_t row) {
        a.squares[row] = subtract_target(a.target + row * a.target_row_stride, a.columns,
                                         a.residual + row * a.columns);
    });
    batch.multiply({{a.residual, rows, a.columns, a.columns, 1},
                    directions,
                    {},
                    nullptr,
                    Activation::identity,
                    a.slopes,
                    latents,
                    nullptr,
                    false,
                    batch.precision,
                    a.threads});
    return total_of(a.squares, rows);
}

// sums [columns] of values [rows, columns] over the rows, in blocks of rows.
void sum_columns(const float* values, int64_t rows, int64_t columns, int threads, float* sums) {
    const int64_t blocks = row_blocks(rows);
    auto* partial = static_cast<double*>(memory.columns.reserve(sizeof(double) * blocks * columns));
    parallel_for(threads, blocks, [&](int64_t block) {
        double* block_sums = partial + block * columns;
        std::fill_n(block_sums, columns, 0.0);
        const int64_t last = smaller((block + 1) * kRowsPerPartialSum, rows);
        for (int64_t row = block * kRowsPerPartialSum; row < last; ++row)
            for (int64_t i = 0; i < columns; ++i) block_sums[i] += values[row * columns + i];
    });
    add_partial_sums(partial, blocks, columns, sums);
}

// As latent_sums(), of a dense code where its indices are null. Without rows only the totals.
void sum_by_latent(const LatentSumsArguments& a, const StepBatch& batch) {
    if (a.code.indices) return latent_sums(a);
    const int64_t rows = a.code.rows;
    sum_columns(a.code.values, rows, a.latents, a.threads, a.totals);
    if (a.columns == 0) return;
    batch.multiply({{a.code.values, a.latents, rows, 1, a.latents},
                    {a.rows, a.columns, rows, 1, a.row_stride},
                    {},
                    nullptr,
                    Activation::identity,
                    a.sums,
                    a.columns,
                    nullptr,
                    false,
                    batch.precision,
                    a.threads});
}

}  // namespace
}  // namespace aefast::AEFAST_ISA
