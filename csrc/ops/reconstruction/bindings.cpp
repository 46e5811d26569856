// aefast._C's part of ops/reconstruction.
#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/binding.h"
#include "ops/reconstruction/reconstruction.h"
#include "shared/row_sums.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    py::enum_<Loss>(module, "Loss")
        .value("mse", Loss::squared_error)
        .value("bce", Loss::cross_entropy);
    module.def(
        "compare",
        [](const Matrix& output, const Matrix& target, uintptr_t grad_target, uintptr_t grad_bias,
           uintptr_t partial_sums, bool gradient_needed, Loss loss, Activation output_activation,
           float scale, int threads) {
            check_block(output, threads);
            check_shape("target", target, output.rows, output.columns);
            std::vector<double> losses(row_blocks(output.rows));
            return AEFAST_RUN(
                compare,
                {output.dense<float>("output"), target.by_rows<const float>("target"),
                 target.row_stride, pointer<float*>(grad_target), pointer<float*>(grad_bias),
                 pointer<double*>(partial_sums), losses.data(), gradient_needed, loss,
                 output_activation, scale, output.rows, output.columns, threads});
        },
        py::arg("output"), py::arg("target"), py::arg("grad_target"), py::arg("grad_bias"),
        py::arg("partial_sums"), py::arg("gradient_needed"), py::arg("loss"),
        py::arg("output_activation"), py::arg("scale"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
