// aefast._C's launches of kernels that were compiled ahead of time.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/binding.h"
#include "cuda/cuda_kernel.h"

namespace py = pybind11;

namespace aefast {
namespace {

BlockLayout block_layout(const py::dict& entry) {
    return {entry["swizzle"].cast<int>(), entry["elem_size"].cast<int>(),
            entry["elem_type"].cast<int>(), entry["block_size"].cast<std::vector<uint32_t>>()};
}

void bind(py::module_& module) {
    const auto error = py::register_exception<CudaError>(module, "CudaError", PyExc_RuntimeError);
    py::register_exception<CudaLoadError>(module, "CudaLoadError", error);
    py::class_<CudaKernel>(module, "CudaKernel")
        .def(py::init([](const py::bytes& image, const std::string& symbol, int warps, int shared,
                         const std::vector<std::string>& arguments,
                         const std::vector<py::dict>& descriptors) {
                 if (warps < 1 || warps > 32)
                     throw std::invalid_argument("warps is " + std::to_string(warps) +
                                                 "; it takes a number from 1 to 32");
                 if (shared < 0)
                     throw std::invalid_argument("shared is " + std::to_string(shared) +
                                                 "; it takes a number of bytes");
                 std::vector<BlockLayout> layouts;
                 for (const py::dict& entry : descriptors) layouts.push_back(block_layout(entry));
                 return std::make_unique<CudaKernel>(image, symbol, warps, shared, arguments,
                                                     std::move(layouts));
             }),
             py::arg("image"), py::arg("symbol"), py::arg("warps"), py::arg("shared"),
             py::arg("arguments"), py::arg("descriptors"))
        .def("launch", &CudaKernel::launch, py::arg("programs"), py::arg("stream"),
             py::arg("device"), py::arg("arguments"));
    py::class_<PackedLaunch>(module, "PackedLaunch")
        .def(py::init<CudaKernel&, int64_t, int, const py::tuple&>(), py::keep_alive<1, 2>(),
             py::arg("kernel"), py::arg("programs"), py::arg("device"), py::arg("arguments"))
        .def("launch", &PackedLaunch::launch, py::arg("stream"));
    module.def(
        "launch_in_turn",
        [](const std::vector<std::tuple<CudaKernel*, int64_t, py::tuple, size_t>>& launches,
           uintptr_t stream, int device, int32_t first_step, int64_t rounds) {
            std::vector<LaunchInTurn> in_turn;
            for (const auto& [kernel, programs, arguments, step] : launches) {
                in_turn.push_back({kernel, programs, arguments, step});
            }
            launch_in_turn(in_turn, stream, device, first_step, rounds);
        },
        py::arg("launches"), py::arg("stream"), py::arg("device"), py::arg("first_step"),
        py::arg("rounds"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
