// A training step of a sparse dictionary as one call: codes of each row's k largest latents, the
// error of what they reconstruct, and all gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "step/step.h"

namespace aefast {

// The parameters are the encoder's weight [latents, visible] and bias, the latents' directions
// [latents, outputs], and the decoder's bias.
struct DictionaryPlan {
    int64_t visible, outputs, latents, k;
    bool is_transcoder;  // the decoder's bias belongs to other rows than the input
    int64_t aux_k;       // dead latents that reconstruct the residual; 0 for none
    double aux_weight;
    int64_t dead_after;  // a latent is dead if it was inactive for more rows
    int64_t* idle;       // [latents]: the rows since each was active, which a step moves
    std::vector<int64_t> sizes;
};

AEFAST_DECLARE_KERNELS(int useful_threads(const DictionaryPlan&, int64_t rows, int threads);
                       int64_t fewest_rows(const DictionaryPlan&);
                       double step(const DictionaryPlan&, const StepBatch&);
                       FitResult fit(const DictionaryPlan&, const FitArguments&);)

}  // namespace aefast
