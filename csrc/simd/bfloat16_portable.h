// Rounding to bfloat16 by integer operations.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast::AEFAST_ISA {

typedef float Floats16 __attribute__((vector_size(64)));
typedef uint32_t Words16 __attribute__((vector_size(64)));

// The nearest bfloat16 in the upper half of its word, so that the word is its float32 value too.
inline Words16 round_to_bfloat16(Floats16 value) {
    const Words16 bits = (Words16)value;
    const Words16 rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const Words16 quiet = bits | 0x400000;  // rounding could carry a NaN over into zero
    return (value == value ? rounded : quiet) & 0xffff0000;
}

}  // namespace aefast::AEFAST_ISA
