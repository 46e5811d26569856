// A float32 as a sum of bfloat16 numbers, sixteen at a time.
//
// Each term is the nearest bfloat16 to what the terms before it leave over, which is exact in
// float32. A term carries 8 bits, so three of them are the whole float32.
#pragma once

#include <cstdint>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "shared/isa.h"

namespace aefast::AEFAST_ISA {

typedef float Floats16 __attribute__((vector_size(64)));
typedef uint32_t Words16 __attribute__((vector_size(64)));

// The bfloat16 stands in the upper half of its word, so that the word is its float32 value too.
inline Words16 round_to_bfloat16(Floats16 value) {
#if defined(__AVX512BF16__)
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh((__m512)value);
    return (Words16)_mm512_maskz_cvtepu16_epi32(0xffff, rounded) << 16;
#else
    const Words16 bits = (Words16)value;
    const Words16 rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const Words16 quiet = bits | 0x400000;  // rounding could carry a NaN over into zero
    return (value == value ? rounded : quiet) & 0xffff0000;
#endif
}

// The next term of a split; the remainder is left in `value`.
inline Words16 split_bfloat16(Floats16& value) {
    const Words16 term = round_to_bfloat16(value);
    value -= (Floats16)term;
    return term;
}

// Two bfloat16 numbers in one word, `low` below `high`.
inline Words16 pair_bfloat16(Words16 low, Words16 high) { return (low >> 16) | high; }

}  // namespace aefast::AEFAST_ISA
