// aefast._C's part of ops/variational.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "ops/variational/variational.h"
#include "shared/pages.h"

namespace py = pybind11;

namespace aefast {
namespace {

SampleView view(const Samples& samples) {
    check_block(samples.rows, 1, 1);
    return {pointer<const void*>(samples.address), samples.rows, samples.sample_stride,
            samples.row_stride};
}

void bind(py::module_& module) {
    py::enum_<NoiseUse>(module, "NoiseUse")
        .value("add", NoiseUse::add)
        .value("multiply", NoiseUse::multiply);
    module.def(
        "scaled_noise",
        [](NoiseUse use, const Samples& operand, const Samples& log_var, uintptr_t output,
           ElementType element_type, int64_t rows, int64_t columns, float scale,
           const RandomStream& stream, int threads) {
            check_block(rows, columns, threads);
            advise_huge_pages(pointer<void*>(output), rows * columns * size_of(element_type));
            AEFAST_RUN(scaled_noise, use,
                       {view(operand), view(log_var), pointer<void*>(output), element_type, rows,
                        columns, scale, stream.seed, stream.row_offset, stream.step, threads});
        },
        py::arg("use"), py::arg("operand"), py::arg("log_var"), py::arg("output"),
        py::arg("element_type"), py::arg("rows"), py::arg("columns"), py::arg("scale"),
        py::arg("stream"), py::arg("threads"));
    module.def(
        "gaussian_kl",
        [](const Samples& mean, const Samples& log_var, uintptr_t divergence,
           ElementType element_type, int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            AEFAST_RUN(gaussian_kl, {view(mean), view(log_var), pointer<void*>(divergence),
                                     element_type, rows, columns, threads});
        },
        py::arg("mean"), py::arg("log_var"), py::arg("divergence"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("threads"));
    module.def(
        "gaussian_kl_backward",
        [](uintptr_t grad, const Samples& mean, const Samples& log_var, uintptr_t grad_mean,
           uintptr_t grad_log_var, ElementType element_type, int64_t rows, int64_t columns,
           int threads) {
            check_block(rows, columns, threads);
            for (uintptr_t output : {grad_mean, grad_log_var})
                advise_huge_pages(pointer<void*>(output), rows * columns * size_of(element_type));
            AEFAST_RUN(
                gaussian_kl_backward,
                {pointer<const void*>(grad), view(mean), view(log_var), pointer<void*>(grad_mean),
                 pointer<void*>(grad_log_var), element_type, rows, columns, threads});
        },
        py::arg("grad"), py::arg("mean"), py::arg("log_var"), py::arg("grad_mean"),
        py::arg("grad_log_var"), py::arg("element_type"), py::arg("rows"), py::arg("columns"),
        py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
