// Matrix products with a binary left operand, one bit for each element: sums of selected weights.
//
// Four bits select one of the sixteen sums of four weights, so that a lookup and an addition
// replace four multiply-adds: the method of the four Russians (Arlazarov, Dinic, Kronrod,
// Faradzhev, "On economical construction of the transitive closure of a directed graph", 1970).
// The sums are float32, in short chains, so that the result is at least as accurate as a float32
// product. On a core of 4 GHz this replaces 690 GFLOP/s with AVX-512 and 390 with AVX2, where
// multiply-adds reach 260 and 130. Reading the tables is the bottleneck.
#pragma once

#include <cstdint>
#include <cstring>

#include "bit_matrix/bit_matrix.h"
#include "gemm/blocking.h"
#include "gemm/gemm.h"
#include "gemm/panel.h"
#include "shared/isa.h"
#include "shared/parallel.h"
#include "simd/vectors.h"

namespace aefast::AEFAST_ISA {

enum class Comparison { below, equal };

// Bit i is the comparison of left[i] with right[i], for the kPanelColumns columns of a panel.
template <Comparison comparison>
inline uint32_t bits_where(const float* left, const float* right) {
    uint32_t bits = 0;
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
        const float *a = left + v * kFloatLanes, *b = right + v * kFloatLanes;
        const uint32_t mask = comparison == Comparison::below ? bits_below(a, b) : bits_equal(a, b);
        bits |= mask << (v * kFloatLanes);
    }
    return bits;
}

// Writes the bits of one panel's columns, of which `width` exist, into a row of words.
inline void store_bits(uint32_t bits, int64_t column, int64_t width, uint64_t* row) {
    static_assert(kWordBits % kPanelColumns == 0 && kPanelColumns % 8 == 0);
    if (width < kPanelColumns) bits &= (1u << width) - 1;
    // Little endian: a panel's bits are whole bytes of the row.
    std::memcpy(reinterpret_cast<unsigned char*>(row) + column / 8, &bits, kPanelColumns / 8);
}

constexpr int kTables = kWordBits / 4;  // a word's
// An entry of a table is a panel's row: 2^kEntryShift bytes.
constexpr int kEntryShift = kFloatLanes == 16 ? 7 : kFloatLanes == 8 ? 6 : 5;
static_assert(1 << kEntryShift == sizeof(float) * kPanelColumns, "an entry's bytes");

// The sixteen sums of every four of 64 rows of a panel, for all columns of the panel: 32 KB with
// AVX-512, 16 KB with AVX2, which stays in the L1 cache.
class SumTables {
  public:
    // Sums of rows [k, k + 64) of the panel that begins at `column`; rows past the end are 0.
    void build(const MatrixView& right, int64_t column, int64_t k) {
        alignas(64) float panel[kWordBits * kPanelColumns];
        const int64_t depth = smaller(kWordBits, right.columns - k);
        pack_right_panel(right, column, k, depth, panel);
        if (depth < kWordBits)
            std::memset(panel + depth * kPanelColumns, 0,
                        sizeof(float) * (kWordBits - depth) * kPanelColumns);
        for (int table = 0; table < kTables; ++table)
            for (int v = 0; v < 2; ++v)
                build_table(panel + 4 * table * kPanelColumns + v * kFloatLanes,
                            sums_[table][0] + v * kFloatLanes);
    }

    const float* data() const { return sums_[0][0]; }

  private:
    // A weight that is not selected counts as 0 times itself: NaN if it is infinite or NaN.
    static void build_table(const float* weights, float* sums) {
        Vector low[4], high[4];
        pair_sums(weights, low);
        pair_sums(weights + 2 * kPanelColumns, high);
#pragma GCC unroll 16
        for (int bits = 0; bits < 16; ++bits)
            store(sums + bits * kPanelColumns, low[bits & 3] + high[bits >> 2]);
    }

    static void pair_sums(const float* weights, Vector sums[4]) {
        const Vector first = load(weights), second = load(weights + kPanelColumns);
        sums[0] = 0.f * first + 0.f * second;
        sums[1] = first + 0.f * second;
        sums[2] = 0.f * first + second;
        sums[3] = first + second;
    }

    alignas(64) float sums_[kTables][16][kPanelColumns];
};

inline uint64_t rotate_left(uint64_t value, int count) {
    return value << count | value >> (kWordBits - count);
}

// sums[r] += the sums in a word's tables that the r-th row's word selects; or = for the first word.
template <int rows>
inline void add_selected(const float* tables, const uint64_t* words, int64_t row_words, bool first,
                         float* sums) {
    constexpr uint64_t kEntryMask = uint64_t{15} << kEntryShift;
    uint64_t entries[rows];  // the offset of the next four bits' entry, once the rest is masked out
    Vector selected[rows][2] = {};
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) entries[r] = rotate_left(words[r * row_words], kEntryShift);
    const char* table = reinterpret_cast<const char*>(tables);
    // Otherwise the compiler computes all offsets first and spills them, at half the speed.
#pragma GCC unroll 1
    for (int t = 0; t < kTables; ++t) {
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            const float* entry = reinterpret_cast<const float*>(table + (entries[r] & kEntryMask));
            selected[r][0] += load(entry);
            selected[r][1] += load(entry + kFloatLanes);
            entries[r] = rotate_left(entries[r], kWordBits - 4);
        }
        table += 16 << kEntryShift;
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
            float* target = sums + r * kPanelColumns + v * kFloatLanes;
            if (!first) selected[r][v] += load(target);
            store(target, selected[r][v]);
        }
}

// The words of each row between two looks for signals: for 512 rows they take some 5 ms.
constexpr int64_t kWordsBetweenLooks = 1024;

// sums = the products of some rows of left with one panel of right, that from `column` on; zeros in
// the rows that fill them up to a multiple of kPanelColumns.
inline void bit_matrix_product_block(const BitMatrixView& left, const MatrixView& right, Range rows,
                                     int64_t column, float* sums) {
    SumTables tables;
    const int64_t row_words = left.row_words(), count = rows.end - rows.begin;
    for (int64_t word = 0; word < row_words; ++word) {
        if (word > 0 && word % kWordsBetweenLooks == 0 && interrupted()) break;
        tables.build(right, column, word * kWordBits);
        const uint64_t* words = left.words + rows.begin * row_words + word;
        int64_t row = 0;
        for (; row + 8 <= count; row += 8)
            add_selected<8>(tables.data(), words + row * row_words, row_words, word == 0,
                            sums + row * kPanelColumns);
        for (; row < count; ++row)
            add_selected<1>(tables.data(), words + row * row_words, row_words, word == 0,
                            sums + row * kPanelColumns);
    }
    const int64_t rest = ceil_divide(count, kPanelColumns) * kPanelColumns - count;
    std::memset(sums + count * kPanelColumns, 0, sizeof(float) * rest * kPanelColumns);
}

// output[c, r] (+)= sums[r, c] for a square of sums, of which some rows and columns exist.
inline void store_transposed(const float* sums, int64_t sums_stride, int64_t rows, int64_t columns,
                             bool accumulate, float* output, int64_t output_row_stride) {
    alignas(64) float transposed[kPanelColumns * kPanelColumns];
    for (int r = 0; r < kPanelColumns; r += kFloatLanes)
        for (int c = 0; c < kPanelColumns; c += kFloatLanes)
            transpose_square(sums + r * sums_stride + c, sums_stride, kFloatLanes,
                             transposed + c * kPanelColumns + r, kPanelColumns);
    for (int64_t column = 0; column < columns; ++column) {
        const float* source = transposed + column * kPanelColumns;
        float* target = output + column * output_row_stride;
        if (rows < kPanelColumns) {
            for (int64_t row = 0; row < rows; ++row)
                target[row] = source[row] + (accumulate ? target[row] : 0.f);
            continue;
        }
        for (int64_t row = 0; row < kPanelColumns; row += kFloatLanes) {
            Vector values = load(source + row);
            if (accumulate) values += load(target + row);
            store(target + row, values);
        }
    }
}

// Building the tables takes as long as 32 rows' lookups; the sums of 512 rows take 64 KB, of L2 and
// of the stack.
constexpr int64_t kMostRows = 512, kFewestRows = 64;
static_assert(kMostRows % kPanelColumns == 0);

// finish(rows, column, sums) for every block of left [M, K] * right [N, K]^T: sums is
// [rows, kPanelColumns], from `column` on. An element's sum depends on its row, its column and K
// alone: not on the other rows, nor on the number of threads.
template <class Finish>
void for_each_bit_matrix_product(const BitMatrixView& left, const MatrixView& right, int threads,
                                 const Finish& finish) {
    constexpr double kProductsPerThread = 1 << 20;
    const double products = static_cast<double>(left.rows) * right.rows * right.columns;
    threads =
        static_cast<int>(smaller(threads, 1 + static_cast<int64_t>(products / kProductsPerThread)));
    const int64_t panels = ceil_divide(right.rows, kPanelColumns);
    const int64_t fewest_parts =
        smaller(ceil_divide(threads, panels), ceil_divide(left.rows, kFewestRows));
    const EvenParts parts(left.rows, larger(fewest_parts, ceil_divide(left.rows, kMostRows)));
    parallel_for(threads, panels * parts.count(), [&](int64_t task) {
        alignas(64) float sums[kMostRows * kPanelColumns];
        const Range rows = parts[task / panels];
        const int64_t column = task % panels * kPanelColumns;
        bit_matrix_product_block(left, right, rows, column, sums);
        finish(rows, column, sums);
    });
}

}  // namespace aefast::AEFAST_ISA
