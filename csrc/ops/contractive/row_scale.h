// The scale of a weight's row whose squared length leaves float32's range.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "shared/isa.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {

// The square, where it is infinite, becomes that of the row over its scale; returns whether it
// does.
inline bool scale_row(const float* row, int64_t count, float& square, float& scale) {
    scale = 1.f;
    if (!std::isinf(square)) return false;
    float largest = 0.f;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(row[i]));
    scale = std::min(largest, std::numeric_limits<float>::max());
    Sum sum;
    sum.add(count, [&](int64_t i) { return double(row[i] / scale) * (row[i] / scale); });
    square = static_cast<float>(sum.total());
    return true;
}

}  // namespace aefast::AEFAST_ISA
