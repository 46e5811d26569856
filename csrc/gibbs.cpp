// Half a step of Gibbs sampling: from a unit's input to its drawn state in one pass. Where the
// units that it depends on are binary, their product (binary.h) ends in the draw, and states stay
// bits between half steps; else the products are gemm.cpp's or the vendor's.
#include <algorithm>
#include <cmath>

#include "activation.h"
#include "binary.h"
#include "box_muller.h"
#include "kernels.h"
#include "parallel.h"
#include "philox.h"
#include "row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// Elements a task.
constexpr int64_t kElementsPerTask = 1 << 14;

// Some columns of a row, up to as many as are drawn in one go.
struct Piece {
    float* values;
    float* means;  // or null
    const float* deviations;
    float beta;
    int64_t count;
};

inline float uniform(uint32_t word) {
    return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
}

template <int64_t columns>
void draw_bernoulli(const Piece& piece, const uint32_t* words) {
    alignas(64) float probabilities[columns];
    for (int64_t i = 0; i < piece.count; ++i) probabilities[i] = piece.beta * piece.values[i];
    activate(Activation::sigmoid, probabilities, probabilities, piece.count);
    if (piece.means) std::copy_n(probabilities, piece.count, piece.means);
    for (int64_t i = 0; i < piece.count; ++i)
        piece.values[i] = uniform(words[i]) < probabilities[i] ? 1.f : 0.f;
}

template <int64_t columns>
void draw_gaussian(const Piece& piece, const uint32_t* words) {
    alignas(64) float noise[columns];
    normals<columns>(words, noise);
    if (piece.means) std::copy_n(piece.values, piece.count, piece.means);
    for (int64_t i = 0; i < piece.count; ++i)
        piece.values[i] += piece.beta * piece.deviations[i] * noise[i];
}

template <int64_t columns>
void draw_piece(const DrawArguments& a, const PhiloxRow& philox, int64_t row, int64_t column) {
    alignas(64) uint32_t words[columns];
    philox.words<columns>(static_cast<uint32_t>(column / 4), words);
    const int64_t offset = row * a.columns + column;
    const Piece piece = {a.values + offset, a.means ? a.means + offset : nullptr,
                         a.deviations ? a.deviations + column : nullptr, a.beta ? a.beta[row] : 1.f,
                         std::min(columns, a.columns - column)};
    if (a.deviations)
        draw_gaussian<columns>(piece, words);
    else
        draw_bernoulli<columns>(piece, words);
}

// A panel's columns in as many rows as philox_block() draws at once.
constexpr int64_t kBlock = kVectors * kPanelColumns;
static_assert(kPanelColumns == kVectorWords);

// Inputs become probabilities, and these and the uniforms of their place a row's bits.
void draw_block(const DrawBitsArguments& a, int64_t row, int64_t rows, int64_t column,
                const float* sums, const float* bias) {
    alignas(64) uint32_t words[kBlock];
    alignas(64) float probabilities[kBlock], uniforms[kBlock];
    philox_block(a.seed, static_cast<uint64_t>(a.row_offset + row), a.step,
                 static_cast<uint32_t>(column / 4), words);
    for (int64_t r = 0; r < kVectors; ++r) {
        const float beta = a.beta && r < rows ? a.beta[row + r] : 1.f;
        for (int64_t i = 0; i < kPanelColumns; ++i)
            probabilities[r * kPanelColumns + i] = beta * (sums[r * kPanelColumns + i] + bias[i]);
    }
    activate(Activation::sigmoid, probabilities, probabilities, kBlock);
    for (int64_t i = 0; i < kBlock; ++i) uniforms[i] = uniform(words[i]);
    const int64_t columns = a.right.rows,
                  width = std::min<int64_t>(kPanelColumns, columns - column);
    for (int64_t r = 0; r < rows; ++r) {
        const float* means = probabilities + r * kPanelColumns;
        store_bits(bits_where<Comparison::below>(uniforms + r * kPanelColumns, means), column,
                   width, a.words + (row + r) * ceil_divide(columns, kWordBits));
        if (a.means) std::copy_n(means, width, a.means + (row + r) * columns + column);
    }
}

// One row of hidden inputs: probabilities times scale in their place, and added to sums. Returns
// the sum of ln(1 + e^input).
double measure_row(const HiddenStatisticsArguments& a, int64_t row, double* sums) {
    constexpr int64_t kPiece = 256;
    Sum energy;
    for (int64_t column = 0; column < a.columns; column += kPiece) {
        alignas(64) float terms[kPiece];
        float* values = a.values + row * a.columns + column;
        const int64_t count = std::min(kPiece, a.columns - column);
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) {
            const float z = values[i];
            const float decay = exp_nonpositive(-std::fabs(z));
            terms[i] = (z < 0.f ? 0.f : z) + log1p_unit(decay);
            values[i] = a.scale * ((z < 0.f ? decay : 1.f) / (1.f + decay));
        }
        energy.add(count, [&](int64_t i) { return terms[i]; });
        for (int64_t i = 0; i < count; ++i) sums[column + i] += values[i];
    }
    return energy.total();
}

}  // namespace

void draw(const DrawArguments& a) {
    const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / a.columns);
    const int64_t tasks = (a.rows + rows_per_task - 1) / rows_per_task;
    parallel_for(a.threads, tasks, [&](int64_t task) {
        const int64_t last = std::min((task + 1) * rows_per_task, a.rows);
        for (int64_t row = task * rows_per_task; row < last; ++row) {
            const PhiloxRow philox(a.seed, static_cast<uint64_t>(a.row_offset + row), a.step);
            int64_t column = 0;
            for (; column + kStretch <= a.columns; column += kStretch)
                draw_piece<kStretch>(a, philox, row, column);
            for (; column < a.columns; column += kVectorWords)
                draw_piece<kVectorWords>(a, philox, row, column);
        }
    });
}

void draw_bits(const DrawBitsArguments& a) {
    for_each_binary_product(
        a.left, a.right, a.threads, [&](Range rows, int64_t column, const float* sums) {
            alignas(64) float bias[kPanelColumns] = {};
            if (a.bias)
                std::copy_n(a.bias + column,
                            std::min<int64_t>(kPanelColumns, a.right.rows - column), bias);
            for (int64_t row = rows.begin; row < rows.end; row += kVectors, sums += kBlock)
                draw_block(a, row, std::min<int64_t>(kVectors, rows.end - row), column, sums, bias);
        });
}

void hidden_statistics(const HiddenStatisticsArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    parallel_for(a.rows * a.columns <= kElementsPerTask ? 1 : a.threads, blocks,
                 [&](int64_t block) {
                     double* sums = a.partial_sums + block * a.columns;
                     std::fill_n(sums, a.columns, 0.0);
                     const int64_t last = std::min((block + 1) * kRowsPerPartialSum, a.rows);
                     for (int64_t row = block * kRowsPerPartialSum; row < last; ++row)
                         a.energies[row] = static_cast<float>(measure_row(a, row, sums));
                 });
    add_partial_sums(a.partial_sums, blocks, a.columns, a.sums);
}

}  // namespace aefast::AEFAST_ISA
