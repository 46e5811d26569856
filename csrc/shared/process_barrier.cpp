#include "shared/process_barrier.h"

#include <sched.h>

#include <chrono>
#include <thread>

namespace aefast {
namespace {

using Clock = std::chrono::steady_clock;

// Waits are short where each process has a core of its own. Past this one sleeps between its looks:
// the others may need the core.
constexpr auto kAwake = std::chrono::microseconds(500);
constexpr auto kSleep = std::chrono::microseconds(50);

}  // namespace

bool wait_at_barrier(int64_t* counts, int64_t rank, int64_t ranks, int64_t number, double seconds) {
    __atomic_store_n(counts + rank * kCountStride, number, __ATOMIC_RELEASE);
    const auto start = Clock::now();
    int64_t arrived = 0;
    for (;;) {
        while (arrived < ranks &&
               __atomic_load_n(counts + arrived * kCountStride, __ATOMIC_ACQUIRE) >= number)
            ++arrived;
        if (arrived == ranks) return true;
        const auto waited = Clock::now() - start;
        if (waited > std::chrono::duration<double>(seconds)) return false;
        if (waited < kAwake)
            sched_yield();
        else
            std::this_thread::sleep_for(kSleep);
    }
}

}  // namespace aefast
