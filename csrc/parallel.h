// One thread pool: torch's own OpenMP runtime, which the extension shares by its soname.
#pragma once

#include <algorithm>
#include <cstdint>

namespace aefast {

// OpenMP's threads do not survive a fork, and a team started in the child would wait for them
// for ever: there everything runs on the calling thread.
bool in_forked_child();

// Runs body(task) for every task in [0, tasks), on at most `threads` threads. Which thread runs
// which task must not matter to the result.
template <class Body>
void parallel_for(int threads, int64_t tasks, const Body& body) {
    if (threads > tasks) threads = static_cast<int>(tasks);
    if (threads <= 1 || in_forked_child()) {
        for (int64_t task = 0; task < tasks; ++task) body(task);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) body(task);
}

// Elements a task of one pass over memory: few enough to share a small batch between threads,
// enough that each thread reads and writes long stretches. Between tasks of 64 KiB, which two
// threads took in turn, an out-of-cache block took 22 ms, between tasks of 1 MiB 12.
inline int64_t elements_per_task(int64_t elements, int threads) {
    return std::clamp<int64_t>(elements / (8 * threads), 1 << 14, 1 << 18);
}

}  // namespace aefast
