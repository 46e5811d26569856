// aefast._C's sparse codes over many latents.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "bindings/binding.h"
#include "ops/topk/topk.h"
#include "shared/pages.h"

namespace py = pybind11;

namespace aefast {
namespace {

// A kernel reads the rows that indices name, whoever made them.
const int64_t* checked_indices(uintptr_t address, int64_t count, int64_t latents) {
    const auto* indices = pointer<const int64_t*>(address);
    int64_t least = 0, most = 0;
    for (int64_t i = 0; i < count; ++i) {
        least = std::min(least, indices[i]);
        most = std::max(most, indices[i]);
    }
    if (least < 0 || most >= latents)
        throw py::index_error("indices holds " + std::to_string(least < 0 ? least : most) +
                              "; of " + std::to_string(latents) + " latents it takes numbers in " +
                              "[0, " + std::to_string(latents) + ")");
    return indices;
}

void topk_encode(uintptr_t x, int64_t rows, int64_t depth, int64_t x_row_stride,
                 int64_t x_column_stride, uintptr_t weight, int64_t latents,
                 int64_t weight_row_stride, int64_t weight_column_stride, uintptr_t bias, int64_t k,
                 uintptr_t values, uintptr_t indices, Precision precision, int threads) {
    if (k < 1 || k > latents) throw std::invalid_argument("k must be from 1 to the latents");
    AEFAST_RUN(topk_encode, {{pointer<const float*>(x), rows, depth, x_row_stride, x_column_stride},
                             {pointer<const float*>(weight), latents, depth, weight_row_stride,
                              weight_column_stride},
                             pointer<const float*>(bias),
                             k,
                             pointer<float*>(values),
                             pointer<int64_t*>(indices),
                             active_gemm(),
                             precision,
                             threads});
}

void sparse_decode(uintptr_t values, uintptr_t indices, int64_t rows, int64_t k, uintptr_t weight,
                   int64_t latents, int64_t columns, int64_t weight_row_stride, uintptr_t bias,
                   uintptr_t output, int threads) {
    const SparseCode code = {pointer<const float*>(values),
                             checked_indices(indices, rows * k, latents), rows, k};
    AEFAST_RUN(sparse_decode,
               {code, pointer<const float*>(weight), weight_row_stride, pointer<const float*>(bias),
                pointer<float*>(output), columns, threads});
}

void sampled_product(uintptr_t left, int64_t left_row_stride, uintptr_t weight, int64_t latents,
                     int64_t columns, int64_t weight_row_stride, uintptr_t indices, int64_t rows,
                     int64_t k, uintptr_t products, int threads) {
    const int64_t* checked = checked_indices(indices, rows * k, latents);
    AEFAST_RUN(sampled_product,
               {pointer<const float*>(left), left_row_stride, pointer<const float*>(weight),
                weight_row_stride, checked, pointer<float*>(products), rows, k, columns, threads});
}

void latent_sums(uintptr_t values, uintptr_t indices, int64_t rows, int64_t k, uintptr_t matrix,
                 int64_t columns, int64_t row_stride, uintptr_t sums, uintptr_t totals,
                 int64_t latents, int threads) {
    const SparseCode code = {pointer<const float*>(values),
                             checked_indices(indices, rows * k, latents), rows, k};
    advise_huge_pages(pointer<void*>(sums), latents * columns * sizeof(float));
    AEFAST_RUN(latent_sums, {code, pointer<const float*>(matrix), row_stride, pointer<float*>(sums),
                             pointer<float*>(totals), latents, columns, threads});
}

void bind(py::module_& module) {
    module.def("topk_encode", topk_encode, py::arg("x"), py::arg("rows"), py::arg("depth"),
               py::arg("x_row_stride"), py::arg("x_column_stride"), py::arg("weight"),
               py::arg("latents"), py::arg("weight_row_stride"), py::arg("weight_column_stride"),
               py::arg("bias"), py::arg("k"), py::arg("values"), py::arg("indices"),
               py::arg("precision"), py::arg("threads"));
    module.def("sparse_decode", sparse_decode, py::arg("values"), py::arg("indices"),
               py::arg("rows"), py::arg("k"), py::arg("weight"), py::arg("latents"),
               py::arg("columns"), py::arg("weight_row_stride"), py::arg("bias"), py::arg("output"),
               py::arg("threads"));
    module.def("sampled_product", sampled_product, py::arg("left"), py::arg("left_row_stride"),
               py::arg("weight"), py::arg("latents"), py::arg("columns"),
               py::arg("weight_row_stride"), py::arg("indices"), py::arg("rows"), py::arg("k"),
               py::arg("products"), py::arg("threads"));
    module.def("latent_sums", latent_sums, py::arg("values"), py::arg("indices"), py::arg("rows"),
               py::arg("k"), py::arg("matrix"), py::arg("columns"), py::arg("row_stride"),
               py::arg("sums"), py::arg("totals"), py::arg("latents"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
