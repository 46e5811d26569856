// A sparse code as a binding takes it from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "bindings/binding.h"
#include "ops/topk/topk.h"

namespace aefast {

// A kernel reads the rows that indices name, whoever made them.
inline const int64_t* checked_indices(uintptr_t address, int64_t count, int64_t latents) {
    const auto* indices = pointer<const int64_t*>(address);
    int64_t least = 0, most = 0;
    for (int64_t i = 0; i < count; ++i) {
        least = std::min(least, indices[i]);
        most = std::max(most, indices[i]);
    }
    if (least < 0 || most >= latents)
        throw pybind11::index_error("indices holds " + std::to_string(least < 0 ? least : most) +
                                    "; of " + std::to_string(latents) +
                                    " latents it takes numbers in " + "[0, " +
                                    std::to_string(latents) + ")");
    return indices;
}

// The rows' latents, of as many rows and columns as their values.
inline SparseCode sparse_code(const Matrix& values, uintptr_t indices, int64_t latents) {
    return {values.dense<const float>("values"),
            checked_indices(indices, values.rows * values.columns, latents), values.rows,
            values.columns};
}

}  // namespace aefast
