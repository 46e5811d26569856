// The squared error of a sparse code's reconstruction, and the terms of its gradients.
#pragma once

#include <cstdint>

#include "ops/topk/topk.h"
#include "shared/isa.h"

namespace aefast {

// residual [rows, columns] = bias + the sum over a row's latents of value * weight[latent] -
// target; squares [rows] its squared norms; slopes [rows, k] its products with the weight's rows
// that the code names. bias may be null.
struct SparseReconstructionArguments {
    SparseCode code;
    const float* weight;
    int64_t weight_row_stride;
    const float* bias;    // [columns]
    const float* target;  // [rows, columns]
    int64_t target_row_stride;
    double* squares;
    float* residual;
    float* slopes;
    int64_t columns;
    int threads;
};

AEFAST_DECLARE_KERNELS(void sparse_reconstruction_loss(const SparseReconstructionArguments&);)

}  // namespace aefast
