// torch.optim's SGD, Adam and AdamW: one pass over a parameter, its gradient and its state.
#include <cmath>

#include "shared/parallel.h"
#include "step/step.h"

namespace aefast::AEFAST_ISA {
namespace {

constexpr int64_t kElementsPerTask = 1 << 13;

// A parameter of fewer tasks is updated before a second thread has woken; a crew's are awake.
constexpr int64_t kFewestTasks = 16;

// Adam's factors as torch rounds them: from float64, once a step.
struct AdamFactors {
    float add_first, keep_second, add_second;
    float step_size, second_scale, epsilon;
    float decay;         // AdamW: what a parameter is multiplied with first
    float weight_decay;  // Adam: this times the parameter is added to the gradient

    explicit AdamFactors(const ParameterUpdate& u) {
        const double step = static_cast<double>(u.step);
        const double first_correction = 1 - std::pow(u.beta1, step);
        const double second_correction = 1 - std::pow(u.beta2, step);
        add_first = static_cast<float>(1 - u.beta1);
        keep_second = static_cast<float>(u.beta2);
        add_second = static_cast<float>(1 - u.beta2);
        step_size = static_cast<float>(u.learning_rate / first_correction);
        second_scale = static_cast<float>(std::sqrt(second_correction));
        epsilon = static_cast<float>(u.epsilon);
        const bool decoupled = u.kind == OptimizerKind::adamw;
        decay = decoupled ? static_cast<float>(1 - u.learning_rate * u.weight_decay) : 1.f;
        weight_decay = decoupled ? 0.f : static_cast<float>(u.weight_decay);
    }
};

void adam(const ParameterUpdate& u, const AdamFactors& f, int64_t begin, int64_t end) {
    float* __restrict parameter = u.parameter;
    float* __restrict first = u.first;
    float* __restrict second = u.second;
    const float* __restrict gradients = u.gradient;
    const float sign = u.maximize ? -1.f : 1.f;
    for (int64_t i = begin; i < end; ++i) {
        const float gradient = sign * gradients[i] + f.weight_decay * parameter[i];
        first[i] += f.add_first * (gradient - first[i]);
        second[i] = f.keep_second * second[i] + f.add_second * gradient * gradient;
        const float scale = std::sqrt(second[i]) / f.second_scale + f.epsilon;
        parameter[i] = f.decay * parameter[i] - f.step_size * first[i] / scale;
    }
}

void sgd(const ParameterUpdate& u, int64_t begin, int64_t end) {
    const float sign = u.maximize ? -1.f : 1.f;
    const float learning_rate = static_cast<float>(u.learning_rate);
    const float weight_decay = static_cast<float>(u.weight_decay);
    float* __restrict parameter = u.parameter;
    const float* __restrict gradients = u.gradient;
    if (u.first == nullptr) {
        for (int64_t i = begin; i < end; ++i)
            parameter[i] -= learning_rate * (sign * gradients[i] + weight_decay * parameter[i]);
        return;
    }
    float* __restrict buffer = u.first;
    const float keep = u.is_first ? 0.f : static_cast<float>(u.momentum);
    const float add = u.is_first ? 1.f : static_cast<float>(1 - u.dampening);
    const float ahead = u.nesterov ? static_cast<float>(u.momentum) : 0.f;
    const float direct = u.nesterov ? 1.f : 0.f, through = u.nesterov ? ahead : 1.f;
    for (int64_t i = begin; i < end; ++i) {
        const float gradient = sign * gradients[i] + weight_decay * parameter[i];
        const float before = u.is_first ? 0.f : buffer[i];
        buffer[i] = keep * before + add * gradient;
        parameter[i] -= learning_rate * (direct * gradient + through * buffer[i]);
    }
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
    const int64_t tasks = (u.size + kElementsPerTask - 1) / kElementsPerTask;
    const AdamFactors factors(u);
    const bool pays_threads = current_crew || tasks >= kFewestTasks;
    parallel_for(pays_threads ? threads : 1, tasks, [&](int64_t task) {
        const int64_t begin = task * kElementsPerTask;
        const int64_t end = begin + kElementsPerTask < u.size ? begin + kElementsPerTask : u.size;
        if (u.kind == OptimizerKind::sgd)
            sgd(u, begin, end);
        else if (u.kind == OptimizerKind::average)
            average(u, begin, end);
        else
            adam(u, factors, begin, end);
    });
    ++u.step;
    if (u.count) *u.count += 1.f;
    if (u.batches) ++*u.batches;
    u.is_first = false;
}

}  // namespace aefast::AEFAST_ISA
