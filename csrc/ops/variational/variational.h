// A Gaussian code: its reparameterized sample, and its divergence from N(0, I).
#pragma once

#include <cstdint>

#include "shared/element.h"
#include "shared/isa.h"

namespace aefast {

// Rows that may be several samples of the same ones: sample_stride and row_stride are in elements,
// 0 for what all samples or rows share.
struct SampleView {
    const void* data;
    int64_t rows;  // a sample
    int64_t sample_stride, row_stride;
};

enum class NoiseUse { add, multiply };

// output = operand + e^(log_var / 2) noise, or operand scale e^(log_var / 2) noise. rows counts
// those of all samples; output [rows, columns] is dense.
struct ScaledNoiseArguments {
    SampleView operand, log_var;
    void* output;
    ElementType element_type;
    int64_t rows, columns;
    float scale;
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
    int threads;
};

// divergence [rows] = 1/2 sum_j (mean_j^2 + e^log_var_j - 1 - log_var_j).
struct GaussianKLArguments {
    SampleView mean, log_var;
    void* divergence;
    ElementType element_type;
    int64_t rows, columns;
    int threads;
};

// The divergence's gradients, dense: grad [rows] times the mean, and times (e^log_var - 1) / 2.
struct GaussianKLBackwardArguments {
    const void* grad;
    SampleView mean, log_var;
    void* grad_mean;
    void* grad_log_var;
    ElementType element_type;
    int64_t rows, columns;
    int threads;
};

AEFAST_DECLARE_KERNELS(void scaled_noise(NoiseUse use, const ScaledNoiseArguments&);
                       void gaussian_kl(const GaussianKLArguments&);
                       void gaussian_kl_backward(const GaussianKLBackwardArguments&);)

}  // namespace aefast
