// Sparse codes over many latents: each row's k largest pre-activations, and products with such
// codes.
#pragma once

#include <cstdint>

#include "gemm/gemm.h"
#include "shared/isa.h"

namespace aefast {

// The k largest of each row's pre-activations x weight^T + bias, the largest first, NaN above all,
// of equal ones the lower latent first. values and indices are [rows, k], bias [latents] or null.
struct TopKEncodeArguments {
    MatrixView x;       // [rows, K]
    MatrixView weight;  // [latents, K]
    const float* bias;
    int64_t k;
    float* values;
    int64_t* indices;
    Gemm* multiply;  // of one thread
    Precision precision;
    int threads;
};

// k latents of each row and their values, both [rows, k].
struct SparseCode {
    const float* values;
    const int64_t* indices;
    int64_t rows, k;
};

// output [rows, columns] = bias + the sum over a row's latents of value * weight[latent].
struct SparseDecodeArguments {
    SparseCode code;
    const float* weight;
    int64_t weight_row_stride;
    const float* bias;  // [columns], or null
    float* output;
    int64_t columns;
    int threads;
};

// products [rows, k] = left [rows, columns] times the rows of weight that indices [rows, k] name.
struct SampledProductArguments {
    const float* left;
    int64_t left_row_stride;
    const float* weight;
    int64_t weight_row_stride;
    const int64_t* indices;
    float* products;
    int64_t rows, k, columns;
    int threads;
};

// sums [latents, columns] = the sum of value * row over those of the code's rows where a latent is
// active, and totals [latents] that of the values.
struct LatentSumsArguments {
    SparseCode code;
    const float* rows;  // [rows, columns]
    int64_t row_stride;
    float* sums;
    float* totals;
    int64_t latents, columns;
    int threads;
};

AEFAST_DECLARE_KERNELS(void topk_encode(const TopKEncodeArguments&);
                       void sparse_decode(const SparseDecodeArguments&);
                       void sampled_product(const SampledProductArguments&);
                       void latent_sums(const LatentSumsArguments&);)

}  // namespace aefast
