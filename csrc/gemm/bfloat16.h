// A float32 as a sum of bfloat16 numbers, sixteen at a time.
//
// Each term is the nearest bfloat16 to what the terms before it leave over, which is exact in
// float32. A term carries 8 bits.
#pragma once

#include "shared/isa.h"
#include "simd/bfloat16.h"

namespace aefast::AEFAST_ISA {

// The next term of a split; the remainder is left in `value`.
inline Words16 split_bfloat16(Floats16& value) {
    const Words16 term = round_to_bfloat16(value);
    value -= (Floats16)term;
    return term;
}

// Two bfloat16 numbers in one word, `low` below `high`.
inline Words16 pair_bfloat16(Words16 low, Words16 high) { return (low >> 16) | high; }

}  // namespace aefast::AEFAST_ISA
