// aefast._C's part of ops/sparsity.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "ops/sparsity/sparsity.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    module.def(
        "kl_sparsity",
        [](uintptr_t values, int64_t row_stride, uintptr_t partial_sums, ElementType element_type,
           int64_t rows, int64_t columns, double target, uintptr_t slope, int threads) {
            check_block(rows, columns, threads);
            const SparsityArguments code = {pointer<const void*>(values),
                                            row_stride,
                                            pointer<double*>(partial_sums),
                                            element_type,
                                            rows,
                                            columns,
                                            threads};
            return AEFAST_RUN(kl_sparsity, code, target, pointer<float*>(slope));
        },
        py::arg("values"), py::arg("row_stride"), py::arg("partial_sums"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("target"), py::arg("slope"),
        py::arg("threads"));
    module.def(
        "l1_sparsity",
        [](uintptr_t values, int64_t row_stride, uintptr_t partial_sums, ElementType element_type,
           int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            return AEFAST_RUN(l1_sparsity, {pointer<const void*>(values), row_stride,
                                            pointer<double*>(partial_sums), element_type, rows,
                                            columns, threads});
        },
        py::arg("values"), py::arg("row_stride"), py::arg("partial_sums"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("threads"));
    module.def(
        "scaled_sign",
        [](uintptr_t values, int64_t row_stride, uintptr_t output, ElementType element_type,
           int64_t rows, int64_t columns, float factor, int threads) {
            check_block(rows, columns, threads);
            AEFAST_RUN(scaled_sign,
                       {pointer<const void*>(values), row_stride, pointer<void*>(output),
                        element_type, rows, columns, factor, threads});
        },
        py::arg("values"), py::arg("row_stride"), py::arg("output"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("factor"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
