// A stack of linear layers with their activations: forward and backward, each as one call.
#pragma once

#include <cstdint>
#include <vector>

#include "step/step.h"

namespace aefast {

// The layers' weight and bias are numbers among the call's parameters.
struct Mlp {
    std::vector<StepLayer> layers;
};

// What a row leaves between the two passes: the hidden layers' outputs, and the pre-activations
// where an output does not tell its derivative.
int64_t saved_columns(const Mlp& mlp);

struct MlpRows {
    const float* x;  // [rows, inputs], its rows row_stride apart
    int64_t rows, row_stride;
    const float* const* parameters;
    float* saved;    // rows * saved_columns elements, or null where no backward pass comes
    float* output;   // [rows, outputs]
    Gemm* multiply;  // gemm of the instruction set
    Precision precision;
    int threads;
};

// The gradients that are null are not made. gradient is [rows, outputs].
struct MlpGradients {
    const float* gradient;
    int64_t row_stride;
    float* x;
    float* const* parameters;
};

AEFAST_DECLARE_KERNELS(void mlp_forward(const Mlp&, const MlpRows&);
                       void mlp_backward(const Mlp&, const MlpRows&, const MlpGradients&);)

}  // namespace aefast
