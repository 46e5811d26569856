// aefast._C's part of bit_matrix.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "bit_matrix/bit_matrix.h"
#include "gemm/gemm.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    py::class_<BitMatrixView>(module, "BitMatrixView")
        .def(py::init([](uintptr_t words, int64_t rows, int64_t columns) {
                 check_block(rows, columns, 1);
                 return BitMatrixView{pointer<const uint64_t*>(words), rows, columns};
             }),
             py::arg("words"), py::arg("rows"), py::arg("columns"));
    module.def(
        "pack_bits",
        [](const Matrix& values, uintptr_t words, uintptr_t is_binary, int threads) {
            check_block(values, threads);
            AEFAST_RUN(pack_bits, {values.by_rows<const float>("values"), values.row_stride,
                                   pointer<uint64_t*>(words), pointer<bool*>(is_binary),
                                   values.rows, values.columns, threads});
        },
        py::arg("values"), py::arg("words"), py::arg("is_binary"), py::arg("threads"));
    module.def(
        "unpack_bits",
        [](const BitMatrixView& bits, uintptr_t values, int threads) {
            check_block(bits.rows, bits.columns, threads);
            AEFAST_RUN(unpack_bits, {bits, pointer<float*>(values), threads});
        },
        py::arg("bits"), py::arg("values"), py::arg("threads"));
    module.def(
        "transpose_bits",
        [](const BitMatrixView& bits, uintptr_t words, uintptr_t counts, int threads) {
            check_block(bits.rows, bits.columns, threads);
            AEFAST_RUN(transpose_bits,
                       {bits, pointer<uint64_t*>(words), pointer<float*>(counts), threads});
        },
        py::arg("bits"), py::arg("words"), py::arg("counts"), py::arg("threads"));
    module.def(
        "bit_matrix_product",
        [](const BitMatrixView& left, const Matrix& right, uintptr_t bias, uintptr_t output,
           int threads) {
            check_block(left.rows, right.rows, threads);
            check_columns("right", right, left.columns);
            AEFAST_RUN(bit_matrix_product, {left, right.view(), pointer<const float*>(bias),
                                            pointer<float*>(output), threads});
        },
        py::arg("left"), py::arg("right"), py::arg("bias"), py::arg("output"), py::arg("threads"));
    module.def(
        "transposed_bit_matrix_product",
        [](const BitMatrixView& left, const Matrix& right, uintptr_t output, bool accumulate,
           int threads) {
            check_block(left.rows, right.rows, threads);
            check_columns("right", right, left.columns);
            AEFAST_RUN(transposed_bit_matrix_product,
                       {left, right.view(), pointer<float*>(output), accumulate, threads});
        },
        py::arg("left"), py::arg("right"), py::arg("output"), py::arg("accumulate"),
        py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
