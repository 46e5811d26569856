// Standard normals from Philox words: the Box-Muller transform of aefast/random.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "shared/activation.h"
#include "shared/philox.h"

namespace aefast::AEFAST_ISA {

// sqrt(-2 ln u) for u in (0, 1].
inline float box_muller_radius(float u) {
    // u = 2^exponent * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
    const uint32_t shifted = bits_of(u) - bits_of(0.70710678f);
    const float exponent = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
    const float f = float_of((shifted & 0x7FFFFFu) + bits_of(0.70710678f)) - 1.f;
    const float p = polynomial(
        f, {-0.078596115f, 0.12881647f, -0.13128754f, 0.14181192f, -0.16624554f, 0.20002286f,
            -0.2500081f, 0.33333316f});  // ln(1 + f) = f - f^2 / 2 + f^3 p(f), 6e-9
    const float fraction = (p * f - 0.5f) * f * f + f;
    const float logarithm = exponent * 0.693147181f + fraction;
    return std::sqrt(-2.f * logarithm);
}

// The radius of the uniform u = word * 2^-32 + 2^-33.
inline float box_muller_radius(uint32_t word) {
    return box_muller_radius(static_cast<float>(word) * 0x1p-32f + 0x1p-33f);
}

// cos and sin of 2 pi v for v = (word >> 8) * 2^-24, by quarter turns.
inline void box_muller_angle(uint32_t word, float& cosine, float& sine) {
    const uint32_t turn = word >> 8;                    // 2^24 a turn
    const uint32_t quarter = (turn + 0x200000u) >> 22;  // the nearest quarter, 0 to 4
    const int32_t rest = static_cast<int32_t>(turn) - static_cast<int32_t>(quarter << 22);
    const float r = static_cast<float>(rest) * 0x1p-24f;  // in [-1/8, 1/8]
    const float s = r * r;
    const float sine_of_rest =
        r * polynomial(s, {-75.40207f, 81.59255f, -41.341663f, 6.2831855f});  // 2e-8
    const float cosine_of_rest =
        polynomial(s, {59.220406f, -85.442856f, 64.939316f, -19.739208f, 1.f});  // 5e-11
    const float first = (quarter & 1) ? sine_of_rest : cosine_of_rest;
    const float second = (quarter & 1) ? cosine_of_rest : sine_of_rest;
    // cos turns negative in quarters 1 and 2, sin in quarters 2 and 3.
    cosine = float_of(bits_of(first) ^ (((quarter + 1) & 2) << 30));
    sine = float_of(bits_of(second) ^ ((quarter & 2) << 30));
}

// As many normals as words, in column order. Loops of one thing each, over separate
// arrays: in one loop over pairs the compiler vectorizes nothing.
template <int64_t columns>
inline void normals(const uint32_t* words, float* output) {
    constexpr int64_t kPairs = columns / 2;
    float radius[kPairs], cosine[kPairs], sine[kPairs];
    uint64_t pairs[kPairs];
    uint32_t first[kPairs], second[kPairs];
    std::memcpy(pairs, words, sizeof pairs);
    for (int64_t i = 0; i < kPairs; ++i) first[i] = static_cast<uint32_t>(pairs[i]);
    for (int64_t i = 0; i < kPairs; ++i) second[i] = static_cast<uint32_t>(pairs[i] >> 32);
    for (int64_t i = 0; i < kPairs; ++i) radius[i] = box_muller_radius(first[i]);
    for (int64_t i = 0; i < kPairs; ++i) box_muller_angle(second[i], cosine[i], sine[i]);
    for (int64_t i = 0; i < kPairs; ++i) {
        output[2 * i] = radius[i] * cosine[i];
        output[2 * i + 1] = radius[i] * sine[i];
    }
}

}  // namespace aefast::AEFAST_ISA
