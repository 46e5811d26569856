// One thread pool: torch's own OpenMP runtime, which the extension shares by its soname.
#pragma once

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

}  // namespace aefast
