// Gibbs sampling: units' states drawn from their inputs, and what contrastive divergence takes of a
// phase.
#pragma once

#include <cstdint>

#include "bit_matrix/bit_matrix.h"
#include "gemm/gemm.h"
#include "shared/isa.h"

namespace aefast {

// Half a step of Gibbs sampling: values [rows, columns] are the units' inputs and become Bernoulli
// states, 1 where the uniform is below sigmoid(beta value); or they are means and become Gaussian
// states, beta deviation normal added to them. beta is [rows] or null for 1; deviations [columns],
// null for Bernoulli units; means [rows, columns] takes the probabilities or means, or is null.
struct DrawArguments {
    float* values;
    float* means;
    const float* deviations;
    const float* beta;
    int64_t rows, columns;
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
    int threads;
};

// Draws units from states of 0 and 1: left [rows, K] and right [columns, K], whose product and bias
// [columns] are the Bernoulli units' inputs. words, all 0 at first, takes the states, as bits.
struct DrawBitsArguments {
    BitMatrixView left;
    MatrixView right;
    const float* bias;
    const float* beta;
    uint64_t* words;
    float* means;
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
    int threads;
};

// Bernoulli states from the units' inputs [rows, columns]: 1 where the uniform is below
// sigmoid(input). words, whose bits past the last column are 0 at first, takes them.
struct DrawInputsArguments {
    const float* inputs;
    uint64_t* words;
    int64_t rows, columns;
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
    int threads;
};

// What contrastive divergence takes of one phase. values [rows, columns] are the hidden units'
// inputs and become their probabilities times scale, whose sum over the rows is sums [columns].
// energies holds one double for each block of kRowsPerPartialSum rows, partial_sums columns
// doubles. Returns the sum of all ln(1 + e^input).
struct PhaseArguments {
    float* values;
    double* energies;
    float* sums;
    double* partial_sums;
    float scale;
    int64_t rows, columns;
    int threads;
};

AEFAST_DECLARE_KERNELS(void draw(const DrawArguments&); void draw_bits(const DrawBitsArguments&);
                       void draw_inputs(const DrawInputsArguments&);
                       double measure_phase(const PhaseArguments&);)

}  // namespace aefast
