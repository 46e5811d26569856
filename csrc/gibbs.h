// What a training step takes of a restricted Boltzmann machine's hidden units.
#pragma once

#include <cstdint>

#include "isa.h"

namespace aefast {

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

#define AEFAST_DECLARE_GIBBS(isa)                 \
    namespace isa {                               \
    void draw_inputs(const DrawInputsArguments&); \
    double measure_phase(const PhaseArguments&);  \
    }
AEFAST_DECLARE_GIBBS(baseline)
#ifdef AEFAST_X86
AEFAST_DECLARE_GIBBS(avx2)
AEFAST_DECLARE_GIBBS(avx512)
#endif

}  // namespace aefast
