// aefast._C's sparse codes over many latents.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/binding.h"
#include "ops/topk/code_operand.h"
#include "shared/pages.h"

namespace py = pybind11;

namespace aefast {
namespace {

void topk_encode(const Matrix& x, const Matrix& weight, uintptr_t bias, int64_t k, uintptr_t values,
                 uintptr_t indices, Precision precision, int threads) {
    check_columns("weight", weight, x.columns);
    if (k < 1 || k > weight.rows) throw std::invalid_argument("k must be from 1 to the latents");
    AEFAST_RUN(topk_encode,
               {x.view(), weight.view(), pointer<const float*>(bias), k, pointer<float*>(values),
                pointer<int64_t*>(indices), active_gemm(), precision, threads});
}

void sparse_decode(const Matrix& values, uintptr_t indices, const Matrix& weight, uintptr_t bias,
                   uintptr_t output, int threads) {
    const SparseCode code = sparse_code(values, indices, weight.rows);
    AEFAST_RUN(sparse_decode,
               {code, weight.by_rows<const float>("weight"), weight.row_stride,
                pointer<const float*>(bias), pointer<float*>(output), weight.columns, threads});
}

void sampled_product(const Matrix& left, const Matrix& weight, uintptr_t indices, int64_t k,
                     uintptr_t products, int threads) {
    check_columns("weight", weight, left.columns);
    const int64_t* checked = checked_indices(indices, left.rows * k, weight.rows);
    AEFAST_RUN(sampled_product, {left.by_rows<const float>("left"), left.row_stride,
                                 weight.by_rows<const float>("weight"), weight.row_stride, checked,
                                 pointer<float*>(products), left.rows, k, weight.columns, threads});
}

void latent_sums(const Matrix& values, uintptr_t indices, const Matrix& matrix, uintptr_t sums,
                 uintptr_t totals, int64_t latents, int threads) {
    check_shape("matrix", matrix, values.rows, matrix.columns);
    const SparseCode code = sparse_code(values, indices, latents);
    advise_huge_pages(pointer<void*>(sums), latents * matrix.columns * sizeof(float));
    AEFAST_RUN(latent_sums,
               {code, matrix.by_rows<const float>("matrix"), matrix.row_stride,
                pointer<float*>(sums), pointer<float*>(totals), latents, matrix.columns, threads});
}

void bind(py::module_& module) {
    module.def("topk_encode", topk_encode, py::arg("x"), py::arg("weight"), py::arg("bias"),
               py::arg("k"), py::arg("values"), py::arg("indices"), py::arg("precision"),
               py::arg("threads"));
    module.def("sparse_decode", sparse_decode, py::arg("values"), py::arg("indices"),
               py::arg("weight"), py::arg("bias"), py::arg("output"), py::arg("threads"));
    module.def("sampled_product", sampled_product, py::arg("left"), py::arg("weight"),
               py::arg("indices"), py::arg("k"), py::arg("products"), py::arg("threads"));
    module.def("latent_sums", latent_sums, py::arg("values"), py::arg("indices"), py::arg("matrix"),
               py::arg("sums"), py::arg("totals"), py::arg("latents"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
