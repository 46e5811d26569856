// aefast._C's part of ops/linear_act.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "ops/linear_act/linear_act.h"
#include "shared/row_sums.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    py::enum_<Activation>(module, "Activation")
        .value("identity", Activation::identity)
        .value("relu", Activation::relu)
        .value("leaky_relu", Activation::leaky_relu)
        .value("sigmoid", Activation::sigmoid)
        .value("tanh", Activation::tanh)
        .value("softplus", Activation::softplus)
        .value("gelu", Activation::gelu)
        .value("silu", Activation::silu);
    py::enum_<ElementType>(module, "ElementType")
        .value("float32", ElementType::float32)
        .value("bfloat16", ElementType::bfloat16)
        .value("float16", ElementType::float16);
    module.def(
        "activate",
        [](uintptr_t values, ElementType element_type, int64_t count, Activation activation,
           int threads) {
            check_block(1, count, threads);
            AEFAST_RUN(activate,
                       {pointer<void*>(values), element_type, count, activation, threads});
        },
        py::arg("values"), py::arg("element_type"), py::arg("count"), py::arg("activation"),
        py::arg("threads"));
    module.def(
        "activation_backward",
        [](const Matrix& gradient, uintptr_t saved, uintptr_t grad_preactivation,
           uintptr_t grad_bias, uintptr_t partial_sums, ElementType element_type,
           Activation activation, int threads) {
            check_block(gradient, threads);
            AEFAST_RUN(activation_backward,
                       {gradient.by_rows<const void>("gradient"), gradient.row_stride,
                        pointer<const void*>(saved), pointer<void*>(grad_preactivation),
                        pointer<void*>(grad_bias), pointer<double*>(partial_sums), element_type,
                        gradient.rows, gradient.columns, activation, threads});
        },
        py::arg("gradient"), py::arg("saved"), py::arg("grad_preactivation"), py::arg("grad_bias"),
        py::arg("partial_sums"), py::arg("element_type"), py::arg("activation"),
        py::arg("threads"));
    module.attr("ROWS_PER_PARTIAL_SUM") = kRowsPerPartialSum;
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
