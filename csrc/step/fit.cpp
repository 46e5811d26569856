// Many training steps in one call: gather a minibatch, compute the step, update the parameters.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "shared/parallel.h"
#include "shared/philox.h"
#include "shared/scratch.h"
#include "step/dictionary_step.h"
#include "step/rbm_step.h"
#include "step/step.h"

namespace aefast::AEFAST_ISA {
namespace {

thread_local Scratch batch_scratch, target_scratch, gradient_scratch;

// The numbers that a task copies: few, so that threads that are awake share a small minibatch.
constexpr int64_t kElementsPerTask = 1 << 12;

// Rows lie anywhere in memory. The next minibatch's are asked for while this one's are copied, and
// come while the step is computed: a step of 32 rows of 64 inputs took 13.6 us, and takes 12.7. Of
// a minibatch that would not stay in a second-level cache some rows ahead are asked for, as many as
// take half of a first-level one; of a longer row that much is: a processor goes on by itself.
constexpr int64_t kMostMinibatchAhead = 1 << 17, kMostRowsAhead = 8, kBytesAhead = 1 << 14;

int64_t element_size(const DataRows& data) {
    return data.are_bytes ? sizeof(uint8_t) : sizeof(float);
}

void prefetch_row(const DataRows& data, int64_t index) {
    const int64_t size = element_size(data), bytes = std::min(data.columns * size, kBytesAhead);
    const char* row = static_cast<const char*>(data.rows) + index * data.row_stride * size;
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte, 0, 2);
}

// How many rows before its own a row of a minibatch is asked for.
int64_t rows_ahead(const DataRows& data, int64_t minibatch_rows) {
    const int64_t row_bytes = data.columns * element_size(data);
    if (minibatch_rows * row_bytes <= kMostMinibatchAhead) return minibatch_rows;
    return std::clamp<int64_t>(kBytesAhead / row_bytes, 1, kMostRowsAhead);
}

// Of all rows to come, so many are left from the first of these `count` on.
void gather_rows(const DataRows& data, const int64_t* indices, int64_t count, int64_t left,
                 int64_t ahead, float* batch) {
    for (int64_t row = 0; row < count; ++row, batch += data.columns) {
        if (row + ahead < left) prefetch_row(data, indices[row + ahead]);
        const int64_t offset = indices[row] * data.row_stride;
        if (data.are_bytes) {
            const auto* source = static_cast<const uint8_t*>(data.rows) + offset;
            for (int64_t i = 0; i < data.columns; ++i) batch[i] = source[i];
        } else {
            std::memcpy(batch, static_cast<const float*>(data.rows) + offset,
                        sizeof(float) * data.columns);
        }
        if (data.scale != 1.f)
            for (int64_t i = 0; i < data.columns; ++i) batch[i] /= data.scale;
    }
}

void gather(const DataRows& data, const int64_t* indices, int64_t count, int64_t left, float* batch,
            int threads) {
    const int64_t rows = std::max<int64_t>(1, kElementsPerTask / data.columns);
    const int64_t ahead = rows_ahead(data, count);
    parallel_for(threads, (count + rows - 1) / rows, [&](int64_t task) {
        const int64_t first = task * rows;
        gather_rows(data, indices + first, std::min(rows, count - first), left - first, ahead,
                    batch + first * data.columns);
    });
}

// The gradients of all parameters are in one block of memory.
void place_gradients(const std::vector<int64_t>& sizes, float** gradients) {
    constexpr int64_t kLine = 16;
    int64_t total = 0;
    for (int64_t size : sizes) total += (size + kLine - 1) / kLine * kLine;
    float* block = static_cast<float*>(gradient_scratch.reserve(sizeof(float) * total));
    for (int64_t size : sizes) {
        *gradients++ = block;
        block += (size + kLine - 1) / kLine * kLine;
    }
}

// The number of rows of a step, where so many rows of the epoch are left.
int64_t minibatch_rows(const FitArguments& a, int64_t step, int64_t left) {
    if (!a.is_even) return std::min(left, a.batch_size);
    const int64_t steps = (a.epoch_rows + a.batch_size - 1) / a.batch_size;
    return std::min(left, a.epoch_rows / steps + (step < a.epoch_rows % steps ? 1 : 0));
}

template <class Plan>
FitResult take_steps(const Plan& plan, const FitArguments& a) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const auto room = [&](Scratch& scratch, const DataRows& data) {
        return static_cast<float*>(scratch.reserve(sizeof(float) * a.batch_size * data.columns));
    };
    float* rows = room(batch_scratch, a.data);
    float* targets = a.targets ? room(target_scratch, *a.targets) : rows;
    const int64_t target_columns = a.targets ? a.targets->columns : a.data.columns;
    place_gradients(plan.sizes, a.gradients);
    for (int64_t i = 0; i < a.trained; ++i) a.updates[i].gradient = a.gradients[a.updated[i]];
    int64_t steps_taken = 0, step_of_epoch = a.first_step;
    const uint64_t* epoch_seed = a.seeds;
    // A signal may interrupt the first step, before anything has changed. Later it waits for the
    // end of a step, after which the call returns.
    std::optional<SignalsWait> for_whole_steps;
    // An epoch ends where the number of remaining rows is a multiple of an epoch's.
    for (int64_t position = 0; position < a.count;) {
        const int64_t left = (a.count - position - 1) % a.epoch_rows + 1;
        const int64_t size = minibatch_rows(a, step_of_epoch, left);
        if (size < fewest_rows(plan)) break;
        const int threads = useful_threads(largest_product(plan, size), a.threads);
        const int64_t to_come = a.count - position;
        gather(a.data, a.order + position, size, to_come, rows, threads);
        if (a.targets) gather(*a.targets, a.order + position, size, to_come, targets, threads);
        const uint64_t seed = child_seed(*epoch_seed, static_cast<uint64_t>(step_of_epoch));
        // Rounded to float32, like the loss of a step outside this call.
        const float loss = static_cast<float>(
            step(plan, {rows, size, a.data.columns, targets, target_columns, seed, 0, a.parameters,
                        a.gradients, a.multiply, a.precision, a.threads}));
        for_whole_steps.emplace();
        a.losses[steps_taken] = loss;
        if (!std::isfinite(loss)) return {steps_taken, false};
        for (int64_t i = 0; i < a.trained; ++i)
            update(a.updates[i], current_crew ? a.threads : threads);
        ++steps_taken;
        ++step_of_epoch;
        position += size;
        if (size == left) {
            ++epoch_seed;
            step_of_epoch = 0;
        }
        const std::chrono::duration<double> elapsed = Clock::now() - start;
        if (elapsed.count() >= a.seconds) break;
    }
    return {steps_taken, true};
}

bool crew_pays(int64_t product, const FitArguments& a) {
    if (product >= kFewestProductsOfCrew) return true;
    return std::any_of(a.updates, a.updates + a.trained,
                       [](const ParameterUpdate& one) { return one.size >= kFewestUpdated; });
}

// The threads start once for the call, and not once for each product.
template <class Plan>
FitResult take_steps_together(const Plan& plan, const FitArguments& a) {
    FitResult result;
    const bool pays = crew_pays(largest_product(plan, a.batch_size), a);
    with_crew(pays ? a.threads : 1, [&] { result = take_steps(plan, a); });
    return result;
}

}  // namespace

FitResult fit(const StepPlan& plan, const FitArguments& a) { return take_steps_together(plan, a); }
FitResult fit(const MachinePlan& plan, const FitArguments& a) {
    return take_steps_together(plan, a);
}
FitResult fit(const DictionaryPlan& plan, const FitArguments& a) {
    return take_steps_together(plan, a);
}

void release_step_memory() {
    for (Scratch* scratch : {&batch_scratch, &target_scratch, &gradient_scratch})
        scratch->release();
    release_layer_memory();
    release_machine_memory();
    release_dictionary_memory();
}

}  // namespace aefast::AEFAST_ISA
