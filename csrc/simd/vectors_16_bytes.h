// Vectors of 16 bytes, of which SSE2 has 16 registers: what every compiler can do with them.
// vectors.h says what the names mean.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast::AEFAST_ISA {

constexpr int kFloatLanes = 4, kWordLanes = 2, kTileRows = 6;

typedef float Vector __attribute__((vector_size(16)));
typedef uint64_t WordLanes __attribute__((vector_size(16)));

constexpr WordLanes kLaneNumbers = {0, 1};

inline Vector load_first(const float* source, int64_t count) {
    Vector value = {};
    for (int64_t i = 0; i < count; ++i) value[i] = source[i];
    return value;
}
inline void store_first(float* target, int64_t count, Vector value) {
    for (int64_t i = 0; i < count; ++i) target[i] = value[i];
}

inline Vector interleave_low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
}
inline Vector interleave_high(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
}
inline WordLanes interleave_low(WordLanes a, WordLanes b) { return WordLanes{a[0], b[0]}; }
inline WordLanes interleave_high(WordLanes a, WordLanes b) { return WordLanes{a[1], b[1]}; }

}  // namespace aefast::AEFAST_ISA
