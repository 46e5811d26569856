// GEMM where there are no matrix units: every product takes float32 multiply-adds.
#include "gemm/gemm.h"

namespace aefast::AEFAST_ISA {

void gemm(const GemmArguments& arguments) { gemm_float32(arguments); }

}  // namespace aefast::AEFAST_ISA
