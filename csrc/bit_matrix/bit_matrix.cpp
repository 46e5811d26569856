// Binary matrices, a bit an element: packing, unpacking, transposing, and products with them.
#include "bit_matrix/bit_matrix.h"

#include <algorithm>

#include "bit_matrix/bit_product.h"
#include "shared/parallel.h"

namespace aefast::AEFAST_ISA {
namespace {

constexpr int64_t kElementsPerTask = 1 << 16;

// body(row) for every row, some rows a task.
template <class Body>
void for_each_row(int64_t rows, int64_t columns, int threads, const Body& body) {
    const int64_t rows_per_task =
        std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, columns));
    parallel_for(threads, ceil_divide(rows, rows_per_task), [&](int64_t task) {
        const int64_t end = smaller((task + 1) * rows_per_task, rows);
        for (int64_t row = task * rows_per_task; row < end; ++row) body(row);
    });
}

// Bit i of each word of a block, in all 64 words, becomes word i: Warren, "Hacker's Delight", 7-3.
void transpose_block(uint64_t words[kWordBits]) {
    uint64_t mask = 0x00000000FFFFFFFFu;
    for (int64_t width = kWordBits / 2; width != 0; width /= 2, mask ^= mask << width)
        for (int64_t i = 0; i < kWordBits; i = (i + width + 1) & ~width) {
            const uint64_t swapped = ((words[i] >> width) ^ words[i + width]) & mask;
            words[i] ^= swapped << width;
            words[i + width] ^= swapped;
        }
}

// The bits of one panel's values; whether all of them are 0 or 1.
bool pack_panel(const float* values, int64_t column, int64_t width, uint64_t* row) {
    constexpr uint32_t kAll = ~uint32_t{0} >> (32 - kPanelColumns);
    alignas(64) static constexpr float kZeros[kPanelColumns] = {};
    const uint32_t zeros = bits_where<Comparison::equal>(values, kZeros);
    const uint32_t positive = bits_where<Comparison::below>(kZeros, values);
    alignas(64) float ones[kPanelColumns];
    std::fill_n(ones, kPanelColumns, 1.f);
    store_bits(positive, column, width, row);
    return (zeros | bits_where<Comparison::equal>(values, ones)) == kAll;
}

}  // namespace

void pack_bits(const PackBitsArguments& a) {
    const int64_t row_words = ceil_divide(a.columns, kWordBits);
    for_each_row(a.rows, a.columns, a.threads, [&](int64_t row) {
        const float* values = a.values + row * a.row_stride;
        uint64_t* words = a.words + row * row_words;
        bool binary = true;
        int64_t column = 0;
        for (; column + kPanelColumns <= a.columns; column += kPanelColumns)
            binary &= pack_panel(values + column, column, kPanelColumns, words);
        if (column < a.columns) {
            float rest[kPanelColumns] = {};
            std::copy_n(values + column, a.columns - column, rest);
            binary &= pack_panel(rest, column, a.columns - column, words);
        }
        a.is_binary[row] = binary;
    });
}

void unpack_bits(const UnpackBitsArguments& a) {
    for_each_row(a.bits.rows, a.bits.columns, a.threads, [&](int64_t row) {
        const uint64_t* words = a.bits.words + row * a.bits.row_words();
        float* values = a.values + row * a.bits.columns;
        for (int64_t first = 0; first < a.bits.columns; first += kWordBits) {
            const uint64_t word = words[first / kWordBits];
            const int64_t width = smaller(kWordBits, a.bits.columns - first);
            for (int64_t i = 0; i < width; ++i)
                values[first + i] = static_cast<float>(static_cast<int32_t>(word >> i & 1));
        }
    });
}

void transpose_bits(const TransposeBitsArguments& a) {
    const int64_t rows = a.bits.rows, row_words = a.bits.row_words();
    const int64_t column_words = ceil_divide(rows, kWordBits);
    parallel_for(a.threads, column_words, [&](int64_t block) {
        const int64_t first = block * kWordBits, height = smaller(kWordBits, rows - first);
        for (int64_t word = 0; word < row_words; ++word) {
            uint64_t square[kWordBits] = {};
            for (int64_t r = 0; r < height; ++r)
                square[r] = a.bits.words[(first + r) * row_words + word];
            transpose_block(square);
            const int64_t width = smaller(kWordBits, a.bits.columns - word * kWordBits);
            for (int64_t c = 0; c < width; ++c)
                a.words[(word * kWordBits + c) * column_words + block] = square[c];
        }
    });
    for_each_row(a.bits.columns, column_words, a.threads, [&](int64_t column) {
        int64_t count = 0;
        for (int64_t word = 0; word < column_words; ++word)
            count += __builtin_popcountll(a.words[column * column_words + word]);
        a.counts[column] = static_cast<float>(count);
    });
}

void bit_matrix_product(const BitMatrixProductArguments& a) {
    for_each_bit_matrix_product(
        a.left, a.right, a.threads, [&](Range rows, int64_t column, const float* sums) {
            const int64_t width = smaller(kPanelColumns, a.right.rows - column);
            for (int64_t row = rows.begin; row < rows.end; ++row, sums += kPanelColumns) {
                float* output = a.output + row * a.right.rows + column;
                for (int64_t i = 0; i < width; ++i)
                    output[i] = sums[i] + (a.bias ? a.bias[column + i] : 0.f);
            }
        });
}

void transposed_bit_matrix_product(const TransposedBitMatrixProductArguments& a) {
    for_each_bit_matrix_product(
        a.left, a.right, a.threads, [&](Range rows, int64_t column, const float* sums) {
            const int64_t width = smaller(kPanelColumns, a.right.rows - column);
            for (int64_t row = rows.begin; row < rows.end; row += kPanelColumns) {
                store_transposed(sums, kPanelColumns, smaller(kPanelColumns, rows.end - row), width,
                                 a.accumulate, a.output + column * a.left.rows + row, a.left.rows);
                sums += kPanelColumns * kPanelColumns;
            }
        });
}

}  // namespace aefast::AEFAST_ISA
