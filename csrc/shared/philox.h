// Philox4x32-10 on vectors: the random numbers that aefast/random.py defines.
#pragma once

#include <cstdint>

#include "shared/isa.h"
#include "simd/vectors.h"

namespace aefast::AEFAST_ISA {

// A vector of counters gives the words of this many consecutive columns.
constexpr int kVectorWords = 4 * kWordLanes;

// What a kernel draws at a time. A round waits for the one before: four vectors of counters in turn
// keep the multipliers busy, 6.2 G words/s against 4.4 with one, on AVX-512.
constexpr int kUnrolledVectors = 4;
constexpr int64_t kUnrolledWords = kUnrolledVectors * kVectorWords;

// Some vectors of counters, each of one row.
template <int vectors>
struct PhiloxCounters {
    WordLanes column_block[vectors], row_low[vectors], row_high[vectors], step[vectors];

    // Vector v is to count the columns from 4 * block on.
    void set(int v, uint64_t row, uint32_t block, uint32_t step_number) {
        column_block[v] = kLaneNumbers + block;
        row_low[v] = WordLanes{} + static_cast<uint32_t>(row);
        row_high[v] = WordLanes{} + static_cast<uint32_t>(row >> 32);
        step[v] = WordLanes{} + step_number;
    }

    // kVectorWords words a vector, those of consecutive columns.
    void words(uint64_t seed, uint32_t* output) {
        const WordLanes multiplier0 = WordLanes{} + 0xD2511F53u;
        const WordLanes multiplier1 = WordLanes{} + 0xCD9E8D57u;
        uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < 10; ++round) {
            const WordLanes key0_lanes = WordLanes{} + key0, key1_lanes = WordLanes{} + key1;
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) {
                const WordLanes product0 = multiply_low_halves(column_block[v], multiplier0);
                const WordLanes product1 = multiply_low_halves(row_high[v], multiplier1);
                column_block[v] = (product1 >> 32) ^ row_low[v] ^ key0_lanes;
                row_low[v] = product1;
                row_high[v] = (product0 >> 32) ^ step[v] ^ key1_lanes;
                step[v] = product0;
            }
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            const WordLanes low_half = WordLanes{} + 0xFFFFFFFFu;
            const WordLanes first = (column_block[v] & low_half) | (row_low[v] << 32);
            const WordLanes second = (row_high[v] & low_half) | (step[v] << 32);
            // Little endian: a 64-bit element holds two adjacent words.
            const WordLanes halves[2] = {interleave_low(first, second),
                                         interleave_high(first, second)};
            __builtin_memcpy(output + v * kVectorWords, halves, sizeof halves);
        }
    }
};

struct PhiloxRow {
    uint64_t seed, row;
    uint32_t step;

    PhiloxRow(uint64_t seed, uint64_t row, uint32_t step) : seed(seed), row(row), step(step) {}

    // The words of the columns from 4 * column_block on: kVectorWords of them, or kUnrolledWords.
    template <int64_t columns>
    void words(uint32_t column_block, uint32_t* output) const {
        constexpr int vectors = columns / kVectorWords;
        static_assert(columns % kVectorWords == 0 && vectors <= kUnrolledVectors);
        PhiloxCounters<vectors> counters;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) counters.set(v, row, column_block + v * kWordLanes, step);
        counters.words(seed, output);
    }
};

// The words of kVectorWords columns, from 4 * column_block on, of kUnrolledVectors rows from `row`
// on.
inline void philox_block(uint64_t seed, uint64_t row, uint32_t step, uint32_t column_block,
                         uint32_t* output) {
    PhiloxCounters<kUnrolledVectors> counters;
#pragma GCC unroll 4
    for (int v = 0; v < kUnrolledVectors; ++v) counters.set(v, row + v, column_block, step);
    counters.words(seed, output);
}

// child_seed() of aefast/random.py.
inline uint64_t child_seed(uint64_t seed, uint64_t child) {
    constexpr uint32_t kChildStep = 0xFFFFFFFFu;
    uint32_t words[kVectorWords];
    PhiloxRow(seed, child, kChildStep).words<kVectorWords>(0, words);
    return (static_cast<uint64_t>(words[0]) << 32 | words[1]) & ~(uint64_t{1} << 63);
}

}  // namespace aefast::AEFAST_ISA
