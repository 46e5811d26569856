// A linear layer's activation, and its gradient.
#pragma once

#include <cstdint>

#include "shared/activation.h"
#include "shared/element.h"
#include "shared/isa.h"

namespace aefast {

// values = act(values), in place.
struct ActivateArguments {
    void* values;
    ElementType element_type;
    int64_t count;
    Activation activation;
    int threads;
};

// gradient is [rows, columns], its rows gradient_row_stride elements apart; saved and
// grad_preactivation are dense. grad_bias is [columns], or null; partial_sums holds
// columns doubles for each block of kRowsPerPartialSum rows.
struct ActivationBackwardArguments {
    const void* gradient;
    int64_t gradient_row_stride;
    const void* saved;
    void* grad_preactivation;
    void* grad_bias;
    double* partial_sums;
    ElementType element_type;
    int64_t rows, columns;
    Activation activation;
    int threads;
};

AEFAST_DECLARE_KERNELS(void activate(const ActivateArguments&);
                       void activation_backward(const ActivationBackwardArguments&);)

}  // namespace aefast
