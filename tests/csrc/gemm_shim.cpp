// The GEMM kernels behind a C function, for ctypes.
#include <cstdlib>

#include "gemm/gemm.h"

using namespace aefast;

// kernel: 0 gemm, 1 gemm_float32, 2 gemm_tiles. Returns whether the kernel finished the product.
extern "C" int multiply(int kernel, const float* left, const int64_t* left_layout,
                        const float* right, const int64_t* right_layout, const float* bias,
                        int activation, float* output, int64_t output_row_stride,
                        float* preactivation, int accumulate, int packed, int precision,
                        int threads) {
    const auto view = [](const float* data, const int64_t* layout) {
        return MatrixView{data, layout[0], layout[1], layout[2], layout[3]};
    };
    GemmArguments arguments = {view(left, left_layout),
                               view(right, right_layout),
                               {nullptr, 0},
                               bias,
                               static_cast<Activation>(activation),
                               output,
                               output_row_stride,
                               preactivation,
                               accumulate != 0,
                               static_cast<Precision>(precision),
                               threads};
#if defined(AEFAST_EMULATE_TILES)
    unsigned char* tiles = nullptr;
    if (packed) {
        const int64_t bytes = AEFAST_ISA::packed_bytes(arguments.right, arguments.precision);
        tiles = static_cast<unsigned char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
        AEFAST_ISA::pack_tiles(arguments.right, arguments.precision, tiles, threads);
        arguments.packed = {
            tiles, AEFAST_ISA::packed_bytes_per_column(arguments.right, arguments.precision)};
    }
    int finished = 1;
    if (kernel == 2)
        finished = AEFAST_ISA::gemm_tiles(arguments);
    else if (kernel == 0)
        AEFAST_ISA::gemm(arguments);
    std::free(tiles);
    if (kernel != 1) return finished;
#else
    (void)packed;
    if (kernel == 0) AEFAST_ISA::gemm(arguments);
#endif
    if (kernel == 1) AEFAST_ISA::gemm_float32(arguments);
    return 1;
}
