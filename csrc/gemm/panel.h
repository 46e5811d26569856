// A panel of a product's right operand: as many of its columns as two vectors hold, copied so that
// the inner loop reads it in order whatever its strides.
#pragma once

#include <cstdint>
#include <cstring>

#include "gemm/blocking.h"
#include "gemm/gemm.h"
#include "shared/isa.h"
#include "simd/vectors.h"

namespace aefast::AEFAST_ISA {

constexpr int kPanelColumns = 2 * kFloatLanes;

// One step interleaves the first half of the rows with the second half; log2(kFloatLanes) such
// steps transpose a square.
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
