// aefast._C's stacks of layers, and what torch's own generator draws.
#include "bindings_mlp.h"

#include <pybind11/stl.h>

#include <stdexcept>

#include "activation.h"
#include "dispatch.h"
#include "mersenne_twister.h"
#include "mlp.h"
#include "without_gil.h"

namespace py = pybind11;

namespace aefast {

int64_t kept_columns(const Mlp& mlp) {
    int64_t columns = -mlp.layers.back().outputs;
    for (const StepLayer& layer : mlp.layers)
        columns += layer.outputs * (baseline::reads_preactivation(layer.activation) ? 2 : 1);
    return columns;
}

namespace {

struct Kernels {
    void (*forward)(const Mlp&, const MlpRows&);
    void (*backward)(const Mlp&, const MlpRows&, const MlpGradients&);
    void (*multiply)(const GemmArguments&);
    void (*dropout_noise)(MersenneTwister&, float*, int64_t, double);
    void (*uniform)(MersenneTwister&, float*, int64_t);
    void (*normal)(MersenneTwister&, float*, int64_t);
};

Kernels active_kernels() {
#define AEFAST_MLP_KERNELS(isa, products)                   \
    {isa::mlp_forward,   isa::mlp_backward, products::gemm, \
     isa::dropout_noise, isa::uniform,      isa::normal}
    AEFAST_RETURN_ACTIVE(AEFAST_MLP_KERNELS);
#undef AEFAST_MLP_KERNELS
}

MlpRows rows_of(uintptr_t x, int64_t rows, int64_t row_stride, const float* const* parameters,
                uintptr_t kept, uintptr_t output, Precision precision, int threads) {
    if (rows < 1 || threads < 1) throw std::invalid_argument("rows and threads must be positive");
    return {reinterpret_cast<const float*>(x),
            rows,
            row_stride,
            parameters,
            reinterpret_cast<float*>(kept),
            reinterpret_cast<float*>(output),
            active_kernels().multiply,
            precision,
            threads};
}

void forward(const Mlp& mlp, uintptr_t x, int64_t rows, int64_t row_stride,
             const std::vector<uintptr_t>& parameters, uintptr_t kept, uintptr_t output,
             Precision precision, int threads) {
    const auto values = pointers<const float*>(parameters);
    const MlpRows a = rows_of(x, rows, row_stride, values.data(), kept, output, precision, threads);
    const auto kernel = active_kernels().forward;
    without_gil([&] { kernel(mlp, a); });
}

void backward(const Mlp& mlp, uintptr_t x, int64_t rows, int64_t row_stride,
              const std::vector<uintptr_t>& parameters, uintptr_t kept, uintptr_t output,
              uintptr_t gradient, int64_t gradient_row_stride, uintptr_t x_gradient,
              const std::vector<uintptr_t>& gradients, Precision precision, int threads) {
    const auto values = pointers<const float*>(parameters);
    const auto slopes = pointers<float*>(gradients);
    if (values.size() != slopes.size())
        throw std::invalid_argument("gradients takes one for each parameter");
    const MlpRows a = rows_of(x, rows, row_stride, values.data(), kept, output, precision, threads);
    const MlpGradients g = {reinterpret_cast<const float*>(gradient), gradient_row_stride,
                            reinterpret_cast<float*>(x_gradient), slopes.data()};
    const auto kernel = active_kernels().backward;
    without_gil([&] { kernel(mlp, a, g); });
}

MersenneTwister& twister(uintptr_t state) { return *reinterpret_cast<MersenneTwister*>(state); }

}  // namespace

void bind_mlp(py::module_& module) {
    py::class_<Mlp>(module, "Mlp")
        .def(py::init([](std::vector<StepLayer> layers) {
            if (layers.empty()) throw std::invalid_argument("it takes a layer or more");
            return Mlp{std::move(layers)};
        }))
        .def_property_readonly("kept_columns", &kept_columns);
    module.def("mlp_forward", forward);
    module.def("mlp_backward", backward);
    module.def("dropout_noise", [](uintptr_t state, uintptr_t noise, int64_t count, double kept) {
        const auto kernel = active_kernels().dropout_noise;
        without_gil([&] { kernel(twister(state), reinterpret_cast<float*>(noise), count, kept); });
    });
    module.def("mersenne_uniform", [](uintptr_t state, uintptr_t values, int64_t count) {
        const auto kernel = active_kernels().uniform;
        without_gil([&] { kernel(twister(state), reinterpret_cast<float*>(values), count); });
    });
    module.def("mersenne_normal", [](uintptr_t state, uintptr_t values, int64_t count) {
        if (count < 16) throw std::invalid_argument("count must be 16 or more");
        const auto kernel = active_kernels().normal;
        without_gil([&] { kernel(twister(state), reinterpret_cast<float*>(values), count); });
    });
}

}  // namespace aefast
