// aefast._C's part of ops/sparse_coding.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "ops/sparse_coding/sparse_coding.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    module.def(
        "soft_threshold",
        [](uintptr_t x, uintptr_t output, ElementType element_type, int64_t count, float threshold,
           int threads) {
            check_block(1, count, threads);
            AEFAST_RUN(soft_threshold, {pointer<const void*>(x), pointer<void*>(output),
                                        element_type, count, threshold, threads});
        },
        py::arg("x"), py::arg("output"), py::arg("element_type"), py::arg("count"),
        py::arg("threshold"), py::arg("threads"));
    module.def(
        "soft_threshold_backward",
        [](uintptr_t gradient, uintptr_t x, uintptr_t grad_x, ElementType element_type,
           int64_t count, float threshold, int threads) {
            check_block(1, count, threads);
            AEFAST_RUN(soft_threshold_backward,
                       {pointer<const void*>(gradient), pointer<const void*>(x),
                        pointer<void*>(grad_x), element_type, count, threshold, threads});
        },
        py::arg("gradient"), py::arg("x"), py::arg("grad_x"), py::arg("element_type"),
        py::arg("count"), py::arg("threshold"), py::arg("threads"));
    module.def(
        "sparse_encode",
        [](const Matrix& correlations, uintptr_t energies, const Matrix& gram, const Matrix& codes,
           float curvature, float penalty, double tolerance, int64_t steps, int threads) {
            check_block(codes, threads);
            check_shape("correlations", correlations, codes.rows, codes.columns);
            const int64_t padded = (codes.columns + kAtomLanes - 1) / kAtomLanes * kAtomLanes;
            check_shape("gram", gram, codes.columns, padded);
            AEFAST_RUN(
                sparse_encode,
                {correlations.dense<const float>("correlations"), pointer<const float*>(energies),
                 gram.dense<const float>("gram"), codes.dense<float>("codes"), codes.rows,
                 codes.columns, curvature, penalty, tolerance, steps, threads});
        },
        py::arg("correlations"), py::arg("energies"), py::arg("gram"), py::arg("codes"),
        py::arg("curvature"), py::arg("penalty"), py::arg("tolerance"), py::arg("steps"),
        py::arg("threads"));
    module.attr("ATOM_LANES") = kAtomLanes;
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
