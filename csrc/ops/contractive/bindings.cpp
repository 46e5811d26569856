// aefast._C's part of ops/contractive.
#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/binding.h"
#include "ops/contractive/contractive.h"
#include "shared/row_sums.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    module.def(
        "slopes",
        [](uintptr_t saved, uintptr_t output, int64_t count, Activation activation, int threads) {
            check_block(1, count, threads);
            AEFAST_RUN(slopes, {pointer<const float*>(saved), pointer<float*>(output), count,
                                activation, threads});
        },
        py::arg("saved"), py::arg("output"), py::arg("count"), py::arg("activation"),
        py::arg("threads"));
    module.def(
        "contract",
        [](uintptr_t saved, uintptr_t squared_lengths, uintptr_t penalty, int64_t rows,
           int64_t columns, Activation activation, int threads) {
            check_block(rows, columns, threads);
            AEFAST_RUN(contract,
                       {pointer<const float*>(saved), pointer<const float*>(squared_lengths),
                        pointer<float*>(penalty), rows, columns, activation, threads});
        },
        py::arg("saved"), py::arg("squared_lengths"), py::arg("penalty"), py::arg("rows"),
        py::arg("columns"), py::arg("activation"), py::arg("threads"));
    module.def(
        "slope_backward",
        [](uintptr_t saved, uintptr_t grad_code, int64_t grad_code_row_stride, uintptr_t grad_slope,
           uintptr_t grad_penalty, uintptr_t squared_lengths, uintptr_t grad_preactivation,
           uintptr_t grad_sums, int64_t rows, int64_t columns, Activation activation, int threads) {
            check_block(rows, columns, threads);
            std::vector<double> partial_sums(row_blocks(rows) * 2 * columns);
            AEFAST_RUN(slope_backward,
                       {pointer<const float*>(saved), pointer<const float*>(grad_code),
                        grad_code_row_stride, pointer<const float*>(grad_slope),
                        pointer<const float*>(grad_penalty), pointer<const float*>(squared_lengths),
                        pointer<float*>(grad_preactivation), pointer<float*>(grad_sums),
                        partial_sums.data(), rows, columns, activation, threads});
        },
        py::arg("saved"), py::arg("grad_code"), py::arg("grad_code_row_stride"),
        py::arg("grad_slope"), py::arg("grad_penalty"), py::arg("squared_lengths"),
        py::arg("grad_preactivation"), py::arg("grad_sums"), py::arg("rows"), py::arg("columns"),
        py::arg("activation"), py::arg("threads"));
    module.def(
        "expand",
        [](uintptr_t start, int64_t start_sample_stride, uintptr_t row_slope, uintptr_t slope,
           uintptr_t output, int64_t samples, int64_t rows, int64_t columns, int threads) {
            check_block(samples * rows, columns, threads);
            AEFAST_RUN(expand, {pointer<const float*>(start), start_sample_stride,
                                pointer<const float*>(row_slope), pointer<const float*>(slope),
                                pointer<float*>(output), samples, rows, columns, threads});
        },
        py::arg("start"), py::arg("start_sample_stride"), py::arg("row_slope"), py::arg("slope"),
        py::arg("output"), py::arg("samples"), py::arg("rows"), py::arg("columns"),
        py::arg("threads"));
    module.def(
        "expand_backward",
        [](uintptr_t grad, uintptr_t start, int64_t start_sample_stride, uintptr_t row_slope,
           uintptr_t slope, uintptr_t grad_row_slope, uintptr_t grad_slope_parts,
           uintptr_t grad_start, bool accumulate, int64_t samples, int64_t rows, int64_t columns,
           int threads) {
            check_block(samples * rows, columns, threads);
            AEFAST_RUN(
                expand_backward,
                {pointer<const float*>(grad), pointer<const float*>(start), start_sample_stride,
                 pointer<const float*>(row_slope), pointer<const float*>(slope),
                 pointer<float*>(grad_row_slope), pointer<float*>(grad_slope_parts),
                 pointer<float*>(grad_start), accumulate, samples, rows, columns, threads});
        },
        py::arg("grad"), py::arg("start"), py::arg("start_sample_stride"), py::arg("row_slope"),
        py::arg("slope"), py::arg("grad_row_slope"), py::arg("grad_slope_parts"),
        py::arg("grad_start"), py::arg("accumulate"), py::arg("samples"), py::arg("rows"),
        py::arg("columns"), py::arg("threads"));
    module.def(
        "dot_rows",
        [](uintptr_t left, int64_t left_row_stride, uintptr_t right, int64_t right_row_stride,
           uintptr_t totals, int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            AEFAST_RUN(dot_rows,
                       {pointer<const float*>(left), left_row_stride, pointer<const float*>(right),
                        right_row_stride, pointer<float*>(totals), rows, columns, threads});
        },
        py::arg("left"), py::arg("left_row_stride"), py::arg("right"), py::arg("right_row_stride"),
        py::arg("totals"), py::arg("rows"), py::arg("columns"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
