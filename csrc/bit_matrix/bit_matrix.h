// A matrix of zeros and ones, a bit an element.
#pragma once

#include <cstdint>

#include "gemm/gemm.h"
#include "shared/isa.h"

namespace aefast {

constexpr int64_t kWordBits = 64;

// Column c is bit c % 64 of its row's word c / 64; bits past the last column are 0.
struct BitMatrixView {
    const uint64_t* words;
    int64_t rows, columns;

    int64_t row_words() const { return (columns + kWordBits - 1) / kWordBits; }
};

// words = the bits of values > 0; is_binary [rows] tells whether a row is of zeros and ones.
struct PackBitsArguments {
    const float* values;
    int64_t row_stride;
    uint64_t* words;
    bool* is_binary;
    int64_t rows, columns;
    int threads;
};

// values [rows, columns] = 0 and 1.
struct UnpackBitsArguments {
    BitMatrixView bits;
    float* values;
    int threads;
};

// words = the transpose, [columns, rows]; counts [columns], how many of a column's bits are set.
struct TransposeBitsArguments {
    BitMatrixView bits;
    uint64_t* words;
    float* counts;
    int threads;
};

// output [rows, columns] = left [rows, K] right^T [K, columns] + bias [columns], or null for none.
struct BitMatrixProductArguments {
    BitMatrixView left;
    MatrixView right;
    const float* bias;
    float* output;
    int threads;
};

// output [columns, rows] = its transpose, or += with accumulate.
struct TransposedBitMatrixProductArguments {
    BitMatrixView left;
    MatrixView right;
    float* output;
    bool accumulate;
    int threads;
};

AEFAST_DECLARE_KERNELS(
    void pack_bits(const PackBitsArguments&); void unpack_bits(const UnpackBitsArguments&);
    void transpose_bits(const TransposeBitsArguments&);
    void bit_matrix_product(const BitMatrixProductArguments&);
    void transposed_bit_matrix_product(const TransposedBitMatrixProductArguments&);)

}  // namespace aefast
