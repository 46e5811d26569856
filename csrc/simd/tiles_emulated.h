// Matrix-unit tiles in plain C++: what the tests run where no processor has them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "shared/isa.h"
#include "simd/tiles.h"

namespace aefast::AEFAST_ISA {

struct EmulatedTiles {
    bool configured = false;
    unsigned char bytes[8][kTileSide][kTileRowBytes];

    // As on the processor, a tile instruction outside a configuration ends the program.
    static EmulatedTiles& of_this_thread() {
        static thread_local EmulatedTiles tiles;
        return tiles;
    }
    static EmulatedTiles& configured_ones() {
        if (!of_this_thread().configured) std::abort();
        return of_this_thread();
    }
};

class TileConfiguration {
  public:
    TileConfiguration() { EmulatedTiles::of_this_thread().configured = true; }
    ~TileConfiguration() { EmulatedTiles::of_this_thread().configured = false; }
    TileConfiguration(const TileConfiguration&) = delete;
    TileConfiguration& operator=(const TileConfiguration&) = delete;
};

template <int tile>
void tile_zero() {
    std::memset(EmulatedTiles::configured_ones().bytes[tile], 0, kTileBytes);
}

template <int tile>
void tile_load(const void* source, int64_t row_bytes) {
    auto& rows = EmulatedTiles::configured_ones().bytes[tile];
    for (int row = 0; row < kTileSide; ++row)
        std::memcpy(rows[row], static_cast<const char*>(source) + row * row_bytes, kTileRowBytes);
}

template <int tile>
void tile_store(void* target, int64_t row_bytes) {
    const auto& rows = EmulatedTiles::configured_ones().bytes[tile];
    for (int row = 0; row < kTileSide; ++row)
        std::memcpy(static_cast<char*>(target) + row * row_bytes, rows[row], kTileRowBytes);
}

// The unit takes subnormal numbers for zero, and gives zero for them.
inline float flush_subnormal(float value) {
    return std::fabs(value) < 1.17549435e-38f ? std::copysign(0.f, value) : value;
}
inline float multiply_add_flushed(float a, float b, float sum) {
    return flush_subnormal(std::fma(flush_subnormal(a), flush_subnormal(b), flush_subnormal(sum)));
}
inline float bfloat16_at(const unsigned char* bytes) {
    uint16_t half;
    std::memcpy(&half, bytes, sizeof half);
    const uint32_t word = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

// TDPBF16PS: the products of even and of odd k are summed apart, from zero and each by fused
// multiply-adds, and the two sums are then added to each other and to the target.
template <int target, int left, int right>
void tile_multiply() {
    auto& tiles = EmulatedTiles::configured_ones().bytes;
    for (int m = 0; m < kTileSide; ++m) {
        for (int n = 0; n < kTileSide; ++n) {
            float sums[2] = {0.f, 0.f};
            for (int pair = 0; pair < kTileSide; ++pair)
                for (int odd = 0; odd < 2; ++odd)
                    sums[odd] = multiply_add_flushed(
                        bfloat16_at(tiles[left][m] + 4 * pair + 2 * odd),
                        bfloat16_at(tiles[right][pair] + 4 * n + 2 * odd), sums[odd]);
            float value;
            std::memcpy(&value, tiles[target][m] + 4 * n, sizeof value);
            const float products = flush_subnormal(sums[0] + sums[1]);
            value = flush_subnormal(flush_subnormal(value) + products);
            std::memcpy(tiles[target][m] + 4 * n, &value, sizeof value);
        }
    }
}

}  // namespace aefast::AEFAST_ISA
