// The GEMM kernels behind a C function, for ctypes.
#include "gemm.h"

using namespace aefast;

// kernel: 0 gemm, 1 gemm_float32, 2 gemm_tiles. Returns whether the kernel finished the product.
extern "C" int multiply(int kernel, const float* left, const int64_t* left_layout,
                        const float* right, const int64_t* right_layout, const float* bias,
                        int activation, float* output, int64_t output_row_stride,
                        float* preactivation, int precision, int threads) {
    const auto view = [](const float* data, const int64_t* layout) {
        return MatrixView{data, layout[0], layout[1], layout[2], layout[3]};
    };
    const GemmArguments arguments = {view(left, left_layout),
                                     view(right, right_layout),
                                     bias,
                                     static_cast<Activation>(activation),
                                     output,
                                     output_row_stride,
                                     preactivation,
                                     static_cast<Precision>(precision),
                                     threads};
#if defined(__AMX_BF16__) || defined(AEFAST_EMULATE_TILES)
    if (kernel == 2) return AEFAST_ISA::gemm_tiles(arguments);
#endif
    if (kernel == 1)
        AEFAST_ISA::gemm_float32(arguments);
    else
        AEFAST_ISA::gemm(arguments);
    return 1;
}
