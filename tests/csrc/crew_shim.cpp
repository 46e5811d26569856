// A crew behind a C function, for ctypes: its helpers are threads of its own.
#include <atomic>
#include <thread>
#include <vector>

#include "shared/parallel.h"

using namespace aefast;

// Runs `jobs` jobs of `tasks` tasks, each for up to `threads` threads, with so many helpers.
// Returns how many jobs did not run each task once; `helped` is how many tasks helpers took.
extern "C" long run_jobs(long jobs, long tasks, int threads, int helpers, long* helped) {
    Crew crew;
    std::vector<std::thread> serving;
    for (int i = 0; i < helpers; ++i) serving.emplace_back([&] { crew.serve(); });
    const std::thread::id leader = std::this_thread::get_id();
    std::atomic<long> by_helpers{0};
    long wrong = 0;
    current_crew = &crew;
    for (long job = 0; job < jobs; ++job) {
        std::vector<long> runs(tasks, 0);  // plain: what a helper wrote must be seen after the job
        parallel_for(threads, tasks, [&](int64_t task) {
            ++runs[task];
            if (std::this_thread::get_id() != leader) ++by_helpers;
        });
        for (long count : runs)
            if (count != 1) {
                ++wrong;
                break;
            }
    }
    current_crew = nullptr;
    crew.dismiss();
    for (std::thread& thread : serving) thread.join();
    *helped = by_helpers;
    return wrong;
}

// Whether a job of two tasks, the second of which ends only when the first has run on another
// thread, ends: it does not where a helper takes no part.
extern "C" void run_together() {
    Crew crew;
    std::thread helper([&] { crew.serve(); });
    std::atomic<int> begun{0};
    current_crew = &crew;
    parallel_for(2, 2, [&](int64_t) {
        ++begun;
        while (begun < 2) std::this_thread::yield();
    });
    current_crew = nullptr;
    crew.dismiss();
    helper.join();
}
