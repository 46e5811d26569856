// Parallel loops on OpenMP's threads, which hear signals and survive forks.
#include "shared/parallel.h"

#include <chrono>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace aefast {
namespace {

using Clock = std::chrono::steady_clock;

// Whether this is a child that was forked before this library was loaded. The operating system
// knows that the process has run no other program since, and where it has one thread, OpenMP has
// none to offer.
bool is_bare_child() {
#if defined(__linux__)
    std::ifstream file("/proc/self/stat");
    std::string line;
    std::getline(file, line);
    std::istringstream fields(line.substr(line.rfind(')') + 1));  // from the third on
    const std::vector<std::string> values{std::istream_iterator<std::string>(fields), {}};
    constexpr size_t kFlags = 9 - 3, kThreads = 20 - 3;
    constexpr unsigned long kForkedWithoutExec = 0x40;
    return values.size() > kThreads && values[kThreads] == "1" &&
           (std::stoul(values[kFlags]) & kForkedWithoutExec) != 0;
#else
    return false;
#endif
}

bool forked = is_bare_child();

[[maybe_unused]] const int registered = [] {
#if defined(__unix__) || defined(__APPLE__)
    return pthread_atfork(nullptr, nullptr, enter_forked_child);
#else
    return 0;
#endif
}();

// A look takes Python's lock, for which another thread may let it wait 5 ms.
constexpr std::chrono::milliseconds kBetweenLooks{50};

bool (*signal_handler)() = nullptr;
thread_local bool handling_signals = false;
thread_local int signals_waiting = 0;

}  // namespace

bool in_forked_child() { return forked; }

void enter_forked_child() { forked = true; }

void handle_signals_with(bool (*handler)()) { signal_handler = handler; }

SignalsWait::SignalsWait() { ++signals_waiting; }

SignalsWait::~SignalsWait() { --signals_waiting; }

bool in_signal_handler() { return handling_signals; }

thread_local Interruption* current_interruption = nullptr;

bool Interruption::signals_end_call() {
    if (signals_waiting > 0) return false;
    // Kept from call to call: a call that follows another looks no sooner.
    thread_local Clock::time_point last_look = {};
    const auto now = Clock::now();
    if (now - last_look < kBetweenLooks || signal_handler == nullptr) return false;
    last_look = now;
    handling_signals = true;
    const bool ends = signal_handler();
    handling_signals = false;
    return ends;
}

void Interruption::throw_interrupted() { throw Interrupted(); }

// Naps are so short beside the time that was waited that they do not count.
void Interruption::wait_for_others() {
    const auto start = Clock::now();
    while (at_work_ > 0 && !has_come()) {
        const auto waited = Clock::now() - start;
        if (waited < std::chrono::milliseconds(1))
            std::this_thread::yield();
        else
            std::this_thread::sleep_for(std::min<Clock::duration>(waited / 64, kBetweenLooks));
    }
}

}  // namespace aefast
