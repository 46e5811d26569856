// Rounding float32 numbers to bfloat16, sixteen at a time.
#pragma once

#if defined(__AVX512BF16__)
#include "simd/bfloat16_avx512.h"
#else
#include "simd/bfloat16_portable.h"
#endif
