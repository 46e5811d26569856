// Products of few rows, with many zeros, and a matrix: the sums of those rows of the matrix whose
// elements are not 0.
//
// For ten rows of 64 units, half of which are on, these sums take a third of the time of building
// the tables of bit_product.h, or of gemm.cpp's product, which multiplies by the zeros.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bit_matrix/bit_product.h"
#include "gemm/blocking.h"
#include "gemm/gemm.h"
#include "gemm/panel.h"
#include "shared/parallel.h"

namespace aefast::AEFAST_ISA {

// The sums of a row stay in eight registers while the selected rows are added.
constexpr int64_t kSelectedPanels = 4, kSelectedColumns = kSelectedPanels * kPanelColumns;

// With more rows, tables and packed products are faster; with a weight that exceeds the L2 cache,
// and is read again for each row, they are so for fewer rows.
constexpr int64_t kMostSparseRows = 128, kMostSparseRowsOfLarge = 48, kLargeWeight = 1 << 17;

inline int64_t most_sparse_rows(int64_t weight_size) {
    return weight_size < kLargeWeight ? kMostSparseRows : kMostSparseRowsOfLarge;
}

// Rows whose elements are bits; or where `values` is not null those numbers, which are 0 where a
// bit is.
struct SparseRows {
    BitMatrixView bits;
    const float* values;
    int64_t row_stride, column_stride;
};

// A matrix [N, K] whose rows are added up in panels of its N columns: element (n, k) lies at
// n / kPanelColumns * panel_stride + k * row_stride + n % kPanelColumns.
struct PanelMatrix {
    const float* data;
    int64_t columns, row_stride, panel_stride;
};

// Whether a matrix has that layout already.
inline bool lies_in_panels(const MatrixView& right) {
    return right.row_stride == 1 && right.rows % kPanelColumns == 0;
}

inline int64_t panel_floats(const MatrixView& right) {
    return ceil_divide(right.rows, kPanelColumns) * kPanelColumns * right.columns;
}

// memory holds panel_floats(); it is null where the matrix has that layout already.
inline PanelMatrix panel_matrix(const MatrixView& right, float* memory, int threads) {
    if (lies_in_panels(right)) return {right.data, right.rows, right.column_stride, kPanelColumns};
    const int64_t panel_stride = right.columns * kPanelColumns;
    parallel_for(threads, ceil_divide(right.rows, kPanelColumns), [&](int64_t panel) {
        pack_right_panel(right, panel * kPanelColumns, 0, right.columns,
                         memory + panel * panel_stride);
    });
    return {memory, right.rows, kPanelColumns, panel_stride};
}

// sums += the rows that a word selects of its 64, each times its element, in some panels.
template <int panels, bool is_binary>
inline void add_rows(uint64_t word, const float* elements, int64_t stride, const float* rows,
                     int64_t row_stride, int64_t panel_stride, float* sums) {
    Vector total[panels][2];
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) total[p][v] = load(sums + (2 * p + v) * kFloatLanes);
    for (; word != 0; word &= word - 1) {
        const int64_t k = __builtin_ctzll(word);
        const float element = is_binary ? 1.f : elements[k * stride];
#pragma GCC unroll 4
        for (int p = 0; p < panels; ++p)
#pragma GCC unroll 2
            for (int v = 0; v < 2; ++v) {
                const Vector row = load(rows + p * panel_stride + k * row_stride + v * kFloatLanes);
                total[p][v] += is_binary ? row : element * row;
            }
    }
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) store(sums + (2 * p + v) * kFloatLanes, total[p][v]);
}

// Some panels of some rows of the product, beginning at the first column of `matrix`.
template <int panels, bool is_binary>
inline void add_selected_rows(const SparseRows& left, Range rows, const PanelMatrix& right,
                              const float* matrix, float* sums) {
    const int64_t row_words = left.bits.row_words();
    // 64 rows of the panels stay in the L1 cache while all rows of left select from them.
    for (int64_t word = 0; word < row_words; ++word, matrix += kWordBits * right.row_stride)
        for (int64_t row = rows.begin; row < rows.end; ++row) {
            const float* elements = is_binary ? nullptr
                                              : left.values + row * left.row_stride +
                                                    word * kWordBits * left.column_stride;
            add_rows<panels, is_binary>(
                left.bits.words[row * row_words + word], elements, left.column_stride, matrix,
                right.row_stride, right.panel_stride, sums + (row - rows.begin) * kSelectedColumns);
        }
}

using AddSelectedRows = void (*)(const SparseRows&, Range rows, const PanelMatrix&,
                                 const float* matrix, float* sums);

template <bool is_binary>
AddSelectedRows add_selected_rows_of(int64_t width) {
    static constexpr AddSelectedRows kernels[] = {
        add_selected_rows<1, is_binary>, add_selected_rows<2, is_binary>,
        add_selected_rows<3, is_binary>, add_selected_rows<4, is_binary>};
    static_assert(sizeof kernels == kSelectedPanels * sizeof kernels[0], "one kernel a width");
    return kernels[ceil_divide(width, kPanelColumns) - 1];
}

// The sums of so many rows stay in the L1 cache, together with the rows that are added.
constexpr int64_t kSparseRowsAtOnce = 32;

// finish(rows, column, width, sums) for every block of left [M, K] * right [N, K]^T: sums is
// [rows, kSelectedColumns], from `column` on, of which `width` exist.
template <class Finish>
void for_each_sparse_product(const SparseRows& left, const PanelMatrix& right, int threads,
                             const Finish& finish) {
    const int64_t column_blocks = ceil_divide(right.columns, kSelectedColumns);
    const EvenParts parts(left.bits.rows, ceil_divide(left.bits.rows, kSparseRowsAtOnce));
    parallel_for(threads, parts.count() * column_blocks, [&](int64_t task) {
        alignas(64) float sums[kSparseRowsAtOnce * kSelectedColumns];
        const Range rows = parts[task / column_blocks];
        const int64_t block = task % column_blocks, column = block * kSelectedColumns;
        const int64_t width = smaller(kSelectedColumns, right.columns - column);
        std::fill_n(sums, (rows.end - rows.begin) * kSelectedColumns, 0.f);
        const auto add =
            left.values ? add_selected_rows_of<false>(width) : add_selected_rows_of<true>(width);
        add(left, rows, right, right.data + block * kSelectedPanels * right.panel_stride, sums);
        finish(rows, column, width, sums);
    });
}

// output [M, N] = left [M, K] * right [N, K]^T + bias.
inline void multiply_sparse(const SparseRows& left, const PanelMatrix& right, const float* bias,
                            float* output, int threads) {
    for_each_sparse_product(
        left, right, threads, [&](Range rows, int64_t column, int64_t width, const float* sums) {
            for (int64_t row = rows.begin; row < rows.end; ++row, sums += kSelectedColumns)
                for (int64_t i = 0; i < width; ++i)
                    output[row * right.columns + column + i] = sums[i] + bias[column + i];
        });
}

// output [N, M] = the transpose of left [M, K] * right [N, K]^T, or += with accumulate.
inline void multiply_sparse_transposed(const SparseRows& left, const PanelMatrix& right,
                                       bool accumulate, float* output, int threads) {
    const int64_t stride = left.bits.rows;
    for_each_sparse_product(
        left, right, threads, [&](Range rows, int64_t column, int64_t width, const float* sums) {
            for (int64_t row = rows.begin; row < rows.end; row += kPanelColumns) {
                const int64_t height = smaller(kPanelColumns, rows.end - row);
                for (int64_t c = 0; c < width; c += kPanelColumns)
                    store_transposed(sums + (row - rows.begin) * kSelectedColumns + c,
                                     kSelectedColumns, height, smaller(kPanelColumns, width - c),
                                     accumulate, output + (column + c) * stride + row, stride);
            }
        });
}

}  // namespace aefast::AEFAST_ISA
