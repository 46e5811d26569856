// A training step of a restricted Boltzmann machine as one call: contrastive divergence's loss and
// all its gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "step/step.h"

namespace aefast {

// The parameters are the weight [hidden, visible], the visible and the hidden units' biases, and
// log_var [visible] where Gaussian visible units' variances are not 1.
struct MachinePlan {
    int64_t visible, hidden;
    bool is_gaussian, has_log_var;
    int64_t k;
    double sparsity_weight, sparsity_target;  // of KL(target, mean hidden activity)
    const float* start;  // [chains, visible], where persistent chains go on; null: at the data
    float* end;          // of the chains; null where nobody asks. It may be start
    int64_t chains;      // persistent ones
    std::vector<int64_t> sizes;
};

AEFAST_DECLARE_KERNELS(int64_t largest_product(const MachinePlan&, int64_t rows);
                       int64_t fewest_rows(const MachinePlan&);
                       double step(const MachinePlan&, const StepBatch&);
                       FitResult fit(const MachinePlan&, const FitArguments&);
                       void release_machine_memory();)

}  // namespace aefast
