// activation(left * right^T + bias): the product in every dense layer and in both its gradients.
#pragma once

#include <cstdint>

#include "shared/activation.h"
#include "shared/isa.h"

namespace aefast {

// A float32 matrix of any layout. Strides are in elements and may be 0.
struct MatrixView {
    const float* data;
    int64_t rows;
    int64_t columns;
    int64_t row_stride;
    int64_t column_stride;
};

// The levels of torch.set_float32_matmul_precision(). Matrix units make use of the lower two, and
// serve no other.
enum class Precision { highest, high, medium };

// A right operand as the matrix units read it, made by pack_tiles() for one precision.
// Multiply-adds have no use for it: packing costs them so little that doing it beforehand, away
// from the product that it warms the cache for, was 1 to 14% slower.
struct PackedOperand {
    const unsigned char* data;  // nullptr: each product packs for itself
    int64_t bytes_per_column;
};

struct GemmArguments {
    MatrixView left;       // [M, K]
    MatrixView right;      // [N, K], multiplied transposed
    PackedOperand packed;  // of the right operand
    const float* bias;     // [N], or nullptr for none
    Activation activation;
    float* output;  // [M, N], columns contiguous; overlaps no input
    int64_t output_row_stride;
    float* preactivation;  // [M, N] with the output's row stride, or nullptr where nobody wants it
    bool accumulate;       // add the product to the output; then neither bias nor activation
    Precision precision;
    int threads;
};

namespace AEFAST_ISA {

// The result is the same bit for bit for any number of threads.
void gemm(const GemmArguments& arguments);

// gemm() by float32 multiply-adds, whatever the precision and the matrix units.
void gemm_float32(const GemmArguments& arguments);

// gemm() on bfloat16 matrix units at `high` or `medium`, in gemm_amx.cpp. False where an output is
// not finite: the output is then unspecified, and gemm_float32 computes it.
bool gemm_tiles(const GemmArguments& arguments);

// What pack_tiles() fills for a right operand [N, K].
int64_t packed_bytes_per_column(const MatrixView& right, Precision precision);
int64_t packed_bytes(const MatrixView& right, Precision precision);
void pack_tiles(const MatrixView& right, Precision precision, unsigned char* packed, int threads);

}  // namespace AEFAST_ISA

// A hash of the bits of a dense matrix.
AEFAST_DECLARE_KERNELS(void gemm(const GemmArguments&);
                       uint64_t fingerprint(const float* values, int64_t rows, int64_t columns,
                                            int threads);)

using Gemm = void(const GemmArguments&);

// gemm() of the instruction set in use.
Gemm* active_gemm();

// The functions of gemm_amx.cpp.
struct MatrixUnits {
    Gemm* gemm;
    int64_t (*packed_bytes_per_column)(const MatrixView& right, Precision precision);
    int64_t (*packed_bytes)(const MatrixView& right, Precision precision);
    void (*pack_tiles)(const MatrixView& right, Precision precision, unsigned char* packed,
                       int threads);
};

// nullptr where the processor, or this build, has no matrix units, or they are not in use.
const MatrixUnits* active_matrix_units();

}  // namespace aefast
