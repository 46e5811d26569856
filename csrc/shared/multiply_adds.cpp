// Multiply-adds on registers alone, in chains that do not wait for each other.
#include "shared/multiply_adds.h"

#include "shared/parallel.h"
#include "simd/vectors.h"

namespace aefast::AEFAST_ISA {
namespace {

// Ten chains keep two units of five cycles' latency busy; with factor and addend they fit into 16
// registers.
constexpr int kChains = 12;

}  // namespace

int64_t multiply_adds(int64_t rounds, int threads) {
    parallel_for(threads, threads, [&](int64_t task) {
        Vector factor = {}, addend = {};
        factor += 0.5f;
        addend += 1.f;
        Vector sums[kChains];  // which differ, so that none is another's copy
        for (int chain = 0; chain < kChains; ++chain)
            sums[chain] = addend * static_cast<float>(task + chain);
        for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
            for (int chain = 0; chain < kChains; ++chain)
                sums[chain] = sums[chain] * factor + addend;
        Vector total = {};
        for (int chain = 0; chain < kChains; ++chain) total += sums[chain];
        volatile float result = total[0];
        (void)result;
    });
    return rounds * threads * kChains * kFloatLanes;
}

}  // namespace aefast::AEFAST_ISA
