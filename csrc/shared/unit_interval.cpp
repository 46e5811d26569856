#include "shared/unit_interval.h"

namespace aefast::AEFAST_ISA {

bool lie_in_unit_interval(const float* values, int64_t count) {
    int32_t outside = 0;
    for (int64_t i = 0; i < count; ++i)
        outside |= !(values[i] >= 0) | !(values[i] <= 1);  // without branches: it is vectorized
    return outside == 0;
}

}  // namespace aefast::AEFAST_ISA
