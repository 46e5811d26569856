// A training step of an encoder-decoder as one call: forward, loss and all gradients, with the
// package's own products, noise and draws.
//
// An eager step of a 64-32 autoencoder on 32 rows is 10 us of arithmetic in some 400 us of calls:
// here nothing but arithmetic is left. Memory is kept from call to call.
#include "step/step.h"

#include <algorithm>
#include <cmath>

#include "ops/contractive/contractive.h"
#include "ops/linear_act/linear_act.h"
#include "ops/reconstruction/reconstruction.h"
#include "ops/sparsity/sparsity.h"
#include "ops/variational/variational.h"
#include "shared/activation.h"
#include "shared/arena.h"
#include "shared/parallel.h"
#include "shared/philox.h"
#include "shared/row_sums.h"
#include "shared/scratch.h"

namespace aefast::AEFAST_ISA {
namespace {

// The activations of so many rows stay in the last-level cache between forward and backward.
constexpr int64_t kPanelBytes = 8 << 20;

thread_local Scratch step_scratch;

// What forward leaves of one layer.
struct LayerMemory {
    float* output;
    float* preactivation;  // or null where the output tells the derivative
    const float* saved() const { return preactivation ? preactivation : output; }
};

// One panel of rows on its way through the plan.
class Panel {
  public:
    Panel(const StepPlan& plan, const StepBatch& batch, int64_t rows, Arena& arena)
        : plan_(plan), batch_(batch) {
        const int64_t visible = plan.encoder.front().inputs;
        int64_t widest = visible;
        noisy_ = plan.noise.is_on ? arena.take<float>(rows * visible) : nullptr;
        for (const auto* side : {&plan.encoder, &plan.decoder})
            for (const StepLayer& layer : *side) {
                float* output = arena.take<float>(rows * layer.outputs);
                const bool keep = reads_preactivation(layer.activation) && !is_last(layer);
                memory_.push_back(
                    {output, keep ? arena.take<float>(rows * layer.outputs) : nullptr});
                widest = std::max(widest, layer.outputs);
            }
        const int64_t code = plan.encoder.back().outputs;
        changed_code_ =
            plan.code_stage == CodeStage::plain ? nullptr : arena.take<float>(rows * code);
        posterior_noise_ =
            plan.code_stage == CodeStage::posterior ? arena.take<float>(rows * code / 2) : nullptr;
        for (float*& gradient : gradients_) gradient = arena.take<float>(rows * widest);
        partial_sums_ = arena.take<double>(row_blocks(rows) * 2 * widest);
        row_values_ = arena.take<float>(rows);
        losses_ = arena.take<double>(row_blocks(rows));
        column_values_ = arena.take<float>(4 * widest);
    }

    // The panel's part of the whole batch's loss; its gradients are added to what earlier panels
    // left, or written where this is the first.
    double run(int64_t first_row, int64_t rows) {
        first_row_ = first_row;
        rows_ = rows;
        forward();
        const double loss = compare_output();
        if (batch_.gradients == nullptr) return loss + penalty_alone();
        return loss + backward();
    }

  private:
    bool is_last(const StepLayer& layer) const { return &layer == &plan_.decoder.back(); }
    int64_t visible() const { return plan_.encoder.front().inputs; }
    double batch_rows() const { return static_cast<double>(batch_.rows); }
    bool is_first_panel() const { return first_row_ == 0; }
    const float* x() const { return batch_.x + first_row_ * batch_.row_stride; }
    int64_t latent() const { return plan_.encoder.back().outputs / 2; }
    LayerMemory& code_memory() { return memory_[plan_.encoder.size() - 1]; }

    // --------------------------------------------------------------------------------- products

    MatrixView parameter_view(const StepLayer& layer, bool transposed) const {
        const float* weight = batch_.parameters[layer.weight];
        const int64_t rows = layer.is_tied ? layer.inputs : layer.outputs;
        const int64_t columns = layer.is_tied ? layer.outputs : layer.inputs;
        if (transposed) return {weight, columns, rows, 1, columns};
        return {weight, rows, columns, columns, 1};
    }

    void multiply(const MatrixView& left, const MatrixView& right, const float* bias,
                  Activation activation, float* output, float* preactivation, bool accumulate) {
        batch_.multiply({left,
                         right,
                         {nullptr, 0},
                         bias,
                         activation,
                         output,
                         right.rows,
                         preactivation,
                         accumulate,
                         batch_.precision,
                         batch_.threads});
    }

    void layer_forward(const StepLayer& layer, const float* input, int64_t input_stride,
                       const LayerMemory& memory) {
        const float* bias = layer.bias < 0 ? nullptr : batch_.parameters[layer.bias];
        multiply({input, rows_, layer.inputs, input_stride, 1},
                 parameter_view(layer, layer.is_tied), bias,
                 is_last(layer) ? Activation::identity : layer.activation, memory.output,
                 memory.preactivation, false);
    }

    // The weight's gradient from that of the layer's pre-activation.
    void weight_gradient(const StepLayer& layer, const float* gradient, const float* input,
                         int64_t input_stride, bool accumulate) {
        const MatrixView outputs = {gradient, layer.outputs, rows_, 1, layer.outputs};
        const MatrixView inputs = {input, layer.inputs, rows_, 1, input_stride};
        float* output = batch_.gradients[layer.weight];
        if (layer.is_tied)
            multiply(inputs, outputs, nullptr, Activation::identity, output, nullptr, accumulate);
        else
            multiply(outputs, inputs, nullptr, Activation::identity, output, nullptr, accumulate);
    }

    void input_gradient(const StepLayer& layer, const float* gradient, float* output) {
        multiply({gradient, rows_, layer.outputs, layer.outputs, 1},
                 parameter_view(layer, !layer.is_tied), nullptr, Activation::identity, output,
                 nullptr, false);
    }

    // ---------------------------------------------------------------------------------- forward

    const float* encoder_input(int64_t& stride) const {
        stride = noisy_ ? visible() : batch_.row_stride;
        return noisy_ ? noisy_ : x();
    }

    const float* decoder_input() const {
        return plan_.code_stage == CodeStage::plain ? memory_[plan_.encoder.size() - 1].output
                                                    : changed_code_;
    }

    void forward() {
        if (noisy_) draw_noise();
        int64_t stride;
        const float* input = encoder_input(stride);
        size_t number = 0;
        for (const StepLayer& layer : plan_.encoder) {
            layer_forward(layer, input, stride, memory_[number]);
            input = memory_[number++].output;
            stride = layer.outputs;
        }
        change_code();
        input = decoder_input();
        for (const StepLayer& layer : plan_.decoder) {
            layer_forward(layer, input, layer.inputs, memory_[number]);
            input = memory_[number++].output;
        }
    }

    // Noise in a panel's rows of `values`, at this step of the random numbers.
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

    void draw_noise() {
        const StepNoise& noise = plan_.noise;
        CorruptArguments a = noise_arguments(x(), batch_.row_stride, visible(), noisy_, noise.step);
        a.level_threshold = noise.level_threshold;
        a.low_threshold = noise.low_threshold;
        a.low_bits = bits_of(0.f);
        a.high_bits = bits_of(1.f);
        a.level = noise.level;
        corrupt(noise.kind, a);
    }

    // Elements that are dropped become 0, the others are divided by what is kept of them.
    void drop(const float* values, float* output) {
        const int64_t columns = plan_.encoder.back().outputs;
        CorruptArguments a = noise_arguments(values, columns, columns, output, plan_.code_step);
        a.level_threshold = plan_.code_threshold;
        corrupt(Noise::masking, a);
        const float kept = 1.f - plan_.code_level;
        for (int64_t i = 0; i < rows_ * columns; ++i) output[i] /= kept;
    }

    void change_code() {
        const int64_t columns = plan_.encoder.back().outputs;
        const float* code = code_memory().output;
        switch (plan_.code_stage) {
            case CodeStage::plain:
                return;
            case CodeStage::dropout:
                return drop(code, changed_code_);
            case CodeStage::gaussian: {
                CorruptArguments a =
                    noise_arguments(code, columns, columns, changed_code_, plan_.code_step);
                a.level = plan_.code_level;
                return corrupt(Noise::gaussian, a);
            }
            case CodeStage::posterior:
                return sample_posterior();
        }
    }

    // mean + e^(log_var / 2) z; its second term is kept for backward, which would else draw z anew:
    // 7% of the time of a 64-32-2 model's step, by a profile.
    void sample_posterior() {
        const int64_t columns = latent();
        std::fill_n(changed_code_, rows_ * columns, 1.f);
        scaled_noise(NoiseUse::multiply, {{changed_code_, rows_, 0, columns},
                                          log_variances(),
                                          posterior_noise_,
                                          ElementType::float32,
                                          rows_,
                                          columns,
                                          1.f,
                                          batch_.seed,
                                          batch_.row_offset + first_row_,
                                          plan_.code_step,
                                          batch_.threads});
        for (int64_t row = 0; row < rows_; ++row) {
            const float* mean = code_memory().output + row * 2 * columns;
            for (int64_t i = 0; i < columns; ++i)
                changed_code_[row * columns + i] = mean[i] + posterior_noise_[row * columns + i];
        }
    }

    SampleView means() { return {code_memory().output, rows_, 0, 2 * latent()}; }
    SampleView log_variances() { return {code_memory().output + latent(), rows_, 0, 2 * latent()}; }

    // ------------------------------------------------------------------------------------- loss

    // The error of the last layer's output, which becomes the gradient of its pre-activation.
    double compare_output() {
        const StepLayer& last = plan_.decoder.back();
        float* output = memory_.back().output;
        float* bias = batch_.gradients && last.bias >= 0 ? column_values_ : nullptr;
        if (plan_.objective == Objective::gaussian_likelihood) return compare_gaussian(bias);
        const bool is_mean = plan_.objective == Objective::squared_error ||
                             plan_.objective == Objective::cross_entropy;
        const double count = batch_rows() * (is_mean ? visible() : 1);
        const bool is_squared = plan_.objective == Objective::squared_error;
        const double total = compare(
            {output, x(), batch_.row_stride, nullptr, bias, partial_sums_, losses_,
             batch_.gradients != nullptr, is_squared ? Loss::squared_error : Loss::cross_entropy,
             last.activation, static_cast<float>(1 / count), rows_, visible(), batch_.threads});
        if (bias) add_gradient(last.bias, bias);
        return total / count;
    }

    // -ln N(x; output, e^log_var), summed over a row; the output becomes its gradient.
    double compare_gaussian(float* bias) {
        const float* log_var = batch_.parameters[plan_.log_var];
        const int64_t columns = visible(), step = plan_.log_var_size > 1 ? 1 : 0;
        float* precision = column_values_ + columns;
        double constant = 0;
        for (int64_t i = 0; i < columns; ++i) {
            precision[i] = AEFAST_ISA::exp(-log_var[i * step]);
            constant += log_var[i * step] + 1.8378770664093453;  // ln(2 pi)
        }
        double* squares = partial_sums_;  // of each column
        double* gradient_sums = partial_sums_ + columns;
        std::fill_n(squares, 2 * columns, 0.0);
        const float scale = static_cast<float>(1 / batch_rows());
        for (int64_t row = 0; row < rows_; ++row) {
            float* output = memory_.back().output + row * columns;
            const float* target = x() + row * batch_.row_stride;
            for (int64_t i = 0; i < columns; ++i) {
                const float error = output[i] - target[i];
                const float weighted = error * precision[i];
                squares[i] += error * weighted;
                output[i] = scale * weighted;
                gradient_sums[i] += output[i];
            }
        }
        double total = 0;
        for (int64_t i = 0; i < columns; ++i) total += squares[i];
        if (batch_.gradients) {
            if (bias) {
                std::copy_n(gradient_sums, columns, bias);
                add_gradient(plan_.decoder.back().bias, bias);
            }
            log_var_gradient(squares);
        }
        return 0.5 * (total + constant * rows_) / batch_rows();
    }

    void log_var_gradient(const double* squares) {
        float* gradient = column_values_;
        double shared = 0;
        for (int64_t i = 0; i < visible(); ++i) {
            const double value = 0.5 * (rows_ - squares[i]) / batch_rows();
            shared += value;
            gradient[i] = static_cast<float>(value);
        }
        if (plan_.log_var_size == 1) gradient[0] = static_cast<float>(shared);
        add_gradient(plan_.log_var, gradient);
    }

    // A small gradient's part of this panel.
    void add_gradient(int parameter, const float* values) {
        float* gradient = batch_.gradients[parameter];
        const int64_t size = plan_.sizes[parameter];
        if (is_first_panel())
            std::copy_n(values, size, gradient);
        else
            for (int64_t i = 0; i < size; ++i) gradient[i] += values[i];
    }

    // --------------------------------------------------------------------------------- backward

    double backward() {
        size_t number = memory_.size() - 1;
        const float* gradient = memory_.back().output;
        float* next = gradients_[0];
        for (size_t i = plan_.decoder.size(); i-- > 0; --number) {
            const StepLayer& layer = plan_.decoder[i];
            const float* input = i ? memory_[number - 1].output : decoder_input();
            weight_gradient(layer, gradient, input, layer.inputs, !is_first_panel());
            input_gradient(layer, gradient, next);
            if (i) {
                activation_backward(plan_.decoder[i - 1], memory_[number - 1], next, next);
            }
            gradient = next;
            next = next == gradients_[0] ? gradients_[1] : gradients_[0];
        }
        return code_backward(const_cast<float*>(gradient), next);
    }

    // gradient * act', in `output`, and its sum over the rows added to the bias's gradient.
    void activation_backward(const StepLayer& layer, const LayerMemory& memory,
                             const float* gradient, float* output) {
        float* bias = layer.bias >= 0 ? column_values_ : nullptr;
        AEFAST_ISA::activation_backward({gradient, layer.outputs, memory.saved(), output, bias,
                                         partial_sums_, ElementType::float32, rows_, layer.outputs,
                                         layer.activation, batch_.threads});
        if (bias) add_gradient(layer.bias, bias);
    }

    // From the gradient of what the decoder got to those of the encoder; returns the penalty.
    double code_backward(float* gradient, float* other) {
        const StepLayer& layer = plan_.encoder.back();
        double penalty = 0;
        if (plan_.code_stage == CodeStage::dropout) {
            drop(gradient, other);
            std::swap(gradient, other);
        } else if (plan_.code_stage == CodeStage::posterior) {
            penalty += posterior_backward(gradient, other);
            std::swap(gradient, other);
        }
        penalty += add_sparsity(gradient);
        if (plan_.penalty == CodePenalty::contraction) {
            penalty += contraction_backward(layer, gradient, other);
            std::swap(gradient, other);
        } else {
            activation_backward(layer, code_memory(), gradient, gradient);
        }
        encoder_backward(gradient, other);
        return penalty;
    }

    void encoder_backward(float* gradient, float* next) {
        for (size_t i = plan_.encoder.size(); i-- > 0;) {
            const StepLayer& layer = plan_.encoder[i];
            int64_t stride = layer.inputs;
            const float* input = i ? memory_[i - 1].output : encoder_input(stride);
            weight_gradient(layer, gradient, input, stride,
                            !is_first_panel() || has_tied_layer(layer));
            if (!i) break;
            input_gradient(layer, gradient, next);
            activation_backward(plan_.encoder[i - 1], memory_[i - 1], next, next);
            std::swap(gradient, next);
        }
        if (plan_.penalty == CodePenalty::contraction) add_length_gradient(plan_.encoder.back());
    }

    // Whether the decoder has written a gradient of this layer's weight already.
    bool has_tied_layer(const StepLayer& layer) const {
        return std::any_of(plan_.decoder.begin(), plan_.decoder.end(),
                           [&](const StepLayer& other) { return other.weight == layer.weight; });
    }

    // -------------------------------------------------------------------------------- penalties

    // The gradients of the mean and of the log variance, [rows, 2 latent], from the sample's; and
    // the divergence's part of the loss.
    double posterior_backward(const float* gradient, float* output) {
        const int64_t columns = latent();
        const float weight = static_cast<float>(plan_.divergence_weight / batch_rows());
        for (int64_t row = 0; row < rows_; ++row) {
            const float* mean = code_memory().output + row * 2 * columns;
            const float* log_var = mean + columns;
            float* target = output + row * 2 * columns;
            for (int64_t i = 0; i < columns; ++i)
                target[i] = gradient[row * columns + i] + weight * mean[i];
            for (int64_t i = 0; i < columns; ++i)
                target[columns + i] =
                    0.5f * gradient[row * columns + i] * posterior_noise_[row * columns + i] +
                    weight * 0.5f * AEFAST_ISA::expm1(log_var[i]);
        }
        return divergence();
    }

    double divergence() {
        gaussian_kl({means(), log_variances(), row_values_, ElementType::float32, rows_, latent(),
                     batch_.threads});
        double total = 0;
        for (int64_t row = 0; row < rows_; ++row) total += row_values_[row];
        return plan_.divergence_weight * total / batch_rows();
    }

    double add_sparsity(float* gradient) {
        const int64_t columns = plan_.encoder.back().outputs;
        const float* code = code_memory().output;
        if (plan_.penalty == CodePenalty::kl) {
            const double penalty = sparsity();
            const float weight = static_cast<float>(plan_.penalty_weight);
            for (int64_t row = 0; row < rows_; ++row)
                for (int64_t i = 0; i < columns; ++i)
                    gradient[row * columns + i] += weight * column_values_[i];
            return penalty;
        }
        if (plan_.penalty == CodePenalty::l1) {
            const float weight = static_cast<float>(plan_.penalty_weight / batch_rows());
            for (int64_t i = 0; i < rows_ * columns; ++i)
                gradient[i] += code[i] > 0.f ? weight : code[i] < 0.f ? -weight : 0.f;
            return sparsity();
        }
        return 0;
    }

    // The weighted penalty; of KL, whose means are the whole batch's, also its slopes.
    double sparsity() {
        const int64_t columns = plan_.encoder.back().outputs;
        const SparsityArguments code = {code_memory().output, columns, partial_sums_,
                                        ElementType::float32, rows_,   columns,
                                        batch_.threads};
        if (plan_.penalty == CodePenalty::kl)
            return plan_.penalty_weight * kl_sparsity(code, plan_.penalty_target, column_values_);
        return plan_.penalty_weight * l1_sparsity(code) * rows_ / batch_rows();
    }

    // ||J||^2 = sum_j act'_j^2 |W_j|^2 at every row; its part of the loss.
    double contraction(const StepLayer& layer) {
        float* lengths = column_values_ + layer.outputs;
        const float* weight = batch_.parameters[layer.weight];
        for (int64_t unit = 0; unit < layer.outputs; ++unit) {
            Sum sum;
            const float* row = weight + unit * layer.inputs;
            sum.add(layer.inputs, [&](int64_t i) { return double(row[i]) * row[i]; });
            lengths[unit] = static_cast<float>(sum.total());
        }
        contract({code_memory().saved(), lengths, row_values_, rows_, layer.outputs,
                  layer.activation, batch_.threads});
        double total = 0;
        for (int64_t row = 0; row < rows_; ++row) total += row_values_[row];
        return plan_.penalty_weight * total / batch_rows();
    }

    double contraction_backward(const StepLayer& layer, const float* gradient, float* output) {
        const double penalty = contraction(layer);
        std::fill_n(row_values_, rows_, static_cast<float>(plan_.penalty_weight / batch_rows()));
        float* sums = column_values_ + 2 * layer.outputs;
        slope_backward({code_memory().saved(), gradient, layer.outputs, nullptr, row_values_,
                        column_values_ + layer.outputs, output, sums, partial_sums_, rows_,
                        layer.outputs, layer.activation, batch_.threads});
        if (layer.bias >= 0) add_gradient(layer.bias, sums);
        return penalty;
    }

    // |W_j|^2's part of the weight's gradient.
    void add_length_gradient(const StepLayer& layer) {
        const float* length_sums = column_values_ + 3 * layer.outputs;
        const float* weight = batch_.parameters[layer.weight];
        float* gradient = batch_.gradients[layer.weight];
        for (int64_t unit = 0; unit < layer.outputs; ++unit) {
            const float factor = 2.f * length_sums[unit];
            for (int64_t i = unit * layer.inputs; i < (unit + 1) * layer.inputs; ++i)
                gradient[i] += factor * weight[i];
        }
    }

    double penalty_alone() {
        double penalty = plan_.code_stage == CodeStage::posterior ? divergence() : 0;
        if (plan_.penalty == CodePenalty::contraction)
            return penalty + contraction(plan_.encoder.back());
        return plan_.penalty == CodePenalty::none ? penalty : penalty + sparsity();
    }

    const StepPlan& plan_;
    const StepBatch& batch_;
    int64_t first_row_ = 0, rows_ = 0;
    float* noisy_;            // x with noise, or null
    float* changed_code_;     // what the decoder gets, or null where that is the code
    float* posterior_noise_;  // what a sample of the posterior adds to the mean, or null
    std::vector<LayerMemory> memory_;
    float* gradients_[2];
    double* partial_sums_;
    double* losses_;
    float* row_values_;
    float* column_values_;
};

int64_t panel_rows(const StepPlan& plan, int64_t rows) {
    if (plan.penalty == CodePenalty::kl) return rows;  // whose means are the whole batch's
    int64_t width = 2 * plan.encoder.front().inputs;
    for (const auto* side : {&plan.encoder, &plan.decoder})
        for (const StepLayer& layer : *side) width += 2 * layer.outputs;
    const int64_t most = std::max<int64_t>(kPanelBytes / 4 / width, kRowsPerPartialSum);
    const int64_t panels = (rows + most - 1) / most;
    return (rows + panels - 1) / panels;
}

}  // namespace

int useful_threads(const StepPlan& plan, int64_t rows, int threads) {
    int64_t largest = 0;
    for (const auto* side : {&plan.encoder, &plan.decoder})
        for (const StepLayer& layer : *side)
            largest = std::max(largest, layer.inputs * layer.outputs);
    return rows * largest < kFewestProducts ? 1 : threads;
}

double step(const StepPlan& plan, const StepBatch& whole) {
    StepBatch batch = whole;
    batch.threads = useful_threads(plan, batch.rows, batch.threads);
    const int64_t rows = panel_rows(plan, batch.rows);
    Arena measured(nullptr);
    Panel(plan, batch, rows, measured);
    Arena arena(static_cast<char*>(step_scratch.reserve(measured.used())));
    Panel panel(plan, batch, rows, arena);
    double loss = 0;
    with_crew(batch.threads, [&] {
        for (int64_t row = 0; row < batch.rows; row += rows)
            loss += panel.run(row, std::min(rows, batch.rows - row));
    });
    return loss;
}

}  // namespace aefast::AEFAST_ISA
