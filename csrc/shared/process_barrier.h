// A barrier of several processes, in memory that they share.
#pragma once

#include <cstdint>

namespace aefast {

// From one process's count to the next: a cache line.
constexpr int64_t kCountStride = 8;

// Says that this process, of a rank, has come to the barrier of a number, which counts up from 1,
// and waits until all have. False once the seconds are over: it may be called again. What a process
// wrote before its call, the others read after theirs.
bool wait_at_barrier(int64_t* counts, int64_t rank, int64_t ranks, int64_t number, double seconds);

}  // namespace aefast
