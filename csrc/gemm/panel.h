// A panel of a product's right operand: as many of its columns as two vectors hold, copied so that
// the inner loop reads it in order whatever its strides.
#pragma once

#include <cstdint>
#include <cstring>

#include "gemm/blocking.h"
#include "gemm/gemm.h"
#include "shared/isa.h"

namespace aefast::AEFAST_ISA {

#if defined(__AVX512F__)
constexpr int kFloatLanes = 16;
#elif defined(__AVX2__)
constexpr int kFloatLanes = 8;
#else
constexpr int kFloatLanes = 4;
#endif
constexpr int kPanelColumns = 2 * kFloatLanes;

typedef float Vector __attribute__((vector_size(4 * kFloatLanes)));
typedef float UnalignedVector __attribute__((vector_size(4 * kFloatLanes), aligned(4), may_alias));

inline Vector load(const float* source) {
    return *reinterpret_cast<const UnalignedVector*>(source);
}
inline void store(float* target, Vector value) {
    *reinterpret_cast<UnalignedVector*>(target) = value;
}

// One step interleaves the first half of the rows with the second half; log2(kFloatLanes) such
// steps transpose a square.
#if defined(__AVX512F__)
inline Vector interleave_low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Vector interleave_high(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                   31);
}
#elif defined(__AVX2__)
inline Vector interleave_low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
inline Vector interleave_high(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
inline Vector interleave_low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
}
inline Vector interleave_high(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
}
#endif

inline void transpose_square(const float* source, int64_t source_stride, float* target,
                             int64_t target_stride) {
    Vector rows[kFloatLanes];
#pragma GCC unroll 16
    for (int r = 0; r < kFloatLanes; ++r) rows[r] = load(source + r * source_stride);
#pragma GCC unroll 4
    for (int width = 1; width < kFloatLanes; width *= 2) {
        Vector next[kFloatLanes];
#pragma GCC unroll 16
        for (int r = 0; r < kFloatLanes / 2; ++r) {
            next[2 * r] = interleave_low(rows[r], rows[r + kFloatLanes / 2]);
            next[2 * r + 1] = interleave_high(rows[r], rows[r + kFloatLanes / 2]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kFloatLanes; ++r) rows[r] = next[r];
    }
#pragma GCC unroll 16
    for (int r = 0; r < kFloatLanes; ++r) store(target + r * target_stride, rows[r]);
}

// One panel of the right operand as [depth, kPanelColumns], zeros in the columns past its edge.
inline void pack_right_panel(const MatrixView& right, int64_t column, int64_t depth_begin,
                             int64_t depth, float* packed) {
    const int64_t width = smaller(kPanelColumns, right.rows - column);
    const float* source =
        right.data + column * right.row_stride + depth_begin * right.column_stride;
    int64_t k = 0;
    if (width == kPanelColumns && right.row_stride == 1) {
        for (; k < depth; ++k)
            std::memcpy(packed + k * kPanelColumns, source + k * right.column_stride,
                        sizeof(float) * kPanelColumns);
    } else if (width == kPanelColumns && right.column_stride == 1) {
        for (; k + kFloatLanes <= depth; k += kFloatLanes)
            for (int c = 0; c < kPanelColumns; c += kFloatLanes)
                transpose_square(source + c * right.row_stride + k, right.row_stride,
                                 packed + k * kPanelColumns + c, kPanelColumns);
    }
    for (; k < depth; ++k)
        for (int64_t c = 0; c < kPanelColumns; ++c)
            packed[k * kPanelColumns + c] =
                c < width ? source[c * right.row_stride + k * right.column_stride] : 0.f;
}

}  // namespace aefast::AEFAST_ISA
