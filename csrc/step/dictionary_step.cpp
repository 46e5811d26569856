// A training step of a sparse dictionary in one call. It runs the kernels of the ordinary step one
// after the other. With 256 latents in 64 dimensions, 128 rows, that takes 0.34 ms; an ordinary
// step takes 1.6 ms, most of it between kernels (Intel Xeon with AMX, one thread).
#include "step/dictionary_step.h"

#include <algorithm>
#include <cmath>

#include "gemm/blocking.h"
#include "ops/sparse_reconstruction_loss/sparse_reconstruction_loss.h"
#include "ops/topk/topk.h"
#include "shared/arena.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"
#include "shared/scratch.h"
#include "step/take_step.h"

namespace aefast::AEFAST_ISA {
namespace {

thread_local Scratch dictionary_scratch, dead_scratch;

// Latents that reconstruct, and where their gradients go: all of a dictionary's, or the dead ones.
struct Latents {
    int64_t count;
    const float *encoder, *bias, *directions;
    float *encoder_gradient, *bias_gradient, *direction_gradients;
};

// The latents are summed over in at most so many blocks, whatever the thread count.
constexpr int64_t kMostLatentBlocks = 64, kFewestLatentsPerBlock = 64;

int64_t latents_per_block(int64_t latents) {
    return larger(kFewestLatentsPerBlock, ceil_divide(latents, kMostLatentBlocks));
}

class DictionaryStep {
  public:
    DictionaryStep(const DictionaryPlan& plan, const StepBatch& batch, Arena& arena)
        : plan_(plan), batch_(batch) {
        const int64_t rows = batch.rows, most_active = larger(plan.k, plan.aux_k);
        if (!plan.is_transcoder) centered_ = arena.take<float>(rows * plan.visible);
        residual_ = arena.take<float>(rows * plan.outputs);
        if (plan.aux_k > 0) missing_ = arena.take<float>(rows * plan.outputs);
        values_ = arena.take<float>(rows * most_active);
        slopes_ = arena.take<float>(rows * most_active);
        indices_ = arena.take<int64_t>(rows * most_active);
        squares_ = arena.take<double>(rows);
        totals_ = arena.take<float>(plan.latents);
        idle_ = arena.take<int64_t>(plan.latents);
        if (plan.aux_k > 0) dead_ = arena.take<int64_t>(plan.latents);
        bias_sums_ = arena.take<double>(bias_blocks() * plan.outputs);
    }

    double run() {
        if (!plan_.is_transcoder) center();
        double loss =
            reconstruct(all(), plan_.k, decoder_bias(), batch_.target, batch_.target_row_stride);
        count_idle();
        find_gradients(all(), 1);
        sum_residuals();
        if (plan_.aux_k > 0 && plan_.aux_weight != 0)
            loss += plan_.aux_weight * reconstruct_by_dead();
        find_decoder_bias_gradient();
        // The counts move with a step, which is not taken if its loss is not finite.
        if (std::isfinite(static_cast<float>(loss))) std::copy_n(idle_, plan_.latents, plan_.idle);
        return loss;
    }

  private:
    Latents all() const {
        return {plan_.latents,        batch_.parameters[0], batch_.parameters[1],
                batch_.parameters[2], batch_.gradients[0],  batch_.gradients[1],
                batch_.gradients[2]};
    }
    const float* decoder_bias() const { return batch_.parameters[3]; }

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

    // The mean squared error of what each row's k largest of the latents reconstruct. Leaves the
    // code, the residuals, and their products with the directions of the code's latents.
    double reconstruct(const Latents& latents, int64_t k, const float* start, const float* target,
                       int64_t target_row_stride) {
        k_ = k;
        topk_encode({encoded(),
                     {latents.encoder, latents.count, plan_.visible, plan_.visible, 1},
                     latents.bias,
                     k,
                     values_,
                     indices_,
                     batch_.multiply,
                     batch_.precision,
                     batch_.threads});
        for (int64_t i = 0; i < batch_.rows * k; ++i) values_[i] = values_[i] <= 0 ? 0 : values_[i];
        sparse_reconstruction_loss({{values_, indices_, batch_.rows, k},
                                    latents.directions,
                                    plan_.outputs,
                                    start,
                                    target,
                                    target_row_stride,
                                    squares_,
                                    residual_,
                                    slopes_,
                                    plan_.outputs,
                                    batch_.threads});
        double total = 0;
        for (int64_t row = 0; row < batch_.rows; ++row) total += squares_[row];
        return total / elements();
    }

    // Those of that error, times the weight, by the latents' parameters.
    void find_gradients(const Latents& latents, double weight) {
        const float factor = static_cast<float>(2 * weight / elements());
        for (int64_t i = 0; i < batch_.rows * k_; ++i) {
            slopes_[i] = values_[i] == 0 ? 0 : factor * slopes_[i];
            values_[i] *= factor;
        }
        const MatrixView x = encoded();
        latent_sums({{slopes_, indices_, batch_.rows, k_},
                     x.data,
                     x.row_stride,
                     latents.encoder_gradient,
                     latents.bias_gradient,
                     latents.count,
                     plan_.visible,
                     batch_.threads});
        latent_sums({{values_, indices_, batch_.rows, k_},
                     residual_,
                     plan_.outputs,
                     latents.direction_gradients,
                     totals_,
                     latents.count,
                     plan_.outputs,
                     batch_.threads});
    }

    double elements() const { return static_cast<double>(batch_.rows) * plan_.outputs; }

    void count_idle() {
        for (int64_t i = 0; i < plan_.latents; ++i) idle_[i] = plan_.idle[i] + batch_.rows;
        for (int64_t i = 0; i < batch_.rows * k_; ++i)
            if (values_[i] > 0) idle_[indices_[i]] = 0;
    }

    // --------------------------------------------------------------------------- dead latents

    // The loss of the dead latents, which reconstruct what the others leave.
    double reconstruct_by_dead() {
        int64_t count = 0;
        for (int64_t i = 0; i < plan_.latents; ++i)
            if (idle_[i] > plan_.dead_after) dead_[count++] = i;
        if (count == 0) return 0;
        for (int64_t i = 0; i < batch_.rows * plan_.outputs; ++i) missing_[i] = -residual_[i];
        const Latents dead = gathered(count);
        const double loss =
            reconstruct(dead, smaller(plan_.aux_k, count), nullptr, missing_, plan_.outputs);
        find_gradients(dead, plan_.aux_weight);
        // None of them was active in these rows: their gradients were 0.
        const Latents everything = all();
        for_dead(count, [&](int64_t i, int64_t latent) {
            copy_row(dead.encoder_gradient, i, everything.encoder_gradient, latent, plan_.visible);
            copy_row(dead.bias_gradient, i, everything.bias_gradient, latent, 1);
            copy_row(dead.direction_gradients, i, everything.direction_gradients, latent,
                     plan_.outputs);
        });
        return loss;
    }

    Latents gathered(int64_t count) {
        const auto taken_from = [&](Arena& arena) {
            const auto take = [&](int64_t width) { return arena.take<float>(count * width); };
            return Latents{
                count,   take(plan_.visible), take(1), take(plan_.outputs), take(plan_.visible),
                take(1), take(plan_.outputs)};
        };
        Arena measured(nullptr);
        taken_from(measured);
        Arena arena(static_cast<char*>(dead_scratch.reserve(measured.used())));
        const Latents dead = taken_from(arena), everything = all();
        for_dead(count, [&](int64_t i, int64_t latent) {
            copy_row(everything.encoder, latent, const_cast<float*>(dead.encoder), i,
                     plan_.visible);
            copy_row(everything.bias, latent, const_cast<float*>(dead.bias), i, 1);
            copy_row(everything.directions, latent, const_cast<float*>(dead.directions), i,
                     plan_.outputs);
        });
        return dead;
    }

    // body(i, the i-th dead latent) for each.
    template <class Body>
    void for_dead(int64_t count, const Body& body) const {
        constexpr int64_t kLatentsPerTask = 64;
        parallel_for(batch_.threads, ceil_divide(count, kLatentsPerTask), [&](int64_t task) {
            const int64_t last = smaller((task + 1) * kLatentsPerTask, count);
            for (int64_t i = task * kLatentsPerTask; i < last; ++i) body(i, dead_[i]);
        });
    }

    static void copy_row(const float* from, int64_t from_row, float* to, int64_t to_row,
                         int64_t columns) {
        std::copy_n(from + from_row * columns, columns, to + to_row * columns);
    }

    // ----------------------------------------------------------------- the decoder's bias

    // It is added to each reconstruction and, but for a transcoder's, taken from each input: its
    // gradient is the sum of the residuals' less that of the encoder's bias times the encoder.
    int64_t bias_blocks() const {
        const int64_t of_latents =
            plan_.is_transcoder ? 0 : ceil_divide(plan_.latents, latents_per_block(plan_.latents));
        return row_blocks(batch_.rows) + of_latents;
    }

    void sum_residuals() {
        const double factor = 2 / elements();
        parallel_for(batch_.threads, row_blocks(batch_.rows), [&](int64_t block) {
            const int64_t last = smaller((block + 1) * kRowsPerPartialSum, batch_.rows);
            double* sums = bias_sums_ + block * plan_.outputs;
            std::fill_n(sums, plan_.outputs, 0.0);
            for (int64_t row = block * kRowsPerPartialSum; row < last; ++row)
                add(factor, residual_ + row * plan_.outputs, sums);
        });
    }

    void find_decoder_bias_gradient() {
        const int64_t first = row_blocks(batch_.rows), per_block = latents_per_block(plan_.latents);
        const float* slopes = batch_.gradients[1];
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
    float* centered_ = nullptr;  // the rows less the decoder's bias
    float* residual_;            // the reconstruction less the target
    float* missing_ = nullptr;   // what the active latents leave to the dead ones
    float *values_, *slopes_;    // of the code, [rows, k], and the gradients by it
    int64_t* indices_;
    int64_t k_ = 0;    // of the code
    double* squares_;  // of each row's residual
    float* totals_;
    int64_t* idle_;  // the counts after this step
    int64_t* dead_ = nullptr;
    double* bias_sums_;  // of blocks of rows, then of blocks of latents
};

}  // namespace

int useful_threads(const DictionaryPlan& plan, int64_t rows, int threads) {
    return rows * plan.latents * plan.visible < kFewestProducts ? 1 : threads;
}

int64_t fewest_rows(const DictionaryPlan&) { return 1; }

double step(const DictionaryPlan& plan, const StepBatch& batch) {
    const int threads = useful_threads(plan, batch.rows, batch.threads);
    return take_step<DictionaryStep>(plan, batch, threads, dictionary_scratch);
}

}  // namespace aefast::AEFAST_ISA
