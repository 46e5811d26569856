// aefast._C's part of ops/sparse_reconstruction_loss.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "ops/sparse_reconstruction_loss/sparse_reconstruction_loss.h"
#include "ops/topk/code_operand.h"

namespace py = pybind11;

namespace aefast {
namespace {

void sparse_reconstruction_loss(const Matrix& values, uintptr_t indices, const Matrix& weight,
                                uintptr_t bias, const Matrix& target, uintptr_t squares,
                                uintptr_t residual, uintptr_t slopes, int threads) {
    check_shape("target", target, values.rows, weight.columns);
    const SparseCode code = sparse_code(values, indices, weight.rows);
    AEFAST_RUN(sparse_reconstruction_loss,
               {code, weight.by_rows<const float>("weight"), weight.row_stride,
                pointer<const float*>(bias), target.by_rows<const float>("target"),
                target.row_stride, pointer<double*>(squares), pointer<float*>(residual),
                pointer<float*>(slopes), weight.columns, threads});
}

void bind(py::module_& module) {
    module.def("sparse_reconstruction_loss", sparse_reconstruction_loss, py::arg("values"),
               py::arg("indices"), py::arg("weight"), py::arg("bias"), py::arg("target"),
               py::arg("squares"), py::arg("residual"), py::arg("slopes"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
