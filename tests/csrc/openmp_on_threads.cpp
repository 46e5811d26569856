// GCC's OpenMP runtime, as far as csrc needs it, on std::thread. ThreadSanitizer does not see
// libgomp's threads wait for each other, and would take every result for a race.
#include <atomic>
#include <thread>
#include <vector>

namespace {

// How many iterations the threads of this one's team have taken, and of which loop.
thread_local std::atomic<long>* taken;
thread_local long first, last, step;

}  // namespace

extern "C" {

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
    std::atomic<long> of_team{0};
    const auto work = [&] {
        taken = &of_team;
        body(data);
    };
    std::vector<std::thread> team;
    for (unsigned i = 1; i < threads; ++i) team.emplace_back(work);
    work();
    for (std::thread& thread : team) thread.join();
}

// Relaxed: taking a task must not order what the tasks read and write.
bool GOMP_loop_nonmonotonic_dynamic_next(long* from, long* to) {
    *from = first + step * taken->fetch_add(1, std::memory_order_relaxed);
    *to = *from + step;
    return *from < last;
}

bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long increment, long chunk,
                                          long* from, long* to) {
    first = start, last = end, step = increment * chunk;
    return GOMP_loop_nonmonotonic_dynamic_next(from, to);
}

void GOMP_loop_end_nowait() {}
}
