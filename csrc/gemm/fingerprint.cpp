// A hash of a matrix's bits, which tells whether they have changed.
#include <cstring>
#include <vector>

#include "gemm/gemm.h"
#include "shared/parallel.h"

namespace aefast::AEFAST_ISA {
namespace {

constexpr int kLanes = 64;  // four vectors of 16 words, so that one round does not wait for another
constexpr int64_t kRowsPerTask = 16;

// Every step is invertible, in the state and in the word: one changed word always shows. The
// rotation carries a change of a sign bit, which the product leaves where it is, to the other bits.
inline uint32_t mix(uint32_t state, uint32_t word) {
    return (((state << 13) | (state >> 19)) ^ word) * 0x9E3779B1u;
}

inline uint64_t mix(uint64_t state, uint64_t word) {
    return (((state << 29) | (state >> 35)) ^ word) * 0x9E3779B97F4A7C15u;
}

uint64_t fingerprint_of(const float* values, int64_t count) {
    uint32_t lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        uint32_t words[kLanes];
        std::memcpy(words, values + i, sizeof words);
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = mix(lanes[lane], words[lane]);
    }
    uint32_t rest[kLanes] = {};
    std::memcpy(rest, values + i, sizeof(float) * (count - i));
    uint64_t result = count;
    for (int lane = 0; lane < kLanes; ++lane)
        result = mix(result, uint64_t{mix(lanes[lane], rest[lane])});
    return result;
}

}  // namespace

uint64_t fingerprint(const float* values, int64_t rows, int64_t columns, int threads) {
    const int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
    std::vector<uint64_t> parts(tasks);
    parallel_for(threads, tasks, [&](int64_t task) {
        const int64_t first = task * kRowsPerTask;
        const int64_t last = first + kRowsPerTask < rows ? first + kRowsPerTask : rows;
        parts[task] = fingerprint_of(values + first * columns, (last - first) * columns);
    });
    uint64_t result = rows;
    for (uint64_t part : parts) result = mix(result, part);
    return result;
}

}  // namespace aefast::AEFAST_ISA
