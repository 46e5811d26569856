// The vectors of the instruction set that a source is compiled for. No other file asks the compiler
// which one that is. Each file that this one includes gives the same names:
//
//   Vector               kFloatLanes float32 numbers
//   WordLanes            kWordLanes lanes of 64 bits, each with a 32-bit word in its low half
//   kLaneNumbers         0, 1, 2, ... in WordLanes
//   kTileRows            the rows of gemm.cpp's tile of sums, which is two vectors wide: as many as
//                        the registers hold beside two vectors of the right operand and one
//                        broadcast of the left
//   load_first           a vector of memory's first `count` numbers, and zeros; reads no more
//   store_first          writes a vector's first `count` numbers, and no more
//   interleave_low       (a0 b0 a1 b1 ...) of the first halves of a and b
//   interleave_high      the same of their second halves
//   multiply_low_halves  the 64-bit products of the low halves. It is spelled out: a
//                        compiler that does not see that the high halves are unused
//                        takes a full 64-bit multiplication, three times as many
//                        operations
//   bits_below           bit i tells whether a[i] < b[i], of kFloatLanes numbers
//   bits_equal           bit i tells whether a[i] == b[i]
#pragma once

#if defined(__AVX512F__)
#include "simd/vectors_avx512.h"
#elif defined(__AVX2__)
#include "simd/vectors_avx2.h"
#elif defined(__SSE2__)
#include "simd/vectors_sse2.h"
#else
#include "simd/vectors_portable.h"
#endif

namespace aefast::AEFAST_ISA {

typedef float UnalignedVector __attribute__((vector_size(4 * kFloatLanes), aligned(4), may_alias));

inline Vector load(const float* source) {
    return *reinterpret_cast<const UnalignedVector*>(source);
}
inline void store(float* target, Vector value) {
    *reinterpret_cast<UnalignedVector*>(target) = value;
}

}  // namespace aefast::AEFAST_ISA
