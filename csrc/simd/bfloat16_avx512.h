// Rounding to bfloat16 by AVX512-BF16's instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "shared/isa.h"

namespace aefast::AEFAST_ISA {

typedef float Floats16 __attribute__((vector_size(64)));
typedef uint32_t Words16 __attribute__((vector_size(64)));

// The nearest bfloat16 in the upper half of its word, so that the word is its float32 value too.
inline Words16 round_to_bfloat16(Floats16 value) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh((__m512)value);
    return (Words16)_mm512_maskz_cvtepu16_epi32(0xffff, rounded) << 16;
}

}  // namespace aefast::AEFAST_ISA
