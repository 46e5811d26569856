// A crew behind a C function, for ctypes: its helpers are threads of its own.
#include <atomic>
#include <thread>
#include <vector>

#include "shared/parallel.h"

using namespace aefast;

// Runs `jobs` jobs of `tasks` tasks, each for up to `threads` threads, with so many helpers.
// Returns how many jobs did not run each task once; `helped` is how many tasks helpers took.
extern "C" long run_jobs(long jobs, long tasks, int threads, int helpers, long* helped) {
    Crew crew(1 + helpers);
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

// The first task that a helper took of a job of four. No thread goes on before both have begun one:
// the job does not end where a helper takes no part.
extern "C" long run_together() {
    Crew crew(2);
    std::thread helper([&] { crew.serve(); });
    const std::thread::id leader = std::this_thread::get_id();
    std::atomic<bool> has_leader{false}, has_helper{false};
    std::atomic<long> first{-1};
    current_crew = &crew;
    parallel_for(2, 4, [&](int64_t task) {
        const bool is_leader = std::this_thread::get_id() == leader;
        if (!is_leader && first < 0) first = task;
        (is_leader ? has_leader : has_helper) = true;
        while (!has_leader || !has_helper) std::this_thread::yield();
    });
    current_crew = nullptr;
    crew.dismiss();
    helper.join();
    return first;
}
