// A kernel's call from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <future>

#include "parallel.h"

namespace aefast {

// kernel() without the GIL. A handler of signals may run in the midst of a task, whose working
// memory and tile registers are its thread's: what the handler calls gets a thread of its own.
template <class Kernel>
auto without_gil(const Kernel& kernel) {
    pybind11::gil_scoped_release release;
    return in_signal_handler() ? std::async(std::launch::async, kernel).get() : kernel();
}

}  // namespace aefast
