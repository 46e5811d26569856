// A code whose latents are gated, and its gradients. All matrices are dense.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast {

// Products with all latents [rows, columns], and the latents' parameters [columns].
struct GatedCode {
    const float *product, *gate_bias, *scale, *magnitude_bias;
    int64_t rows, columns;
    int threads;
};

// values and opened are [rows, columns]; totals is opened's sum in each row.
struct GatedOutputs {
    float *values, *opened, *totals;
};

// By values, opened and totals, each null for none.
struct GatedGradients {
    const float *values, *opened, *totals;
};

// grad_parameters is [3, columns]: by gate_bias, scale and magnitude_bias; partial_sums holds 3
// columns doubles for each block of kRowsPerPartialSum rows.
AEFAST_DECLARE_KERNELS(void gated(const GatedCode&, const GatedOutputs&);
                       void gated_backward(const GatedCode&, const GatedGradients&,
                                           float* grad_product, float* grad_parameters,
                                           double* partial_sums);)

}  // namespace aefast
