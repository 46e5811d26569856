// A team of threads for a call that runs many small parallel_for()s.
//
// OpenMP's barrier waits for every thread of a team. If another program occupies a thread's core,
// each barrier waits some milliseconds for the scheduler: a step of ten products took 20 times as
// long. In a crew the threads that run share the tasks, and no one waits for a thread that has
// none.
#pragma once

#include <atomic>
#include <cstdint>

namespace aefast {

class Interruption;

class Crew {
  public:
    using Task = void (*)(const void* body, int64_t task);

    // Called by the leader: task(body, i) for all i in [0, tasks), by at most `threads` threads.
    void run(int threads, int64_t tasks, Task task, const void* body, Interruption& interruption);

    // Called by each helper: takes tasks of what the leader runs, until dismiss().
    void serve();
    void dismiss() { is_dismissed_ = true; }

  private:
    void take_tasks();
    void wait_for_helpers();

    std::atomic<bool> is_dismissed_{false};
    std::atomic<int> helpers_{0};  // in serve()

    // The current job. It changes only while is_open_ is false and at_work_ is 0.
    int threads_ = 0;
    int64_t tasks_ = 0;
    Task task_ = nullptr;
    const void* body_ = nullptr;
    Interruption* interruption_ = nullptr;

    std::atomic<uint64_t> jobs_{0};  // opened so far
    std::atomic<bool> is_open_{false};
    std::atomic<int> at_work_{0};  // helpers in take_tasks()
    std::atomic<int64_t> next_task_{0};
};

// The crew that this thread leads; null inside a task.
extern thread_local Crew* current_crew;

}  // namespace aefast
