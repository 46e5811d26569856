// The layers of a plan on a panel of rows: each layer's forward and backward pass, with its batch
// normalization and dropout. For step.cpp alone, so that the compiler inlines it there.
#pragma once

#include <algorithm>
#include <vector>

#include "ops/corrupt/corrupt.h"
#include "ops/linear_act/linear_act.h"
#include "shared/activation.h"
#include "shared/arena.h"
#include "shared/philox.h"
#include "shared/row_sums.h"
#include "step/batch_norm.h"
#include "step/step.h"

namespace aefast::AEFAST_ISA {
namespace {

// What the forward pass of a layer saves for its backward pass.
struct LayerMemory {
    float* output;              // of the activation
    float* preactivation;       // null where the output determines the derivative
    float* normalized;          // by batch normalization; null without it
    float* inverse_deviations;  // of batch normalization; null without it
    float* dropout_factors;     // 1 / (1 - level), or 0; null without dropout
    float* passed;              // the next layer's input
    const float* saved() const { return preactivation ? preactivation : output; }
};

// One of a layer's weights. A posterior's layer has two: for the mean and for the log variance.
struct Head {
    int weight, bias;
    int64_t first, outputs;
};

class PanelLayers {
  public:
    PanelLayers(const StepPlan& plan, const StepBatch& batch, int64_t rows, Arena& arena)
        : plan_(plan), batch_(batch) {
        int64_t widest = plan.encoder.front().inputs;
        for (const auto* stack : {&plan.encoder, &plan.decoder})
            for (const StepLayer& layer : *stack) {
                memory_.push_back(layer_memory(layer, rows, arena));
                widest = std::max(widest, layer.outputs);
                if (layer.dropout.level > 0)
                    dropped_width_ = std::max(dropped_width_, layer.outputs);
            }
        widest_ = widest;
        dropout_scale_ = arena.take<float>(dropped_width_);
        partial_sums_ = arena.take<double>(row_blocks(rows) * 2 * widest);
        column_values_ = arena.take<float>(5 * widest);
    }

  protected:
    bool is_last(const StepLayer& layer) const { return &layer == &plan_.decoder.back(); }
    bool is_first_panel() const { return first_row_ == 0; }

    void layer_forward(const StepLayer& layer, const float* input, int64_t input_stride,
                       const LayerMemory& memory, uint64_t number) {
        const bool normalizes = normalizes_preactivation(layer);
        float* product = normalizes ? memory.normalized : memory.output;
        float* preactivation = normalizes ? nullptr : memory.preactivation;
        for_each_head(layer, [&](const Head& head) {
            multiply({input, rows_, layer.inputs, input_stride, 1},
                     parameter_view(layer, head, layer.is_tied), optional_parameter(head.bias),
                     is_last(layer) || normalizes ? Activation::identity : layer.activation,
                     product + head.first, layer.outputs,
                     preactivation ? preactivation + head.first : nullptr, false);
        });
        if (normalizes) {
            normalize(layer, memory, memory.normalized, memory.output);
            if (memory.preactivation)
                std::copy_n(memory.output, rows_ * layer.outputs, memory.preactivation);
            activate({memory.output, ElementType::float32, rows_ * layer.outputs, layer.activation,
                      batch_.threads});
        } else if (normalizes_output(layer)) {
            normalize(layer, memory, memory.output, memory.passed);
        }
        if (layer.dropout.level > 0) drop_units(layer, memory, number);
    }

    // The gradient by the layer's weight, from that by its pre-activation.
    void weight_gradient(const StepLayer& layer, const float* gradient, const float* input,
                         int64_t input_stride, bool accumulate) {
        const MatrixView inputs = {input, layer.inputs, rows_, 1, input_stride};
        for_each_head(layer, [&](const Head& head) {
            const MatrixView outputs = {gradient + head.first, head.outputs, rows_, 1,
                                        layer.outputs};
            const MatrixView& left = layer.is_tied ? inputs : outputs;
            const MatrixView& right = layer.is_tied ? outputs : inputs;
            multiply(left, right, nullptr, Activation::identity, batch_.gradients[head.weight],
                     right.rows, nullptr, accumulate);
        });
    }

    // The gradient by the layer's input, from that by its pre-activation.
    void input_gradient(const StepLayer& layer, const float* gradient, float* output) {
        for_each_head(layer, [&](const Head& head) {
            multiply({gradient + head.first, rows_, head.outputs, layer.outputs, 1},
                     parameter_view(layer, head, !layer.is_tied), nullptr, Activation::identity,
                     output, layer.inputs, nullptr, head.first > 0);
        });
    }

    // From the gradient by what a layer passes on to that by its pre-activation, in place. Adds the
    // sum over the rows to the bias's gradient.
    void layer_backward(const StepLayer& layer, const LayerMemory& memory, float* gradient) {
        if (memory.dropout_factors)
            for (int64_t i = 0; i < rows_ * layer.outputs; ++i)
                gradient[i] *= memory.dropout_factors[i];
        if (normalizes_output(layer)) norm_backward(layer, memory, gradient);
        const bool normalizes = normalizes_preactivation(layer);
        const bool has_bias = layer.bias >= 0 || layer.log_var_bias >= 0;
        float* sums = has_bias && !normalizes ? column_values_ : nullptr;
        activation_backward({gradient, layer.outputs, memory.saved(), gradient, sums, partial_sums_,
                             ElementType::float32, rows_, layer.outputs, layer.activation,
                             batch_.threads});
        if (normalizes) {
            norm_backward(layer, memory, gradient);
            std::fill_n(column_values_, layer.outputs,
                        0.f);  // normalization removes the bias again
        }
        for_each_head(layer, [&](const Head& head) {
            if (head.bias >= 0) add_gradient(head.bias, column_values_ + head.first);
        });
    }

    // Adds this panel's part of the gradient by a bias or another small parameter.
    void add_gradient(int parameter, const float* values) {
        float* gradient = batch_.gradients[parameter];
        const int64_t size = plan_.sizes[parameter];
        if (is_first_panel())
            std::copy_n(values, size, gradient);
        else
            for (int64_t i = 0; i < size; ++i) gradient[i] += values[i];
    }

    // Arguments for noise in the panel's rows of `values`, drawn at this step of the random
    // numbers.
    CorruptArguments noise_arguments(const float* values, int64_t stride, int64_t columns,
                                     float* output, uint32_t step) {
        CorruptArguments a = {};
        a.x = values;
        a.output = output;
        a.rows = rows_;
        a.columns = columns;
        a.row_stride = stride;
        a.element_size = sizeof(float);
        a.seed = batch_.seed;
        a.row_offset = batch_.row_offset + first_row_;
        a.step = step;
        a.threads = batch_.threads;
        return a;
    }

    const StepPlan& plan_;
    const StepBatch& batch_;
    int64_t first_row_ = 0, rows_ = 0;
    int64_t widest_;  // the columns of x or of the widest layer
    std::vector<LayerMemory> memory_;
    double* partial_sums_;
    float* column_values_;

  private:
    LayerMemory layer_memory(const StepLayer& layer, int64_t rows, Arena& arena) const {
        const int64_t size = rows * layer.outputs;
        const auto take_if = [&](bool is_needed, int64_t count) {
            return is_needed ? arena.take<float>(count) : nullptr;
        };
        LayerMemory memory;
        memory.output = arena.take<float>(size);
        memory.preactivation =
            take_if(reads_preactivation(layer.activation) && !is_last(layer), size);
        memory.normalized = take_if(layer.norm.is_on, size);
        memory.inverse_deviations = take_if(layer.norm.is_on, layer.outputs);
        memory.dropout_factors = take_if(layer.dropout.level > 0, size);
        const bool is_changed = layer.dropout.level > 0 || normalizes_output(layer);
        memory.passed = is_changed ? arena.take<float>(size) : memory.output;
        return memory;
    }

    static bool normalizes_output(const StepLayer& layer) {
        return layer.norm.is_on && layer.norm.follows_activation;
    }
    static bool normalizes_preactivation(const StepLayer& layer) {
        return layer.norm.is_on && !layer.norm.follows_activation;
    }
    const float* optional_parameter(int number) const {
        return number < 0 ? nullptr : batch_.parameters[number];
    }
    float* optional_gradient(int number) const {
        return number < 0 || !batch_.gradients ? nullptr : batch_.gradients[number];
    }

    // Call run(head) for each of a layer's weights.
    template <class Run>
    void for_each_head(const StepLayer& layer, const Run& run) const {
        if (layer.log_var_weight < 0) return run(Head{layer.weight, layer.bias, 0, layer.outputs});
        const int64_t half = layer.outputs / 2;
        run(Head{layer.weight, layer.bias, 0, half});
        run(Head{layer.log_var_weight, layer.log_var_bias, half, half});
    }

    MatrixView parameter_view(const StepLayer& layer, const Head& head, bool transposed) const {
        const float* weight = batch_.parameters[head.weight];
        const int64_t rows = layer.is_tied ? layer.inputs : head.outputs;
        const int64_t columns = layer.is_tied ? head.outputs : layer.inputs;
        if (transposed) return {weight, columns, rows, 1, columns};
        return {weight, rows, columns, columns, 1};
    }

    void multiply(const MatrixView& left, const MatrixView& right, const float* bias,
                  Activation activation, float* output, int64_t output_stride, float* preactivation,
                  bool accumulate) {
        batch_.multiply({left,
                         right,
                         {nullptr, 0},
                         bias,
                         activation,
                         output,
                         output_stride,
                         preactivation,
                         accumulate,
                         batch_.precision,
                         batch_.threads});
    }

    // Writes the batch's statistics where the running statistics' gradients would be.
    void normalize(const StepLayer& layer, const LayerMemory& memory, const float* values,
                   float* output) {
        const StepNorm& norm = layer.norm;
        batch_norm({values, memory.normalized, memory.inverse_deviations, output,
                    optional_parameter(norm.scale), optional_parameter(norm.shift),
                    optional_gradient(norm.mean), optional_gradient(norm.variance), norm.epsilon,
                    rows_, layer.outputs, batch_.threads});
    }

    // Multiplies the units by their dropout factors: 0, or 1 / (1 - level).
    void drop_units(const StepLayer& layer, const LayerMemory& memory, uint64_t number) {
        std::fill_n(dropout_scale_, layer.outputs, 1.f / (1.f - layer.dropout.level));
        CorruptArguments a = noise_arguments(dropout_scale_, 0, layer.outputs,
                                             memory.dropout_factors, layer.dropout.step);
        a.seed = child_seed(batch_.seed, number);
        a.level_threshold = layer.dropout.threshold;
        corrupt(Noise::masking, a);
        const float* values = normalizes_output(layer) ? memory.passed : memory.output;
        for (int64_t i = 0; i < rows_ * layer.outputs; ++i)
            memory.passed[i] = values[i] * memory.dropout_factors[i];
    }

    void norm_backward(const StepLayer& layer, const LayerMemory& memory, float* gradient) {
        batch_norm_backward(
            {gradient, memory.normalized, memory.inverse_deviations,
             optional_parameter(layer.norm.scale), optional_gradient(layer.norm.scale),
             optional_gradient(layer.norm.shift), rows_, layer.outputs, batch_.threads});
    }

    float* dropout_scale_;  // 1 / (1 - level) of each unit
    int64_t dropped_width_ = 0;
};

}  // namespace
}  // namespace aefast::AEFAST_ISA
