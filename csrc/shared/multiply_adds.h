// Multiply-adds and nothing else: what the processor does at best, for benchmarks to compare with.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast {

// Makes some rounds of them on each thread, and tells how many they were in all.
AEFAST_DECLARE_KERNELS(int64_t multiply_adds(int64_t rounds, int threads);)

}  // namespace aefast
