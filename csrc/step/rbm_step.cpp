// A training step of a restricted Boltzmann machine in one call: Gibbs chains, contrastive
// divergence and its gradients.
//
// States are bits. A product with them is the sum of the weights of units that are on: row by row
// for few rows (sparse_rows.h), by tables for many (bit_product.h). Many rows with other numbers
// take gemm.cpp's product.
#include "step/rbm_step.h"

#include <algorithm>
#include <cmath>

#include "bit_matrix/bit_product.h"
#include "bit_matrix/sparse_rows.h"
#include "ops/rbm/rbm.h"
#include "ops/sparsity/sparsity.h"
#include "shared/activation.h"
#include "shared/arena.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"
#include "shared/scratch.h"
#include "step/take_step.h"

namespace aefast::AEFAST_ISA {
namespace {

// With fewer rows, transposing their states takes longer than multiplying by their zeros as well.
constexpr int64_t kFewestTransposed = 32;

thread_local Scratch rbm_scratch;

// The units' states as an operand: the words have a bit for each unit that is not 0. The values are
// the units' numbers, or null where all of these are 1.
struct Units {
    int64_t rows, columns;
    uint64_t* words;
    const float* values;
    int64_t stride;
    bool is_binary;

    BitMatrixView bits() const { return {words, rows, columns}; }
};

// The product that takes the units of one layer to the inputs of the other layer's.
struct Direction {
    MatrixView right;
    const float* bias;
    float* memory;       // for panels, or null
    PanelMatrix panels;  // the matrix in the form for few units
};

// Sets bits of the words, which are 0 before; returns whether all units are 0 or 1.
bool find_nonzero(const float* values, int64_t stride, const Units& units) {
    constexpr uint32_t kAll = ~uint32_t{0} >> (32 - kPanelColumns);
    alignas(64) static constexpr float kZeros[kPanelColumns] = {};
    alignas(64) float ones[kPanelColumns];
    std::fill_n(ones, kPanelColumns, 1.f);
    bool is_binary = true;
    for (int64_t row = 0; row < units.rows; ++row)
        for (int64_t column = 0; column < units.columns; column += kPanelColumns) {
            const int64_t width = smaller(kPanelColumns, units.columns - column);
            const float* piece = values + row * stride + column;
            alignas(64) float rest[kPanelColumns] = {};
            if (width < kPanelColumns) {
                std::copy_n(piece, width, rest);
                piece = rest;
            }
            const uint32_t zeros = bits_where<Comparison::equal>(piece, kZeros);
            is_binary &= (zeros | bits_where<Comparison::equal>(piece, ones)) == kAll;
            store_bits(~zeros & kAll, column, width, units.words + row * units.bits().row_words());
        }
    return is_binary;
}

// 0 times the sum: 0, or NaN where an element is not finite.
double zero_unless_infinite(const float* values, int64_t count) {
    float sums[kPanelColumns] = {};
    int64_t i = 0;
    for (; i + kPanelColumns <= count; i += kPanelColumns)
        for (int64_t lane = 0; lane < kPanelColumns; ++lane) sums[lane] += values[i + lane];
    for (; i < count; ++i) sums[0] += values[i];
    double total = 0;
    for (float sum : sums) total += sum;
    return 0 * total;
}

class RbmStep {
  public:
    RbmStep(const MachinePlan& plan, const StepBatch& batch, Arena& arena)
        : plan_(plan),
          batch_(batch),
          data_{batch.rows, plan.visible, nullptr, nullptr, 0, false},
          chain_{plan.start ? plan.chains : batch.rows, plan.visible, nullptr, nullptr, 0, true},
          hidden_{chain_.rows, plan.hidden, nullptr, nullptr, 0, true} {
        const int64_t rows = std::max(data_.rows, chain_.rows);
        const int64_t widest = std::max(plan.visible, plan.hidden);
        for (Units* units : {&data_, &chain_, &hidden_})
            units->words = arena.take<uint64_t>(word_count(*units));
        // The chains' rows follow the data's, so that few rows of both share one product.
        const int64_t all_rows = data_.rows + chain_.rows;
        states_ = arena.take<float>((are_short() ? all_rows : chain_.rows) * plan.visible);
        if (plan.has_log_var) scaled_data_ = arena.take<float>(all_rows * plan.visible);
        data_inputs_ = arena.take<float>(all_rows * plan.hidden);
        const MatrixView weight = {batch.parameters[0], plan.hidden, plan.visible, plan.visible, 1};
        const MatrixView transposed = {weight.data, plan.visible, plan.hidden, 1, plan.visible};
        up_ = {weight, batch.parameters[2], arena.take<float>(panel_floats(weight)), {}};
        down_ = {transposed, batch.parameters[1], nullptr, {}};
        if (!lies_in_panels(transposed)) down_.memory = arena.take<float>(panel_floats(transposed));
        if (!lies_in_panels({nullptr, plan.hidden, rows, 1, plan.hidden}))
            gradient_panels_ =
                arena.take<float>(panel_floats({nullptr, plan.hidden, kMostSparseRows, 1, 0}));
        transposed_ = arena.take<uint64_t>(plan.visible * ceil_divide(rows, kWordBits));
        are_binary_ = arena.take<bool>(rows);
        energies_ = arena.take<double>(row_blocks(rows));
        partial_sums_ = arena.take<double>(2 * row_blocks(rows) * widest);
        for (double*& means : means_) means = arena.take<double>(2 * plan.visible);
        counts_ = arena.take<float>(plan.visible);
        precision_ = arena.take<float>(plan.visible);
        deviation_ = arena.take<float>(plan.visible);
        for (float*& sums : hidden_sums_) sums = arena.take<float>(plan.hidden);
        for (float*& values : hidden_values_) values = arena.take<float>(plan.hidden);
    }

    double run() {
        prepare();
        run_chain();
        multiply(chain_, up_, chain_inputs_);
        double loss = measure(chain_inputs_, chain_.rows, 1.0 / chain_.rows, hidden_sums_[0]) +
                      measure(data_inputs_, data_.rows, -1.0 / data_.rows, hidden_sums_[1]);
        if (plan_.sparsity_weight != 0) loss += draw_to_target();
        if (chain_.is_binary && (plan_.end || chain_.rows < kFewestTransposed)) unpack_chain();
        add_phase(chain_, drawn_, plan_.visible, chain_inputs_, means_[0], false);
        add_phase(data_, batch_.x, batch_.row_stride, data_inputs_, means_[1], true);
        if (are_short() && batch_.gradients) multiply_both();
        loss += plan_.is_gaussian ? compare_gaussian() : compare_bernoulli();
        if (batch_.gradients)
            for (int64_t i = 0; i < plan_.hidden; ++i)
                batch_.gradients[2][i] = hidden_sums_[0][i] + hidden_sums_[1][i];
        for (size_t i = 0; i < plan_.sizes.size(); ++i)
            loss += zero_unless_infinite(batch_.parameters[i], plan_.sizes[i]);
        // Persistent chains are updated by a step, unless its loss is not finite.
        if (plan_.end && (plan_.end != plan_.start || std::isfinite(static_cast<float>(loss))))
            std::copy_n(drawn_, chain_.rows * plan_.visible, plan_.end);
        return loss;
    }

  private:
    bool are_few(const Units& units) const {
        return units.rows <= most_sparse_rows(plan_.visible * plan_.hidden);
    }

    bool are_short() const { return std::max(data_.rows, chain_.rows) < kFewestTransposed; }

    static int64_t word_count(const Units& units) { return units.rows * units.bits().row_words(); }

    // --------------------------------------------------------------------------------- products

    void multiply(const Units& units, const Direction& direction, float* output) {
        if (are_few(units))
            multiply_sparse(
                {units.bits(), units.is_binary ? nullptr : units.values, units.stride, 1},
                direction.panels, direction.bias, output, batch_.threads);
        else if (units.is_binary)
            bit_matrix_product(
                {units.bits(), direction.right, direction.bias, output, batch_.threads});
        else
            multiply_numbers({units.values, units.rows, units.columns, units.stride, 1},
                             direction.right, direction.bias, output, false);
    }

    void multiply_numbers(const MatrixView& left, const MatrixView& right, const float* bias,
                          float* output, bool accumulate) {
        batch_.multiply({left,
                         right,
                         {nullptr, 0},
                         bias,
                         Activation::identity,
                         output,
                         right.rows,
                         nullptr,
                         accumulate,
                         batch_.precision,
                         batch_.threads});
    }

    // ------------------------------------------------------------------------------------ chain

    void prepare() {
        drawn_ = states_ + (are_short() ? data_.rows : 0) * plan_.visible;
        chain_inputs_ = data_inputs_ + data_.rows * plan_.hidden;
        if (plan_.has_log_var) scaled_chain_ = scaled_data_ + data_.rows * plan_.visible;
        for (const Units* units : {&data_, &chain_, &hidden_})
            std::fill_n(units->words, word_count(*units), 0);
        if (are_few(data_) || are_few(chain_))
            up_.panels = panel_matrix(up_.right, up_.memory, batch_.threads);
        if (are_few(chain_)) down_.panels = panel_matrix(down_.right, down_.memory, batch_.threads);
        std::fill_n(precision_, plan_.visible, 1.f);
        std::fill_n(deviation_, plan_.visible, 1.f);
        if (plan_.has_log_var) {
            map(batch_.parameters[3], precision_, plan_.visible,
                [](float value) { return AEFAST_ISA::exp(-value); });
            map(batch_.parameters[3], deviation_, plan_.visible,
                [](float value) { return AEFAST_ISA::exp(0.5f * value); });
        }
        observe(data_, batch_.x, batch_.row_stride, scaled_data_);
        multiply(data_, up_, data_inputs_);
        if (plan_.start) observe(chain_, plan_.start, plan_.visible, scaled_chain_);
    }

    // Converts numbers to visible units.
    void observe(Units& units, const float* values, int64_t stride, float* scaled) {
        units.values = values;
        units.stride = stride;
        if (plan_.has_log_var) {
            for (int64_t row = 0; row < units.rows; ++row)
                for (int64_t i = 0; i < units.columns; ++i)
                    scaled[row * units.columns + i] = values[row * stride + i] * precision_[i];
            units.values = scaled;
            units.stride = units.columns;
        }
        if (are_few(units)) {
            units.is_binary = find_nonzero(units.values, units.stride, units);
        } else if (plan_.is_gaussian) {
            units.is_binary = false;
        } else {
            pack_bits({values, stride, units.words, are_binary_, units.rows, units.columns,
                       batch_.threads});
            units.is_binary =
                std::all_of(are_binary_, are_binary_ + units.rows, [](bool is) { return is; });
        }
    }

    void run_chain() {
        for (int64_t t = 0; t < plan_.k; ++t) {
            const auto step = static_cast<uint32_t>(2 * t);
            if (t == 0 && plan_.start == nullptr)
                draw_states(data_inputs_, hidden_, step);
            else
                half_step(chain_, up_, chain_inputs_, hidden_, step);
            if (plan_.is_gaussian)
                draw_gaussian(step + 1);
            else
                half_step(hidden_, down_, drawn_, chain_, step + 1);
            chain_.is_binary = !plan_.is_gaussian;
        }
    }

    // Samples Bernoulli units given those of the other layer; inputs is working memory.
    void half_step(const Units& from, const Direction& direction, float* inputs, const Units& to,
                   uint32_t step) {
        if (from.is_binary && !are_few(from)) {
            draw_bits({from.bits(), direction.right, direction.bias, nullptr, to.words, nullptr,
                       batch_.seed, batch_.row_offset, step, batch_.threads});
        } else {
            multiply(from, direction, inputs);
            draw_states(inputs, to, step);
        }
    }

    void draw_states(const float* inputs, const Units& to, uint32_t step) {
        draw_inputs({inputs, to.words, to.rows, to.columns, batch_.seed, batch_.row_offset, step,
                     batch_.threads});
    }

    void draw_gaussian(uint32_t step) {
        multiply(hidden_, down_, drawn_);
        draw({drawn_, nullptr, deviation_, nullptr, chain_.rows, plan_.visible, batch_.seed,
              batch_.row_offset, step, batch_.threads});
        observe(chain_, drawn_, plan_.visible, scaled_chain_);
    }

    void unpack_chain() {
        unpack_bits({chain_.bits(), drawn_, batch_.threads});
        chain_.values = drawn_;
        chain_.stride = plan_.visible;
    }

    // ------------------------------------------------------------------- losses and gradients

    // The hidden units' part of a phase's loss. Replaces their inputs by the loss's gradients.
    double measure(float* inputs, int64_t rows, double scale, float* sums) {
        return scale *
               measure_phase({inputs, energies_, sums, partial_sums_, static_cast<float>(scale),
                              rows, plan_.hidden, batch_.threads});
    }

    // The sparsity penalty; the data's gradients are -P(h = 1) / rows so far.
    double draw_to_target() {
        float *means = hidden_values_[0], *slopes = hidden_values_[1];
        const float rows = static_cast<float>(data_.rows);
        for (int64_t i = 0; i < plan_.hidden; ++i) means[i] = -hidden_sums_[1][i];
        const double penalty = kl_sparsity(
            {means, plan_.hidden, partial_sums_, ElementType::float32, 1, plan_.hidden, 1},
            plan_.sparsity_target, slopes);
        const float weight = static_cast<float>(plan_.sparsity_weight) / rows;
        double* sums = partial_sums_;
        std::fill_n(sums, plan_.hidden, 0.0);
        for (int64_t row = 0; row < data_.rows; ++row) {
            float* gradient = data_inputs_ + row * plan_.hidden;
            for (int64_t i = 0; i < plan_.hidden; ++i) {
                const float probability = -rows * gradient[i];
                const float part = weight * slopes[i] * probability * (1.f - probability);
                gradient[i] += part;
                sums[i] += part;
            }
        }
        for (int64_t i = 0; i < plan_.hidden; ++i) hidden_sums_[1][i] += sums[i];
        return plan_.sparsity_weight * penalty;
    }

    // A phase's part of the weight's gradient, and the means of its visible units.
    void add_phase(const Units& units, const float* values, int64_t stride, const float* gradient,
                   double* means, bool accumulate) {
        const bool is_short = units.rows < kFewestTransposed;
        const bool takes_bits = !is_short && (units.is_binary || are_few(units));
        if (takes_bits) transpose_bits({units.bits(), transposed_, counts_, batch_.threads});
        if (takes_bits && units.is_binary && !plan_.is_gaussian)  // whose squares are no counts
            for (int64_t i = 0; i < plan_.visible; ++i)
                means[i] = static_cast<double>(counts_[i]) / units.rows;
        else
            find_means(values, stride, units.rows, means);
        if (batch_.gradients == nullptr || are_short()) return;
        float* output = batch_.gradients[0];
        const BitMatrixView transposed = {transposed_, plan_.visible, units.rows};
        const MatrixView right = {gradient, plan_.hidden, units.rows, 1, plan_.hidden};
        if (!takes_bits)
            multiply_numbers(right, {units.values, plan_.visible, units.rows, 1, units.stride},
                             nullptr, output, accumulate);
        else if (are_few(units))
            multiply_sparse_transposed(
                {transposed, units.is_binary ? nullptr : units.values, 1, units.stride},
                panel_matrix(right, gradient_panels_, batch_.threads), accumulate, output,
                batch_.threads);
        else
            transposed_bit_matrix_product({transposed, right, output, accumulate, batch_.threads});
    }

    // The weight's gradient of both phases together.
    void multiply_both() {
        const int64_t rows = data_.rows + chain_.rows, columns = plan_.visible;
        if (!plan_.has_log_var)
            for (int64_t row = 0; row < data_.rows; ++row)
                std::copy_n(batch_.x + row * batch_.row_stride, columns, states_ + row * columns);
        const float* states = plan_.has_log_var ? scaled_data_ : states_;
        multiply_numbers({data_inputs_, plan_.hidden, rows, 1, plan_.hidden},
                         {states, columns, rows, 1, columns}, nullptr, batch_.gradients[0], false);
    }

    // The means of v; for Gaussian units followed by those of (v - b)^2.
    void find_means(const float* values, int64_t stride, int64_t rows, double* means) {
        const int64_t columns = plan_.visible, blocks = row_blocks(rows);
        const int64_t width = plan_.is_gaussian ? 2 * columns : columns;
        const float* bias = down_.bias;
        parallel_for(batch_.threads, blocks, [&](int64_t block) {
            double* sums = partial_sums_ + block * width;
            double* squares = sums + columns;
            std::fill_n(sums, width, 0.0);
            const int64_t last = std::min((block + 1) * kRowsPerPartialSum, rows);
            for (int64_t row = block * kRowsPerPartialSum; row < last; ++row) {
                const float* v = values + row * stride;
                for (int64_t i = 0; i < columns; ++i) sums[i] += v[i];
                if (!plan_.is_gaussian) continue;
                for (int64_t i = 0; i < columns; ++i) {
                    const double difference = v[i] - bias[i];
                    squares[i] += difference * difference;
                }
            }
        });
        for (int64_t i = 0; i < width; ++i) {
            double total = 0;
            for (int64_t block = 0; block < blocks; ++block)
                total += partial_sums_[block * width + i];
            means[i] = total / rows;
        }
    }

    // The part of the loss of Bernoulli visible units, from F(v) = -b v - ..., and its gradients.
    double compare_bernoulli() {
        double loss = 0;
        for (int64_t i = 0; i < plan_.visible; ++i) {
            const double difference = means_[0][i] - means_[1][i];
            loss += down_.bias[i] * difference;
            if (batch_.gradients) batch_.gradients[1][i] = static_cast<float>(difference);
        }
        return loss;
    }

    // The part of Gaussian visible units, from F(v) = |(v - b) / s|^2 / 2 - ... The log variance
    // also changes the hidden units' inputs W (v / s^2): that part of its gradient is the weight's
    // gradient times the weight.
    double compare_gaussian() {
        const float* weight = batch_.parameters[0];
        double loss = 0;
        for (int64_t i = 0; i < plan_.visible; ++i) {
            const double precision = precision_[i];
            const double squares = means_[1][plan_.visible + i] - means_[0][plan_.visible + i];
            loss += 0.5 * precision * squares;
            if (batch_.gradients == nullptr) continue;
            const double difference = means_[0][i] - means_[1][i];
            batch_.gradients[1][i] = static_cast<float>(precision * difference);
            if (!plan_.has_log_var) continue;
            double slope = -0.5 * precision * squares;
            for (int64_t j = 0; j < plan_.hidden; ++j)
                slope -= static_cast<double>(weight[j * plan_.visible + i]) *
                         batch_.gradients[0][j * plan_.visible + i];
            batch_.gradients[3][i] = static_cast<float>(slope);
        }
        return loss;
    }

    const MachinePlan& plan_;
    const StepBatch& batch_;
    Units data_, chain_, hidden_;
    Direction up_, down_;
    float* states_;  // the data's, where few rows are one product with the chains', and drawn_
    float* drawn_;   // the chains' visible units: inputs or means, then states
    float *scaled_data_ = nullptr, *scaled_chain_ = nullptr;  // Gaussian ones over s^2
    float *data_inputs_, *chain_inputs_;  // of the hidden units, and then the gradients by them
    float* gradient_panels_ = nullptr;
    uint64_t* transposed_;
    bool* are_binary_;
    double *energies_, *partial_sums_;
    double* means_[2];  // of the chains' visible units, and of the data's
    float *counts_, *precision_, *deviation_;
    float* hidden_sums_[2];  // of the hidden units' gradients, chains' and data's
    float* hidden_values_[2];
};

}  // namespace

int64_t largest_product(const MachinePlan& plan, int64_t rows) {
    return std::max(rows, plan.start ? plan.chains : 0) * plan.visible * plan.hidden;
}

int64_t fewest_rows(const MachinePlan&) { return 1; }

double step(const MachinePlan& plan, const StepBatch& batch) {
    const int threads = useful_threads(largest_product(plan, batch.rows), batch.threads);
    return take_step<RbmStep>(plan, batch, threads, rbm_scratch);
}

void release_machine_memory() { rbm_scratch.release(); }

}  // namespace aefast::AEFAST_ISA
