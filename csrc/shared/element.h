// The element types of tensors, converted to float32 and back a chunk at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "shared/isa.h"

namespace aefast {

enum class ElementType { float32, bfloat16, float16 };

struct BFloat16 {
    uint16_t bits;
};
using Float16 = _Float16;

// Bytes.
inline int64_t size_of(ElementType type) { return type == ElementType::float32 ? 4 : 2; }

}  // namespace aefast

namespace aefast::AEFAST_ISA {

inline float to_float(float value) { return value; }

inline float to_float(Float16 value) { return static_cast<float>(value); }

inline float to_float(BFloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

inline void from_float(float value, float& result) { result = value; }

inline void from_float(float value, Float16& result) { result = static_cast<Float16>(value); }

// To the nearest, ties to even; NaN stays NaN.
inline void from_float(float value, BFloat16& result) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    result.bits = static_cast<uint16_t>(value != value ? 0x7FC0u : rounded);
}

template <class Element>
inline void load(const Element* input, float* output, int64_t count) {
    for (int64_t i = 0; i < count; ++i) output[i] = to_float(input[i]);
}

template <class Element>
inline void store(const float* input, Element* output, int64_t count) {
    for (int64_t i = 0; i < count; ++i) from_float(input[i], output[i]);
}

// Calls kernel(Element{}) for the type that a tensor's elements have.
template <class Kernel>
inline void with_element(ElementType type, const Kernel& kernel) {
    switch (type) {
        case ElementType::float32:
            return kernel(float{});
        case ElementType::bfloat16:
            return kernel(BFloat16{});
        case ElementType::float16:
            return kernel(Float16{});
    }
}

}  // namespace aefast::AEFAST_ISA
