// aefast._C's matrix products.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/binding.h"
#include "gemm/gemm.h"
#include "shared/pages.h"

namespace py = pybind11;

namespace aefast {
namespace {

void run_gemm(GemmArguments arguments) {
    if (const MatrixUnits* units = active_matrix_units())
        arguments.packed.bytes_per_column =
            units->packed_bytes_per_column(arguments.right, arguments.precision);
    without_gil([&] { active_gemm()(arguments); });
}

const MatrixUnits& checked_matrix_units() {
    const MatrixUnits* units = active_matrix_units();
    if (units == nullptr) throw std::logic_error("there are no matrix units to pack for");
    return *units;
}

void bind(py::module_& module) {
    py::enum_<Precision>(module, "Precision")
        .value("highest", Precision::highest)
        .value("high", Precision::high)
        .value("medium", Precision::medium);
    module.def(
        "gemm",
        [](const Matrix& left, const Matrix& right, uintptr_t packed, uintptr_t bias,
           Activation activation, uintptr_t output, uintptr_t preactivation, bool accumulate,
           Precision precision, int threads) {
            check_block(left.rows, right.rows, threads);
            check_columns("right", right, left.columns);
            if (!accumulate) advise_huge_pages(pointer<void*>(output), left.rows * right.rows * 4);
            run_gemm({left.view(),
                      right.view(),
                      {pointer<const unsigned char*>(packed), 0},
                      pointer<const float*>(bias),
                      activation,
                      pointer<float*>(output),
                      right.rows,
                      pointer<float*>(preactivation),
                      accumulate,
                      precision,
                      threads});
        },
        py::arg("left"), py::arg("right"), py::arg("packed"), py::arg("bias"),
        py::arg("activation"), py::arg("output"), py::arg("preactivation"), py::arg("accumulate"),
        py::arg("precision"), py::arg("threads"));
    module.def(
        "fingerprint",
        [](const Matrix& values, int threads) {
            check_block(values, threads);
            return AEFAST_RUN(fingerprint, values.dense<const float>("values"), values.rows,
                              values.columns, threads);
        },
        py::arg("values"), py::arg("threads"));
    module.def(
        "packed_bytes",
        [](int64_t rows, int64_t depth, Precision precision) {
            return checked_matrix_units().packed_bytes({nullptr, rows, depth, 0, 0}, precision);
        },
        py::arg("rows"), py::arg("depth"), py::arg("precision"));
    module.def(
        "pack_tiles",
        [](const Matrix& right, Precision precision, uintptr_t packed, int threads) {
            check_block(right, threads);
            const MatrixUnits& units = checked_matrix_units();
            without_gil([&] {
                units.pack_tiles(right.view(), precision, pointer<unsigned char*>(packed), threads);
            });
        },
        py::arg("right"), py::arg("precision"), py::arg("packed"), py::arg("threads"));
    module.def("has_matrix_units", [] { return active_matrix_units() != nullptr; });
}

const Binding binding(bind);

}  // namespace

}  // namespace aefast
