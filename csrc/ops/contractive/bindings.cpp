// aefast._C's part of ops/contractive.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
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
        "row_lengths",
        [](const Matrix& weight, uintptr_t squares, int threads) {
            check_block(weight, threads);
            return AEFAST_RUN(row_lengths,
                              {weight.by_rows<const float>("weight"), weight.row_stride,
                               pointer<float*>(squares), weight.rows, weight.columns, threads});
        },
        py::arg("weight"), py::arg("squares"), py::arg("threads"));
    module.def(
        "layer_penalty",
        [](const Matrix& saved, uintptr_t squares, uintptr_t scales, uintptr_t penalty,
           Activation activation, int threads) {
            check_block(saved, threads);
            AEFAST_RUN(layer_penalty,
                       {saved.dense<const float>("saved"), pointer<const float*>(squares),
                        pointer<const float*>(scales), pointer<float*>(penalty), saved.rows,
                        saved.columns, activation, threads});
        },
        py::arg("saved"), py::arg("squares"), py::arg("scales"), py::arg("penalty"),
        py::arg("activation"), py::arg("threads"));
    module.def(
        "slope_backward",
        [](const Matrix& saved, const std::optional<Matrix>& grad_code, uintptr_t grad_slope,
           uintptr_t grad_penalty, uintptr_t squares, uintptr_t scales,
           uintptr_t grad_preactivation, uintptr_t grad_sums, Activation activation, int threads) {
            check_block(saved, threads);
            if (grad_code) check_shape("grad_code", *grad_code, saved.rows, saved.columns);
            std::vector<double> partial_sums(row_blocks(saved.rows) * 2 * saved.columns);
            AEFAST_RUN(slope_backward,
                       {saved.dense<const float>("saved"),
                        grad_code ? grad_code->by_rows<const float>("grad_code") : nullptr,
                        grad_code ? grad_code->row_stride : 0, pointer<const float*>(grad_slope),
                        pointer<const float*>(grad_penalty), pointer<const float*>(squares),
                        pointer<const float*>(scales), pointer<float*>(grad_preactivation),
                        pointer<float*>(grad_sums), partial_sums.data(), saved.rows, saved.columns,
                        activation, threads});
        },
        py::arg("saved"), py::arg("grad_code"), py::arg("grad_slope"), py::arg("grad_penalty"),
        py::arg("squares"), py::arg("scales"), py::arg("grad_preactivation"), py::arg("grad_sums"),
        py::arg("activation"), py::arg("threads"));
    module.def(
        "expand",
        [](const Samples& start, uintptr_t row_slope, const Matrix& slope, uintptr_t output,
           int threads) {
            check_block(slope.rows * start.rows, slope.columns, threads);
            AEFAST_RUN(expand,
                       {pointer<const float*>(start.address), start.sample_stride,
                        pointer<const float*>(row_slope), slope.dense<const float>("slope"),
                        pointer<float*>(output), slope.rows, start.rows, slope.columns, threads});
        },
        py::arg("start"), py::arg("row_slope"), py::arg("slope"), py::arg("output"),
        py::arg("threads"));
    module.def(
        "expand_backward",
        [](uintptr_t grad, const Samples& start, uintptr_t row_slope, const Matrix& slope,
           uintptr_t grad_row_slope, uintptr_t grad_slope_parts, uintptr_t grad_start,
           bool accumulate, int threads) {
            check_block(slope.rows * start.rows, slope.columns, threads);
            AEFAST_RUN(expand_backward,
                       {pointer<const float*>(grad), pointer<const float*>(start.address),
                        start.sample_stride, pointer<const float*>(row_slope),
                        slope.dense<const float>("slope"), pointer<float*>(grad_row_slope),
                        pointer<float*>(grad_slope_parts), pointer<float*>(grad_start), accumulate,
                        slope.rows, start.rows, slope.columns, threads});
        },
        py::arg("grad"), py::arg("start"), py::arg("row_slope"), py::arg("slope"),
        py::arg("grad_row_slope"), py::arg("grad_slope_parts"), py::arg("grad_start"),
        py::arg("accumulate"), py::arg("threads"));
    module.def(
        "dot_rows",
        [](const Matrix& left, const Matrix& right, uintptr_t totals, int threads) {
            check_block(left, threads);
            check_shape("right", right, left.rows, left.columns);
            AEFAST_RUN(dot_rows, {left.by_rows<const float>("left"), left.row_stride,
                                  right.by_rows<const float>("right"), right.row_stride,
                                  pointer<float*>(totals), left.rows, left.columns, threads});
        },
        py::arg("left"), py::arg("right"), py::arg("totals"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
