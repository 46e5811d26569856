// aefast._C's part of ops/sparsity.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "ops/sparsity/sparsity.h"

namespace py = pybind11;

namespace aefast {
namespace {

SparsityArguments arguments(const Matrix& values, uintptr_t partial_sums, ElementType element_type,
                            int threads) {
    check_block(values, threads);
    return {values.by_rows<const void>("values"),
            values.row_stride,
            pointer<double*>(partial_sums),
            element_type,
            values.rows,
            values.columns,
            threads};
}

void bind(py::module_& module) {
    module.def(
        "kl_sparsity",
        [](const Matrix& values, uintptr_t partial_sums, ElementType element_type, double target,
           uintptr_t slope, int threads) {
            return AEFAST_RUN(kl_sparsity, arguments(values, partial_sums, element_type, threads),
                              target, pointer<float*>(slope));
        },
        py::arg("values"), py::arg("partial_sums"), py::arg("element_type"), py::arg("target"),
        py::arg("slope"), py::arg("threads"));
    module.def(
        "l1_sparsity",
        [](const Matrix& values, uintptr_t partial_sums, ElementType element_type, int threads) {
            return AEFAST_RUN(l1_sparsity, arguments(values, partial_sums, element_type, threads));
        },
        py::arg("values"), py::arg("partial_sums"), py::arg("element_type"), py::arg("threads"));
    module.def(
        "scaled_sign",
        [](const Matrix& values, uintptr_t output, ElementType element_type, float factor,
           int threads) {
            check_block(values, threads);
            AEFAST_RUN(scaled_sign, {values.by_rows<const void>("values"), values.row_stride,
                                     pointer<void*>(output), element_type, values.rows,
                                     values.columns, factor, threads});
        },
        py::arg("values"), py::arg("output"), py::arg("element_type"), py::arg("factor"),
        py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
