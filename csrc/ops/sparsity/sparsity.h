// Sparsity penalties of a code, and their gradients.
#pragma once

#include <cstdint>

#include "shared/element.h"
#include "shared/isa.h"

namespace aefast {

// A code [rows, columns]; partial_sums holds columns doubles for each block of kRowsPerPartialSum
// rows.
struct SparsityArguments {
    const void* values;
    int64_t row_stride;
    double* partial_sums;
    ElementType element_type;
    int64_t rows, columns;
    int threads;
};

// output = factor * sign(values); dense.
struct ScaledSignArguments {
    const void* values;
    int64_t row_stride;
    void* output;
    ElementType element_type;
    int64_t rows, columns;
    float factor;
    int threads;
};

// The divergence is minus infinity where a column's mean is outside [0, 1].
AEFAST_DECLARE_KERNELS(double kl_sparsity(const SparsityArguments&, double target, float* slope);
                       double l1_sparsity(const SparsityArguments&);
                       void scaled_sign(const ScaledSignArguments&);)

}  // namespace aefast
