// Vectors for a processor whose instructions no other file here names, an ARM one among them.
// vectors.h says what the names mean.
#pragma once

#include "simd/vectors_16_bytes.h"

namespace aefast::AEFAST_ISA {

inline WordLanes multiply_low_halves(WordLanes a, WordLanes b) {
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
}

inline uint32_t bits_below(const float* a, const float* b) {
    uint32_t bits = 0;
    for (int i = 0; i < kFloatLanes; ++i) bits |= static_cast<uint32_t>(a[i] < b[i]) << i;
    return bits;
}
inline uint32_t bits_equal(const float* a, const float* b) {
    uint32_t bits = 0;
    for (int i = 0; i < kFloatLanes; ++i) bits |= static_cast<uint32_t>(a[i] == b[i]) << i;
    return bits;
}

}  // namespace aefast::AEFAST_ISA
