// Matrix-unit (AMX) tiles: eight registers of 16 rows of 64 bytes.
#pragma once

#include <cstdint>

namespace aefast {

constexpr int kTileSide = 16;  // rows, and columns of 4 bytes
constexpr int64_t kTileRowBytes = 64;
constexpr int64_t kTileBytes = kTileSide * kTileRowBytes;

}  // namespace aefast

// With AEFAST_EMULATE_TILES the same functions run as plain C++, exact in what the instructions
// compute, for machines that have no such unit.
#if defined(AEFAST_EMULATE_TILES)
#include "simd/tiles_emulated.h"
#else
#include "simd/tiles_amx.h"
#endif
