// What the bindings share: the kernels of the instruction set in use, and pointers from Python.
#pragma once

#include <cstdint>
#include <vector>

#include "isa.h"

// Returns KERNELS(isa, products) of the instruction set in use: a table of functions from the
// namespaces isa and, for matrix products alone, products. AMX has kernels of its own for those
// only.
#ifdef AEFAST_AMX
#define AEFAST_RETURN_AMX(KERNELS) \
    case InstructionSet::amx:      \
        return KERNELS(avx512, amx);
#else
#define AEFAST_RETURN_AMX(KERNELS)
#endif
#ifdef AEFAST_X86
#define AEFAST_RETURN_ACTIVE(KERNELS)           \
    switch (active_instruction_set()) {         \
        case InstructionSet::avx2:              \
            return KERNELS(avx2, avx2);         \
        case InstructionSet::avx512:            \
            return KERNELS(avx512, avx512);     \
            AEFAST_RETURN_AMX(KERNELS)          \
        default:                                \
            return KERNELS(baseline, baseline); \
    }
#else
#define AEFAST_RETURN_ACTIVE(KERNELS) return KERNELS(baseline, baseline)
#endif

namespace aefast {

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

}  // namespace aefast
