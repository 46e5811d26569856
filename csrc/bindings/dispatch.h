// A kernel's call from Python: with the instruction set in use, and without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <future>

#include "shared/isa.h"
#include "shared/parallel.h"

// The kernel of this name in each instruction set's namespace, the arguments of active_kernel().
#ifdef AEFAST_X86
#define AEFAST_EACH(kernel) baseline::kernel, avx2::kernel, avx512::kernel
#else
#define AEFAST_EACH(kernel) baseline::kernel
#endif

// Runs the active instruction set's kernel of this name on the arguments, without the GIL. Where
// there is one set alone it is called: some functions that kernels are made of have their names.
#ifdef AEFAST_X86
#define AEFAST_RUN(kernel, ...) \
    without_gil([&] { return active_kernel(AEFAST_EACH(kernel))(__VA_ARGS__); })
#else
#define AEFAST_RUN(kernel, ...) without_gil([&] { return baseline::kernel(__VA_ARGS__); })
#endif

namespace aefast {

template <class Kernel>
Kernel* active_kernel(Kernel* baseline) {
    return baseline;
}

// AMX has kernels of its own for matrix products only: active_gemm() knows them.
template <class Kernel>
Kernel* active_kernel(Kernel* baseline, Kernel* avx2, Kernel* avx512) {
    switch (active_instruction_set()) {
        case InstructionSet::baseline:
            return baseline;
        case InstructionSet::avx2:
            return avx2;
        default:
            return avx512;
    }
}

// kernel() without the GIL. A handler of signals may run in the midst of a task, whose working
// memory and tile registers are its thread's: what the handler calls gets a thread of its own.
template <class Kernel>
auto without_gil(const Kernel& kernel) {
    pybind11::gil_scoped_release release;
    return in_signal_handler() ? std::async(std::launch::async, kernel).get() : kernel();
}

}  // namespace aefast
