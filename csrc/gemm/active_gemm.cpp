// Which GEMM runs: that of the matrix units, or of the vectors of the instruction set in use.
#include "bindings/dispatch.h"
#include "gemm/gemm.h"

namespace aefast {

#ifdef AEFAST_AMX
namespace amx {
void gemm(const GemmArguments& arguments);
int64_t packed_bytes_per_column(const MatrixView& right, Precision precision);
int64_t packed_bytes(const MatrixView& right, Precision precision);
void pack_tiles(const MatrixView& right, Precision precision, unsigned char* packed, int threads);
}  // namespace amx

const MatrixUnits* active_matrix_units() {
    static constexpr MatrixUnits units = {amx::gemm, amx::packed_bytes_per_column,
                                          amx::packed_bytes, amx::pack_tiles};
    return active_instruction_set() == InstructionSet::amx ? &units : nullptr;
}
#else
const MatrixUnits* active_matrix_units() { return nullptr; }
#endif

Gemm* active_gemm() {
    const MatrixUnits* units = active_matrix_units();
    return units != nullptr ? units->gemm : active_kernel(AEFAST_EACH(gemm));
}

}  // namespace aefast
