// The kernels that are compiled once per instruction set: their arguments and declarations.
#pragma once

#include <cstdint>

#include "activation.h"
#include "element.h"
#include "gemm.h"
#include "isa.h"
#include "row_sums.h"

namespace aefast {

enum class Noise { masking, salt_and_pepper, gaussian };

// x and output are [rows, columns]; x's rows lie row_stride elements apart, output's are dense.
struct CorruptArguments {
    const void* x;
    void* output;
    int64_t rows, columns, row_stride;
    int element_size;  // bytes: 4 (float32), or 2 (masking and salt and pepper only)
    uint64_t seed;
    int64_t row_offset;
    uint32_t level_threshold;  // an element is touched where word >> 8 is below this
    uint32_t low_threshold;    // salt and pepper: it becomes `low` below this, else `high`
    uint32_t low_bits, high_bits;
    float level;  // gaussian: the standard deviation
    int threads;
};

// values = act(values), in place.
struct ActivateArguments {
    void* values;
    ElementType element_type;
    int64_t count;
    Activation activation;
    int threads;
};

// gradient is [rows, columns], its rows gradient_row_stride elements apart; saved and
// grad_preactivation are dense. grad_bias is [columns], or null; partial_sums holds
// columns doubles for each block of kRowsPerPartialSum rows.
struct ActivationBackwardArguments {
    const void* gradient;
    int64_t gradient_row_stride;
    const void* saved;
    void* grad_preactivation;
    void* grad_bias;
    double* partial_sums;
    ElementType element_type;
    int64_t rows, columns;
    Activation activation;
    int threads;
};

enum class Loss { squared_error, cross_entropy };

// output is z, [rows, columns], and becomes the gradient by z where that is wanted. The target's
// rows lie target_row_stride elements apart; grad_target is dense, or null. grad_bias is [columns],
// or null; partial_sums then holds columns doubles for each block of kRowsPerPartialSum rows.
// losses holds one double a block.
struct CompareArguments {
    float* output;
    const float* target;
    int64_t target_row_stride;
    float* grad_target;
    float* grad_bias;
    double* partial_sums;
    double* losses;
    bool gradient_wanted;
    Loss loss;
    Activation output_activation;
    float scale;  // of the gradients, not of the loss
    int64_t rows, columns;
    int threads;
};

#define AEFAST_DECLARE_KERNELS(isa)                                                        \
    namespace isa {                                                                        \
    void corrupt(Noise noise, const CorruptArguments&);                                    \
    void activate(const ActivateArguments&);                                               \
    void activation_backward(const ActivationBackwardArguments&);                          \
    double compare(const CompareArguments&);                                               \
    uint64_t fingerprint(const float* values, int64_t rows, int64_t columns, int threads); \
    void gemm(const GemmArguments&);                                                       \
    }
AEFAST_DECLARE_KERNELS(baseline)
#ifdef AEFAST_X86
AEFAST_DECLARE_KERNELS(avx2)
AEFAST_DECLARE_KERNELS(avx512)
#endif
#ifdef AEFAST_AMX
namespace amx {
void gemm(const GemmArguments&);
int64_t packed_bytes_per_column(const MatrixView& right, Precision precision);
int64_t packed_bytes(const MatrixView& right, Precision precision);
void pack_tiles(const MatrixView& right, Precision precision, unsigned char* packed, int threads);
}  // namespace amx
#endif

}  // namespace aefast
