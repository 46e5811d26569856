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
        [](const Matrix& values, uintptr_t means, uintptr_t deviations, uintptr_t beta,
           const RandomStream& stream, int threads) {
            check_block(values, threads);
            AEFAST_RUN(draw,
                       {values.dense<float>("values"), pointer<float*>(means),
                        pointer<const float*>(deviations), pointer<const float*>(beta), values.rows,
                        values.columns, stream.seed, stream.row_offset, stream.step, threads});
        },
        py::arg("values"), py::arg("means"), py::arg("deviations"), py::arg("beta"),
        py::arg("stream"), py::arg("threads"));
    module.def(
        "draw_bits",
        [](const BitMatrixView& left, const Matrix& right, uintptr_t bias, uintptr_t beta,
           uintptr_t words, uintptr_t means, const RandomStream& stream, int threads) {
            check_block(left.rows, right.rows, threads);
            check_columns("right", right, left.columns);
            AEFAST_RUN(draw_bits, {left, right.view(), pointer<const float*>(bias),
                                   pointer<const float*>(beta), pointer<uint64_t*>(words),
                                   pointer<float*>(means), stream.seed, stream.row_offset,
                                   stream.step, threads});
        },
        py::arg("left"), py::arg("right"), py::arg("bias"), py::arg("beta"), py::arg("words"),
        py::arg("means"), py::arg("stream"), py::arg("threads"));
    module.def(
        "measure_phase",
        [](const Matrix& values, uintptr_t sums, float scale, int threads) {
            check_block(values, threads);
            std::vector<double> energies(row_blocks(values.rows));
            std::vector<double> partial_sums(row_blocks(values.rows) * values.columns);
            return AEFAST_RUN(measure_phase, {values.dense<float>("values"), energies.data(),
                                              pointer<float*>(sums), partial_sums.data(), scale,
                                              values.rows, values.columns, threads});
        },
        py::arg("values"), py::arg("sums"), py::arg("scale"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
