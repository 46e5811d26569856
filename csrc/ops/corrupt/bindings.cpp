// aefast._C's part of ops/corrupt.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/binding.h"
#include "ops/corrupt/corrupt.h"
#include "shared/pages.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    py::enum_<Noise>(module, "Noise")
        .value("masking", Noise::masking)
        .value("salt_and_pepper", Noise::salt_and_pepper)
        .value("gaussian", Noise::gaussian);
    module.def(
        "corrupt",
        [](Noise noise, const Matrix& x, uintptr_t output, int element_size,
           const RandomStream& stream, float level, uint32_t level_threshold,
           uint32_t low_threshold, uint32_t low_bits, uint32_t high_bits, int threads) {
            check_block(x, threads);
            if (element_size != 4 && (element_size != 2 || noise == Noise::gaussian)) {
                throw std::invalid_argument("element_size does not fit the kind of noise");
            }
            advise_huge_pages(pointer<void*>(output), x.rows * x.columns * element_size);
            AEFAST_RUN(corrupt, noise,
                       {x.by_rows<const void>("x"), pointer<void*>(output), x.rows, x.columns,
                        x.row_stride, element_size, stream.seed, stream.row_offset, stream.step,
                        level_threshold, low_threshold, low_bits, high_bits, level, threads});
        },
        py::arg("noise"), py::arg("x"), py::arg("output"), py::arg("element_size"),
        py::arg("stream"), py::arg("level"), py::arg("level_threshold"), py::arg("low_threshold"),
        py::arg("low_bits"), py::arg("high_bits"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
