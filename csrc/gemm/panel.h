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

// A few floats, and zeros up to the end of the last vector. A call of memcpy for each row of a
// small product's operands took 10% of its time.
inline void copy_row(const float* source, int64_t count, float* target) {
    int64_t i = 0;
    for (; i + kFloatLanes <= count; i += kFloatLanes) store(target + i, load(source + i));
    if (i < count) store(target + i, load_first(source + i, count - i));
}

// A square of which the source has `height` rows; the others are zeros. One step interleaves the
// first half of the rows with the second half; log2(kFloatLanes) such steps transpose it.
inline void transpose_square(const float* source, int64_t source_stride, int64_t height,
                             float* target, int64_t target_stride) {
    static constexpr float kZeros[kFloatLanes] = {};
    Vector rows[kFloatLanes];
#pragma GCC unroll 16
    for (int r = 0; r < kFloatLanes; ++r)
        rows[r] = load(r < height ? source + r * source_stride : kZeros);
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

// Some columns that are each contiguous, transposed in squares. The last square ends with the
// depth: it shares some rows of the panel with the one before.
inline void pack_columns_apart(const float* source, int64_t stride, int64_t width, int64_t depth,
                               float* packed) {
    for (int64_t done = 0; done < depth; done += kFloatLanes) {
        const int64_t k = smaller(done, depth - kFloatLanes);
        for (int64_t c = 0; c < kPanelColumns; c += kFloatLanes) {
            const float* square = source + smaller(c, width) * stride + k;
            float* target = packed + k * kPanelColumns + c;
            if (width - c >= kFloatLanes)  // the usual height as a constant
                transpose_square(square, stride, kFloatLanes, target, kPanelColumns);
            else
                transpose_square(square, stride, width - c, target, kPanelColumns);
        }
    }
}

// Rows of a few columns that lie side by side.
inline void pack_columns_together(const float* source, int64_t stride, int64_t width, int64_t depth,
                                  float* packed) {
    const int64_t first = smaller(width, kFloatLanes), second = width - first;
    for (int64_t k = 0; k < depth; ++k, source += stride, packed += kPanelColumns) {
        store(packed, load_first(source, first));
        store(packed + kFloatLanes, load_first(source + kFloatLanes, second));
    }
}

// One panel of the right operand as [depth, kPanelColumns], zeros in the columns past its edge.
// Element by element, the edges' panels took 40% of the time of a model of 30 inputs.
inline void pack_right_panel(const MatrixView& right, int64_t column, int64_t depth_begin,
                             int64_t depth, float* packed) {
    const int64_t width = smaller(kPanelColumns, right.rows - column);
    const float* source =
        right.data + column * right.row_stride + depth_begin * right.column_stride;
    if (right.row_stride == 1 && width == kPanelColumns) {
        for (int64_t k = 0; k < depth; ++k)
            std::memcpy(packed + k * kPanelColumns, source + k * right.column_stride,
                        sizeof(float) * kPanelColumns);
    } else if (right.row_stride == 1) {
        pack_columns_together(source, right.column_stride, width, depth, packed);
    } else if (right.column_stride == 1 && depth >= kFloatLanes) {
        pack_columns_apart(source, right.row_stride, width, depth, packed);
    } else {
        for (int64_t k = 0; k < depth; ++k)
            for (int64_t c = 0; c < kPanelColumns; ++c)
                packed[k * kPanelColumns + c] =
                    c < width ? source[c * right.row_stride + k * right.column_stride] : 0.f;
    }
}

}  // namespace aefast::AEFAST_ISA
