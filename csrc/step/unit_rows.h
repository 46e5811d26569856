// Rows of a parameter that keep a norm of 1: the directions of a sparse dictionary.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast {

// A norm below this counts as this, as torch's F.normalize has it: a row of zeros stays one.
constexpr double kSmallestNorm = 1e-12;

struct UnitRowsArguments {
    float* rows;  // [count, columns]
    int64_t row_stride;
    int64_t count, columns;
    int threads;
};

// gradient [count, columns]: the loss's, by the rows.
struct ProjectRowsArguments {
    UnitRowsArguments rows;
    float* gradient;
    int64_t gradient_stride;
};

// normalize_rows divides each row by its norm. project_rows takes from each row's gradient what
// would change the row's norm.
AEFAST_DECLARE_KERNELS(void normalize_rows(const UnitRowsArguments&);
                       void project_rows(const ProjectRowsArguments&);)

}  // namespace aefast
