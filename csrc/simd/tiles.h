// Matrix-unit (AMX) tiles: eight registers of 16 rows of 64 bytes.
//
// Written as inline assembly, because the compilers' intrinsics hide from the optimizer which
// memory they touch: GCC 12's _tile_loadconfig claims 8 bytes of 64 and its _tile_loadd none, so
// stores that only a tile reads are dropped. With AEFAST_EMULATE_TILES the same functions run as
// plain C++, exact in what the instructions compute, for machines that have no such unit.
#pragma once

#include <cstdint>

#if defined(AEFAST_EMULATE_TILES)
#include <cmath>
#include <cstdlib>
#include <cstring>
#else
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "shared/isa.h"

namespace aefast {

constexpr int kTileSide = 16;  // rows, and columns of 4 bytes
constexpr int64_t kTileRowBytes = 64;
constexpr int64_t kTileBytes = kTileSide * kTileRowBytes;

#if defined(AEFAST_EMULATE_TILES)

namespace AEFAST_ISA {

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

}  // namespace AEFAST_ISA

#else

// Whether the processor has bfloat16 tiles and the system lets this process use them. Linux grants
// their 8 KB of registers on request, for the whole process and for good.
static inline bool request_amx() {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
    constexpr unsigned kOsxsave = 1u << 27;
    if ((ecx & kOsxsave) == 0) return false;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
    constexpr unsigned kTileConfigState = 1u << 17, kTileDataState = 1u << 18;
    asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    if ((eax & kTileConfigState) == 0 || (eax & kTileDataState) == 0) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

namespace AEFAST_ISA {

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

}  // namespace AEFAST_ISA

#endif

}  // namespace aefast
