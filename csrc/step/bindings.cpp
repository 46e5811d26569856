// aefast._C's training step: plans, a step of one batch, and many steps with their optimizer.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <stdexcept>

#include "bindings/binding.h"
#include "bindings/tensor.h"
#include "step/dictionary_step.h"
#include "step/rbm_step.h"
#include "step/step.h"
#include "step/unit_rows.h"

namespace py = pybind11;

namespace aefast {
namespace {

// step and fit are overloaded by the kind of plan.
template <class Plan>
using Step = double(const Plan&, const StepBatch&);
template <class Plan>
using Fit = FitResult(const Plan&, const FitArguments&);
using Update = void(ParameterUpdate&, int);

template <class Plan>
void check_sizes(const Plan& plan, size_t parameters) {
    if (parameters != plan.sizes.size())
        throw std::invalid_argument("a plan takes a pointer for each of its parameters");
}

int64_t inputs(const StepPlan& plan) { return plan.encoder.front().inputs; }
int64_t inputs(const MachinePlan& plan) { return plan.visible; }
int64_t inputs(const DictionaryPlan& plan) { return plan.visible; }
int64_t outputs(const StepPlan& plan) { return plan.decoder.back().outputs; }
int64_t outputs(const MachinePlan& plan) { return plan.visible; }
int64_t outputs(const DictionaryPlan& plan) { return plan.outputs; }
bool has_own_targets(const StepPlan&) { return false; }
bool has_own_targets(const MachinePlan&) { return false; }
bool has_own_targets(const DictionaryPlan& plan) { return plan.is_transcoder; }

template <class Plan>
void check_data(const Plan& plan, const DataRows& data, const std::optional<DataRows>& targets) {
    if (!targets && has_own_targets(plan))
        throw std::invalid_argument("a transcoder takes targets");
    if (data.columns != inputs(plan))
        throw std::invalid_argument("data takes as many columns as the plan has inputs");
    if ((targets ? *targets : data).columns != outputs(plan))
        throw std::invalid_argument("targets take as many columns as the plan has outputs");
}

template <class Plan>
double run_step(const Plan& plan, const Matrix& x, uint64_t seed, int64_t row_offset,
                const std::vector<const float*>& parameters, const std::vector<float*>& gradients,
                Precision precision, int threads) {
    check_sizes(plan, parameters.size());
    if (!gradients.empty()) check_sizes(plan, gradients.size());
    check_block(x, threads);
    check_columns("x", x, inputs(plan));
    const StepBatch batch = {x.by_rows<const float>("x"),
                             x.rows,
                             x.row_stride,
                             x.by_rows<const float>("x"),
                             x.row_stride,
                             seed,
                             row_offset,
                             parameters.data(),
                             gradients.empty() ? nullptr : gradients.data(),
                             active_gemm(),
                             precision,
                             threads};
    return without_gil([&] { return active_kernel<Step<Plan>>(AEFAST_EACH(step))(plan, batch); });
}

template <class Plan>
double run_step_at_addresses(const Plan& plan, const Matrix& x, uint64_t seed, int64_t row_offset,
                             const std::vector<uintptr_t>& parameters,
                             const std::vector<uintptr_t>& gradients, Precision precision,
                             int threads) {
    return run_step(plan, x, seed, row_offset, pointers<const float*>(parameters),
                    pointers<float*>(gradients), precision, threads);
}

// Each tensor's memory, of the sizes that the plan says.
template <class Number, class Plan>
std::vector<Number*> memory_of(const Plan& plan, const std::vector<FloatTensor>& tensors) {
    check_sizes(plan, tensors.size());
    std::vector<Number*> result;
    for (size_t i = 0; i < tensors.size(); ++i) {
        if (!tensors[i].is_contiguous() || tensors[i].size() != plan.sizes[i])
            throw std::invalid_argument("a plan takes contiguous tensors of its parameters' sizes");
        result.push_back(tensors[i].data);
    }
    return result;
}

// The same, of torch's tensors.
template <class Plan>
double run_step_on_tensors(const Plan& plan, const FloatTensor& x, uint64_t seed,
                           int64_t row_offset, const std::vector<FloatTensor>& parameters,
                           const std::vector<FloatTensor>& gradients, Precision precision,
                           int threads) {
    if (x.dimensions != 2) throw std::invalid_argument("x takes a matrix");
    const Matrix rows = {reinterpret_cast<uintptr_t>(x.data), x.shape[0], x.shape[1], x.strides[0],
                         x.strides[1]};
    return run_step(plan, rows, seed, row_offset, memory_of<const float>(plan, parameters),
                    gradients.empty() ? std::vector<float*>() : memory_of<float>(plan, gradients),
                    precision, threads);
}

template <class Plan>
py::tuple run_fit(const Plan& plan, const DataRows& data, const std::optional<DataRows>& targets,
                  uintptr_t order, int64_t count, int64_t epoch_rows, int64_t batch_size,
                  bool is_even, const std::vector<uint64_t>& seeds, int64_t first_step,
                  const std::vector<uintptr_t>& parameters, std::vector<ParameterUpdate> updates,
                  const std::vector<int>& updated, uintptr_t losses, double seconds,
                  Precision precision, int threads) {
    check_sizes(plan, parameters.size());
    check_data(plan, data, targets);
    if (updates.size() != updated.size())
        throw std::invalid_argument("updates and updated differ in length");
    for (const int number : updated)
        if (number < 0 || number >= static_cast<int>(parameters.size()))
            throw std::invalid_argument("updated takes numbers of parameters");
    if (batch_size < 1 || epoch_rows < 1 || threads < 1)
        throw std::invalid_argument("batch_size, epoch_rows and threads must be positive");
    if (static_cast<int64_t>(seeds.size()) < (count + epoch_rows - 1) / epoch_rows)
        throw std::invalid_argument("seeds takes one for each epoch");
    const auto values = pointers<const float*>(parameters);
    std::vector<float*> gradients(parameters.size());
    const FitResult result = without_gil([&] {
        return active_kernel<Fit<Plan>>(AEFAST_EACH(fit))(
            plan,
            {data, targets ? &*targets : nullptr, reinterpret_cast<const int64_t*>(order), count,
             epoch_rows, batch_size, is_even, seeds.data(), first_step, updates.data(),
             updated.data(), static_cast<int64_t>(updates.size()), values.data(), gradients.data(),
             reinterpret_cast<double*>(losses), seconds, active_gemm(), precision, threads});
    });
    return py::make_tuple(result.steps, result.is_finite);
}

// An optimizer's step on gradients that the caller has: sums over the ranks of a process group.
void run_updates(const std::vector<ParameterUpdate*>& updates,
                 const std::vector<uintptr_t>& gradients, int threads) {
    if (updates.size() != gradients.size())
        throw std::invalid_argument("updates and gradients differ in length");
    if (threads < 1) throw std::invalid_argument("threads must be positive");
    const auto slopes = pointers<const float*>(gradients);
    const SignalsWait for_a_whole_step;
    without_gil([&] {
        for (size_t i = 0; i < updates.size(); ++i) {
            updates[i]->gradient = slopes[i];
            active_kernel<Update>(AEFAST_EACH(update))(*updates[i], threads);
        }
        return 0;
    });
}

StepNorm no_norm() { return {false, false, -1, -1, -1, -1, 0.}; }
StepDropout no_dropout() { return {0.f, 0, 0}; }
StepNoise no_noise() { return {false, Noise::masking, 0, 0, 0, 0.f}; }

void bind_plan(py::module_& module) {
    py::enum_<CodeStage>(module, "CodeStage")
        .value("plain", CodeStage::plain)
        .value("dropout", CodeStage::dropout)
        .value("gaussian", CodeStage::gaussian)
        .value("posterior", CodeStage::posterior);
    py::enum_<CodePenalty>(module, "CodePenalty")
        .value("none", CodePenalty::none)
        .value("kl", CodePenalty::kl)
        .value("l1", CodePenalty::l1)
        .value("contraction", CodePenalty::contraction);
    py::enum_<Objective>(module, "Objective")
        .value("mse", Objective::squared_error)
        .value("bce", Objective::cross_entropy)
        .value("bernoulli", Objective::bernoulli_likelihood)
        .value("gaussian", Objective::gaussian_likelihood);
    py::class_<StepNorm>(module, "StepNorm")
        .def(py::init([](bool follows_activation, int scale, int shift, int mean, int variance,
                         double epsilon) {
                 return StepNorm{true, follows_activation, scale, shift, mean, variance, epsilon};
             }),
             py::kw_only(), py::arg("follows_activation"), py::arg("scale"), py::arg("shift"),
             py::arg("mean"), py::arg("variance"), py::arg("epsilon"));
    py::class_<StepDropout>(module, "StepDropout")
        .def(py::init([](float level, uint32_t threshold, uint32_t step) {
                 return StepDropout{level, threshold, step};
             }),
             py::kw_only(), py::arg("level"), py::arg("threshold"), py::arg("step"));
    py::class_<StepLayer>(module, "StepLayer")
        .def(py::init([](int64_t inputs, int64_t outputs, Activation activation, int weight,
                         int bias, bool is_tied, int log_var_weight, int log_var_bias,
                         const StepNorm* norm, const StepDropout* dropout) {
                 return StepLayer{inputs,
                                  outputs,
                                  activation,
                                  weight,
                                  bias,
                                  is_tied,
                                  log_var_weight,
                                  log_var_bias,
                                  norm ? *norm : no_norm(),
                                  dropout ? *dropout : no_dropout()};
             }),
             py::kw_only(), py::arg("inputs"), py::arg("outputs"), py::arg("activation"),
             py::arg("weight"), py::arg("bias"), py::arg("is_tied"), py::arg("log_var_weight"),
             py::arg("log_var_bias"), py::arg("norm"), py::arg("dropout"));
    py::class_<StepNoise>(module, "StepNoise")
        .def(py::init([](Noise kind, uint32_t step, float level, uint32_t level_threshold,
                         uint32_t low_threshold) {
                 return StepNoise{true, kind, step, level_threshold, low_threshold, level};
             }),
             py::kw_only(), py::arg("kind"), py::arg("step"), py::arg("level"),
             py::arg("level_threshold"), py::arg("low_threshold"));
    py::class_<StepPlan>(module, "StepPlan")
        .def(py::init([](std::vector<StepLayer> encoder, std::vector<StepLayer> decoder,
                         const StepNoise* noise, CodeStage code_stage, float code_level,
                         uint32_t code_threshold, uint32_t code_step, float divergence_weight,
                         double divergence_limit, float lowest_log_var, float highest_log_var,
                         CodePenalty penalty, double penalty_weight, double penalty_target,
                         Objective objective, int log_var, std::vector<int64_t> sizes) {
                 if (encoder.empty() || decoder.empty())
                     throw std::invalid_argument("a plan takes an encoder and a decoder");
                 const int64_t log_var_size = log_var < 0 ? 0 : sizes.at(log_var);
                 return StepPlan{std::move(encoder),
                                 std::move(decoder),
                                 noise ? *noise : no_noise(),
                                 code_stage,
                                 code_level,
                                 code_threshold,
                                 code_step,
                                 divergence_weight,
                                 divergence_limit,
                                 lowest_log_var,
                                 highest_log_var,
                                 penalty,
                                 penalty_weight,
                                 penalty_target,
                                 objective,
                                 log_var,
                                 log_var_size,
                                 std::move(sizes)};
             }),
             py::kw_only(), py::arg("encoder"), py::arg("decoder"), py::arg("noise"),
             py::arg("code_stage"), py::arg("code_level"), py::arg("code_threshold"),
             py::arg("code_step"), py::arg("divergence_weight"), py::arg("divergence_limit"),
             py::arg("lowest_log_var"), py::arg("highest_log_var"), py::arg("penalty"),
             py::arg("penalty_weight"), py::arg("penalty_target"), py::arg("objective"),
             py::arg("log_var"), py::arg("sizes"));
}

void bind_machine(py::module_& module) {
    py::class_<MachinePlan>(module, "MachinePlan")
        .def(py::init([](int64_t visible, int64_t hidden, bool is_gaussian, bool has_log_var,
                         int64_t k, double sparsity_weight, double sparsity_target) {
                 if (visible < 1 || hidden < 1 || k < 1)
                     throw std::invalid_argument("a machine takes units and steps");
                 std::vector<int64_t> sizes = {hidden * visible, visible, hidden};
                 if (has_log_var) sizes.push_back(visible);
                 return MachinePlan{visible,         hidden,          is_gaussian, has_log_var, k,
                                    sparsity_weight, sparsity_target, nullptr,     nullptr,     0,
                                    std::move(sizes)};
             }),
             py::kw_only(), py::arg("visible"), py::arg("hidden"), py::arg("is_gaussian"),
             py::arg("has_log_var"), py::arg("k"), py::arg("sparsity_weight"),
             py::arg("sparsity_target"))
        .def(
            "with_chains",
            [](const MachinePlan& plan, uintptr_t start, uintptr_t end, int64_t chains) {
                if (start != 0 && chains < 1)
                    throw std::invalid_argument("persistent chains are one or more");
                MachinePlan placed = plan;
                placed.start = reinterpret_cast<const float*>(start);
                placed.end = reinterpret_cast<float*>(end);
                placed.chains = chains;
                return placed;
            },
            py::arg("start"), py::arg("end"), py::arg("chains"));
}

void bind_dictionary(py::module_& module) {
    py::enum_<LatentSelection>(module, "LatentSelection")
        .value("topk", LatentSelection::topk)
        .value("batch_topk", LatentSelection::batch_topk)
        .value("jumprelu", LatentSelection::jumprelu)
        .value("gated", LatentSelection::gated);
    py::class_<DictionaryPlan>(module, "DictionaryPlan")
        .def(py::init([](int64_t visible, int64_t outputs, int64_t latents,
                         LatentSelection selection, double k, bool ranks_by_norm,
                         std::vector<int64_t> prefixes, bool is_transcoder, int64_t aux_k,
                         double aux_weight, double sparsity_weight, double bandwidth,
                         Estimator estimator, int64_t dead_after, uintptr_t idle,
                         uintptr_t threshold, double threshold_rate) {
                 if (visible < 1 || outputs < 1 || (!is_transcoder && outputs != visible))
                     throw std::invalid_argument("a dictionary takes inputs and outputs");
                 if (latents < 1) throw std::invalid_argument("a dictionary takes latents");
                 const bool is_topk = selection == LatentSelection::topk;
                 const bool has_k = is_topk || selection == LatentSelection::batch_topk;
                 if (has_k && !(k > 0 && k <= static_cast<double>(latents)))
                     throw std::invalid_argument("k must be above 0 and at most the latents");
                 if (is_topk && k != std::floor(k))
                     throw std::invalid_argument("k of each row must be whole");
                 if (aux_k < 0 || aux_k > latents || idle == 0)
                     throw std::invalid_argument(
                         "aux_k must be at most the latents, and idle an address");
                 if (selection == LatentSelection::jumprelu && (threshold == 0 || !(bandwidth > 0)))
                     throw std::invalid_argument("JumpReLU takes thresholds and a bandwidth");
                 int64_t before = 0;
                 for (const int64_t prefix : prefixes) {
                     if (prefix <= before) throw std::invalid_argument("prefixes must rise");
                     before = prefix;
                 }
                 if (!prefixes.empty() && before != latents)
                     throw std::invalid_argument("the last prefix must be all latents");
                 std::vector<int64_t> sizes = {latents * visible, latents, latents * outputs,
                                               outputs};
                 const int further = has_k ? 0 : selection == LatentSelection::gated ? 2 : 1;
                 sizes.insert(sizes.end(), further, latents);
                 return DictionaryPlan{visible,
                                       outputs,
                                       latents,
                                       selection,
                                       k,
                                       ranks_by_norm,
                                       std::move(prefixes),
                                       is_transcoder,
                                       aux_k,
                                       aux_weight,
                                       sparsity_weight,
                                       bandwidth,
                                       estimator,
                                       dead_after,
                                       reinterpret_cast<int64_t*>(idle),
                                       reinterpret_cast<float*>(threshold),
                                       threshold_rate,
                                       std::move(sizes)};
             }),
             py::kw_only(), py::arg("visible"), py::arg("outputs"), py::arg("latents"),
             py::arg("selection"), py::arg("k"), py::arg("ranks_by_norm"), py::arg("prefixes"),
             py::arg("is_transcoder"), py::arg("aux_k"), py::arg("aux_weight"),
             py::arg("sparsity_weight"), py::arg("bandwidth"), py::arg("estimator"),
             py::arg("dead_after"), py::arg("idle"), py::arg("threshold"),
             py::arg("threshold_rate"));
}

void bind_updates(py::module_& module) {
    py::enum_<OptimizerKind>(module, "OptimizerKind")
        .value("sgd", OptimizerKind::sgd)
        .value("adam", OptimizerKind::adam)
        .value("adamw", OptimizerKind::adamw)
        .value("average", OptimizerKind::average);
    py::class_<ParameterUpdate>(module, "ParameterUpdate")
        .def(py::init([](OptimizerKind kind, uintptr_t parameter, uintptr_t first, uintptr_t second,
                         int64_t size, double learning_rate, double weight_decay, double momentum,
                         double dampening, bool nesterov, bool maximize, bool is_first,
                         double beta1, double beta2, double epsilon, int64_t step, uintptr_t count,
                         bool is_cumulative, uintptr_t batches, int64_t columns,
                         bool has_unit_rows) {
                 if (columns < (has_unit_rows ? 1 : 0) || (columns > 0 && size % columns != 0))
                     throw std::invalid_argument("columns takes the length of a matrix's rows");
                 return ParameterUpdate{kind,
                                        reinterpret_cast<float*>(parameter),
                                        nullptr,
                                        reinterpret_cast<float*>(first),
                                        reinterpret_cast<float*>(second),
                                        size,
                                        learning_rate,
                                        weight_decay,
                                        momentum,
                                        dampening,
                                        nesterov,
                                        maximize,
                                        is_first,
                                        beta1,
                                        beta2,
                                        epsilon,
                                        step,
                                        reinterpret_cast<float*>(count),
                                        is_cumulative,
                                        reinterpret_cast<int64_t*>(batches),
                                        columns,
                                        has_unit_rows};
             }),
             py::kw_only(), py::arg("kind"), py::arg("parameter"), py::arg("first") = 0,
             py::arg("second") = 0, py::arg("size"), py::arg("learning_rate") = 0.,
             py::arg("weight_decay") = 0., py::arg("momentum") = 0., py::arg("dampening") = 0.,
             py::arg("nesterov") = false, py::arg("maximize") = false, py::arg("is_first") = false,
             py::arg("beta1") = 0., py::arg("beta2") = 0., py::arg("epsilon") = 0.,
             py::arg("step") = 1, py::arg("count") = 0, py::arg("is_cumulative") = false,
             py::arg("batches") = 0, py::arg("columns") = 0, py::arg("has_unit_rows") = false);
    py::class_<DataRows>(module, "DataRows")
        .def(py::init([](uintptr_t rows, bool are_bytes, float scale, int64_t columns,
                         int64_t row_stride) {
                 return DataRows{reinterpret_cast<const void*>(rows), are_bytes, scale, columns,
                                 row_stride};
             }),
             py::kw_only(), py::arg("rows"), py::arg("are_bytes"), py::arg("scale"),
             py::arg("columns"), py::arg("row_stride"));
}

UnitRowsArguments unit_rows(const Matrix& rows, int threads) {
    return {rows.by_rows<float>("rows"), rows.row_stride, rows.rows, rows.columns, threads};
}

void normalize_rows(const Matrix& rows, int threads) {
    AEFAST_RUN(normalize_rows, unit_rows(rows, threads));
}

void project_rows(const Matrix& gradient, const Matrix& rows, int threads) {
    check_shape("gradient", gradient, rows.rows, rows.columns);
    AEFAST_RUN(project_rows, {unit_rows(rows, threads), gradient.by_rows<float>("gradient"),
                              gradient.row_stride});
}

void bind_unit_rows(py::module_& module) {
    module.def("normalize_rows", normalize_rows, py::arg("rows"), py::arg("threads"));
    module.def("project_rows", project_rows, py::arg("gradient"), py::arg("rows"),
               py::arg("threads"));
}

template <class Plan>
void bind_step(py::module_& module) {
    module.def("step", run_step_at_addresses<Plan>, py::arg("plan"), py::arg("x"), py::arg("seed"),
               py::arg("row_offset"), py::arg("parameters"), py::arg("gradients"),
               py::arg("precision"), py::arg("threads"));
    module.def("step_on_tensors", run_step_on_tensors<Plan>, py::arg("plan"), py::arg("x"),
               py::arg("seed"), py::arg("row_offset"), py::arg("parameters"), py::arg("gradients"),
               py::arg("precision"), py::arg("threads"));
}

template <class Plan>
void bind_fit(py::module_& module) {
    module.def("fit", run_fit<Plan>, py::kw_only(), py::arg("plan"), py::arg("data"),
               py::arg("targets"), py::arg("order"), py::arg("count"), py::arg("epoch_rows"),
               py::arg("batch_size"), py::arg("is_even"), py::arg("seeds"), py::arg("first_step"),
               py::arg("parameters"), py::arg("updates"), py::arg("updated"), py::arg("losses"),
               py::arg("seconds"), py::arg("precision"), py::arg("threads"));
}

void bind(py::module_& module) {
    bind_plan(module);
    bind_machine(module);
    bind_dictionary(module);
    bind_updates(module);
    bind_unit_rows(module);
    bind_step<StepPlan>(module);
    bind_step<MachinePlan>(module);
    bind_fit<StepPlan>(module);
    bind_fit<MachinePlan>(module);
    bind_fit<DictionaryPlan>(module);
    module.def("release_step_memory",
               [] { active_kernel<void()>(AEFAST_EACH(release_step_memory))(); });
    module.def("update", run_updates, py::arg("updates"), py::arg("gradients"), py::arg("threads"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
