// A code of the pre-activations that are above their latent's threshold, and its gradients.
#pragma once

#include <cstdint>

#include "shared/element.h"
#include "shared/isa.h"

namespace aefast {

// A matrix whose elements are 0 or 1 element apart in a row.
struct RowsView {
    const void* data;
    int64_t row_stride, column_stride;
};

// values and active are dense [rows, columns], threshold is [columns]. Either of active and counts,
// the number of active latents of each row, is null.
struct JumpReLUArguments {
    RowsView preactivation;
    const void* threshold;
    void* values;
    void* active;
    float* counts;
    ElementType element_type;
    int64_t rows, columns;
    int threads;
};

enum class Estimator { rectangle, tanh };

// grad_preactivation is dense. grad_threshold is [columns], or null; partial_sums holds 2 columns
// doubles for each block of kRowsPerPartialSum rows.
struct JumpReLUBackwardArguments {
    RowsView grad_values, grad_active, preactivation;
    const void* threshold;
    void* grad_preactivation;
    void* grad_threshold;
    double* partial_sums;
    ElementType element_type;
    int64_t rows, columns;
    double bandwidth;
    Estimator estimator;
    int threads;
};

// active [columns]: whether some row of values has a number above 0 there.
struct ActiveLatentsArguments {
    RowsView values;
    bool* active;
    ElementType element_type;
    int64_t rows, columns;
    int threads;
};

AEFAST_DECLARE_KERNELS(void jumprelu(const JumpReLUArguments&);
                       void jumprelu_backward(const JumpReLUBackwardArguments&);
                       void active_latents(const ActiveLatentsArguments&);)

}  // namespace aefast
