// Whether numbers lie in [0, 1], as Bernoulli units and cross-entropies take them.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast {

// False of NaN.
AEFAST_DECLARE_KERNELS(bool lie_in_unit_interval(const float* values, int64_t count);)

}  // namespace aefast
