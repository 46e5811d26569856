// A training step of a sparse dictionary as one call: codes of few active latents, the error of
// what they reconstruct, and all gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/jumprelu/jumprelu.h"
#include "step/step.h"

namespace aefast {

// Which latents are active: each row's k largest, the k rows largest of all rows, those above a
// threshold that each learns, or those that a gate lets through.
enum class LatentSelection { topk, batch_topk, jumprelu, gated };

// The parameters are the encoder's weight [latents, visible] and bias, the latents' directions
// [latents, outputs], and the decoder's bias; then, [latents] each, JumpReLU's thresholds, or of a
// gated code the magnitudes' bias and the logarithm of their scale.
struct DictionaryPlan {
    int64_t visible, outputs, latents;
    LatentSelection selection;
    double k;                       // active latents of a row; of a batch on the average
    bool ranks_by_norm;             // latents are ranked by pre-activation times direction's norm
    std::vector<int64_t> prefixes;  // so many first latents reconstruct alone; the last are all
    bool is_transcoder;             // the decoder's bias belongs to other rows than the input
    int64_t aux_k;                  // dead latents that reconstruct the residual; 0 for none
    double aux_weight;
    double sparsity_weight;  // of the number of active latents, or of what opens the gates
    double bandwidth;        // JumpReLU's, of the thresholds' gradient
    Estimator estimator;
    int64_t dead_after;     // a latent is dead if it was inactive for more rows
    int64_t* idle;          // [latents]: the rows since each was active, which a step moves
    float* threshold;       // of a batch: moves towards its smallest active value; JumpReLU's:
                            // [latents], raised to 0; null for none
    double threshold_rate;  // by this share of the way
    std::vector<int64_t> sizes;
};

AEFAST_DECLARE_KERNELS(int64_t largest_product(const DictionaryPlan&, int64_t rows);
                       int64_t fewest_rows(const DictionaryPlan&);
                       double step(const DictionaryPlan&, const StepBatch&);
                       FitResult fit(const DictionaryPlan&, const FitArguments&);
                       void release_dictionary_memory();)

}  // namespace aefast
