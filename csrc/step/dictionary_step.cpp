// A training step of a sparse dictionary in one call. It runs the kernels of the ordinary step one
// after the other. With 256 latents in 64 dimensions, 128 rows, that takes 0.34 ms; an ordinary
// step takes 1.6 ms, most of it between kernels (Intel Xeon with AMX, one thread).
#include "step/dictionary_step.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gemm/blocking.h"
#include "ops/topk/topk.h"
#include "shared/activation.h"
#include "shared/arena.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"
#include "shared/scratch.h"
#include "step/dictionary_code.h"
#include "step/dictionary_products.h"
#include "step/take_step.h"
#include "step/unit_row.h"

namespace aefast::AEFAST_ISA {
namespace {

thread_local CodeRows code_rows;

// Latents that reconstruct, and where their gradients go: all of a dictionary's, or the dead ones.
struct Latents {
    int64_t count;
    const float *encoder, *bias, *directions;
    float *encoder_gradient, *bias_gradient, *direction_gradients;
};

// The part of a code that is of some of the latents, which are numbered from the first of them.
struct CodePart {
    int64_t first, count;  // latents
    int64_t width;
    float *values, *slopes;  // [rows, width], and the gradients by the values
    int64_t* indices;
    float* residual;  // what these and the latents before them reconstruct, less the target
    int64_t filled;   // so many of a row, while a code is split
};

// The latents are summed over in at most so many blocks, whatever the thread count.
constexpr int64_t kMostLatentBlocks = 64, kFewestLatentsPerBlock = 64;

int64_t latents_per_block(int64_t latents) {
    return larger(kFewestLatentsPerBlock, ceil_divide(latents, kMostLatentBlocks));
}

class DictionaryStep {
  public:
    DictionaryStep(const DictionaryPlan& plan, const StepBatch& batch, Arena& arena)
        : plan_(plan), batch_(batch), code_(code_rows) {
        const int64_t rows = batch.rows;
        if (!plan.is_transcoder) centered_ = arena.take<float>(rows * plan.visible);
        residuals_ = arena.take<float>(parts() * rows * plan.outputs);
        if (plan.aux_k > 0) missing_ = arena.take<float>(rows * plan.outputs);
        squares_ = arena.take<double>(rows);
        totals_ = arena.take<float>(plan.latents);
        idle_ = arena.take<int64_t>(plan.latents);
        if (plan.aux_k > 0) dead_ = arena.take<int64_t>(plan.latents);
        bias_sums_ = arena.take<double>(bias_blocks() * plan.outputs);
        parts_ = arena.take<CodePart>(parts());
        if (plan.selection == LatentSelection::gated) {
            gate_residual_ = arena.take<float>(rows * plan.outputs);
            scales_ = arena.take<float>(plan.latents);
            product_sums_ = arena.take<float>(plan.latents);
        }
    }

    double run() {
        if (!plan_.is_transcoder) center();
        double loss = reconstruct();
        sum_residuals();
        if (plan_.aux_k > 0 && plan_.aux_weight != 0)
            loss += plan_.aux_weight * reconstruct_by_dead();
        find_decoder_bias_gradient();
        // The counts move with a step, which is not taken if its loss is not finite.
        if (std::isfinite(static_cast<float>(loss))) {
            std::copy_n(idle_, plan_.latents, plan_.idle);
            move_threshold();
        }
        return loss;
    }

  private:
    Latents all() const {
        return {plan_.latents,        batch_.parameters[0], batch_.parameters[1],
                batch_.parameters[2], batch_.gradients[0],  batch_.gradients[1],
                batch_.gradients[2]};
    }
    const float* decoder_bias() const { return batch_.parameters[3]; }
    int64_t parts() const { return larger(1, static_cast<int64_t>(plan_.prefixes.size())); }
    double elements() const { return static_cast<double>(batch_.rows) * plan_.outputs; }

    MatrixView encoded() const {
        if (plan_.is_transcoder)
            return {batch_.x, batch_.rows, plan_.visible, batch_.row_stride, 1};
        return {centered_, batch_.rows, plan_.visible, plan_.visible, 1};
    }

    void center() {
        for (int64_t row = 0; row < batch_.rows; ++row) {
            const float* x = batch_.x + row * batch_.row_stride;
            float* centered = centered_ + row * plan_.visible;
            for (int64_t i = 0; i < plan_.visible; ++i) centered[i] = x[i] - decoder_bias()[i];
        }
    }

    // --------------------------------------------------------------------------------- the code

    void encode(const Latents& latents) {
        const Ranking ranking = ranked(latents);
        if (plan_.selection == LatentSelection::topk)
            encode_topk(arguments(latents, ranking), static_cast<int64_t>(plan_.k), code_);
        else
            encode_batch_topk(arguments(latents, ranking), plan_.k, code_);
        finish_code(ranking);
        least_active_ = std::numeric_limits<float>::infinity();
        for (int64_t i = 0; i < code_.size(); ++i)
            if (code_.values[i] > 0) least_active_ = std::min(least_active_, code_.values[i]);
    }

    // What latents are ranked by: their parameters, or these times the directions' norms.
    struct Ranking {
        const float *encoder, *bias;
        const float* norms;  // null for none
    };

    Ranking ranked(const Latents& latents) const {
        if (!plan_.ranks_by_norm) return {latents.encoder, latents.bias, nullptr};
        const int64_t columns = plan_.visible, size = latents.count * (columns + 2);
        auto* encoder = static_cast<float*>(memory.ranking.reserve(sizeof(float) * size));
        float* bias = encoder + latents.count * columns;
        float* norms = bias + latents.count;
        for_latents(batch_.threads, latents.count, [&](int64_t i) {
            const double square =
                squared_norm(latents.directions + i * plan_.outputs, plan_.outputs);
            norms[i] =
                std::max(static_cast<float>(std::sqrt(square)), std::numeric_limits<float>::min());
            for (int64_t c = i * columns; c < (i + 1) * columns; ++c)
                encoder[c] = latents.encoder[c] * norms[i];
            bias[i] = latents.bias[i] * norms[i];
        });
        return {encoder, bias, norms};
    }

    TopKEncodeArguments arguments(const Latents& latents, const Ranking& ranking) const {
        return {encoded(),       {ranking.encoder, latents.count, plan_.visible, plan_.visible, 1},
                ranking.bias,    0,
                nullptr,         nullptr,
                batch_.multiply, batch_.precision,
                batch_.threads};
    }

    // The values of what is selected: not below 0, and without the norms.
    void finish_code(const Ranking& ranking) {
        for (int64_t i = 0; i < code_.size(); ++i) {
            float& value = code_.values[i];
            if (value <= 0) value = 0;
            if (ranking.norms) value /= ranking.norms[code_.indices[i]];
        }
    }

    void count_idle(const float* values, const ActiveLatents& latents) {
        for (int64_t i = 0; i < plan_.latents; ++i) idle_[i] = plan_.idle[i] + batch_.rows;
        for (int64_t row = 0; row < batch_.rows; ++row, values += latents.width)
            for (int64_t i = 0; i < latents.width; ++i)
                if (values[i] > 0)
                    idle_[latents.indices ? latents.indices[row * latents.width + i] : i] = 0;
    }

    void move_threshold() const {
        const bool has_one = plan_.selection == LatentSelection::batch_topk && plan_.threshold;
        if (!has_one || !std::isfinite(least_active_)) return;
        const auto rate = static_cast<float>(plan_.threshold_rate);
        *plan_.threshold += rate * (least_active_ - *plan_.threshold);
    }

    // ------------------------------------------------------------------------------- the losses

    // The loss without the dead latents', and its gradients but that by the decoder's bias.
    double reconstruct() {
        if (plan_.selection == LatentSelection::jumprelu) return reconstruct_by_jumps();
        if (plan_.selection == LatentSelection::gated) return reconstruct_by_gates();
        encode(all());
        count_idle(code_.values, {code_.width, code_.indices});
        return plan_.prefixes.size() > 1 ? reconstruct_by_prefixes() : reconstruct_by_all();
    }

    double reconstruct_by_all() {
        parts_[0] = whole_code(plan_.latents);
        const double loss =
            compare(parts_[0], all(), decoder_bias(), batch_.target, batch_.target_row_stride);
        find_gradients(parts_[0], all(), 1);
        return loss;
    }

    CodePart whole_code(int64_t latents) {
        return {0, latents, code_.width, code_.values, code_.slopes, code_.indices, residuals_};
    }

    // The mean squared error of what a part reconstructs by itself. Leaves the residuals, and their
    // products with the directions of the part's latents.
    double compare(const CodePart& part, const Latents& latents, const float* start,
                   const float* target, int64_t target_row_stride) const {
        const double total =
            compare_code({sparse(part, part.values), latents.directions, plan_.outputs, start,
                          target, target_row_stride, squares_, part.residual, part.slopes,
                          plan_.outputs, batch_.threads},
                         batch_);
        return total / elements();
    }

    // Those of that error, times the weight, by the parameters of the part's latents.
    void find_gradients(const CodePart& part, const Latents& latents, double weight) const {
        const float factor = factor_of(weight);
        for (int64_t i = 0; i < batch_.rows * part.width; ++i) {
            part.slopes[i] = part.values[i] == 0 ? 0 : factor * part.slopes[i];
            part.values[i] *= factor;
        }
        sum_encoder_gradients(part, latents, latents.bias_gradient);
        sum_direction_gradients(part, latents);
    }

    float factor_of(double weight) const { return static_cast<float>(2 * weight / elements()); }

    // Of slopes by the latents' products with the rows.
    void sum_encoder_gradients(const CodePart& part, const Latents& latents, float* totals) const {
        const MatrixView x = encoded();
        sum_by_latent({sparse(part, part.slopes), x.data, x.row_stride,
                       latents.encoder_gradient + part.first * plan_.visible, totals + part.first,
                       part.count, plan_.visible, batch_.threads},
                      batch_);
    }

    // Of values that are multiplied by the factor.
    void sum_direction_gradients(const CodePart& part, const Latents& latents) const {
        sum_by_latent({sparse(part, part.values), part.residual, plan_.outputs,
                       latents.direction_gradients + part.first * plan_.outputs, totals_,
                       part.count, plan_.outputs, batch_.threads},
                      batch_);
    }

    void sum_totals(const CodePart& part, const float* values, float* totals) const {
        sum_by_latent(
            {sparse(part, values), nullptr, 0, nullptr, totals, part.count, 0, batch_.threads},
            batch_);
    }

    SparseCode sparse(const CodePart& part, const float* values) const {
        return {values, part.indices, batch_.rows, part.width};
    }

    // The mean over the prefixes of the error of what so many first latents reconstruct.
    double reconstruct_by_prefixes() {
        const Latents latents = all();
        split_code();
        double loss = 0;
        for (int64_t n = 0; n < parts(); ++n)
            loss += compare_prefix(n) / static_cast<double>(parts());
        // A latent is in the reconstruction by its own prefix and by all longer ones.
        for (int64_t n = parts() - 2; n >= 0; --n)
            for_rows(batch_.threads, batch_.rows, [&](int64_t row) {
                const float* longer = parts_[n + 1].residual + row * plan_.outputs;
                float* residual = parts_[n].residual + row * plan_.outputs;
                for (int64_t i = 0; i < plan_.outputs; ++i) residual[i] += longer[i];
            });
        for (int64_t n = 0; n < parts(); ++n) {
            const CodePart& part = parts_[n];
            const float* directions = latents.directions + part.first * plan_.outputs;
            sampled_product({part.residual, plan_.outputs, directions, plan_.outputs, part.indices,
                             part.slopes, batch_.rows, part.width, plan_.outputs, batch_.threads});
            find_gradients(part, latents, 1 / static_cast<double>(parts()));
        }
        return loss;
    }

    // A part for the latents of each prefix that no shorter one has.
    void split_code() {
        const auto part_of = [&](int64_t latent) {
            int64_t n = 0;
            while (latent >= plan_.prefixes[n]) ++n;
            return n;
        };
        // body(part, place in it) for each element of the code that is not 0.
        const auto for_elements = [&](const auto& body) {
            for (int64_t i = 0; i < code_.size(); ++i) {
                if (i % code_.width == 0)
                    for (int64_t n = 0; n < parts(); ++n) parts_[n].filled = 0;
                if (code_.values[i] != 0) body(parts_[part_of(code_.indices[i])], i);
            }
        };
        for (int64_t n = 0; n < parts(); ++n) {
            const int64_t first = n == 0 ? 0 : plan_.prefixes[n - 1];
            parts_[n] = {first, plan_.prefixes[n] - first, 1};
        }
        for_elements(
            [](CodePart& part, int64_t) { part.width = larger(part.width, ++part.filled); });
        place_parts();
        for_elements([&](CodePart& part, int64_t i) {
            const int64_t place = i / code_.width * part.width + part.filled++;
            part.values[place] = code_.values[i];
            part.indices[place] = code_.indices[i] - part.first;
        });
    }

    void place_parts() {
        const auto place = [&](Arena arena) {
            for (int64_t n = 0; n < parts(); ++n) {
                const int64_t size = batch_.rows * parts_[n].width;
                parts_[n].values = arena.take<float>(size);
                parts_[n].slopes = arena.take<float>(size);
                parts_[n].indices = arena.take<int64_t>(size);
                parts_[n].residual = residuals_ + n * batch_.rows * plan_.outputs;
            }
            return arena.used();
        };
        const int64_t bytes = place(Arena(nullptr));
        auto* zeros = static_cast<char*>(memory.parts.reserve(bytes));
        std::fill_n(zeros, bytes, 0);
        place(Arena(zeros));
    }

    // The mean squared error of the n-th prefix, whose last part is the n-th.
    double compare_prefix(int64_t n) const {
        const CodePart& part = parts_[n];
        sparse_decode({sparse(part, part.values), all().directions + part.first * plan_.outputs,
                       plan_.outputs, n == 0 ? decoder_bias() : nullptr, part.residual,
                       plan_.outputs, batch_.threads});
        for_rows(batch_.threads, batch_.rows, [&](int64_t row) {
            float* residual = part.residual + row * plan_.outputs;
            const float* target = batch_.target + row * batch_.target_row_stride;
            const float* shorter = n == 0 ? nullptr : parts_[n - 1].residual + row * plan_.outputs;
            for (int64_t i = 0; i < plan_.outputs; ++i)
                residual[i] = n == 0 ? residual[i] - target[i] : residual[i] + shorter[i];
            Sum squares;
            squares.add(plan_.outputs,
                        [=](int64_t i) { return double(residual[i]) * residual[i]; });
            squares_[row] = squares.total();
        });
        return total_of(squares_, batch_.rows) / elements();
    }

    // ------------------------------------------------------------------------- with a penalty

    // Latents that may be active, or all of them, and what a step computes of each: [rows, width].
    struct Penalized {
        ActiveLatents latents;
        float* products;
        float *values, *slopes, *opened, *opened_slopes;

        CodePart part(int64_t count, float* residual) const {
            return {0, count, latents.width, values, slopes, latents.indices, residual};
        }
    };

    // bias: what the products get; null for none.
    template <class MayBeActive>
    Penalized penalized(const float* bias, bool takes_all, const MayBeActive& may_be_active) {
        const int64_t rows = batch_.rows, latents = plan_.latents;
        auto* products =
            static_cast<float*>(memory.products.reserve(sizeof(float) * rows * latents));
        batch_.multiply({encoded(),
                         {all().encoder, latents, plan_.visible, plan_.visible, 1},
                         {},
                         bias,
                         Activation::identity,
                         products,
                         latents,
                         nullptr,
                         false,
                         batch_.precision,
                         batch_.threads});
        const bool is_sparse =
            !takes_all &&
            select_candidates(products, rows, latents, batch_.threads, may_be_active, code_);
        Penalized made{{is_sparse ? code_.width : latents, is_sparse ? code_.indices : nullptr},
                       is_sparse ? code_.values : products};
        const auto place = [&](Arena arena) {
            const int64_t size = rows * made.latents.width;
            made.values = arena.take<float>(size);
            made.slopes = arena.take<float>(size);
            if (plan_.selection == LatentSelection::gated) {
                made.opened = arena.take<float>(size);
                made.opened_slopes = arena.take<float>(size);
            }
            return arena.used();
        };
        const int64_t bytes = place(Arena(nullptr));
        place(Arena(static_cast<char*>(memory.penalty.reserve(bytes))));
        return made;
    }

    // body(element, its latent), a row's after the other.
    template <class Body>
    void for_elements(const Penalized& code, const Body& body) const {
        for_rows(batch_.threads, batch_.rows, [&](int64_t row) {
            const int64_t first = row * code.latents.width;
            for (int64_t i = first; i < first + code.latents.width; ++i)
                body(i, code.latents.indices ? code.latents.indices[i] : i - first);
        });
    }

    // The slope of the step that stands for [z > threshold], times the bandwidth.
    float density(float distance) const {
        if (plan_.estimator == Estimator::rectangle)
            return std::fabs(distance) < static_cast<float>(plan_.bandwidth / 2) ? 1.f : 0.f;
        const float step = tanh(2 * distance / static_cast<float>(plan_.bandwidth));
        return 1 - step * step;
    }

    double reconstruct_by_jumps() {
        float* threshold = plan_.threshold;
        for (int64_t i = 0; i < plan_.latents; ++i) threshold[i] = std::max(threshold[i], 0.f);
        const auto reach = static_cast<float>(plan_.bandwidth / 2);
        const Penalized code =
            penalized(all().bias, plan_.estimator == Estimator::tanh,
                      [=](float z, int64_t latent) { return !(z <= threshold[latent] - reach); });
        for_elements(code, [&](int64_t i, int64_t latent) {
            const float z = code.products[i];
            code.values[i] = z <= threshold[latent] ? 0 : z;
        });
        count_idle(code.values, code.latents);
        int64_t active = 0;
        for (int64_t i = 0; i < batch_.rows * code.latents.width; ++i)
            active += code.values[i] != 0;
        const CodePart part = code.part(plan_.latents, residuals_);
        const double error =
            compare(part, all(), decoder_bias(), batch_.target, batch_.target_row_stride);
        const float factor = factor_of(1);
        const auto by_count = static_cast<float>(by_row());
        const auto bandwidth = static_cast<float>(plan_.bandwidth);
        for_elements(code, [&](int64_t i, int64_t latent) {
            const float slope = factor * code.slopes[i], t = threshold[latent];
            const float near = density(code.products[i] - t);
            code.products[i] = near == 0 ? 0 : -near * (slope * t + by_count) / bandwidth;
            code.slopes[i] = code.values[i] == 0 ? 0 : slope;
            code.values[i] *= factor;
        });
        sum_encoder_gradients(part, all(), batch_.gradients[1]);
        sum_direction_gradients(part, all());
        sum_totals(part, code.products, batch_.gradients[4]);
        return error + by_row() * static_cast<double>(active);
    }

    // The penalty's factor of a row.
    double by_row() const { return plan_.sparsity_weight / static_cast<double>(batch_.rows); }

    double reconstruct_by_gates() {
        const float *bias = all().bias, *magnitude_bias = batch_.parameters[4];
        for (int64_t i = 0; i < plan_.latents; ++i) scales_[i] = std::exp(batch_.parameters[5][i]);
        const Penalized code = penalized(
            nullptr, false, [=](float z, int64_t latent) { return !(z + bias[latent] <= 0); });
        for_elements(code, [&](int64_t i, int64_t latent) {
            const float gate = code.products[i] + bias[latent];
            const float magnitude = code.products[i] * scales_[latent] + magnitude_bias[latent];
            code.opened[i] = gate <= 0 ? 0 : gate;
            code.values[i] = gate <= 0 || magnitude <= 0 ? 0 : magnitude;
        });
        count_idle(code.values, code.latents);
        double opened = 0;
        for (int64_t i = 0; i < batch_.rows * code.latents.width; ++i) opened += code.opened[i];
        const CodePart part = code.part(plan_.latents, residuals_);
        CodePart gates = code.part(plan_.latents, gate_residual_);
        gates.values = code.opened;
        gates.slopes = code.opened_slopes;
        double error = 0;
        for (const CodePart& one : {part, gates})
            error += compare(one, all(), decoder_bias(), batch_.target, batch_.target_row_stride);
        const float factor = factor_of(1);
        const auto by_opening = static_cast<float>(by_row());
        // Arrays that are done with take the terms of the parameters' gradients.
        for_elements(code, [&](int64_t i, int64_t latent) {
            const float by_magnitude = code.values[i] == 0 ? 0 : factor * code.slopes[i];
            const float by_gate =
                code.opened[i] == 0 ? 0 : factor * code.opened_slopes[i] + by_opening;
            const float by_scaled = by_magnitude * scales_[latent];
            code.products[i] = by_magnitude == 0 ? 0 : by_scaled * code.products[i];
            code.opened[i] = by_magnitude;
            code.opened_slopes[i] = by_gate;
            code.slopes[i] = by_gate + by_scaled;
            code.values[i] *= factor;
        });
        sum_encoder_gradients(part, all(), product_gradients());
        sum_direction_gradients(part, all());
        sum_totals(part, code.opened_slopes, batch_.gradients[1]);
        sum_totals(part, code.opened, batch_.gradients[4]);
        sum_totals(part, code.products, batch_.gradients[5]);
        return error + by_row() * opened;
    }

    // The sums of the gradients by the latents' products with the rows; but of gated codes they are
    // those by the encoder's bias.
    float* product_gradients() const { return product_sums_ ? product_sums_ : batch_.gradients[1]; }

    // --------------------------------------------------------------------------- dead latents

    // The loss of the dead latents, which reconstruct what the others leave.
    double reconstruct_by_dead() {
        int64_t count = 0;
        for (int64_t i = 0; i < plan_.latents; ++i)
            if (idle_[i] > plan_.dead_after) dead_[count++] = i;
        if (count == 0) return 0;
        const float* residual = residuals_ + (parts() - 1) * batch_.rows * plan_.outputs;
        for (int64_t i = 0; i < batch_.rows * plan_.outputs; ++i) missing_[i] = -residual[i];
        const Latents dead = gathered(count);
        const Ranking ranking = ranked(dead);
        encode_topk(arguments(dead, ranking), smaller(plan_.aux_k, count), code_);
        finish_code(ranking);
        const CodePart part = whole_code(count);
        const double loss = compare(part, dead, nullptr, missing_, plan_.outputs);
        find_gradients(part, dead, plan_.aux_weight);
        // None of them was active in these rows. All that is left of their gradients is by gates.
        const Latents everything = all();
        for_latents(batch_.threads, count, [&](int64_t i) {
            const int64_t latent = dead_[i];
            add_row(dead.encoder_gradient, i, everything.encoder_gradient, latent, plan_.visible);
            add_row(dead.bias_gradient, i, everything.bias_gradient, latent, 1);
            if (product_sums_) add_row(dead.bias_gradient, i, product_sums_, latent, 1);
            add_row(dead.direction_gradients, i, everything.direction_gradients, latent,
                    plan_.outputs);
        });
        return loss;
    }

    Latents gathered(int64_t count) const {
        struct Memory {
            float *encoder, *bias, *directions, *encoder_gradient, *bias_gradient,
                *direction_gradients;
        };
        const auto taken_from = [&](Arena& arena) {
            const auto take = [&](int64_t width) { return arena.take<float>(count * width); };
            return Memory{take(plan_.visible), take(1), take(plan_.outputs),
                          take(plan_.visible), take(1), take(plan_.outputs)};
        };
        Arena measured(nullptr);
        taken_from(measured);
        Arena arena(static_cast<char*>(memory.dead.reserve(measured.used())));
        const Memory dead = taken_from(arena);
        const Latents everything = all();
        for_latents(batch_.threads, count, [&](int64_t i) {
            const int64_t latent = dead_[i];
            copy_row(everything.encoder, latent, dead.encoder, i, plan_.visible);
            copy_row(everything.bias, latent, dead.bias, i, 1);
            copy_row(everything.directions, latent, dead.directions, i, plan_.outputs);
        });
        return {count,
                dead.encoder,
                dead.bias,
                dead.directions,
                dead.encoder_gradient,
                dead.bias_gradient,
                dead.direction_gradients};
    }

    static void copy_row(const float* from, int64_t from_row, float* to, int64_t to_row,
                         int64_t columns) {
        std::copy_n(from + from_row * columns, columns, to + to_row * columns);
    }

    static void add_row(const float* from, int64_t from_row, float* to, int64_t to_row,
                        int64_t columns) {
        for (int64_t i = 0; i < columns; ++i)
            to[to_row * columns + i] += from[from_row * columns + i];
    }

    // ----------------------------------------------------------------- the decoder's bias

    // It is added to each reconstruction and, but for a transcoder's, taken from each input: its
    // gradient is the sum of the residuals' less that of the rows' products times the encoder.
    int64_t bias_blocks() const {
        const int64_t of_latents =
            plan_.is_transcoder ? 0 : ceil_divide(plan_.latents, latents_per_block(plan_.latents));
        return row_blocks(batch_.rows) + of_latents;
    }

    void sum_residuals() const {
        const double factor = 2 / (elements() * static_cast<double>(parts()));
        parallel_for(batch_.threads, row_blocks(batch_.rows), [&](int64_t block) {
            const int64_t last = smaller((block + 1) * kRowsPerPartialSum, batch_.rows);
            double* sums = bias_sums_ + block * plan_.outputs;
            std::fill_n(sums, plan_.outputs, 0.0);
            for (int64_t row = block * kRowsPerPartialSum; row < last; ++row)
                add(factor, residuals_ + row * plan_.outputs, sums);
        });
    }

    void find_decoder_bias_gradient() const {
        const int64_t first = row_blocks(batch_.rows), per_block = latents_per_block(plan_.latents);
        const float* slopes = product_gradients();
        parallel_for(batch_.threads, bias_blocks() - first, [&](int64_t block) {
            const int64_t last = smaller((block + 1) * per_block, plan_.latents);
            double* sums = bias_sums_ + (first + block) * plan_.outputs;
            std::fill_n(sums, plan_.outputs, 0.0);
            for (int64_t latent = block * per_block; latent < last; ++latent)
                if (slopes[latent] != 0)
                    add(-slopes[latent], batch_.parameters[0] + latent * plan_.visible, sums);
        });
        add_partial_sums(bias_sums_, bias_blocks(), plan_.outputs, batch_.gradients[3]);
    }

    void add(double factor, const float* row, double* sums) const {
        for (int64_t i = 0; i < plan_.outputs; ++i) sums[i] += factor * row[i];
    }

    const DictionaryPlan& plan_;
    const StepBatch& batch_;
    CodeRows& code_;
    float* centered_ = nullptr;  // the rows less the decoder's bias
    float* residuals_;           // of each part: the reconstruction less the target
    float* missing_ = nullptr;   // what the active latents leave to the dead ones
    double* squares_;            // of each row's residual
    float* totals_;
    int64_t* idle_;  // the counts after this step
    int64_t* dead_ = nullptr;
    double* bias_sums_;  // of blocks of rows, then of blocks of latents
    CodePart* parts_;
    float least_active_ = 0;
    // Of gated codes.
    float* gate_residual_ = nullptr;
    float* scales_ = nullptr;        // of the magnitudes
    float* product_sums_ = nullptr;  // of the gradients by the latents' products with the rows
};

}  // namespace

int64_t largest_product(const DictionaryPlan& plan, int64_t rows) {
    return rows * plan.latents * plan.visible;
}

int64_t fewest_rows(const DictionaryPlan&) { return 1; }

double step(const DictionaryPlan& plan, const StepBatch& batch) {
    const int threads = useful_threads(largest_product(plan, batch.rows), batch.threads);
    return take_step<DictionaryStep>(plan, batch, threads, memory.step);
}

void release_dictionary_memory() {
    memory.release();
    code_rows.release();
}

}  // namespace aefast::AEFAST_ISA
