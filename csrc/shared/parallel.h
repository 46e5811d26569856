// One thread pool: torch's own OpenMP runtime, which the extension shares by its soname.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#include "shared/crew.h"

namespace aefast {

// OpenMP's threads do not survive a fork, and a team in the child would wait for them forever. So
// in a forked child everything runs on the calling thread.
bool in_forked_child();

// Called in a process that was forked before this library was loaded.
void enter_forked_child();

// Thrown to end a call that was interrupted by Ctrl-C, or by a signal whose handler asks for that.
struct Interrupted {};

// Runs the handlers of pending signals, on the thread that makes a call; true if the call shall
// end.
void handle_signals_with(bool (*handler)());

// Whether this thread is running a signal handler during a call.
bool in_signal_handler();

// While one exists, this thread's calls handle no signals, so that they are not left half done.
class SignalsWait {
  public:
    SignalsWait();
    ~SignalsWait();
    SignalsWait(const SignalsWait&) = delete;
    SignalsWait& operator=(const SignalsWait&) = delete;
};

// The tasks of a call, which all of its threads leave once it is interrupted.
class Interruption {
  public:
    // The thread that makes the call checks for signals now and then; the others check its result.
    bool has_come() {
        if (is_callers_thread() && signals_end_call()) has_come_ = true;
        return has_come_.load(std::memory_order_relaxed);
    }

    void begin_tasks() { ++at_work_; }

    // The thread that makes the call waits here for the others' last tasks, which may take long.
    void end_tasks() {
        --at_work_;
        if (is_callers_thread()) wait_for_others();
    }

    void throw_if_come() const {
        if (has_come_) throw_interrupted();
    }

  private:
    bool is_callers_thread() const { return std::this_thread::get_id() == caller_; }
    static bool signals_end_call();
    // Not inline: a kernel's object, compiled for one instruction set, shares no symbol.
    [[noreturn]] static void throw_interrupted();
    void wait_for_others();

    std::atomic<bool> has_come_{false};
    std::atomic<int> at_work_{0};
    const std::thread::id caller_ = std::this_thread::get_id();
};

// The tasks that this thread is working on.
extern thread_local Interruption* current_interruption;

// Whether a long task should end early. Its unfinished results are never read.
inline bool interrupted() { return current_interruption->has_come(); }

// The number of elements of a row between two checks for signals.
constexpr int64_t kElementsBetweenSignalChecks = 1 << 16;

// Within a long row: interrupted() at every kElementsBetweenSignalChecks-th element, else false.
inline bool interrupted_at(int64_t element) {
    return element > 0 && element % kElementsBetweenSignalChecks == 0 && interrupted();
}

// Runs body(task) for every task in [0, tasks), on at most `threads` threads. Which thread runs
// which task must not matter to the result. Signals are handled between tasks, and in those that
// ask whether they are interrupted(); then it throws.
template <class Body>
void parallel_for(int threads, int64_t tasks, const Body& body) {
    Interruption interruption;
    const auto run = [&](int64_t task) {
        current_interruption = &interruption;
        body(task);
    };
    if (threads > tasks) threads = static_cast<int>(tasks);
    if (threads <= 1 || in_forked_child()) {
        for (int64_t task = 0; task < tasks; ++task)
            if (task == 0 || !interruption.has_come()) run(task);
    } else if (current_crew) {
        const auto call = [](const void* run_task, int64_t task) {
            (*static_cast<decltype(&run)>(run_task))(task);
        };
        current_crew->run(threads, tasks, call, &run, interruption);
    } else {
#pragma omp parallel num_threads(threads)
        {
            interruption.begin_tasks();
#pragma omp for schedule(dynamic, 1) nowait
            for (int64_t task = 0; task < tasks; ++task)
                if (!interruption.has_come()) run(task);
            interruption.end_tasks();
        }
    }
    interruption.throw_if_come();
}

// Calls call(argument) with a crew of so many threads.
void lead_crew(int threads, void (*call)(const void*), const void* argument);

// Calls call() with a crew of so many threads, which share the tasks of its parallel_for()s.
template <class Call>
void with_crew(int threads, const Call& call) {
    if (threads <= 1 || current_crew || in_forked_child()) return call();
    lead_crew(
        threads, [](const void* argument) { (*static_cast<const Call*>(argument))(); }, &call);
}

// The threads of a loop over so many elements: one where it is done before a second has woken. A
// crew's are awake.
inline int threads_for(int64_t elements, int threads) {
    return elements <= (current_crew ? 1 << 12 : 1 << 15) ? 1 : threads;
}

// The elements of a task of one pass over memory: few enough to share a small batch between
// threads, and enough for long blocks of memory. A block larger than the cache took 22 ms in
// tasks of 64 KiB, which two threads took in turn, and 12 ms in tasks of 1 MiB.
inline int64_t elements_per_task(int64_t elements, int threads) {
    return std::clamp<int64_t>(elements / (8 * threads), 1 << 14, 1 << 18);
}

}  // namespace aefast
