#include "shared/crew.h"

#include <chrono>
#include <exception>
#include <thread>

#include "shared/parallel.h"

namespace aefast {
namespace {

// One that waits looks again at once for so long, and then lets others have its core in between.
constexpr std::chrono::microseconds kImpatience{20};

class Wait {
  public:
    void a_little() {
        for (int i = 0; i < 16; ++i) pause();
        if (Clock::now() - start_ > kImpatience) std::this_thread::yield();
    }

  private:
    using Clock = std::chrono::steady_clock;

    static void pause() {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }

    Clock::time_point start_ = Clock::now();
};

}  // namespace

thread_local Crew* current_crew = nullptr;

void Crew::run(int threads, int64_t tasks, Task task, const void* body,
               Interruption& interruption) {
    threads_ = threads;
    tasks_ = tasks;
    task_ = task;
    body_ = body;
    interruption_ = &interruption;
    next_task_ = 0;
    ++jobs_;
    is_open_ = true;
    current_crew = nullptr;
    take_tasks();
    is_open_ = false;
    wait_for_helpers();
    current_crew = this;
}

void Crew::take_tasks() {
    while (!interruption_->has_come()) {
        const int64_t task = next_task_++;
        if (task >= tasks_) return;
        task_(body_, task);
    }
}

// Their last tasks may take long: signals are heard meanwhile.
void Crew::wait_for_helpers() {
    for (Wait wait; at_work_ > 0; wait.a_little()) interruption_->has_come();
}

// A helper says that it is at work before it looks whether the job is open, and the leader closes
// the job before it looks who is: one of them sees the other.
void Crew::serve() {
    const int number = ++helpers_;
    uint64_t last_job = 0;
    for (Wait wait; !is_dismissed_; wait.a_little()) {
        if (jobs_ == last_job || !is_open_) continue;
        ++at_work_;
        if (is_open_) {
            last_job = jobs_;
            if (number < threads_) take_tasks();
        }
        --at_work_;
        wait = Wait();
    }
}

void lead_crew(int threads, void (*call)(const void*), const void* argument) {
    Crew crew;
    std::exception_ptr thrown;  // must not leave an OpenMP region
    const std::thread::id leader = std::this_thread::get_id();
#pragma omp parallel num_threads(threads)
    if (std::this_thread::get_id() != leader) {
        crew.serve();
    } else {
        current_crew = &crew;
        try {
            call(argument);
        } catch (...) {
            thrown = std::current_exception();
        }
        current_crew = nullptr;
        crew.dismiss();
    }
    if (thrown) std::rethrow_exception(thrown);
}

}  // namespace aefast
