// Noise in the input of a denoising autoencoder.
#pragma once

#include <cstdint>

#include "shared/isa.h"

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
    uint32_t step;
    uint32_t level_threshold;  // an element is touched where word >> 8 is below this
    uint32_t low_threshold;    // salt and pepper: it becomes `low` below this, else `high`
    uint32_t low_bits, high_bits;
    float level;  // gaussian: the standard deviation
    int threads;
};

AEFAST_DECLARE_KERNELS(void corrupt(Noise noise, const CorruptArguments&);)

}  // namespace aefast
