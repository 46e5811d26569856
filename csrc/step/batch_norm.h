// Batch normalization of a layer's units, as torch.nn.BatchNorm1d defines it while training.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast {

// All matrices are dense, [rows, columns]. scale and shift are [columns], or null for 1 and 0.
struct BatchNormArguments {
    const float* values;
    float* normalized;          // (values - mean) / deviation; may be where the values are
    float* inverse_deviations;  // [columns]
    float* output;              // scale * normalized + shift
    const float* scale;
    const float* shift;
    float* mean;      // of the batch, [columns]; or null
    float* variance;  // of the batch, unbiased; null where mean is
    double epsilon;
    int64_t rows, columns;
    int threads;
};

struct BatchNormBackwardArguments {
    float* gradient;  // of the output; becomes that of the values
    const float* normalized;
    const float* inverse_deviations;
    const float* scale;
    float* scale_gradient;  // [columns], or null
    float* shift_gradient;
    int64_t rows, columns;
    int threads;
};

AEFAST_DECLARE_KERNELS(void batch_norm(const BatchNormArguments&);
                       void batch_norm_backward(const BatchNormBackwardArguments&);)

}  // namespace aefast
