// A training step of an encoder-decoder in one call: noise, forward, loss and all gradients.
//
// An eager step of a 64-32 autoencoder on 32 rows takes 400 us, of which 10 us are arithmetic and
// the rest is the overhead of calls. Here only the arithmetic is left. Memory is kept between
// calls.
#include "step/step.h"

#include <algorithm>
#include <cmath>
#include <limits>

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
#include "step/panel_layers.h"

namespace aefast::AEFAST_ISA {
namespace {

// The activations of a panel of rows: so many bytes stay in the last-level cache from the forward
// to the backward pass.
constexpr int64_t kPanelBytes = 8 << 20;
// Weights of more bytes than that do not stay in the cache, and every panel reads them anew. Then a
// panel has this many times their bytes. A 20000-200 step on 128 rows took 157 ms in four panels
// and takes 100 in one (Zen 4, two threads).
constexpr int64_t kPanelOverWeights = 4;

thread_local Scratch step_scratch;

// The forward and backward pass of one panel of rows.
class Panel : PanelLayers {
  public:
    Panel(const StepPlan& plan, const StepBatch& batch, int64_t rows, Arena& arena)
        : PanelLayers(plan, batch, rows, arena) {
        const int64_t code = plan.encoder.back().outputs;
        noisy_ = plan.noise.is_on ? arena.take<float>(rows * visible()) : nullptr;
        decoder_input_ =
            plan.code_stage == CodeStage::plain ? nullptr : arena.take<float>(rows * code);
        posterior_noise_ =
            plan.code_stage == CodeStage::posterior ? arena.take<float>(rows * code / 2) : nullptr;
        is_within_ = clamps_log_var() ? arena.take<float>(rows * code / 2) : nullptr;
        for (float*& gradient : gradients_) gradient = arena.take<float>(rows * widest_);
        row_values_ = arena.take<float>(rows);
        losses_ = arena.take<double>(row_blocks(rows));
    }

    // The panel's part of the batch's loss. The first panel writes the gradients, later ones add
    // theirs.
    double run(int64_t first_row, int64_t rows) {
        first_row_ = first_row;
        rows_ = rows;
        forward();
        const double loss = compare_output();
        if (batch_.gradients == nullptr) return loss + penalty_alone();
        return loss + backward();
    }

  private:
    int64_t visible() const { return plan_.encoder.front().inputs; }
    double batch_rows() const { return static_cast<double>(batch_.rows); }
    const float* x() const { return batch_.x + first_row_ * batch_.row_stride; }
    int64_t latent() const { return plan_.encoder.back().outputs / 2; }
    LayerMemory& code_memory() { return memory_[plan_.encoder.size() - 1]; }
    bool clamps_log_var() const {
        return plan_.code_stage == CodeStage::posterior &&
               (std::isfinite(plan_.lowest_log_var) || std::isfinite(plan_.highest_log_var));
    }

    // ---------------------------------------------------------------------------------- forward

    const float* encoder_input(int64_t& stride) const {
        stride = noisy_ ? visible() : batch_.row_stride;
        return noisy_ ? noisy_ : x();
    }

    const float* decoder_input() const {
        return plan_.code_stage == CodeStage::plain ? memory_[plan_.encoder.size() - 1].passed
                                                    : decoder_input_;
    }

    void forward() {
        if (noisy_) draw_noise();
        int64_t stride;
        const float* input = encoder_input(stride);
        size_t number = 0;
        for (const StepLayer& layer : plan_.encoder) {
            layer_forward(layer, input, stride, memory_[number], number);
            input = memory_[number++].passed;
            stride = layer.outputs;
        }
        change_code();
        input = decoder_input();
        for (const StepLayer& layer : plan_.decoder) {
            layer_forward(layer, input, layer.inputs, memory_[number], number);
            input = memory_[number++].passed;
        }
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

    // Dropout on the code: sets elements to 0, and divides the others by 1 - level.
    void drop(const float* values, float* output) {
        const int64_t columns = plan_.encoder.back().outputs;
        CorruptArguments a = noise_arguments(values, columns, columns, output, plan_.code_step);
        a.level_threshold = plan_.code_threshold;
        corrupt(Noise::masking, a);
        const float keep_probability = 1.f - plan_.code_level;
        for (int64_t i = 0; i < rows_ * columns; ++i) output[i] /= keep_probability;
    }

    void change_code() {
        const int64_t columns = plan_.encoder.back().outputs;
        const float* code = code_memory().output;
        switch (plan_.code_stage) {
            case CodeStage::plain:
                return;
            case CodeStage::dropout:
                return drop(code, decoder_input_);
            case CodeStage::gaussian: {
                CorruptArguments a =
                    noise_arguments(code, columns, columns, decoder_input_, plan_.code_step);
                a.level = plan_.code_level;
                return corrupt(Noise::gaussian, a);
            }
            case CodeStage::posterior:
                return sample_posterior();
        }
    }

    // mean + e^(log_var / 2) z. The second term is saved for the backward pass, which would draw z
    // again otherwise: by a profile 7% of a 64-32-2 model's step.
    void sample_posterior() {
        const int64_t columns = latent();
        if (is_within_) clamp_log_var();
        std::fill_n(decoder_input_, rows_ * columns, 1.f);
        scaled_noise(NoiseUse::multiply, {{decoder_input_, rows_, 0, columns},
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
                decoder_input_[row * columns + i] = mean[i] + posterior_noise_[row * columns + i];
        }
    }

    // Clamps the log variances in place. Clamped ones have no gradient.
    void clamp_log_var() {
        for (int64_t row = 0; row < rows_; ++row) {
            float* log_var = code_memory().output + row * 2 * latent() + latent();
            float* is_within = is_within_ + row * latent();
            for (int64_t i = 0; i < latent(); ++i) {
                const float value = log_var[i];
                const bool is_low = value < plan_.lowest_log_var;
                const bool is_high = value > plan_.highest_log_var;
                is_within[i] = is_low || is_high ? 0.f : 1.f;
                log_var[i] = is_low    ? plan_.lowest_log_var
                             : is_high ? plan_.highest_log_var
                                       : value;
            }
        }
    }

    SampleView means() { return {code_memory().output, rows_, 0, 2 * latent()}; }
    SampleView log_variances() { return {code_memory().output + latent(), rows_, 0, 2 * latent()}; }

    // ------------------------------------------------------------------------------------- loss

    // The reconstruction error. Replaces the last layer's output by the gradient by its
    // pre-activation.
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

    // The mean of -ln N(x; output, e^log_var). Replaces the output by its gradient.
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
        // In float64: before the division by the rows a number may exceed float32.
        const double scale = 1 / batch_rows();
        for (int64_t row = 0; row < rows_; ++row) {
            float* output = memory_.back().output + row * columns;
            const float* target = x() + row * batch_.row_stride;
            for (int64_t i = 0; i < columns; ++i) {
                const double error = output[i] - target[i];
                const double weighted = error * precision[i];
                squares[i] += error * weighted;
                output[i] = static_cast<float>(scale * weighted);
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

    // --------------------------------------------------------------------------------- backward

    double backward() {
        size_t number = memory_.size() - 1;
        const float* gradient = memory_.back().output;
        float* next = gradients_[0];
        for (size_t i = plan_.decoder.size(); i-- > 0; --number) {
            const StepLayer& layer = plan_.decoder[i];
            const float* input = i ? memory_[number - 1].passed : decoder_input();
            weight_gradient(layer, gradient, input, layer.inputs, !is_first_panel());
            input_gradient(layer, gradient, next);
            if (i) layer_backward(plan_.decoder[i - 1], memory_[number - 1], next);
            gradient = next;
            next = next == gradients_[0] ? gradients_[1] : gradients_[0];
        }
        return code_backward(const_cast<float*>(gradient), next);
    }

    // The encoder's gradients, from that by the decoder's input; returns the penalty.
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
            layer_backward(layer, code_memory(), gradient);
        }
        encoder_backward(gradient, other);
        return penalty;
    }

    void encoder_backward(float* gradient, float* next) {
        for (size_t i = plan_.encoder.size(); i-- > 0;) {
            const StepLayer& layer = plan_.encoder[i];
            int64_t stride = layer.inputs;
            const float* input = i ? memory_[i - 1].passed : encoder_input(stride);
            weight_gradient(layer, gradient, input, stride,
                            !is_first_panel() || has_tied_layer(layer));
            if (!i) break;
            input_gradient(layer, gradient, next);
            layer_backward(plan_.encoder[i - 1], memory_[i - 1], next);
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

    // The gradients by the mean and the log variance, [rows, 2 latent], from that by the sample;
    // returns the divergence's part of the loss.
    double posterior_backward(const float* gradient, float* output) {
        const int64_t columns = latent();
        const double mean_divergence = divergence();
        const bool is_limited = clamped(mean_divergence) != mean_divergence;
        const float weight =
            is_limited ? 0.f : static_cast<float>(plan_.divergence_weight / batch_rows());
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
            if (is_within_)
                for (int64_t i = 0; i < columns; ++i)
                    target[columns + i] *= is_within_[row * columns + i];
        }
        return plan_.divergence_weight * clamped(mean_divergence);
    }

    double clamped(double divergence) const {
        return std::isfinite(plan_.divergence_limit)
                   ? std::min(std::max(divergence, 0.0), plan_.divergence_limit)
                   : divergence;
    }

    // The panel's part of the batch's mean divergence.
    double divergence() {
        gaussian_kl({means(), log_variances(), row_values_, ElementType::float32, rows_, latent(),
                     batch_.threads});
        double total = 0;
        for (int64_t row = 0; row < rows_; ++row) total += row_values_[row];
        return total / batch_rows();
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

    // The weighted sparsity penalty. KL also leaves its derivatives in column_values_; it takes the
    // whole batch as one panel, whose mean activity it is of.
    double sparsity() {
        const int64_t columns = plan_.encoder.back().outputs;
        const SparsityArguments code = {code_memory().output, columns, partial_sums_,
                                        ElementType::float32, rows_,   columns,
                                        batch_.threads};
        if (plan_.penalty == CodePenalty::kl)
            return plan_.penalty_weight * kl_sparsity(code, plan_.penalty_target, column_values_);
        return plan_.penalty_weight * l1_sparsity(code) * rows_ / batch_rows();
    }

    // The contraction's part of the loss: ||J||^2 = sum_j act'_j^2 |W_j|^2 at each row. Leaves the
    // scales of the weight's rows, if one needs a scale.
    double contraction(const StepLayer& layer) {
        float* squares = column_values_ + layer.outputs;
        float* scales = column_values_ + 4 * layer.outputs;
        bool is_scaled = false;
        const float* weight = batch_.parameters[layer.weight];
        for (int64_t unit = 0; unit < layer.outputs; ++unit) {
            Sum sum;
            const float* row = weight + unit * layer.inputs;
            sum.add(layer.inputs, [&](int64_t i) { return double(row[i]) * row[i]; });
            squares[unit] = static_cast<float>(sum.total());
            scales[unit] = scale_row(row, layer.inputs, squares[unit]);
            is_scaled |= scales[unit] != 1.f;
        }
        scales_ = is_scaled ? scales : nullptr;
        layer_penalty({code_memory().saved(), squares, scales_, row_values_, rows_, layer.outputs,
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
                        column_values_ + layer.outputs, scales_, output, sums, partial_sums_, rows_,
                        layer.outputs, layer.activation, batch_.threads});
        if (layer.bias >= 0) add_gradient(layer.bias, sums);
        return penalty;
    }

    // The scale of a row of the weight: 1, or the largest absolute weight if the row's squared
    // length overflows. `square` becomes that of the row divided by its scale.
    static float scale_row(const float* row, int64_t count, float& square) {
        if (!std::isinf(square)) return 1.f;
        float largest = 0.f;
        for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(row[i]));
        const float scale = std::min(largest, std::numeric_limits<float>::max());
        Sum sum;
        sum.add(count, [&](int64_t i) { return double(row[i] / scale) * (row[i] / scale); });
        square = static_cast<float>(sum.total());
        return scale;
    }

    // Adds the part of the weight's gradient that goes through |W_j|^2.
    void add_length_gradient(const StepLayer& layer) {
        const float* length_sums = column_values_ + 3 * layer.outputs;
        const float* weight = batch_.parameters[layer.weight];
        float* gradient = batch_.gradients[layer.weight];
        for (int64_t unit = 0; unit < layer.outputs; ++unit) {
            const float factor = 2.f * length_sums[unit];
            const int64_t begin = unit * layer.inputs, end = begin + layer.inputs;
            if (scales_)
                for (int64_t i = begin; i < end; ++i)
                    gradient[i] += factor * (weight[i] / scales_[unit]);
            else
                for (int64_t i = begin; i < end; ++i) gradient[i] += factor * weight[i];
        }
    }

    double penalty_alone() {
        double penalty = plan_.code_stage == CodeStage::posterior
                             ? plan_.divergence_weight * clamped(divergence())
                             : 0;
        if (plan_.penalty == CodePenalty::contraction)
            return penalty + contraction(plan_.encoder.back());
        return plan_.penalty == CodePenalty::none ? penalty : penalty + sparsity();
    }

    float* noisy_;            // x with noise; null without noise
    float* decoder_input_;    // what the decoder gets, or null where that is the code
    float* posterior_noise_;  // what a sample of the posterior adds to the mean, or null
    float* is_within_;        // 1 where the log variance is not clamped, else 0; or null
    float* gradients_[2];
    double* losses_;
    float* row_values_;
    const float* scales_ = nullptr;  // of the contraction's rows, or null where all are 1
};

bool has_norm(const std::vector<StepLayer>& layers) {
    return std::any_of(layers.begin(), layers.end(),
                       [](const StepLayer& layer) { return layer.norm.is_on; });
}

bool has_norm(const StepPlan& plan) { return has_norm(plan.encoder) || has_norm(plan.decoder); }

int64_t panel_rows(const StepPlan& plan, int64_t rows) {
    // Means over the whole batch need it as one panel.
    if (plan.penalty == CodePenalty::kl || has_norm(plan) || std::isfinite(plan.divergence_limit))
        return rows;
    int64_t width = 2 * plan.encoder.front().inputs, weights = 0;
    for (const auto* stack : {&plan.encoder, &plan.decoder})
        for (const StepLayer& layer : *stack) {
            width += 2 * layer.outputs;
            weights += layer.inputs * layer.outputs;
        }
    const int64_t values =
        4 * weights > kPanelBytes ? kPanelOverWeights * weights : kPanelBytes / 4;
    const int64_t most = std::max<int64_t>(values / width, kRowsPerPartialSum);
    const int64_t panels = (rows + most - 1) / most;
    return (rows + panels - 1) / panels;
}

}  // namespace

int64_t largest_product(const StepPlan& plan, int64_t rows) {
    int64_t largest = 0;
    for (const auto* stack : {&plan.encoder, &plan.decoder})
        for (const StepLayer& layer : *stack)
            largest = std::max(largest, layer.inputs * layer.outputs);
    return rows * largest;
}

// Batch normalization needs two rows, for a variance.
int64_t fewest_rows(const StepPlan& plan) { return has_norm(plan) ? 2 : 1; }

double step(const StepPlan& plan, const StepBatch& whole) {
    StepBatch batch = whole;
    batch.threads = useful_threads(largest_product(plan, batch.rows), batch.threads);
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

void release_layer_memory() { step_scratch.release(); }

}  // namespace aefast::AEFAST_ISA
