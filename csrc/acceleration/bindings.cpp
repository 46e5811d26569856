// aefast._C's stacks of layers, and the draws of torch's own generator.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "acceleration/mersenne_twister.h"
#include "acceleration/mlp.h"
#include "bindings/binding.h"
#include "shared/activation.h"

namespace py = pybind11;

namespace aefast {

int64_t saved_columns(const Mlp& mlp) {
    int64_t columns = -mlp.layers.back().outputs;
    for (const StepLayer& layer : mlp.layers)
        columns += layer.outputs * (baseline::reads_preactivation(layer.activation) ? 2 : 1);
    return columns;
}

namespace {

MlpRows rows_of(const Mlp& mlp, const Matrix& x, const float* const* parameters, uintptr_t saved,
                uintptr_t output, Precision precision, int threads) {
    check_block(x, threads);
    check_columns("x", x, mlp.layers.front().inputs);
    return {x.by_rows<const float>("x"),
            x.rows,
            x.row_stride,
            parameters,
            pointer<float*>(saved),
            pointer<float*>(output),
            active_gemm(),
            precision,
            threads};
}

void forward(const Mlp& mlp, const Matrix& x, const std::vector<uintptr_t>& parameters,
             uintptr_t saved, uintptr_t output, Precision precision, int threads) {
    const auto values = pointers<const float*>(parameters);
    const MlpRows a = rows_of(mlp, x, values.data(), saved, output, precision, threads);
    AEFAST_RUN(mlp_forward, mlp, a);
}

void backward(const Mlp& mlp, const Matrix& x, const std::vector<uintptr_t>& parameters,
              uintptr_t saved, uintptr_t output, const Matrix& gradient, uintptr_t x_gradient,
              const std::vector<uintptr_t>& gradients, Precision precision, int threads) {
    const auto values = pointers<const float*>(parameters);
    const auto slopes = pointers<float*>(gradients);
    if (values.size() != slopes.size())
        throw std::invalid_argument("gradients takes one for each parameter");
    check_shape("gradient", gradient, x.rows, mlp.layers.back().outputs);
    const MlpRows a = rows_of(mlp, x, values.data(), saved, output, precision, threads);
    const MlpGradients g = {gradient.by_rows<const float>("gradient"), gradient.row_stride,
                            pointer<float*>(x_gradient), slopes.data()};
    AEFAST_RUN(mlp_backward, mlp, a, g);
}

MersenneTwister& twister(uintptr_t state) { return *pointer<MersenneTwister*>(state); }

void bind(py::module_& module) {
    py::class_<Mlp>(module, "Mlp")
        .def(py::init([](std::vector<StepLayer> layers) {
                 if (layers.empty()) throw std::invalid_argument("it takes a layer or more");
                 return Mlp{std::move(layers)};
             }),
             py::arg("layers"))
        .def_property_readonly("saved_columns", &saved_columns);
    module.def("mlp_forward", forward, py::arg("mlp"), py::arg("x"), py::arg("parameters"),
               py::arg("saved"), py::arg("output"), py::arg("precision"), py::arg("threads"));
    module.def("mlp_backward", backward, py::arg("mlp"), py::arg("x"), py::arg("parameters"),
               py::arg("saved"), py::arg("output"), py::arg("gradient"), py::arg("x_gradient"),
               py::arg("gradients"), py::arg("precision"), py::arg("threads"));
    module.def(
        "dropout_noise",
        [](uintptr_t state, uintptr_t noise, int64_t count, double keep_probability) {
            AEFAST_RUN(dropout_noise, twister(state), pointer<float*>(noise), count,
                       keep_probability);
        },
        py::arg("state"), py::arg("noise"), py::arg("count"), py::arg("keep_probability"));
    module.def(
        "mersenne_uniform",
        [](uintptr_t state, uintptr_t values, int64_t count) {
            AEFAST_RUN(uniform, twister(state), pointer<float*>(values), count);
        },
        py::arg("state"), py::arg("values"), py::arg("count"));
    module.def(
        "mersenne_normal",
        [](uintptr_t state, uintptr_t values, int64_t count) {
            if (count < 16) throw std::invalid_argument("count must be 16 or more");
            AEFAST_RUN(normal, twister(state), pointer<float*>(values), count);
        },
        py::arg("state"), py::arg("values"), py::arg("count"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
