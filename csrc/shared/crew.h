// Threads that stay together through a call of many small parallel_for()s.
//
// OpenMP's barrier waits for every thread of a team. Where another program has the core of one,
// each barrier takes until the scheduler gives it back, some milliseconds: a step of ten products
// took 20 times as long. Here the running threads share the tasks, and none waits for a thread that
// has no task.
#pragma once

#include <atomic>
#include <cstdint>

namespace aefast {

class Interruption;

class Crew {
  public:
    using Task = void (*)(const void* body, int64_t task);

    // The leader's: runs task(body, i) for all i in [0, tasks), with up to `threads` - 1 helpers.
    void run(int threads, int64_t tasks, Task task, const void* body, Interruption& interruption);

    // A helper's: takes part in what the leader runs, until dismiss().
    void serve();
    void dismiss() { is_dismissed_ = true; }

  private:
    void take_tasks();
    void wait_for_helpers();

    std::atomic<bool> is_dismissed_{false};
    std::atomic<int> helpers_{0};  // that serve

    // The job under way; it changes only while it is closed and no helper at work.
    int threads_ = 0;
    int64_t tasks_ = 0;
    Task task_ = nullptr;
    const void* body_ = nullptr;
    Interruption* interruption_ = nullptr;

    std::atomic<uint64_t> jobs_{0};  // that were opened
    std::atomic<bool> is_open_{false};
    std::atomic<int> at_work_{0};  // helpers
    std::atomic<int64_t> next_task_{0};
};

// The one that this thread leads, outside of its tasks.
extern thread_local Crew* current_crew;

}  // namespace aefast
