// Matrix-unit tiles by AMX's instructions.
//
// They are inline assembly, because the compilers' intrinsics hide from the optimizer which memory
// they touch: GCC 12's _tile_loadconfig claims 8 bytes of 64 and its _tile_loadd none, so stores
// that only a tile reads are dropped.
#pragma once

#include <cstdint>

#include "shared/isa.h"
#include "simd/tiles.h"

namespace aefast::AEFAST_ISA {

// All eight tiles at full size, for the calling thread, as long as this object lives.
class TileConfiguration {
  public:
    TileConfiguration() {
        struct alignas(64) {
            uint8_t palette = 1;
            uint8_t start_row = 0;
            uint8_t reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } configuration;
        static_assert(sizeof configuration == 64, "what ldtilecfg reads");
        for (int tile = 0; tile < 8; ++tile) {
            configuration.row_bytes[tile] = kTileRowBytes;
            configuration.rows[tile] = kTileSide;
        }
        asm volatile("ldtilecfg %0" ::"m"(configuration));
    }
    ~TileConfiguration() { asm volatile("tilerelease"); }
    TileConfiguration(const TileConfiguration&) = delete;
    TileConfiguration& operator=(const TileConfiguration&) = delete;
};

template <int tile>
inline void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}

template <int tile>
inline void tile_load(const void* source, int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(source), "r"(row_bytes), "i"(tile)
                 : "memory");
}

template <int tile>
inline void tile_store(void* target, int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(target), "r"(row_bytes), "i"(tile)
                 : "memory");
}

// target[m][n] += sum over pairs p of left[m][p] * right[p][n], a pair being two bfloat16 numbers.
template <int target, int left, int right>
inline void tile_multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(target), "i"(left), "i"(right));
}

}  // namespace aefast::AEFAST_ISA
