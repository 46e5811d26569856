// Rows that keep a norm of 1, each in one pass while it is in cache: torch's operators take ten
// passes over the parameter, and make four arrays of its size.
#include "step/unit_rows.h"

#include <algorithm>

#include "shared/parallel.h"
#include "step/unit_row.h"

namespace aefast::AEFAST_ISA {
namespace {

// Elements of a task: 64 KiB.
constexpr int64_t kElementsPerTask = 1 << 14;

template <class Row>
void for_rows(const UnitRowsArguments& a, const Row& row) {
    const int64_t per_task =
        std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, a.columns));
    const int64_t tasks = (a.count + per_task - 1) / per_task;
    parallel_for(tasks > 4 ? a.threads : 1, tasks, [&](int64_t task) {
        const int64_t last = std::min((task + 1) * per_task, a.count);
        for (int64_t r = task * per_task; r < last; ++r) row(r);
    });
}

}  // namespace

void normalize_rows(const UnitRowsArguments& a) {
    for_rows(a, [&](int64_t r) {
        float* row = a.rows + r * a.row_stride;
        scale(row, unit_factor(row, a.columns), a.columns);
    });
}

void project_rows(const ProjectRowsArguments& a) {
    for_rows(a.rows, [&](int64_t r) {
        const float* row = a.rows.rows + r * a.rows.row_stride;
        float* gradient = a.gradient + r * a.gradient_stride;
        const double along = factor_along(gradient, row, a.rows.columns);
        for (int64_t i = 0; i < a.rows.columns; ++i)
            gradient[i] = projected(gradient[i], along, row[i]);
    });
}

}  // namespace aefast::AEFAST_ISA
