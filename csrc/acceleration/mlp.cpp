// A stack of linear layers with their activations: forward and backward, each as one call.
//
// A layer of a small model is 2 us of arithmetic in some 60 us of calls, forward and backward.
#include "acceleration/mlp.h"

#include <algorithm>
#include <utility>

#include "ops/linear_act/linear_act.h"
#include "shared/activation.h"
#include "shared/arena.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"
#include "shared/scratch.h"

namespace aefast::AEFAST_ISA {
namespace {

thread_local Scratch forward_scratch, backward_scratch;

// What forward leaves of one layer.
struct Memory {
    float* output;
    float* preactivation;  // or null where the output tells the derivative
    const float* saved() const { return preactivation ? preactivation : output; }
};

std::vector<Memory> memory_of(const Mlp& mlp, const MlpRows& a) {
    std::vector<Memory> memory;
    float* next = a.saved;
    for (const StepLayer& layer : mlp.layers) {
        const int64_t size = a.rows * layer.outputs;
        const bool is_last = &layer == &mlp.layers.back();
        float* output = is_last ? a.output : std::exchange(next, next + size);
        const bool keeps = reads_preactivation(layer.activation);
        memory.push_back({output, keeps ? std::exchange(next, next + size) : nullptr});
    }
    return memory;
}

int threads_of(const Mlp& mlp, const MlpRows& a) {
    int64_t largest = 0;
    for (const StepLayer& layer : mlp.layers)
        largest = std::max(largest, layer.inputs * layer.outputs);
    return useful_threads(a.rows * largest, a.threads);
}

// The weight as the right operand of x W^T, or of a gradient times W.
MatrixView weight_of(const StepLayer& layer, const MlpRows& a, bool is_backward) {
    const float* weight = a.parameters[layer.weight];
    const int64_t rows = layer.is_tied ? layer.inputs : layer.outputs;
    const int64_t columns = layer.is_tied ? layer.outputs : layer.inputs;
    if (layer.is_tied != is_backward) return {weight, columns, rows, 1, columns};
    return {weight, rows, columns, columns, 1};
}

class Pass {
  public:
    Pass(const Mlp& mlp, const MlpRows& a)
        : mlp_(mlp), a_(a), memory_(memory_of(mlp, a)), threads_(threads_of(mlp, a)) {}

    void forward() {
        with_crew(threads_, [&] { forward_layers(); });
    }

    void backward(const MlpGradients& gradients) {
        int64_t widest = 0;
        for (const StepLayer& layer : mlp_.layers) widest = std::max(widest, layer.outputs);
        Arena measured(nullptr);
        reserve(measured, widest);
        Arena arena(static_cast<char*>(backward_scratch.reserve(measured.used())));
        reserve(arena, widest);
        with_crew(threads_, [&] { backward_layers(gradients); });
    }

  private:
    void forward_layers() {
        for (size_t i = 0; i < mlp_.layers.size(); ++i) {
            const StepLayer& layer = mlp_.layers[i];
            const float* bias = layer.bias < 0 ? nullptr : a_.parameters[layer.bias];
            a_.multiply({input(i),
                         weight_of(layer, a_, false),
                         {nullptr, 0},
                         bias,
                         layer.activation,
                         memory_[i].output,
                         layer.outputs,
                         memory_[i].preactivation,
                         false,
                         a_.precision,
                         threads_});
        }
    }

    void backward_layers(const MlpGradients& g) {
        const float* gradient = g.gradient;
        int64_t stride = g.row_stride;
        for (size_t i = mlp_.layers.size(); i-- > 0;) {
            const StepLayer& layer = mlp_.layers[i];
            float* preactivation = buffers_[0];
            float* bias = layer.bias < 0 ? nullptr : g.parameters[layer.bias];
            activation_backward({gradient, stride, memory_[i].saved(), preactivation, bias,
                                 partial_sums_, ElementType::float32, a_.rows, layer.outputs,
                                 layer.activation, threads_});
            if (float* weight = g.parameters[layer.weight])
                weight_gradient(layer, preactivation, input(i), weight);
            float* next = i ? buffers_[1] : g.x;
            if (next == nullptr) return;
            multiply({preactivation, a_.rows, layer.outputs, layer.outputs, 1},
                     weight_of(layer, a_, true), next);
            gradient = next;
            stride = layer.inputs;
        }
    }

    MatrixView input(size_t i) const {
        const int64_t columns = mlp_.layers[i].inputs;
        if (i == 0) return {a_.x, a_.rows, columns, a_.row_stride, 1};
        return {memory_[i - 1].output, a_.rows, columns, columns, 1};
    }

    void reserve(Arena& arena, int64_t widest) {
        for (float*& buffer : buffers_) buffer = arena.take<float>(a_.rows * widest);
        partial_sums_ = arena.take<double>(row_blocks(a_.rows) * widest);
    }

    void multiply(const MatrixView& left, const MatrixView& right, float* output) {
        a_.multiply({left,
                     right,
                     {nullptr, 0},
                     nullptr,
                     Activation::identity,
                     output,
                     right.rows,
                     nullptr,
                     false,
                     a_.precision,
                     threads_});
    }

    void weight_gradient(const StepLayer& layer, const float* gradient, const MatrixView& input,
                         float* output) {
        const MatrixView outputs = {gradient, layer.outputs, a_.rows, 1, layer.outputs};
        const MatrixView inputs = {input.data, input.columns, a_.rows, 1, input.row_stride};
        if (layer.is_tied)
            multiply(inputs, outputs, output);
        else
            multiply(outputs, inputs, output);
    }

    const Mlp& mlp_;
    const MlpRows& a_;
    const std::vector<Memory> memory_;
    const int threads_;
    float* buffers_[2];
    double* partial_sums_;
};

}  // namespace

void mlp_forward(const Mlp& mlp, const MlpRows& arguments) {
    MlpRows a = arguments;
    if (a.saved == nullptr)
        a.saved = static_cast<float*>(
            forward_scratch.reserve(sizeof(float) * a.rows * saved_columns(mlp)));
    Pass(mlp, a).forward();
}

void mlp_backward(const Mlp& mlp, const MlpRows& a, const MlpGradients& gradients) {
    Pass(mlp, a).backward(gradients);
}

}  // namespace aefast::AEFAST_ISA
