// aefast._C's part of ops/variational.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "ops/variational/variational.h"
#include "shared/pages.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    py::class_<SampleView>(module, "SampleView")
        .def(py::init([](uintptr_t data, int64_t rows, int64_t sample_stride, int64_t row_stride) {
                 check_block(rows, 1, 1);
                 return SampleView{pointer<const void*>(data), rows, sample_stride, row_stride};
             }),
             py::arg("data"), py::arg("rows"), py::arg("sample_stride"), py::arg("row_stride"));
    py::enum_<NoiseUse>(module, "NoiseUse")
        .value("add", NoiseUse::add)
        .value("multiply", NoiseUse::multiply);
    module.def(
        "scaled_noise",
        [](NoiseUse use, const SampleView& operand, const SampleView& log_var, uintptr_t output,
           ElementType element_type, int64_t rows, int64_t columns, float scale, uint64_t seed,
           int64_t row_offset, uint32_t step, int threads) {
            check_block(rows, columns, threads);
            advise_huge_pages(pointer<void*>(output), rows * columns * size_of(element_type));
            AEFAST_RUN(scaled_noise, use,
                       {operand, log_var, pointer<void*>(output), element_type, rows, columns,
                        scale, seed, row_offset, step, threads});
        },
        py::arg("use"), py::arg("operand"), py::arg("log_var"), py::arg("output"),
        py::arg("element_type"), py::arg("rows"), py::arg("columns"), py::arg("scale"),
        py::arg("seed"), py::arg("row_offset"), py::arg("step"), py::arg("threads"));
    module.def(
        "gaussian_kl",
        [](const SampleView& mean, const SampleView& log_var, uintptr_t divergence,
           ElementType element_type, int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            AEFAST_RUN(gaussian_kl, {mean, log_var, pointer<void*>(divergence), element_type, rows,
                                     columns, threads});
        },
        py::arg("mean"), py::arg("log_var"), py::arg("divergence"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("threads"));
    module.def(
        "gaussian_kl_backward",
        [](uintptr_t grad, const SampleView& mean, const SampleView& log_var, uintptr_t grad_mean,
           uintptr_t grad_log_var, ElementType element_type, int64_t rows, int64_t columns,
           int threads) {
            check_block(rows, columns, threads);
            for (uintptr_t output : {grad_mean, grad_log_var})
                advise_huge_pages(pointer<void*>(output), rows * columns * size_of(element_type));
            AEFAST_RUN(gaussian_kl_backward,
                       {pointer<const void*>(grad), mean, log_var, pointer<void*>(grad_mean),
                        pointer<void*>(grad_log_var), element_type, rows, columns, threads});
        },
        py::arg("grad"), py::arg("mean"), py::arg("log_var"), py::arg("grad_mean"),
        py::arg("grad_log_var"), py::arg("element_type"), py::arg("rows"), py::arg("columns"),
        py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
