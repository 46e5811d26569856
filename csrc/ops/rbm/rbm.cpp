// Half a step of Gibbs sampling: from the units' inputs to their sampled states in one pass. If the
// other layer's units are 0 or 1, the product (bit_product.h) includes the sampling, and states
// stay bits between half steps. Otherwise products are gemm.cpp's or the vendor's.
#include "ops/rbm/rbm.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "bit_matrix/bit_product.h"
#include "shared/activation.h"
#include "shared/box_muller.h"
#include "shared/parallel.h"
#include "shared/philox.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// Elements a task.
constexpr int64_t kElementsPerTask = 1 << 14;

// Some columns of a row, at most as many as are sampled at a time.
struct RowChunk {
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
void draw_bernoulli(const RowChunk& chunk, const uint32_t* words) {
    alignas(64) float probabilities[columns];
    for (int64_t i = 0; i < chunk.count; ++i) probabilities[i] = chunk.beta * chunk.values[i];
    activate(Activation::sigmoid, probabilities, probabilities, chunk.count);
    if (chunk.means) std::copy_n(probabilities, chunk.count, chunk.means);
    for (int64_t i = 0; i < chunk.count; ++i)
        chunk.values[i] = uniform(words[i]) < probabilities[i] ? 1.f : 0.f;
}

template <int64_t columns>
void draw_gaussian(const RowChunk& chunk, const uint32_t* words) {
    alignas(64) float noise[columns];
    normals<columns>(words, noise);
    if (chunk.means) std::copy_n(chunk.values, chunk.count, chunk.means);
    for (int64_t i = 0; i < chunk.count; ++i)
        chunk.values[i] += chunk.beta * chunk.deviations[i] * noise[i];
}

template <int64_t columns>
void draw_chunk(const DrawArguments& a, const PhiloxRow& philox, int64_t row, int64_t column) {
    alignas(64) uint32_t words[columns];
    philox.words<columns>(static_cast<uint32_t>(column / 4), words);
    const int64_t offset = row * a.columns + column;
    const RowChunk chunk = {a.values + offset, a.means ? a.means + offset : nullptr,
                            a.deviations ? a.deviations + column : nullptr,
                            a.beta ? a.beta[row] : 1.f, std::min(columns, a.columns - column)};
    if (a.deviations)
        draw_gaussian<columns>(chunk, words);
    else
        draw_bernoulli<columns>(chunk, words);
}

// A panel's columns in as many rows as philox_block() draws at once.
constexpr int64_t kBlock = kUnrolledVectors * kPanelColumns;
static_assert(kPanelColumns == kVectorWords);

// Replaces inputs by probabilities, and compares these with uniforms for the row's bits.
void draw_block(const DrawBitsArguments& a, int64_t row, int64_t rows, int64_t column,
                const float* sums, const float* bias) {
    alignas(64) uint32_t words[kBlock];
    alignas(64) float probabilities[kBlock], uniforms[kBlock];
    philox_block(a.seed, static_cast<uint64_t>(a.row_offset + row), a.step,
                 static_cast<uint32_t>(column / 4), words);
    for (int64_t r = 0; r < kUnrolledVectors; ++r) {
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

// Samples the states of some columns, as many as are drawn at a time, from the units' inputs.
template <int64_t columns>
void draw_inputs_chunk(const DrawInputsArguments& a, const PhiloxRow& philox, int64_t row,
                       int64_t column) {
    alignas(64) uint32_t words[columns];
    alignas(64) float probabilities[columns], uniforms[columns];
    const float* inputs = a.inputs + row * a.columns + column;
    uint64_t* row_words = a.words + row * ceil_divide(a.columns, kWordBits);
    const int64_t count = std::min(columns, a.columns - column);
    philox.words<columns>(static_cast<uint32_t>(column / 4), words);
    for (int64_t i = 0; i < columns; ++i) uniforms[i] = uniform(words[i]);
    if (count < columns) {
        std::copy_n(inputs, count, probabilities);
        std::fill(probabilities + count, probabilities + columns, 0.f);
        inputs = probabilities;
    }
    activate(Activation::sigmoid, inputs, probabilities, columns);
    for (int64_t i = 0; i < columns; i += kPanelColumns)
        store_bits(bits_where<Comparison::below>(uniforms + i, probabilities + i), column + i,
                   std::min<int64_t>(kPanelColumns, count - i), row_words);
}

// Sums ln(1 + u), for u in [0, 1], as logarithms of products: a logarithm takes as long as twenty
// multiplications.
class LogarithmSum {
  public:
    static constexpr int64_t kLanes = 8;

    LogarithmSum() { std::fill_n(products_, kLanes, 1.0); }

    // Whole lanes of numbers.
    void add(const float* numbers, int64_t count) {
        // A factor is 2 at most, and float64 overflows at 2^1024.
        factors_ += count / kLanes;
        if (factors_ > 1000) {
            collect();
            factors_ = count / kLanes;
        }
        for (int64_t i = 0; i < count; i += kLanes)
            for (int64_t lane = 0; lane < kLanes; ++lane)
                products_[lane] *= 1.0 + numbers[i + lane];
    }

    double total() {
        collect();
        return total_;
    }

  private:
    void collect() {
        for (double& product : products_) {
            total_ += std::log(product);
            product = 1;
        }
    }

    double products_[kLanes], total_ = 0;
    int64_t factors_ = 0;
};

// One row of hidden inputs: replaces them by probabilities times scale, which are added to sums.
// Returns the row's sum of ln(1 + e^input), as max(input, 0) + ln(1 + e^-|input|).
void measure_row(const PhaseArguments& a, int64_t row, double* sums, Sum& positive,
                 LogarithmSum& rest) {
    constexpr int64_t kPiece = 256, kLanes = LogarithmSum::kLanes;
    for (int64_t column = 0; column < a.columns; column += kPiece) {
        alignas(64) float maxima[kPiece], decays[kPiece];
        float* values = a.values + row * a.columns + column;
        const int64_t count = std::min(kPiece, a.columns - column);
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) {
            const float z = values[i];
            const float decay = exp_nonpositive(-std::fabs(z));
            maxima[i] = z < 0.f ? 0.f : z;
            decays[i] = decay;
            values[i] = a.scale * ((z < 0.f ? decay : 1.f) / (1.f + decay));
        }
        const int64_t whole = ceil_divide(count, kLanes) * kLanes;
        std::fill(decays + count, decays + whole, 0.f);
        positive.add(count, [&](int64_t i) { return maxima[i]; });
        rest.add(decays, whole);
        for (int64_t i = 0; i < count; ++i) sums[column + i] += values[i];
    }
}

// Calls body(columns, philox, row, column) for all chunks of all rows, in parallel: of several
// vectors of counters, then of single ones, of which the last may reach past the row.
template <class Arguments, class Body>
void for_each_chunk(const Arguments& a, const Body& body) {
    using UnrolledWords = std::integral_constant<int64_t, kUnrolledWords>;
    using VectorWords = std::integral_constant<int64_t, kVectorWords>;
    const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / a.columns);
    parallel_for(a.threads, ceil_divide(a.rows, rows_per_task), [&](int64_t task) {
        const int64_t last = std::min((task + 1) * rows_per_task, a.rows);
        for (int64_t row = task * rows_per_task; row < last; ++row) {
            const PhiloxRow philox(a.seed, static_cast<uint64_t>(a.row_offset + row), a.step);
            int64_t column = 0;
            for (; column + kUnrolledWords <= a.columns; column += kUnrolledWords)
                body(UnrolledWords(), philox, row, column);
            for (; column < a.columns; column += kVectorWords)
                body(VectorWords(), philox, row, column);
        }
    });
}

}  // namespace

void draw(const DrawArguments& a) {
    for_each_chunk(a, [&](auto columns, const PhiloxRow& philox, int64_t row, int64_t column) {
        draw_chunk<columns>(a, philox, row, column);
    });
}

void draw_bits(const DrawBitsArguments& a) {
    for_each_bit_matrix_product(
        a.left, a.right, a.threads, [&](Range rows, int64_t column, const float* sums) {
            alignas(64) float bias[kPanelColumns] = {};
            if (a.bias)
                std::copy_n(a.bias + column,
                            std::min<int64_t>(kPanelColumns, a.right.rows - column), bias);
            for (int64_t row = rows.begin; row < rows.end; row += kUnrolledVectors, sums += kBlock)
                draw_block(a, row, std::min<int64_t>(kUnrolledVectors, rows.end - row), column,
                           sums, bias);
        });
}

void draw_inputs(const DrawInputsArguments& a) {
    for_each_chunk(a, [&](auto columns, const PhiloxRow& philox, int64_t row, int64_t column) {
        draw_inputs_chunk<columns>(a, philox, row, column);
    });
}

double measure_phase(const PhaseArguments& a) {
    const int64_t blocks = row_blocks(a.rows);
    parallel_for(threads_for(a.rows * a.columns, a.threads), blocks, [&](int64_t block) {
        double* sums = a.partial_sums + block * a.columns;
        std::fill_n(sums, a.columns, 0.0);
        Sum positive;
        LogarithmSum rest;
        const int64_t last = std::min((block + 1) * kRowsPerPartialSum, a.rows);
        for (int64_t row = block * kRowsPerPartialSum; row < last; ++row)
            measure_row(a, row, sums, positive, rest);
        a.energies[block] = positive.total() + rest.total();
    });
    add_partial_sums(a.partial_sums, blocks, a.columns, a.sums);
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += a.energies[block];
    return total;
}

}  // namespace aefast::AEFAST_ISA
