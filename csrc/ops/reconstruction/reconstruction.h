// The reconstruction loss and its gradients, from the decoder's output on.
#pragma once

#include <cstdint>

#include "shared/activation.h"
#include "shared/isa.h"

namespace aefast {

enum class Loss { squared_error, cross_entropy };

// output is z, [rows, columns], and becomes the gradient by z where that is needed. The target's
// rows lie target_row_stride elements apart; grad_target is dense, or null. grad_bias is [columns],
// or null; partial_sums then holds columns doubles for each block of kRowsPerPartialSum rows.
// losses holds one double a block.
struct CompareArguments {
    float* output;
    const float* target;
    int64_t target_row_stride;
    float* grad_target;
    float* grad_bias;
    double* partial_sums;
    double* losses;
    bool gradient_needed;
    Loss loss;
    Activation output_activation;
    float scale;  // of the gradients, not of the loss
    int64_t rows, columns;
    int threads;
};

AEFAST_DECLARE_KERNELS(double compare(const CompareArguments&);)

}  // namespace aefast
