// aefast._C's matrix products.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "bindings/binding.h"
#include "gemm/gemm.h"
#include "shared/pages.h"

namespace py = pybind11;

namespace aefast {
namespace {

// Whether gemm beats the product that torch's vendor library makes at this precision.
bool outpaces_vendor_gemm(Precision precision) {
    const InstructionSet set = active_instruction_set();
    if (set == InstructionSet::amx) return true;
    // Its bfloat16 product at "medium" needs AVX-512. Its float32 is fast on Intel's processors; on
    // AMD's it keeps to AVX2, where ours is 1.15 times as fast, and with AVX-512 twice.
    if (precision == Precision::medium && set == InstructionSet::avx512) return false;
    return set >= InstructionSet::avx2 && !is_intel_processor();
}

bool has_matrix_units() { return active_instruction_set() == InstructionSet::amx; }

void run_gemm(GemmArguments arguments) {
#ifdef AEFAST_AMX
    if (has_matrix_units())
        arguments.packed.bytes_per_column =
            amx::packed_bytes_per_column(arguments.right, arguments.precision);
#endif
    without_gil([&] { active_gemm()(arguments); });
}

// What pack_tiles fills.
int64_t packed_bytes(int64_t rows, int64_t depth, Precision precision) {
#ifdef AEFAST_AMX
    if (has_matrix_units()) return amx::packed_bytes(view(0, rows, depth, 0, 0), precision);
#endif
    (void)rows, (void)depth, (void)precision;
    throw std::logic_error("there are no matrix units to pack for");
}

void pack_tiles(const MatrixView& right, Precision precision, uintptr_t packed, int threads) {
#ifdef AEFAST_AMX
    if (has_matrix_units()) {
        return without_gil(
            [&] { amx::pack_tiles(right, precision, pointer<unsigned char*>(packed), threads); });
    }
#endif
    (void)right, (void)precision, (void)packed, (void)threads;
    throw std::logic_error("there are no matrix units to pack for");
}

void bind(py::module_& module) {
    py::enum_<Precision>(module, "Precision")
        .value("highest", Precision::highest)
        .value("high", Precision::high)
        .value("medium", Precision::medium);
    module.def(
        "gemm",
        [](uintptr_t left, int64_t rows, int64_t depth, int64_t left_row_stride,
           int64_t left_column_stride, uintptr_t right, int64_t columns, int64_t right_depth,
           int64_t right_row_stride, int64_t right_column_stride, uintptr_t packed, uintptr_t bias,
           Activation activation, uintptr_t output, uintptr_t preactivation, bool accumulate,
           Precision precision, int threads) {
            check_block(rows, columns, threads);
            if (depth != right_depth) throw std::invalid_argument("the depths differ");
            if (!accumulate) advise_huge_pages(pointer<void*>(output), rows * columns * 4);
            run_gemm({view(left, rows, depth, left_row_stride, left_column_stride),
                      view(right, columns, depth, right_row_stride, right_column_stride),
                      {pointer<const unsigned char*>(packed), 0},
                      pointer<const float*>(bias),
                      activation,
                      pointer<float*>(output),
                      columns,
                      pointer<float*>(preactivation),
                      accumulate,
                      precision,
                      threads});
        },
        py::arg("left"), py::arg("rows"), py::arg("depth"), py::arg("left_row_stride"),
        py::arg("left_column_stride"), py::arg("right"), py::arg("columns"), py::arg("right_depth"),
        py::arg("right_row_stride"), py::arg("right_column_stride"), py::arg("packed"),
        py::arg("bias"), py::arg("activation"), py::arg("output"), py::arg("preactivation"),
        py::arg("accumulate"), py::arg("precision"), py::arg("threads"));
    module.def(
        "fingerprint",
        [](uintptr_t values, int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            return AEFAST_RUN(fingerprint, pointer<const float*>(values), rows, columns, threads);
        },
        py::arg("values"), py::arg("rows"), py::arg("columns"), py::arg("threads"));
    module.def("packed_bytes", &packed_bytes, py::arg("rows"), py::arg("depth"),
               py::arg("precision"));
    module.def(
        "pack_tiles",
        [](uintptr_t right, int64_t rows, int64_t depth, int64_t row_stride, int64_t column_stride,
           Precision precision, uintptr_t packed, int threads) {
            check_block(rows, depth, threads);
            pack_tiles(view(right, rows, depth, row_stride, column_stride), precision, packed,
                       threads);
        },
        py::arg("right"), py::arg("rows"), py::arg("depth"), py::arg("row_stride"),
        py::arg("column_stride"), py::arg("precision"), py::arg("packed"), py::arg("threads"));
    module.def("has_matrix_units", &has_matrix_units);
    module.def("outpaces_vendor_gemm", &outpaces_vendor_gemm, py::arg("precision"));
}

const Binding binding(bind);

}  // namespace

Gemm* active_gemm() {
#ifdef AEFAST_AMX
    if (has_matrix_units()) return amx::gemm;
#endif
    return active_kernel(AEFAST_EACH(gemm));
}

}  // namespace aefast
