// AVX2: 16 registers of 32 bytes. vectors.h says what the names mean.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "shared/isa.h"

namespace aefast::AEFAST_ISA {

constexpr int kFloatLanes = 8, kWordLanes = 4, kTileRows = 6;

typedef float Vector __attribute__((vector_size(32)));
typedef uint64_t WordLanes __attribute__((vector_size(32)));

constexpr WordLanes kLaneNumbers = {0, 1, 2, 3};

inline Vector interleave_low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
inline Vector interleave_high(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
inline WordLanes interleave_low(WordLanes a, WordLanes b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
}
inline WordLanes interleave_high(WordLanes a, WordLanes b) {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
}

inline WordLanes multiply_low_halves(WordLanes a, WordLanes b) {
    return (WordLanes)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}

inline __m256i first_lanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vector load_first(const float* source, int64_t count) {
    return (Vector)_mm256_maskload_ps(source, first_lanes(count));
}
inline void store_first(float* target, int64_t count, Vector value) {
    _mm256_maskstore_ps(target, first_lanes(count), (__m256)value);
}

inline uint32_t bits_below(const float* a, const float* b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), _CMP_LT_OQ));
}
inline uint32_t bits_equal(const float* a, const float* b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), _CMP_EQ_OQ));
}

}  // namespace aefast::AEFAST_ISA
