// aefast._C's part of ops/rbm.
#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/binding.h"
#include "gemm/gemm.h"
#include "ops/rbm/rbm.h"
#include "shared/row_sums.h"

namespace py = pybind11;

namespace aefast {
namespace {

void bind(py::module_& module) {
    module.def(
        "draw",
        [](uintptr_t values, uintptr_t means, uintptr_t deviations, uintptr_t beta, int64_t rows,
           int64_t columns, uint64_t seed, int64_t row_offset, uint32_t step, int threads) {
            check_block(rows, columns, threads);
            AEFAST_RUN(draw, {pointer<float*>(values), pointer<float*>(means),
                              pointer<const float*>(deviations), pointer<const float*>(beta), rows,
                              columns, seed, row_offset, step, threads});
        },
        py::arg("values"), py::arg("means"), py::arg("deviations"), py::arg("beta"),
        py::arg("rows"), py::arg("columns"), py::arg("seed"), py::arg("row_offset"),
        py::arg("step"), py::arg("threads"));
    module.def(
        "draw_bits",
        [](const BinaryView& left, uintptr_t right, int64_t right_row_stride,
           int64_t right_column_stride, int64_t columns, uintptr_t bias, uintptr_t beta,
           uintptr_t words, uintptr_t means, uint64_t seed, int64_t row_offset, uint32_t step,
           int threads) {
            check_block(left.rows, columns, threads);
            AEFAST_RUN(
                draw_bits,
                {left, view(right, columns, left.columns, right_row_stride, right_column_stride),
                 pointer<const float*>(bias), pointer<const float*>(beta),
                 pointer<uint64_t*>(words), pointer<float*>(means), seed, row_offset, step,
                 threads});
        },
        py::arg("left"), py::arg("right"), py::arg("right_row_stride"),
        py::arg("right_column_stride"), py::arg("columns"), py::arg("bias"), py::arg("beta"),
        py::arg("words"), py::arg("means"), py::arg("seed"), py::arg("row_offset"), py::arg("step"),
        py::arg("threads"));
    module.def(
        "measure_phase",
        [](uintptr_t values, uintptr_t sums, float scale, int64_t rows, int64_t columns,
           int threads) {
            check_block(rows, columns, threads);
            std::vector<double> energies(row_blocks(rows));
            std::vector<double> partial_sums(row_blocks(rows) * columns);
            return AEFAST_RUN(measure_phase,
                              {pointer<float*>(values), energies.data(), pointer<float*>(sums),
                               partial_sums.data(), scale, rows, columns, threads});
        },
        py::arg("values"), py::arg("sums"), py::arg("scale"), py::arg("rows"), py::arg("columns"),
        py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
