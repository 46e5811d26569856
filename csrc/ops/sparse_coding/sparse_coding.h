// Sparse coding: soft thresholds, and codes of least energy with an L1 penalty.
#pragma once

#include <cstdint>

#include "shared/element.h"
#include "shared/isa.h"

namespace aefast {

// output = sign(x) max(|x| - threshold, 0), count elements of it.
struct SoftThresholdArguments {
    const void* x;
    void* output;
    ElementType element_type;
    int64_t count;
    float threshold;
    int threads;
};

// grad_x = gradient where |x| > threshold, else 0.
struct SoftThresholdBackwardArguments {
    const void* gradient;
    const void* x;
    void* grad_x;
    ElementType element_type;
    int64_t count;
    float threshold;
    int threads;
};

constexpr int64_t kAtomLanes = 16;

// codes [rows, atoms], the minimizers of 1/2 |x - z D|^2 + penalty |z|_1; on entry what the steps
// start from. correlations = x D^T [rows, atoms], energies = |x|^2 [rows]; gram = D D^T
// [atoms, atoms], its rows filled up with zeros to a multiple of kAtomLanes. A row ends where its
// duality gap is at most tolerance energy / 2, or after so many steps.
struct SparseEncodeArguments {
    const float* correlations;
    const float* energies;
    const float* gram;
    float* codes;
    int64_t rows, atoms;
    float curvature;  // the largest of gram's diagonal
    float penalty;
    double tolerance;
    int64_t steps;
    int threads;
};

AEFAST_DECLARE_KERNELS(void soft_threshold(const SoftThresholdArguments&);
                       void soft_threshold_backward(const SoftThresholdBackwardArguments&);
                       void sparse_encode(const SparseEncodeArguments&);)

}  // namespace aefast
