// A step of its own class in one call: a Boltzmann machine's and a dictionary's. Included once by a
// kernel's source, for its instruction set.
#pragma once

#include "shared/arena.h"
#include "shared/parallel.h"
#include "shared/scratch.h"
#include "step/step.h"

namespace aefast::AEFAST_ISA {
namespace {

// The loss. The step's memory is measured, and taken from the scratch.
template <class Step, class Plan>
double take_step(const Plan& plan, const StepBatch& whole, int threads, Scratch& scratch) {
    StepBatch batch = whole;
    batch.threads = threads;
    Arena measured(nullptr);
    Step(plan, batch, measured);
    Arena arena(static_cast<char*>(scratch.reserve(measured.used())));
    double loss;
    with_crew(threads, [&] { loss = Step(plan, batch, arena).run(); });
    return loss;
}

}  // namespace
}  // namespace aefast::AEFAST_ISA
