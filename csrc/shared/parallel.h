// One thread pool: torch's own OpenMP runtime, which the extension shares by its soname.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#include "shared/crew.h"

namespace aefast {

// OpenMP's threads do not survive a fork, and a team started in the child would wait for them
// for ever: there everything runs on the calling thread.
bool in_forked_child();

// For a process that was forked before this library was loaded.
void enter_forked_child();

// Ends a call in whose midst Ctrl-C came, or another signal whose handler says so.
struct Interrupted {};

// What runs the handlers of signals, on a thread that makes a call: true where the call is to end.
void handle_signals_with(bool (*handler)());

// Whether this thread runs a handler, in the midst of a call.
bool in_signal_handler();

// While one lives, this thread's calls handle no signals: what they do is not left half done.
class SignalsWait {
  public:
    SignalsWait();
    ~SignalsWait();
    SignalsWait(const SignalsWait&) = delete;
    SignalsWait& operator=(const SignalsWait&) = delete;
};

// Some tasks of a call, which all its threads leave once it is interrupted.
class Interruption {
  public:
    // The thread that makes the call looks for signals now and then, and the others at what it saw.
    bool has_come() {
        if (is_callers_thread() && signals_end_call()) has_come_ = true;
        return has_come_.load(std::memory_order_relaxed);
    }

    void begin_tasks() { ++at_work_; }

    // The others' last tasks may take long: the thread that makes the call waits for them here.
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

// Of the task that this thread is at work on.
extern thread_local Interruption* current_interruption;

// Whether a task that takes long should end; what it leaves undone is never read.
inline bool interrupted() { return current_interruption->has_come(); }

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

// call(argument) with a crew of so many threads.
void lead_crew(int threads, void (*call)(const void*), const void* argument);

// Runs call() with a crew of so many threads, which its parallel_for()s share their tasks with.
template <class Call>
void with_crew(int threads, const Call& call) {
    if (threads <= 1 || current_crew || in_forked_child()) return call();
    lead_crew(
        threads, [](const void* argument) { (*static_cast<const Call*>(argument))(); }, &call);
}

// Elements a task of one pass over memory: few enough to share a small batch between threads,
// enough that each thread reads and writes long stretches. Between tasks of 64 KiB, which two
// threads took in turn, an out-of-cache block took 22 ms, between tasks of 1 MiB 12.
inline int64_t elements_per_task(int64_t elements, int threads) {
    return std::clamp<int64_t>(elements / (8 * threads), 1 << 14, 1 << 18);
}

}  // namespace aefast
