// Half a step of Gibbs sampling: from what the product left, a unit's input, to its drawn state, in
// one pass. The products are gemm.cpp's or the vendor's.
#include <algorithm>

#include "activation.h"
#include "box_muller.h"
#include "kernels.h"
#include "parallel.h"
#include "philox.h"

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

template <int64_t columns>
void draw_bernoulli(const Piece& piece, const uint32_t* words) {
    alignas(64) float probabilities[columns];
    for (int64_t i = 0; i < piece.count; ++i) probabilities[i] = piece.beta * piece.values[i];
    activate(Activation::sigmoid, probabilities, probabilities, piece.count);
    if (piece.means) std::copy_n(probabilities, piece.count, piece.means);
    for (int64_t i = 0; i < piece.count; ++i) {
        const float uniform = static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24f;
        piece.values[i] = uniform < probabilities[i] ? 1.f : 0.f;
    }
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

}  // namespace aefast::AEFAST_ISA
