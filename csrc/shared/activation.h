// Activations and their derivatives in float32, free of branches so that the compiler vectorizes.
//
// The polynomials are minimax fits; beside each stands its largest relative error before rounding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "shared/isa.h"

namespace aefast {

enum class Activation { identity, relu, leaky_relu, sigmoid, tanh, softplus, gelu, silu };

}  // namespace aefast

namespace aefast::AEFAST_ISA {

constexpr float kLeakySlope = 0.01f;        // torch.nn.functional.leaky_relu's default
constexpr float kSoftplusThreshold = 20.f;  // torch.nn.functional.softplus's default

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// c[0] x^n + c[1] x^(n-1) + ... + c[n].
template <int count>
inline float polynomial(float x, const float (&coefficients)[count]) {
    float value = coefficients[0];
#pragma GCC unroll 16
    for (int i = 1; i < count; ++i) value = value * x + coefficients[i];
    return value;
}

// e^r - 1 - r for |r| <= ln(2) / 2, 2.6e-7.
inline float exp_remainder_reduced(float r) {
    const float p = polynomial(r, {0.001395172f, 0.008369599f, 0.041666187f, 0.16666512f, 0.5f});
    return p * r * r;
}

// e^r - 1 for |r| <= ln(2) / 2, 3e-9.
inline float expm1_reduced(float r) { return exp_remainder_reduced(r) + r; }

// x = n ln(2) + r, n the nearest integer. NaN stays in r.
struct ReducedExponent {
    int32_t n;
    float r;

    explicit ReducedExponent(float x) {
        // Adding 1.5 * 2^23 leaves the nearest integer in the low bits: no rounding instruction,
        // which SSE2 lacks, and no conversion, which is undefined for NaN.
        constexpr float kMagic = 12582912.f;
        const float shifted = x * 1.44269504f + kMagic;
        const float rounded = shifted - kMagic;
        n = static_cast<int32_t>(bits_of(shifted) - bits_of(kMagic));
        r = (x - rounded * 0.693359375f) - rounded * -2.12194440e-4f;
    }
};

inline float power_of_two(int32_t n) { return float_of((static_cast<uint32_t>(n) + 127u) << 23); }

// e^x for x in [-104, 89], which float32 ends within. NaN stays NaN.
inline float exp_in_range(float x) {
    const ReducedExponent reduced(x);
    const float mantissa = expm1_reduced(reduced.r) + 1.f;
    // 2^n in two factors, so that subnormal results come out too.
    const int32_t half = reduced.n >> 1;
    return mantissa * power_of_two(half) * power_of_two(reduced.n - half);
}

// e^x for x <= 0; 0 below -104, where float32 has no more numbers. NaN stays NaN.
inline float exp_nonpositive(float x) { return exp_in_range(x < -104.f ? -104.f : x); }

// e^x; 0 below -104, infinity above 89. NaN stays NaN.
inline float exp(float x) { return exp_nonpositive(x > 89.f ? 89.f : x); }

// e^x - 1, without cancellation where x is small; -1 below -80, infinity above 89. NaN stays NaN.
inline float expm1(float x) {
    x = x < -80.f ? -80.f : x;
    const ReducedExponent reduced(x > 89.f ? 89.f : x);
    // Half of it, for 2^n may be infinite where the result is not.
    const float half_power = power_of_two(reduced.n - 1);
    return 2.f * (expm1_reduced(reduced.r) * half_power + (half_power - 0.5f));
}

// e^x - 1 - x, without cancellation where x is small; infinity above 89. NaN stays NaN.
inline float exp_remainder(float x) {
    const float bounded = x < -80.f ? -80.f : x;
    const ReducedExponent reduced(bounded > 89.f ? 89.f : bounded);
    // Half of it, for 2^n may be infinite where the result is not. Where n is 0, r is x and the
    // last two terms are 0: one polynomial serves all x.
    const float half_power = power_of_two(reduced.n - 1);
    const float half = exp_remainder_reduced(reduced.r) * half_power +
                       (reduced.r * half_power - 0.5f * x) + (half_power - 0.5f);
    return x > 89.f ? std::numeric_limits<float>::infinity() - x : 2.f * half;
}

// ln(1 + u) for u in [0, 1], as 2 atanh(u / (2 + u)).
inline float log1p_unit(float u) {
    const float s = u / (2.f + u);
    const float q = s * s;
    const float p = polynomial(q, {0.14015637f, 0.13998932f, 0.20010886f, 0.33333206f});  // 5e-9
    return 2.f * (s + s * q * p);
}

inline float sigmoid(float z) {
    const float e = exp_nonpositive(-std::fabs(z));
    return (z < 0.f ? e : 1.f) / (1.f + e);
}

inline float tanh(float z) {
    const float magnitude = std::fabs(z);
    const float t = exp_nonpositive(-2.f * magnitude);
    const float large = std::copysign(1.f - 2.f * t / (1.f + t), z);
    const float s = z * z;
    const float p = polynomial(s, {-0.00036252566f, 0.0023154754f, -0.007965227f, 0.02149941f,
                                   -0.053884108f, 0.13332412f, -0.333333f});  // 4e-9
    const float small = z + z * s * p;
    return magnitude < 1.f ? small : large;
}

// 1 - e^-y for y >= 0, without cancellation where y is small.
inline float one_minus_exp_negative(float y) {
    const float t = tanh(0.5f * y);
    return 2.f * t / (1.f + t);
}

inline float softplus(float z) {
    const float positive = z > 0.f ? z : 0.f;
    const float soft = positive + log1p_unit(exp_nonpositive(-std::fabs(z)));
    return z > kSoftplusThreshold ? z : soft;
}

// The normal distribution's density times sqrt(2 pi), e^(-z^2 / 2), and its distribution function.
struct NormalDistribution {
    float density;
    float cumulative;

    explicit NormalDistribution(float z) {
        const float x = std::fabs(z) * 0.70710678f;
        density = exp_nonpositive(-0.5f * z * z);
        const float t = 1.f / (1.f + 0.4f * x);
        // erfc(x) e^(x^2) / t as a polynomial in t, 9e-9.
        const float p =
            polynomial(t, {-0.029205842f, 0.19590314f, -0.4938495f, 0.5408184f, -0.27886388f,
                           0.26911318f, 0.13070008f, 0.21470053f, 0.2249783f, 0.22570556f});
        const float tail = 0.5f * p * t * density;
        cumulative = z < 0.f ? tail : 1.f - tail;
    }
};

inline float gelu(float z) { return z * NormalDistribution(z).cumulative; }

inline float silu(float z) { return z * sigmoid(z); }

template <class Function>
inline void map(const float* input, float* output, int64_t count, Function function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) output[i] = function(input[i]);
}

// output = act(preactivation); the two may be the same array.
inline void activate(Activation activation, const float* preactivation, float* output,
                     int64_t count) {
    switch (activation) {
        case Activation::identity:
            return map(preactivation, output, count, [](float z) { return z; });
        case Activation::relu:
            return map(preactivation, output, count, [](float z) { return z < 0.f ? 0.f : z; });
        case Activation::leaky_relu:
            return map(preactivation, output, count,
                       [](float z) { return z < 0.f ? z * kLeakySlope : z; });
        case Activation::sigmoid:
            return map(preactivation, output, count, [](float z) { return sigmoid(z); });
        case Activation::tanh:
            return map(preactivation, output, count, [](float z) { return tanh(z); });
        case Activation::softplus:
            return map(preactivation, output, count, [](float z) { return softplus(z); });
        case Activation::gelu:
            return map(preactivation, output, count, [](float z) { return gelu(z); });
        case Activation::silu:
            return map(preactivation, output, count, [](float z) { return silu(z); });
    }
}

template <class Function>
inline void map(const float* first, const float* second, float* output, int64_t count,
                Function function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) output[i] = function(first[i], second[i]);
}

// Whether the derivative is told by the pre-activation, and not by the output.
inline bool reads_preactivation(Activation activation) {
    return activation == Activation::gelu || activation == Activation::silu;
}

// output = gradient * act'. `saved` is the pre-activation where it reads_preactivation(), and else
// the output.
inline void activation_backward(Activation activation, const float* gradient, const float* saved,
                                float* output, int64_t count) {
    switch (activation) {
        case Activation::identity:
            return map(gradient, output, count, [](float g) { return g; });
        case Activation::relu:
            return map(gradient, saved, output, count,
                       [](float g, float y) { return y <= 0.f ? 0.f : g; });
        case Activation::leaky_relu:
            return map(gradient, saved, output, count,
                       [](float g, float y) { return y > 0.f ? g : g * kLeakySlope; });
        case Activation::sigmoid:
            return map(gradient, saved, output, count,
                       [](float g, float y) { return g * (y * (1.f - y)); });
        case Activation::tanh:
            return map(gradient, saved, output, count,
                       [](float g, float y) { return g * (1.f - y * y); });
        case Activation::softplus:
            return map(gradient, saved, output, count,
                       [](float g, float y) { return g * one_minus_exp_negative(y); });
        case Activation::gelu:
            return map(gradient, saved, output, count, [](float g, float z) {
                const NormalDistribution normal(z);
                return g * (normal.cumulative + z * normal.density * 0.39894228f);
            });
        case Activation::silu:
            return map(gradient, saved, output, count, [](float g, float z) {
                const float s = sigmoid(z);
                return g * (s * (1.f + z * (1.f - s)));
            });
    }
}

// output = act', from what activation_backward() reads.
inline void slopes(Activation activation, const float* saved, float* output, int64_t count) {
    std::fill_n(output, count, 1.f);
    activation_backward(activation, output, saved, output, count);
}

// output = act'', from the same.
inline void curvatures(Activation activation, const float* saved, float* output, int64_t count) {
    switch (activation) {
        case Activation::identity:
        case Activation::relu:
        case Activation::leaky_relu:
            std::fill_n(output, count, 0.f);
            return;
        case Activation::sigmoid:
            return map(saved, output, count,
                       [](float y) { return y * (1.f - y) * (1.f - 2.f * y); });
        case Activation::tanh:
            return map(saved, output, count, [](float y) { return -2.f * y * (1.f - y * y); });
        case Activation::softplus:
            return map(saved, output, count, [](float y) {
                const float s = one_minus_exp_negative(y);
                return s * exp_nonpositive(-y);
            });
        case Activation::gelu:
            return map(saved, output, count, [](float z) {
                const float square = std::min(z * z, 1e8f);  // finite, where the density is 0
                return (2.f - square) * exp_nonpositive(-0.5f * square) * 0.39894228f;
            });
        case Activation::silu:
            return map(saved, output, count, [](float z) {
                const float s = sigmoid(z);
                return s * sigmoid(-z) * (2.f + z * (1.f - 2.f * s));
            });
    }
}

}  // namespace aefast::AEFAST_ISA
