// The threads of a crew, and how they share the tasks of many small loops.
#include "shared/crew.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "shared/parallel.h"

namespace aefast {
namespace {

// A waiting thread spins for so long; after that it yields its core between two checks.
constexpr std::chrono::microseconds kSpinTime{20};

class Backoff {
  public:
    void wait() {
        for (int i = 0; i < 16; ++i) pause();
        if (Clock::now() - start_ > kSpinTime) std::this_thread::yield();
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
    threads_ = std::min(threads, static_cast<int>(parts_.size()));
    for (int i = 0; i < threads_; ++i) {
        parts_[i].next = tasks * i / threads_;
        parts_[i].end = tasks * (i + 1) / threads_;
    }
    task_ = task;
    body_ = body;
    interruption_ = &interruption;
    ++jobs_;
    is_open_ = true;
    current_crew = nullptr;
    take_tasks(0);
    is_open_ = false;
    wait_for_helpers();
    current_crew = this;
}

// A part that has no task left is read, and not written: its cache line stays where it is.
void Crew::take_tasks(int number) {
    for (int i = 0; i < threads_; ++i) {
        Part& part = parts_[(number + i) % threads_];
        while (part.next.load(std::memory_order_relaxed) < part.end && !interruption_->has_come()) {
            const int64_t task = part.next++;
            if (task >= part.end) break;
            task_(body_, task);
        }
    }
}

// The helpers' last tasks may take long: signals are handled meanwhile.
void Crew::wait_for_helpers() {
    for (Backoff backoff; at_work_ > 0; backoff.wait()) interruption_->has_come();
}

// A helper counts itself in at_work_ before it reads is_open_; the leader clears is_open_ before it
// reads at_work_. So no helper begins a job that the leader takes for done.
void Crew::serve() {
    const int number = ++helpers_;
    uint64_t last_job = 0;
    for (Backoff backoff; !is_dismissed_; backoff.wait()) {
        if (jobs_ == last_job || !is_open_) continue;
        ++at_work_;
        if (is_open_) {
            last_job = jobs_;
            if (number < threads_) take_tasks(number);
        }
        --at_work_;
        backoff = Backoff();
    }
}

void lead_crew(int threads, void (*call)(const void*), const void* argument) {
    Crew crew(threads);
    std::exception_ptr thrown;  // an exception must not leave an OpenMP region
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
