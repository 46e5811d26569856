// The draws of torch's CPU generator, vectorized: the same bits in the same order.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast {

// The generator's state as torch.Generator.get_state() gives it, as far as uniform draws change it.
struct MersenneTwister {
    static constexpr int kWords = 624;

    uint64_t seed;
    int32_t left;  // until the words are made anew, counting that draw
    int32_t is_seeded;
    uint64_t next;
    uint64_t words[kWords];
};

// dropout_noise: the factors of F.dropout, 1 / keep_probability with that probability, else 0.
// uniform: torch.rand's numbers. normal: torch.randn's, up to rounding; 16 of them or more.
AEFAST_DECLARE_KERNELS(void dropout_noise(MersenneTwister&, float* noise, int64_t count,
                                          double keep_probability);
                       void uniform(MersenneTwister&, float* values, int64_t count);
                       void normal(MersenneTwister&, float* values, int64_t count);)

}  // namespace aefast
