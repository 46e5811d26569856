// AVX-512: 32 registers of 64 bytes. vectors.h says what the names mean.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "shared/isa.h"

namespace aefast::AEFAST_ISA {

constexpr int kFloatLanes = 16, kWordLanes = 8, kTileRows = 14;

typedef float Vector __attribute__((vector_size(64)));
typedef uint64_t WordLanes __attribute__((vector_size(64)));

constexpr WordLanes kLaneNumbers = {0, 1, 2, 3, 4, 5, 6, 7};

inline Vector interleave_low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Vector interleave_high(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                   31);
}
inline WordLanes interleave_low(WordLanes a, WordLanes b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
inline WordLanes interleave_high(WordLanes a, WordLanes b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

inline WordLanes multiply_low_halves(WordLanes a, WordLanes b) {
    return (WordLanes)_mm512_mul_epu32((__m512i)a, (__m512i)b);
}

inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
inline Vector load_first(const float* source, int64_t count) {
    return (Vector)_mm512_maskz_loadu_ps(first_lanes(count), source);
}
inline void store_first(float* target, int64_t count, Vector value) {
    _mm512_mask_storeu_ps(target, first_lanes(count), (__m512)value);
}

inline uint32_t bits_below(const float* a, const float* b) {
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(a), _mm512_loadu_ps(b), _CMP_LT_OQ);
}
inline uint32_t bits_equal(const float* a, const float* b) {
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(a), _mm512_loadu_ps(b), _CMP_EQ_OQ);
}

}  // namespace aefast::AEFAST_ISA
