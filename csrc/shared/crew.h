// A team of threads for a call that runs many small parallel_for()s.
//
// OpenMP's barrier waits for every thread of a team. If another program occupies a thread's core,
// each barrier waits some milliseconds for the scheduler: a step of ten products took 20 times as
// long. In a crew the threads that run share the tasks, and no one waits for a thread that has
// none.
//
// A thread begins with the same part of every loop's tasks, and then helps with the others': what
// one loop writes, and a step's parameters, are still in its own cache at the next one.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace aefast {

class Interruption;

class Crew {
  public:
    using Task = void (*)(const void* body, int64_t task);

    explicit Crew(int threads) : parts_(threads) {}

    // Called by the leader: task(body, i) for all i in [0, tasks), by at most `threads` threads.
    void run(int threads, int64_t tasks, Task task, const void* body, Interruption& interruption);

    // Called by each helper: takes tasks of what the leader runs, until dismiss().
    void serve();
    void dismiss() { is_dismissed_ = true; }

  private:
    // The tasks that a thread begins with; in a cache line of its own.
    struct alignas(64) Part {
        std::atomic<int64_t> next{0};
        int64_t end = 0;
    };

    void take_tasks(int number);
    void wait_for_helpers();

    std::atomic<bool> is_dismissed_{false};
    std::atomic<int> helpers_{0};  // in serve()

    // The current job. It changes only while is_open_ is false and at_work_ is 0.
    int threads_ = 0;
    std::vector<Part> parts_;  // of the leader, number 0, and of each helper
    Task task_ = nullptr;
    const void* body_ = nullptr;
    Interruption* interruption_ = nullptr;

    std::atomic<uint64_t> jobs_{0};  // opened so far
    std::atomic<bool> is_open_{false};
    std::atomic<int> at_work_{0};  // helpers in take_tasks()
};

// The crew that this thread leads; null inside a task.
extern thread_local Crew* current_crew;

}  // namespace aefast
