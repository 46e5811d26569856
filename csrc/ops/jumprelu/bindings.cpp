// aefast._C's part of ops/jumprelu.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "bindings/binding.h"
#include "ops/jumprelu/gated.h"
#include "ops/jumprelu/jumprelu.h"
#include "shared/pages.h"

namespace py = pybind11;

namespace aefast {
namespace {

// The elements of a row lie side by side, or are one.
RowsView rows_of(const char* name, const Matrix& matrix, const Matrix& shape) {
    check_shape(name, matrix, shape.rows, shape.columns);
    if (matrix.column_stride != 0) matrix.by_rows<const void>(name);
    return {pointer<const void*>(matrix.address), matrix.row_stride, matrix.column_stride};
}

// Addresses of the gates' biases, the magnitudes' scales, and their biases.
using Parameters = std::array<uintptr_t, 3>;

GatedCode gated_code(const Matrix& product, const Parameters& parameters, int threads) {
    check_block(product, threads);
    const auto parameter = [&](int i) { return pointer<const float*>(parameters[i]); };
    return {product.dense<const float>("product"),
            parameter(0),
            parameter(1),
            parameter(2),
            product.rows,
            product.columns,
            threads};
}

void bind_gated(py::module_& module) {
    module.def(
        "gated",
        [](const Matrix& product, const Parameters& parameters, uintptr_t values, uintptr_t opened,
           uintptr_t totals, int threads) {
            const GatedCode code = gated_code(product, parameters, threads);
            for (uintptr_t output : {values, opened})
                advise_huge_pages(pointer<void*>(output), code.rows * code.columns * 4);
            AEFAST_RUN(gated, code,
                       {pointer<float*>(values), pointer<float*>(opened), pointer<float*>(totals)});
        },
        py::arg("product"), py::arg("parameters"), py::arg("values"), py::arg("opened"),
        py::arg("totals"), py::arg("threads"));
    module.def(
        "gated_backward",
        [](const Matrix& product, const Parameters& parameters, uintptr_t grad_values,
           uintptr_t grad_opened, uintptr_t grad_totals, uintptr_t grad_product,
           uintptr_t grad_parameters, uintptr_t partial_sums, int threads) {
            const GatedCode code = gated_code(product, parameters, threads);
            advise_huge_pages(pointer<void*>(grad_product), code.rows * code.columns * 4);
            AEFAST_RUN(gated_backward, code,
                       {pointer<const float*>(grad_values), pointer<const float*>(grad_opened),
                        pointer<const float*>(grad_totals)},
                       pointer<float*>(grad_product), pointer<float*>(grad_parameters),
                       pointer<double*>(partial_sums));
        },
        py::arg("product"), py::arg("parameters"), py::arg("grad_values"), py::arg("grad_opened"),
        py::arg("grad_totals"), py::arg("grad_product"), py::arg("grad_parameters"),
        py::arg("partial_sums"), py::arg("threads"));
}

void bind(py::module_& module) {
    bind_gated(module);
    py::enum_<Estimator>(module, "Estimator")
        .value("rectangle", Estimator::rectangle)
        .value("tanh", Estimator::tanh);
    module.def(
        "jumprelu",
        [](const Matrix& preactivation, uintptr_t threshold, uintptr_t values, uintptr_t active,
           uintptr_t counts, ElementType element_type, int threads) {
            const int64_t rows = preactivation.rows, columns = preactivation.columns;
            check_block(preactivation, threads);
            for (uintptr_t output : {values, active})
                if (output)
                    advise_huge_pages(pointer<void*>(output),
                                      rows * columns * size_of(element_type));
            AEFAST_RUN(jumprelu, {rows_of("preactivation", preactivation, preactivation),
                                  pointer<const void*>(threshold), pointer<void*>(values),
                                  pointer<void*>(active), pointer<float*>(counts), element_type,
                                  rows, columns, threads});
        },
        py::arg("preactivation"), py::arg("threshold"), py::arg("values"), py::arg("active"),
        py::arg("counts"), py::arg("element_type"), py::arg("threads"));
    module.def(
        "jumprelu_backward",
        [](const Matrix& grad_values, const Matrix& grad_active, const Matrix& preactivation,
           uintptr_t threshold, uintptr_t grad_preactivation, uintptr_t grad_threshold,
           uintptr_t partial_sums, ElementType element_type, double bandwidth, Estimator estimator,
           int threads) {
            const int64_t rows = preactivation.rows, columns = preactivation.columns;
            check_block(preactivation, threads);
            advise_huge_pages(pointer<void*>(grad_preactivation),
                              rows * columns * size_of(element_type));
            AEFAST_RUN(jumprelu_backward,
                       {rows_of("grad_values", grad_values, preactivation),
                        rows_of("grad_active", grad_active, preactivation),
                        rows_of("preactivation", preactivation, preactivation),
                        pointer<const void*>(threshold), pointer<void*>(grad_preactivation),
                        pointer<void*>(grad_threshold), pointer<double*>(partial_sums),
                        element_type, rows, columns, bandwidth, estimator, threads});
        },
        py::arg("grad_values"), py::arg("grad_active"), py::arg("preactivation"),
        py::arg("threshold"), py::arg("grad_preactivation"), py::arg("grad_threshold"),
        py::arg("partial_sums"), py::arg("element_type"), py::arg("bandwidth"),
        py::arg("estimator"), py::arg("threads"));
    module.def(
        "active_latents",
        [](const Matrix& values, uintptr_t active, ElementType element_type, int threads) {
            check_block(values, threads);
            AEFAST_RUN(active_latents, {rows_of("values", values, values), pointer<bool*>(active),
                                        element_type, values.rows, values.columns, threads});
        },
        py::arg("values"), py::arg("active"), py::arg("element_type"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
