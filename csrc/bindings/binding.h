// What every bindings.cpp takes: its registration, and the kernels of the instruction set in use.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "bindings/dispatch.h"
#include "bindings/operands.h"

namespace aefast {

// Adds functions to aefast._C when Python imports it. Every bindings.cpp has one at namespace
// scope, so that no list names them.
struct Binding {
    explicit Binding(void (*bind)(pybind11::module_&));
};

template <class Pointer>
Pointer pointer(uintptr_t address) {
    return reinterpret_cast<Pointer>(address);
}

template <class Pointer>
std::vector<Pointer> pointers(const std::vector<uintptr_t>& addresses) {
    std::vector<Pointer> result;
    for (uintptr_t address : addresses) result.push_back(pointer<Pointer>(address));
    return result;
}

inline void check_block(int64_t rows, int64_t columns, int threads) {
    if (rows < 1 || columns < 1) throw std::invalid_argument("rows and columns must be positive");
    if (threads < 1) throw std::invalid_argument("threads must be positive");
}

inline void check_block(const Matrix& matrix, int threads) {
    check_block(matrix.rows, matrix.columns, threads);
}

}  // namespace aefast
