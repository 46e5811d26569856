// torch.optim's SGD, Adam and AdamW: one pass over a parameter, its gradient and its state.
#include <algorithm>
#include <cmath>

#include "shared/parallel.h"
#include "step/step.h"
#include "step/unit_row.h"

namespace aefast::AEFAST_ISA {
namespace {

// The elements of a task are a sixteenth of a parameter's, within these bounds.
constexpr int64_t kFewestElements = 1 << 11, kMostElements = 1 << 18;

// Adam's factors, rounded from float64 once a step; torch divides by what second_factor multiplies.
struct AdamFactors {
    float add_first, keep_second, add_second;
    float step_size, second_factor, epsilon;
    float decay;         // AdamW: what a parameter is multiplied with first
    float weight_decay;  // Adam: this times the parameter is added to the gradient
    bool leaves_zeros;   // nothing changes where a gradient and its averages are 0

    explicit AdamFactors(const ParameterUpdate& u) {
        const double step = static_cast<double>(u.step);
        const double first_correction = 1 - std::pow(u.beta1, step);
        const double second_correction = 1 - std::pow(u.beta2, step);
        add_first = static_cast<float>(1 - u.beta1);
        keep_second = static_cast<float>(u.beta2);
        add_second = static_cast<float>(1 - u.beta2);
        step_size = static_cast<float>(u.learning_rate / first_correction);
        second_factor = static_cast<float>(1 / std::sqrt(second_correction));
        epsilon = static_cast<float>(u.epsilon);
        const bool decoupled = u.kind == OptimizerKind::adamw;
        decay = decoupled ? static_cast<float>(1 - u.learning_rate * u.weight_decay) : 1.f;
        weight_decay = decoupled ? 0.f : static_cast<float>(u.weight_decay);
        leaves_zeros = u.weight_decay == 0 && epsilon > 0 && std::isfinite(step_size);
    }
};

// The gradient that an optimizer takes, of a parameter whose rows' norms may change.
constexpr auto kWholeGradient = [](float gradient, float) { return gradient; };

// Of the elements [begin, end). slope(gradient, element) is the gradient that Adam takes.
template <class Slope>
void adam(const ParameterUpdate& u, const AdamFactors& f, int64_t begin, int64_t end,
          const Slope& slope) {
    float* __restrict parameter = u.parameter;
    float* __restrict first = u.first;
    float* __restrict second = u.second;
    const float* __restrict gradients = u.gradient;
    const float sign = u.maximize ? -1.f : 1.f;
    for (int64_t i = begin; i < end; ++i) {
        const float gradient =
            sign * slope(gradients[i], parameter[i]) + f.weight_decay * parameter[i];
        first[i] += f.add_first * (gradient - first[i]);
        second[i] = f.keep_second * second[i] + f.add_second * gradient * gradient;
        const float scale = std::sqrt(second[i]) * f.second_factor + f.epsilon;
        parameter[i] = f.decay * parameter[i] - f.step_size * first[i] / scale;
    }
}

// Looks at a block at a time: of a row that is not 0 at the first.
bool is_zero(const float* values, int64_t count) {
    constexpr int64_t kBlock = 64;
    for (int64_t begin = 0; begin < count; begin += kBlock) {
        const int64_t end = std::min(begin + kBlock, count);
        int others = 0;
        for (int64_t i = begin; i < end; ++i) others |= values[i] != 0;
        if (others) return false;
    }
    return true;
}

// A row that nothing moves, as those of latents that were never active, is read and not written.
bool is_still(const ParameterUpdate& u, const AdamFactors& f, int64_t begin) {
    return f.leaves_zeros && is_zero(u.gradient + begin, u.columns) &&
           is_zero(u.first + begin, u.columns) && is_zero(u.second + begin, u.columns);
}

void adam_by_rows(const ParameterUpdate& u, const AdamFactors& f, int64_t begin, int64_t end) {
    for (; begin < end; begin += u.columns)
        if (!is_still(u, f, begin)) adam(u, f, begin, begin + u.columns, kWholeGradient);
}

// The projection of gradients, the update and the norm, one after the other for as many rows as
// stay in cache: of one short row each waits for the sum before it. move(begin, end, slope) updates
// a row that is not still.
template <class IsStill, class Move>
void by_unit_rows(const ParameterUpdate& u, int64_t begin, int64_t end, const IsStill& is_still,
                  const Move& move) {
    constexpr int64_t kMostRows = 16, kElements = 1 << 9;
    const int64_t at_once = std::clamp<int64_t>(kElements / u.columns, 1, kMostRows);
    bool still[kMostRows];
    double factors[kMostRows];
    for (int64_t last; begin < end; begin = last) {
        last = std::min(begin + at_once * u.columns, end);
        const auto for_rows = [&](const auto& row) {
            for (int64_t r = 0, at = begin; at < last; ++r, at += u.columns) row(r, at);
        };
        for_rows([&](int64_t r, int64_t at) {
            still[r] = is_still(at);
            if (!still[r]) factors[r] = factor_along(u.gradient + at, u.parameter + at, u.columns);
        });
        for_rows([&](int64_t r, int64_t at) {
            if (still[r]) return;
            move(at, at + u.columns, [along = factors[r]](float gradient, float element) {
                return projected(gradient, along, element);
            });
        });
        for_rows([&](int64_t r, int64_t at) {
            factors[r] = unit_factor(u.parameter + at, u.columns);
            if (still[r] && std::abs(factors[r] - 1) <= kUnitRounding) factors[r] = 1;
        });
        for_rows([&](int64_t r, int64_t at) {
            if (factors[r] != 1) scale(u.parameter + at, factors[r], u.columns);
        });
    }
}

void adam_by_unit_rows(const ParameterUpdate& u, const AdamFactors& f, int64_t begin, int64_t end) {
    by_unit_rows(
        u, begin, end, [&](int64_t at) { return is_still(u, f, at); },
        [&](int64_t first, int64_t last, const auto& slope) { adam(u, f, first, last, slope); });
}

template <class Slope>
void sgd(const ParameterUpdate& u, int64_t begin, int64_t end, const Slope& slope) {
    const float sign = u.maximize ? -1.f : 1.f;
    const float learning_rate = static_cast<float>(u.learning_rate);
    const float weight_decay = static_cast<float>(u.weight_decay);
    float* __restrict parameter = u.parameter;
    const float* __restrict gradients = u.gradient;
    if (u.first == nullptr) {
        for (int64_t i = begin; i < end; ++i)
            parameter[i] -= learning_rate * (sign * slope(gradients[i], parameter[i]) +
                                             weight_decay * parameter[i]);
        return;
    }
    float* __restrict buffer = u.first;
    const float keep = u.is_first ? 0.f : static_cast<float>(u.momentum);
    const float add = u.is_first ? 1.f : static_cast<float>(1 - u.dampening);
    const float ahead = u.nesterov ? static_cast<float>(u.momentum) : 0.f;
    const float direct = u.nesterov ? 1.f : 0.f, through = u.nesterov ? ahead : 1.f;
    for (int64_t i = begin; i < end; ++i) {
        const float gradient =
            sign * slope(gradients[i], parameter[i]) + weight_decay * parameter[i];
        const float before = u.is_first ? 0.f : buffer[i];
        buffer[i] = keep * before + add * gradient;
        parameter[i] -= learning_rate * (direct * gradient + through * buffer[i]);
    }
}

void sgd_by_unit_rows(const ParameterUpdate& u, int64_t begin, int64_t end) {
    by_unit_rows(
        u, begin, end, [](int64_t) { return false; },
        [&](int64_t first, int64_t last, const auto& slope) { sgd(u, first, last, slope); });
}

// A batch normalization's running average, rounded as torch does: in float64, once a number.
void average(const ParameterUpdate& u, int64_t begin, int64_t end) {
    const double momentum = u.is_cumulative ? 1.0 / static_cast<double>(u.step) : u.momentum;
    for (int64_t i = begin; i < end; ++i)
        u.parameter[i] =
            static_cast<float>(momentum * u.gradient[i] + (1 - momentum) * u.parameter[i]);
}

}  // namespace

void update(ParameterUpdate& u, int threads) {
    constexpr int64_t kLine = 16;                       // of a cache
    const int64_t size = std::max<int64_t>(u.size, 1);  // no elements are a task that does nothing
    const int64_t whole = u.columns > 0 ? u.columns : kLine;
    if (!current_crew && u.size < kFewestUpdated) threads = 1;  // a crew's are awake
    threads = threads_for(u.size, threads);
    const int64_t elements = std::clamp(u.size / 16, kFewestElements, kMostElements);
    // As many for each thread: an odd one was taken by this thread now, and by that one then.
    const int64_t rounds = (size + elements * threads - 1) / (elements * threads);
    const int64_t pieces = (size + whole - 1) / whole;
    const int64_t per_task = (pieces + rounds * threads - 1) / (rounds * threads) * whole;
    const int64_t tasks = (size + per_task - 1) / per_task;
    const AdamFactors factors(u);
    parallel_for(threads, tasks, [&](int64_t task) {
        const int64_t begin = task * per_task;
        const int64_t end = std::min(begin + per_task, u.size);
        if (u.kind == OptimizerKind::sgd && u.has_unit_rows)
            sgd_by_unit_rows(u, begin, end);
        else if (u.kind == OptimizerKind::sgd)
            sgd(u, begin, end, kWholeGradient);
        else if (u.kind == OptimizerKind::average)
            average(u, begin, end);
        else if (u.has_unit_rows)
            adam_by_unit_rows(u, factors, begin, end);
        else if (u.columns > 0)
            adam_by_rows(u, factors, begin, end);
        else
            adam(u, factors, begin, end, kWholeGradient);
    });
    ++u.step;
    if (u.count) *u.count += 1.f;
    if (u.batches) ++*u.batches;
    u.is_first = false;
}

}  // namespace aefast::AEFAST_ISA
