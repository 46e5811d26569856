// SSE2, which every 64-bit x86 processor has. vectors.h says what the names mean.
#pragma once

#include <immintrin.h>

#include "simd/vectors_16_bytes.h"

namespace aefast::AEFAST_ISA {

inline WordLanes multiply_low_halves(WordLanes a, WordLanes b) {
    return (WordLanes)_mm_mul_epu32((__m128i)a, (__m128i)b);
}

inline uint32_t bits_below(const float* a, const float* b) {
    return _mm_movemask_ps(_mm_cmplt_ps(_mm_loadu_ps(a), _mm_loadu_ps(b)));
}
inline uint32_t bits_equal(const float* a, const float* b) {
    return _mm_movemask_ps(_mm_cmpeq_ps(_mm_loadu_ps(a), _mm_loadu_ps(b)));
}

}  // namespace aefast::AEFAST_ISA
